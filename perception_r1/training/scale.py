"""Before a run on GPUs: memory, time, cost, the commands to type, and a dry run of them. Explained in notebook A3.

The estimates are arithmetic on the settings of a profile and need no GPU. What one rests on is said beside it:
"computed" is a rule, stated where it is applied; "measured by the authors" is theirs. Of GPUs we have measured nothing:
the memory rules leave out fragmentation, and nobody has held them against a GPU.
"""

import asyncio
import importlib.util
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import torch
from huggingface_hub import try_to_load_from_cache

from perception_r1.common import profiles
from perception_r1.common.check import Line
from perception_r1.common.errors import some
from perception_r1.common.files import DATA
from perception_r1.common.settings import TrainSettings, batch_sizes
from perception_r1.evidence import paper
from perception_r1.problems import Problem, load_problems
from perception_r1.reward.rewards import PerceptionReward, describe
from perception_r1.training.arms import ARMS, make_judge, reward_functions
from perception_r1.training.configuration import grpo_config
from perception_r1.training.data import training_rows
from perception_r1.training.policy import MINIATURE, load_processor

FSDP = profiles.FOLDER / "fsdp.yaml"  # accelerate's configuration
GPU_EXTRA = "pip install -c constraints.txt -e '.[gpu]'"
GIB = 2**30
NEVER = "computed, never executed"


# --- memory, time, cost ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """GiB that a program can use, and the dense bfloat16 peak in teraflop/s."""

    gib: float
    teraflops: float


# From the makers' data sheets, as remembered and not verified here; usable memory is a little less than the name says.
GPUS = {
    "RTX 4090 24 GB": Gpu(23, 165), "A100 40 GB": Gpu(39, 312), "L40S 48 GB": Gpu(44, 362),
    "A800 80 GB": Gpu(79, 312), "H100 80 GB": Gpu(78, 989), "H200 141 GB": Gpu(139, 989),
}  # fmt: skip
PAPERS_GPU, PAPERS_GPUS = GPUS["A800 80 GB"], 8
OVERHEAD_GIB = 2.0  # CUDA, NCCL, kernels: a guess


@dataclass(frozen=True)
class Size:
    """Counts of a policy: parameters, layers and widths of its language model, and what LoRA would add.

    Attributes:
        head: parameters of lm_head, 0 if tied to the embeddings.
        cache_per_token: bytes of keys and values in bfloat16.
        adapter_per_rank: parameters of an adapter of rank 1 on all linear layers but lm_head.
    """

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    head: int
    cache_per_token: int
    adapter_per_rank: int


# Counted on the shapes in the checkpoints' public config.json; a test counts again.
SIZES = {
    "Qwen2.5-VL-3B-Instruct": Size(3_754_622_976, 36, 2048, 151_936, 0, 36_864, 2_585_216),
    "Qwen2.5-VL-7B-Instruct": Size(
        8_292_166_656, 28, 3584, 152_064, 544_997_376, 57_344, 3_239_040
    ),
}


def size_of(settings: TrainSettings) -> Size:
    """The counts of the settings' policy, one of `SIZES` by its name or its folder's name."""
    return SIZES[Path(settings.model).name]


def needed(settings: TrainSettings, gpu: Gpu) -> float:
    """GiB that one process needs on such a GPU, at the fuller of a step's two phases, by rules of thumb.

    Throughout: the weights, two numbers of AdamW for each trained one, and the overhead. To update: a gradient for each
    trained weight; copies that are made to compute (bfloat16 ones of what is computed now, a float32 gradient of
    lm_head); activations, 34 bytes for each token, width and layer, or 2 with checkpointing. To generate: vLLM's share,
    which stays unless vLLM sleeps, or keys and values of all responses at full length.
    """
    size, stored = size_of(settings), {"float32": 4, "bfloat16": 2}[settings.dtype]
    trained, of_trained = size.parameters, stored
    if settings.lora_rank:  # peft keeps adapters in float32
        trained, of_trained = settings.lora_rank * size.adapter_per_rank, 4
    shards = settings.processes if settings.fsdp else 1
    always = (stored * size.parameters + 2 * of_trained * trained) / shards + OVERHEAD_GIB * GIB
    embeddings = size.vocabulary * size.hidden
    copies = 0.0
    if settings.fsdp:  # of embeddings, lm_head and two layers
        layer = (size.parameters - embeddings - size.head) / size.layers  # with a share of vision
        copies = 2 * (embeddings + size.head + 2 * layer)
    elif settings.bf16 and settings.dtype == "float32":  # autocast's
        copies = 2 * size.parameters
    if not settings.lora_rank:
        copies += 4 * embeddings
    length = settings.max_prompt_length + settings.max_completion_length
    kept = 2 if settings.gradient_checkpointing else 34
    widths = settings.per_device_train_batch_size * length * size.hidden
    update = of_trained * trained / shards + copies + widths * (kept * size.layers + 34)
    if settings.vllm:
        generation = settings.vllm_gpu_memory_utilization * gpu.gib * GIB
        update += 0 if settings.vllm_sleep else generation
    else:
        generation = batch_sizes(settings).per_process * length * size.cache_per_token
    return (always + max(generation, update)) / GIB


