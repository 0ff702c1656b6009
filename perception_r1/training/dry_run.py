"""What a training run would need and does not find: `train ... --dry-run`. Notebook 04.

Everything short of loading weights and training is done once: the data are read, the prompts built and counted, the
rewards and the judge asked about one response written here, TRL's configuration made. No weights are downloaded, and
nothing is written.
"""

import asyncio
import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from perception_r1.common.check import Line
from perception_r1.common.errors import InputError, some
from perception_r1.common.settings import TrainSettings, batch_plan
from perception_r1.problems.parquet import load_problems
from perception_r1.problems.schema import Problem
from perception_r1.reward.rewards import PerceptionReward, describe
from perception_r1.training import plan
from perception_r1.training.policy import MINIATURE, _load_processor
from perception_r1.training.train import (
    ARMS,
    grpo_config,
    make_judge,
    reward_functions,
    schedule,
    training_rows,
)

GPU_EXTRA = "pip install -e '.[gpu]' -c constraints.txt"


def dry_run(
    settings: TrainSettings, config: Path, data: str, out: Path, *more: str, held_out: str = ""
) -> int:
    """Print what there is, what is missing, and the estimate.

    Args:
        settings: see `settings.TrainSettings`.
        config: the file they were read from; it, `data`, `out` and `more` only make the command that is shown.
        data: see `load_problems`.
        out: the run's folder.
        more: further arguments of the command.
        held_out: problems to answer every eval_steps.

    Returns:
        0 if nothing is missing, else 1.
    """
    missing = []
    for line in _lines(settings, data, out, held_out):
        print(line, flush=True)
        if not line.met and not line.optional:
            missing.append(line.name)
    print("\nestimate (computed, not measured):")
    for text in _estimate(settings):
        print(f"  {text}")
    if settings.judge != "exact":
        print("\nto start a judge with vLLM, and to ask whether it answers:")
        print(*(f"  {command}" for command in plan.judge_commands(settings)), sep="\n")
    print("\nto train:")
    print(f"  {plan.shell(plan.launch_command(settings, config, data, out, *more))}")
    print(f"\nmissing: {', '.join(missing)}" if missing else "\nnothing is missing")
    return 1 if missing else 0


def _lines(settings: TrainSettings, data: str, out: Path, held_out: str) -> Iterator[Line]:
    problems: list[Problem] = []
    yield from _guarded("data", lambda: _data(settings, data, held_out, problems))
    yield from _guarded("model", lambda: _model(settings, problems))
    yield from _guarded("rewards", lambda: _rewards(settings, problems))
    yield from _guarded("configuration", lambda: _configuration(settings, out))
    yield from _packages(settings)
    yield from _guarded("GPU", lambda: _gpus(settings))
    yield from _guarded("memory", lambda: _room(settings, out))


def _guarded(name: str, lines: Callable[[], Iterable[Line]]) -> Iterator[Line]:
    """The lines; whatever breaks is one of them."""
    try:
        yield from lines()
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, InputError):
            why = f"{type(error).__name__}: {why}"
        yield Line(name, False, why[:400], "see there")


def _data(
    settings: TrainSettings, data: str, held_out: str, problems: list[Problem]
) -> Iterator[Line]:
    problems += load_problems(data)
    annotated = sum(bool(problem.visual_key_info) for problem in problems)
    found = f"{len(problems)} problems, {annotated} of them annotated"
    met = bool(annotated) or "perception" not in ARMS[settings.arm]
    few = len(problems) < settings.prompts_per_step
    remedy = f"a step takes {settings.prompts_per_step}" if few else "annotate them (notebook 02)"
    yield Line("data", met and not few, found, remedy)
    if settings.eval_steps or held_out:
        remedy = "give --held-out, or set eval_steps to 0"
        found = f"{len(load_problems(held_out))} problems" if held_out else "none"
        yield Line("held-out", bool(held_out), found, remedy)


