"""Before a run on GPUs: the commands to type, and a dry run of them. Explained in notebook A3."""

import asyncio
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import psutil  # ipykernel brings it along
import torch
from huggingface_hub import try_to_load_from_cache

from perception_r1.common import profiles
from perception_r1.common.check import Line
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import DATA, read_json
from perception_r1.common.settings import TrainSettings, batch_sizes
from perception_r1.problems import Problem, load_problems
from perception_r1.reward.rewards import describe
from perception_r1.training.arms import ARMS, make_judge
from perception_r1.training.configuration import grpo_config
from perception_r1.training.data import training_rows
from perception_r1.training.policy import MINIATURE, load_processor

FSDP = profiles.FOLDER / "fsdp.yaml"  # accelerate's configuration


def recipe_table() -> pd.DataFrame:
    """Every hyperparameter of the paper beside ours, from `data/paper/recipe.csv`.

    Returns:
        Columns, all text: item; paper, its value; key, the field of profile `paper` (or of TRL's configuration, of
        the batch sizes, of the arm's weights) that sets ours; ours; same, yes or no; note; source, the paper's.
    """
    return pd.read_csv(DATA / "paper" / "recipe.csv", dtype=str, keep_default_na=False)


# --- commands --------------------------------------------------------------------------------------


def launch_command(settings: TrainSettings, arguments: Sequence[str]) -> list[str]:
    """The command that trains on one machine: plain, under torchrun, or sharded by `accelerate launch`.

    `arguments` are those of `train`.
    """
    launcher: list[str] = []
    if settings.fsdp:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(FSDP)]
        launcher += ["--num_processes", str(settings.processes)]
    elif settings.processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(settings.processes)]
    return [sys.executable, *launcher, "-m", "perception_r1", "train", *arguments]


def judge_commands(settings: TrainSettings) -> list[str]:
    """Shell lines that start the settings' judge with vLLM on GPUs of its own, and ask whether it answers.

    As the authors serve it [R examples/vllm_qwen_serve.sh], on as many GPUs as train, but for VLLM_USE_V1=0, which vLLM
    no longer knows; never executed by us. The settings' judge must be a URL.
    """
    port = urlsplit(settings.judge).port or 8000
    length = settings.max_completion_length + 4096  # and the facts and the judge's own prompt
    serve = (
        f"vllm serve {shlex.quote(settings.judge_model)} --port {port} "
        f"--tensor-parallel-size {settings.processes} --enable-prefix-caching "
        f"--gpu-memory-utilization 0.9 --max-model-len {length}"
    )
    return [serve, f"curl --fail --silent {shlex.quote(settings.judge.rstrip('/'))}/models"]


# --- memory ----------------------------------------------------------------------------------------


def memory_needed(settings: TrainSettings) -> float:
    """GiB that weights, gradients and AdamW's moments take over all processes, by the checkpoint's files; 0: not there.

    Activations and rollouts come on top, so that a run needs more.
    """
    folder = _folder(settings.model)
    if not (files := list(folder.glob("*.safetensors"))):
        return 0.0
    config = read_json(folder / "config.json")
    stored = config.get("dtype", config.get("torch_dtype"))  # the name before transformers 4.56
    weights = sum(file.stat().st_size for file in files) / (4 if stored == "float32" else 2)
    weights *= 4 if settings.dtype == "float32" else 2
    copies = 1 if settings.fsdp else settings.processes
    return copies * weights * (1 if settings.lora_rank else 4) / 2**30


def require_memory(settings: TrainSettings) -> None:
    """Refuse a run that this machine cannot hold, before anything is loaded; GPUs are not asked.

    Raises:
        InputError: it needs more than is free.
    """
    need, free = memory_needed(settings), psutil.virtual_memory().available / 2**30
    if need > free and not torch.cuda.is_available():
        raise InputError(
            f"weights, gradients and AdamW take {need:.1f} GiB, of which {free:.1f} are free, and activations come on "
            "top; set lora_rank (adapters alone are trained), dtype bfloat16 or fewer processes, then "
            "gradient_checkpointing and a lower per_device_train_batch_size; or use a smaller model"
        )


def _folder(model: str) -> Path:
    """Where a checkpoint lies on this machine; the hub is not asked."""
    folder = MINIATURE if model == "miniature" else Path(model)
    if not folder.is_dir() and model.count("/") == 1:
        cached = try_to_load_from_cache(model, "config.json")
        folder = Path(cached).parent if isinstance(cached, str) else folder
    return folder


# --- dry run ---------------------------------------------------------------------------------------


def dry_run(
    settings: TrainSettings, arguments: Sequence[str], data: str, split: str | None = None
) -> int:
    """Print what a training run would need and does not find; nothing is loaded on a device, downloaded or written.

    The data are read, the prompts built and counted, TRL's configuration made, and the judge is asked about one
    response that states everything. Packages and GPUs are not looked for: a cluster's login node has neither, and
    `check` lists them.

    Args:
        settings: see `settings.TrainSettings`.
        arguments: of `train`; they only make the command that is shown.
        data: see `load_problems`.
        split: of the data; None: all.

    Returns:
        0 if nothing is missing, else 1.

    Raises:
        InputError: the data cannot be read, no prompt is short enough, or the processor is of no use.
    """
    missing = []
    for line in _checks(settings, load_problems(data, split, unusable="drop")):
        print(line, flush=True)
        missing += [line.name] if not line.met else []
    print(f"\nto train:\n{shlex.join(launch_command(settings, arguments))}")
    print(f"\nmissing: {', '.join(missing)}" if missing else "\nnothing is missing")
    return 1 if missing else 0


def _checks(settings: TrainSettings, problems: list[Problem]) -> Iterator[Line]:
    annotated = [problem for problem in problems if problem.visual_key_info]
    met = len(problems) >= settings.prompts_per_step
    met = met and (bool(annotated) or "perception" not in ARMS[settings.arm])
    count = f"{len(problems)} problems, {len(annotated)} of them annotated (notebook 02)"
    yield Line("data", met, count, f"a step takes {settings.prompts_per_step}")
    folder = _folder(settings.model)
    remedy = f"hf download {settings.model} (or give a folder)"
    yield Line("model", any(folder.glob("*.safetensors")), f"{settings.model}, in {folder}", remedy)
    if folder.is_dir():
        processor = load_processor(str(folder), settings.min_pixels, settings.max_pixels)
        rows, long = training_rows(problems, settings, processor)
        longer = f", {len(long)} left out as longer ({some(long, 3)})" if long else ""
        text = f"{len(rows)} of at most {settings.max_prompt_length} tokens{longer}"
        yield Line("prompts", True, text)
        text = f"{memory_needed(settings):.1f} GiB for weights, gradients and AdamW; activations come on top"
        yield Line("memory", True, text)  # a login node may have less than where it will run
    if (judge := make_judge(settings)) and annotated:
        stated = "<think>\n" + "\n".join(annotated[0].annotations) + "\n</think>"
        (verdict,) = asyncio.run(judge.judge([stated], [annotated[0].annotations]))
        text = f"{judge.name}: {describe(verdict)}"[:400]
        remedy = "start the server (notebook A3 has the command), or mend judge and judge_model"
        yield Line("judge", verdict.marks is not None, text, remedy)
    sizes = batch_sizes(settings)
    text = f"{sizes.rollouts_per_step:,} responses a step on {settings.processes} processes, "
    text += f"{sizes.gradient_accumulation_steps} backward passes each; {sizes.rollouts:,} in all"
    yield Line(type(grpo_config(settings, Path("unused"))).__name__, True, text)