def fits(settings: TrainSettings, gpu: Gpu) -> bool:
    """Whether one of the run's processes fits such a GPU, by `needed`'s rules.

    vLLM's share must hold the weights and one response of full length.
    """
    size = size_of(settings)
    length = settings.max_prompt_length + settings.max_completion_length
    held = (2 * size.parameters + length * size.cache_per_token) / GIB
    least = held / settings.vllm_tensor_parallel_size + OVERHEAD_GIB
    if settings.vllm and least > settings.vllm_gpu_memory_utilization * gpu.gib:
        return False
    return needed(settings, gpu) <= gpu.gib


def seconds_per_step(settings: TrainSettings, gpu: Gpu) -> float:
    """The authors' 209 s a step (16 h / 275 steps on 8 A800) times ours / theirs in each of three.

    Responses a step, parameters, and peak teraflop/s of all GPUs. Not in it: responses of another length, LoRA's
    cheaper update, a judge that is slower than training, and memory bandwidth, which decides generation.
    """
    theirs = profiles.load_profile("paper").train
    work = batch_sizes(settings).rollouts_per_step * size_of(settings).parameters
    of_theirs = batch_sizes(theirs).rollouts_per_step * size_of(theirs).parameters
    speed = settings.processes * gpu.teraflops / (PAPERS_GPUS * PAPERS_GPU.teraflops)
    return paper.constant("seconds_per_step") * work / of_theirs / speed


def gpu_estimates() -> pd.DataFrame:
    """Which profile fits which GPU, and in what time; every cell says how it is known.

    Returns:
        Columns: profile, machine, fits, time, gpu_hours; the last, of all GPUs together, times a price is the cost.
    """
    rows = []
    for name in ("smoke", "laptop"):
        measured = profiles.load_profile(name).measured
        rows.append((name, "2 CPU cores", "yes (measured)", f"{measured} (measured)", "none"))
    for name in ("gpu", "paper"):
        settings = profiles.load_profile(name).train
        for kind, gpu in GPUS.items():
            # As many for the judge, as the authors had; whether it fits them is not looked at.
            machine = f"{settings.processes} + {settings.processes} for the judge, {kind}"
            memory = f"{needed(settings, gpu):.1f} of {gpu.gib} GiB ({NEVER})"
            if not fits(settings, gpu):
                rows.append((name, machine, f"no: {memory}", "-", "-"))
                continue
            hours = settings.max_steps * seconds_per_step(settings, gpu) / 3600
            theirs = name == "paper" and gpu is PAPERS_GPU
            how = "measured by the authors, with their own code; never executed by us"
            time = f"{hours:.1f} h ({how if theirs else NEVER})"
            whole = f"{hours * 2 * settings.processes:.0f} ({NEVER})"
            rows.append((name, machine, f"yes: {memory}", time, whole))
    return pd.DataFrame(rows, columns=["profile", "machine", "fits", "time", "gpu_hours"])


def recipe_table() -> pd.DataFrame:
    """Every hyperparameter of the paper beside ours, from `data/paper/recipe.csv`.

    Returns:
        Columns, all text: item; paper, its value; key, the field of profile `paper` (or of TRL's configuration, of
        the batch sizes, of the arm's weights) that sets ours; ours; same, yes or no; note; source, the paper's.
    """
    return pd.read_csv(DATA / "paper" / "recipe.csv", dtype=str, keep_default_na=False)


# --- commands --------------------------------------------------------------------------------------


def launch_command(
    settings: TrainSettings, config: str | Path, data: str | Path, out: str | Path, *more: str
) -> list[str]:
    """The command that trains on one machine: plain, under torchrun, or sharded by `accelerate launch`."""
    files = ["--config", str(config), "--data", str(data), "--out", str(out)]
    return _launched(settings, [*files, *more])


def _launched(settings: TrainSettings, arguments: Sequence[str]) -> list[str]:
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


# --- dry run ---------------------------------------------------------------------------------------