def _model(settings: TrainSettings, problems: list[Problem]) -> Iterator[Line]:
    """Weights and processor on this machine; the prompts, if there is a processor to count tokens with."""
    folder = _folder(settings.model)
    weights = folder is not None and any(folder.glob("*.safetensors"))
    found = f"{settings.model}{f', in {folder}' if weights else ' is not on this machine'}"
    yield Line("model", weights, found, f"hf download {settings.model} (or give a folder)")
    if folder is None:
        yield Line("prompts", True, "not counted: that needs the model's processor", optional=True)
        return
    processor = _load_processor(str(folder), settings.min_pixels, settings.max_pixels, None)
    rows, long = training_rows(problems, settings, processor)
    order = schedule(len(rows), settings.prompts_per_step, settings.max_steps, settings.seed)
    epochs = len(order) / (len(rows) // settings.prompts_per_step * settings.prompts_per_step)
    left = f", {len(long)} left out as longer ({some(long['id'], 3)})" if len(long) else ""
    found = f"{len(rows)} of at most {settings.max_prompt_length} tokens{left}; {epochs:.3g} epochs"
    yield Line("prompts", True, found)


def _folder(name: str) -> Path | None:
    """Where a checkpoint lies on this machine; nothing is asked of the hub."""
    if name == "miniature":
        return MINIATURE
    if Path(name).is_dir():
        return Path(name)
    cached = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 else None
    return Path(cached).parent if isinstance(cached, str) else None


def _rewards(settings: TrainSettings, problems: list[Problem]) -> Iterator[Line]:
    """All rewards of one response that says every annotation and the gold answer in the paper's format."""
    problem = next((p for p in problems if p.visual_key_info), problems[0] if problems else None)
    if problem is None:
        raise InputError("no problem to write a response for")
    seen = "\n".join(problem.annotations)
    text = f"<think>\n{seen}\n</think>\n<answer>\n\\boxed{{{problem.answer}}}\n</answer>"
    functions, weights = reward_functions(settings, make_judge(settings))
    values = asyncio.run(_ask(functions, text, problem))
    asked = False
    for function, weight, value in zip(functions, weights, values, strict=True):
        if isinstance(function, PerceptionReward):
            asked = True
            said = describe(function.verdicts[0])
            found = f"{function.judge.name}, of a response that states all: {said}"
            met = value is not None or not problem.visual_key_info
            yield Line("judge", met, found[:400], "start the server, or mend judge and judge_model")
        else:
            found = f"{value} (weight {weight:g})"
            yield Line(function.__name__, value is not None, found, "see the data")
    if not asked:
        yield Line("judge", True, f"not asked: the arm {settings.arm} pays nothing for perception")


async def _ask(functions: list, text: str, problem: Problem) -> list[float | None]:
    columns = {
        "completions": [[{"role": "assistant", "content": text}]], "answer": [problem.answer],
        "visual_key_info": [problem.visual_key_info],
    }  # fmt: skip
    values = []
    for function in functions:
        value = function(**columns)
        values.append((await value if inspect.isawaitable(value) else value)[0])
    return values


def _configuration(settings: TrainSettings, out: Path) -> Iterator[Line]:
    config, batch = grpo_config(settings, out), batch_plan(settings)
    yield Line(
        "configuration", True,
        f"{type(config).__name__}: {batch.rollouts_per_step:,} responses a step on {settings.processes} "
        f"processes, {batch.gradient_accumulation_steps} backward passes each; {batch.steps} steps, "
        f"{batch.rollouts:,} responses",
    )  # fmt: skip


def _packages(settings: TrainSettings) -> Iterator[Line]:
    folder = _folder(settings.model)
    stock = folder is None or "ImageOnlyProcessor" not in _text(folder / "processor_config.json")
    for name, wanted in (
        ("vllm", settings.vllm), ("torchvision", stock), ("peft", settings.lora_rank > 0),
    ):  # fmt: skip
        if wanted:
            there = importlib.util.find_spec(name) is not None
            yield Line(name, there, "installed" if there else "not installed", GPU_EXTRA)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _gpus(settings: TrainSettings) -> Iterator[Line]:
    if not (settings.vllm or settings.bf16):
        yield Line("GPU", True, "not needed")
        return
    found = torch.cuda.device_count()
    if found < settings.processes:
        remedy = "one for each process"
        yield Line("GPU", False, f"{found} of {settings.processes}", remedy)
        return
    gib = min(torch.cuda.get_device_properties(k).total_memory for k in range(settings.processes))
    gpu = plan.Gpu(gib / plan.GIB, plan.PAPERS_GPU.teraflops)
    wanted = plan.needed(plan.estimate(settings, gpu))
    yield Line(
        "GPU", plan.fits(settings, gpu), f"{settings.processes} of {gpu.gib:.0f} GiB, {wanted:.0f} needed",
        "lower per_device_train_batch_size, the lengths or vllm_gpu_memory_utilization",
    )  # fmt: skip


def _room(settings: TrainSettings, out: Path) -> Iterator[Line]:
    """Main memory and disk, where the policy's size is known."""
    wanted, total = plan.host_gib(settings), _main_memory()
    found = f"{total:.0f} GiB, {wanted:.1f} needed for weights"
    yield Line("memory", total >= wanted, found, "a larger machine")
    existing = next(
        folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists()
    )
    wanted, free = plan.disk_gib(settings), shutil.disk_usage(existing).free / plan.GIB
    found = f"{free:.0f} GiB free, {wanted:.1f} needed for checkpoints"
    yield Line("disk", free >= wanted, found, "free some, or choose another --out")


def _main_memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / plan.GIB


def _estimate(settings: TrainSettings) -> list[str]:
    try:
        parts = plan.estimate(settings)
    except InputError as error:
        return [str(error)]
    kind, gpu = "A800 80 GB", plan.PAPERS_GPU
    lines = parts.to_string(index=False).splitlines()
    lines.append(
        f"together {plan.needed(parts):.1f} GiB on one {kind}, at the fuller phase of a step"
    )
    if settings.vllm:
        seconds = plan.seconds_per_step(settings, gpu)
        lines.append(f"vLLM itself needs {plan.vllm_needs(settings):.1f} GiB of its share at least")
        lines.append(
            f"{seconds:.0f} s a step, {seconds * settings.max_steps / 3600:.1f} h on {settings.processes} of "
            "them, from the authors' 209 s a step on 8 (see plan.seconds_per_step)"
        )
    else:
        lines.append("time: no rule without vLLM")  # the authors' time is with it
    return lines
