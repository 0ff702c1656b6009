"""The commands of `notebooks/RESEARCH.md` on the checkpoint of `join.py`: seconds, memory and end of each, as a table.

    python tests/llm/real_path.py --gguf FILE --work DIR --data FILE.parquet [--mathvision DIR] [--only lora,full]

`--data` holds annotated problems with a chain of thought. Training runs are killed (SIGKILL) after their first
checkpoint and given again, as after a power cut. `DIR/real_path.csv` gets a row a command; a log of each lies beside.
It needs 12 GiB. As one script only its dry run was executed by us; the others were typed, see the recorded table.
"""

import argparse
import csv
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from perception_r1.common import provenance
from perception_r1.common.files import ROOT

FIELDS = ("name", "command", "status", "seconds", "cpu_seconds", "peak_gib", "date")
# What differs from profile gpu: a machine without GPU, an hour, and rewards that differ though nothing is right.
SMALLER = (
    "--dtype float32 --bf16 false --vllm false --vllm_sleep false --max_pixels 3136 --max_steps 3 "
    "--max_completion_length 16 --warmup_steps 0 --save_steps 1 --judge presence --judge_flip 0.5"
)
GROUPS = "--prompts_per_step 2 --num_generations 4 --per_device_train_batch_size 2"


def memory_of(pid: int) -> float:
    """The most that a process has held, in GiB, summed over it and its children."""
    peak = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:
            continue
        if str(pid) in (status.parent.name, lines["PPid"].strip()) and "VmHWM" in lines:
            peak += int(lines["VmHWM"].split()[0]) / 2**20
    return peak


def cpu_seconds() -> float:
    """Of all processes that have been started and have ended; what a busy machine does not lengthen much."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(work: Path, name: str, command: list[str], stop: Callable[[], bool] | None = None) -> None:
    """Run a command to its end, or kill it when `stop` says so, and write its row."""
    begin, before, peak = time.monotonic(), cpu_seconds(), 0.0
    with (work / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.5)
            if stop and stop():
                process.send_signal(signal.SIGKILL)
                process.wait()
    shown = shlex.join(["python", *command[1:]]).replace(f"{ROOT}/", "").replace(f"{work}/", "")
    row = (
        name, shown, process.returncode, round(time.monotonic() - begin),
        round(cpu_seconds() - before), round(peak, 1), provenance.now(),
    )  # fmt: skip
    table = work / "real_path.csv"
    fresh = not table.exists()
    with table.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([FIELDS, row] if fresh else [row])
    print(*row[2:6], name, flush=True)


def main(arguments: list[str]) -> int:
    """Run what `--only` names, or all, in this order."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("gguf", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--data", default=str(ROOT / "data/sample/annotations.parquet"))
    parser.add_argument("--mathvision", help="folder with ten items of MATH-Vision's test.jsonl")
    parser.add_argument("--groups", default=GROUPS, help="settings of a training step")
    parser.add_argument("--only", default="join,dry,evaluate,where,judge,lora,full,torchrun")
    given = parser.parse_args(arguments)
    work, model = given.work.resolve(), given.work.resolve() / "model"
    work.mkdir(parents=True, exist_ok=True)
    python, ours = sys.executable, [sys.executable, "-m", "perception_r1"]
    profile = str(ROOT / "perception_r1/common/profiles/gpu.toml")
    few = f"{SMALLER} {given.groups} --config {profile} --model {model}".split()

    def training(out: str, *more: str) -> list[str]:
        paths = ["--data", given.data, "--out", str(work / out), "--unadmitted"]
        return ["train", *few, *paths, *more]

    def twice(name: str, command: list[str]) -> None:
        saved = work / name / "checkpoint-1" / "complete.json"
        run(work, f"{name}_killed", command, saved.exists)
        run(work, name, command)

    whole = ["--lora_rank", "0"]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    pair = training("torchrun", "--processes", "2", "--max_steps", "2")
    model_at = ["--model", str(model)]
    commands = {
        "join": [python, "tests/llm/join.py", "--gguf", str(given.gguf), "--out", str(model)],
        "dry": [*ours, *training("dry", "--dry-run")],
        "evaluate": [
            *ours, "evaluate", "--benchmark", "mathvision", "--items", "10", *model_at, "--data",
            given.mathvision or "", "--max-new-tokens", "48", "--batch-size", "5", "--out",
            str(work / "evaluate"),
        ],
        "where": [
            *ours, "study", "where", "--data", given.data, *model_at, "--problems", "3",
            "--samples", "4", "--max-new-tokens", "48", "--out", str(work / "where"),
        ],
        "lora": [*ours, *training("lora")],
        "full": [*ours, *training("full", *whole)],
        "torchrun": [python, *two, "-m", "perception_r1", *pair],
    }  # fmt: skip
    for name in given.only.split(","):
        if name == "judge":
            served(work, given.gguf, [*ours, "annotate", "--data", given.data])
        elif name in ("lora", "full"):
            twice(name, commands[name])
        elif name != "evaluate" or given.mathvision:
            run(work, name, commands[name])
    return 0


def served(work: Path, gguf: Path, annotate: list[str]) -> None:
    """Annotate with a language model behind `serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serve = [*annotate[:3], "serve", "--gguf", str(gguf), "--port", port]
    with subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        server.stdout.readline()  # it says where it listens
        chat = ["--chat-url", f"http://127.0.0.1:{port}/v1", "--chat-model", gguf.stem]
        run(work, "annotate", [*annotate, *chat, "--out", str(work / "annotated.parquet")])
        server.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