def dry_run(
    settings: TrainSettings, arguments: Sequence[str], data: str, held_out: str = ""
) -> int:
    """Print what a training run would need and does not find; nothing is loaded on a device, downloaded or written.

    Everything short of loading weights is done once: the data are read, the prompts built and counted, the rewards
    and the judge asked about one response written here, TRL's configuration made.

    Args:
        settings: see `settings.TrainSettings`.
        arguments: of `train`; they only make the command that is shown.
        data: see `load_problems`.
        held_out: problems to answer every eval_steps.

    Returns:
        0 if nothing is missing, else 1.

    Raises:
        InputError: the data cannot be read, no prompt is short enough, or the processor is of no use.
    """
    missing = []
    for line in _checks(settings, load_problems(data), held_out):
        print(line, flush=True)
        missing += [line.name] if not line.met else []
    if settings.judge.startswith("http"):
        print("\nto start a judge with vLLM, and to ask whether it answers:")
        print(*judge_commands(settings), sep="\n")
    print(f"\nto train:\n{shlex.join(_launched(settings, arguments))}")
    print(f"\nmissing: {', '.join(missing)}" if missing else "\nnothing is missing")
    return 1 if missing else 0


def _checks(settings: TrainSettings, problems: list[Problem], held_out: str) -> Iterator[Line]:
    annotated = [problem for problem in problems if problem.visual_key_info]
    enough = len(problems) >= settings.prompts_per_step
    met = enough and ("perception" not in ARMS[settings.arm] or len(annotated) > 0)
    remedy = (
        "annotate them (notebook 02)" if enough else f"a step takes {settings.prompts_per_step}"
    )
    count = f"{len(problems)} problems, {len(annotated)} of them annotated"
    yield Line("data", met, count, remedy)
    if settings.eval_steps or held_out:
        count = f"{len(load_problems(held_out))} problems" if held_out else "none"
        yield Line("held-out", bool(held_out), count, "give --held-out, or set eval_steps to 0")
    folder = MINIATURE if settings.model == "miniature" else Path(settings.model)
    if not folder.is_dir() and settings.model.count("/") == 1:
        cached = try_to_load_from_cache(settings.model, "config.json")  # asks the hub nothing
        folder = Path(cached).parent if isinstance(cached, str) else folder
    remedy = f"hf download {settings.model} (or give a folder)"
    yield Line("model", any(folder.glob("*.safetensors")), f"{settings.model}, in {folder}", remedy)
    if folder.is_dir():
        processor = load_processor(str(folder), settings.min_pixels, settings.max_pixels)
        rows, long = training_rows(problems, settings, processor)
        longer = f", {len(long)} left out as longer ({some(long['id'], 3)})" if len(long) else ""
        text = f"{len(rows)} of at most {settings.max_prompt_length} tokens{longer}"
        yield Line("prompts", True, text)
    yield from _rewards(settings, (annotated or problems)[0])
    sizes = batch_sizes(settings)
    text = f"{sizes.rollouts_per_step:,} responses a step on {settings.processes} processes, "
    text += f"{sizes.gradient_accumulation_steps} backward passes each; {sizes.rollouts:,} in all"
    yield Line(type(grpo_config(settings, Path("unused"))).__name__, True, text)
    stock = Path(settings.model).name in SIZES
    wanted = {"vllm": settings.vllm, "torchvision": stock, "peft": settings.lora_rank > 0}
    for name in (name for name, wants in wanted.items() if wants):
        there = importlib.util.find_spec(name) is not None
        yield Line(name, there, "installed" if there else "not installed", GPU_EXTRA)
    if settings.vllm or settings.bf16:
        gpus = torch.cuda.device_count()
        text = f"{gpus} of {settings.processes}"
        yield Line("GPU", gpus >= settings.processes, text, "one for each process")


def _rewards(settings: TrainSettings, problem: Problem) -> Iterator[Line]:
    """All rewards of one response that says every annotation and the gold answer in the paper's format."""
    stated = "\n".join(problem.annotations)
    text = f"<think>\n{stated}\n</think>\n<answer>\n\\boxed{{{problem.answer}}}\n</answer>"
    completions = [[{"role": "assistant", "content": text}]]
    columns = {"answer": [problem.answer], "visual_key_info": [problem.visual_key_info]}
    functions, weights = reward_functions(settings, make_judge(settings))
    for function, weight in zip(functions, weights, strict=True):
        (value,) = asyncio.run(function(completions=completions, **columns))
        if isinstance(function, PerceptionReward):
            verdict = f"{function.judge.name}: {describe(function.verdicts[0])}"[:400]
            met = value is not None or not problem.visual_key_info
            yield Line("judge", met, verdict, "start the server, or mend judge and judge_model")
        else:
            worth = f"{value} (weight {weight:g})"
            yield Line(function.__name__, value is not None, worth, "see the data")
