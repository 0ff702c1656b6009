"""Before a run on GPUs: memory, time, cost, and the commands to type. Explained in notebook 04.

Everything here is arithmetic on the settings of a profile and needs no GPU. What an estimate rests on is said beside
it: "computed" is a rule, stated where it is applied; "measured by the authors" is theirs. What profiles say of machines
without a GPU was measured; of GPUs we have measured nothing: the memory rules leave out fragmentation, and nobody has
held them against a GPU.
"""

import functools
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig

from perception_r1.common import checkpoints, profiles
from perception_r1.common.errors import InputError
from perception_r1.common.settings import TrainSettings, batch_plan
from perception_r1.evidence import paper
from perception_r1.training.policy import MINIATURE

FSDP = profiles.FOLDER / "fsdp.yaml"  # accelerate's configuration
GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
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
OVERHEAD_GIB = 2.0  # CUDA, NCCL, kernels


def _qwen(hidden: int, inner: int, layers: int, heads: int, groups: int, words: int, tied: bool):
    text = {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": words,
        "num_attention_heads": heads, "num_key_value_heads": groups, "tie_word_embeddings": tied,
    }  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    return Qwen2_5_VLConfig(
        text_config=text, vision_config={**vision, "out_hidden_size": hidden}, tie_word_embeddings=tied
    )  # fmt: skip


# The shapes in the checkpoints' public config.json, so that the arithmetic needs no download.
SHAPES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": (2048, 11008, 36, 16, 2, 151936, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": (3584, 18944, 28, 28, 4, 152064, False),
}


@dataclass(frozen=True)
class Size:
    """Counts of a policy: parameters, those that are trained, layers and widths of the language model."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    vocabulary: int
    cache_per_token: int  # bytes of keys and values in bfloat16
    head: int  # parameters of lm_head, 0 if tied to the embeddings


def size_of(settings: TrainSettings) -> Size:
    """Count the settings' policy without its weights.

    Raises:
        InputError: neither a folder with a config.json nor a checkpoint whose shape is known here.
    """
    name = str(MINIATURE) if settings.model == "miniature" else settings.model
    return _size(name, settings.lora_rank)


@functools.cache
def _size(name: str, lora_rank: int) -> Size:
    if name in SHAPES:
        config = _qwen(*SHAPES[name])
    elif (Path(name) / "config.json").is_file():
        config = AutoConfig.from_pretrained(name, local_files_only=True)
    else:
        raise InputError(
            f"the size of {name} is not known here; download it and give its folder as model (known: "
            f"{', '.join(SHAPES)})"
        )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    text, head = config.get_text_config(), model.get_output_embeddings()
    every = sum(weight.numel() for weight in model.parameters())
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    adapters = lora_rank * sum(m.in_features + m.out_features for m in linear)
    width = text.hidden_size // text.num_attention_heads
    return Size(
        parameters=every, trained=adapters if lora_rank else every, layers=text.num_hidden_layers,
        hidden=text.hidden_size, vocabulary=text.vocab_size,
        cache_per_token=2 * text.num_hidden_layers * text.num_key_value_heads * width * 2,
        head=0 if text.tie_word_embeddings else head.weight.numel(),
    )  # fmt: skip


def estimate(settings: TrainSettings, gpu: Gpu = PAPERS_GPU) -> pd.DataFrame:
    """GiB of each part on one GPU, with the rule; see `needed` for their sum.

    Returns:
        Columns: part, gib, during ("generation", "update" or "both"), rule.
    """
    size, plan = size_of(settings), batch_plan(settings)
    shards = settings.processes if settings.fsdp else 1
    stored = BYTES[settings.dtype]
    of_trained = 4 if settings.lora_rank else stored  # peft keeps adapters in float32
    embeddings = size.vocabulary * size.hidden
    layer = (
        size.parameters - embeddings - size.head
    ) / size.layers  # with a share of the vision tower
    length = settings.max_prompt_length + settings.max_completion_length
    tokens = settings.per_device_train_batch_size * length
    kept = 2 if settings.gradient_checkpointing else 34
    share = settings.vllm_gpu_memory_utilization * gpu.gib * GIB
    if settings.fsdp:
        copies, why = (
            2 * (embeddings + size.head + 2 * layer),
            "bfloat16: embeddings, lm_head, 2 layers",
        )
    elif settings.bf16 and settings.dtype == "float32":
        copies, why = 2 * size.parameters, "autocast's bfloat16 weights"
    else:
        copies, why = 0, "none"
    if not settings.lora_rank:
        copies, why = copies + 4 * embeddings, f"{why}; float32 gradient of lm_head"
    rows = [
        ("weights", stored * size.parameters / shards, "both",
         f"{size.parameters:,} x {stored} bytes / {shards}"),
        ("gradients", of_trained * size.trained / shards, "update",
         f"{size.trained:,} x {of_trained} bytes / {shards}"),
        ("optimiser", 2 * of_trained * size.trained / shards, "both", "AdamW: two more numbers for each trained one"),
        ("copies", copies, "update", why),
        ("activations", tokens * size.hidden * (kept * size.layers + 34), "update",
         f"{tokens:,} tokens at most x {size.hidden} x ({kept} bytes x {size.layers} layers + 34): a rough rule"),
    ]  # fmt: skip
    if settings.vllm:
        during = "generation" if settings.vllm_sleep else "both"
        rule = f"{settings.vllm_gpu_memory_utilization:g} of the GPU, weights and cache"
        rows.append(("vLLM", share, during, rule))
    else:
        cache = plan.per_process * length * size.cache_per_token
        rows.append(
            ("cache", cache, "generation", f"{plan.per_process} responses of {length} tokens")
        )
    rows.append(("overhead", OVERHEAD_GIB * GIB, "both", "CUDA, NCCL, kernels: a guess"))
    table = pd.DataFrame(rows, columns=["part", "gib", "during", "rule"])
    return table.assign(gib=(table["gib"] / GIB).round(3))


def needed(parts: pd.DataFrame) -> float:
    """GiB at the fuller of the two phases of a step."""
    return max(
        parts.gib[parts.during.isin(["both", phase])].sum() for phase in ("generation", "update")
    )


def vllm_needs(settings: TrainSettings) -> float:
    """GiB that vLLM's share must hold at least: weights, and one response of full length."""
    size = size_of(settings)
    length = settings.max_prompt_length + settings.max_completion_length
    held = 2 * size.parameters + length * size.cache_per_token
    return held / settings.vllm_tensor_parallel_size / GIB + OVERHEAD_GIB


def fits(settings: TrainSettings, gpu: Gpu) -> bool:
    """Whether one of the run's processes fits such a GPU, by `estimate`'s rules."""
    if settings.vllm and vllm_needs(settings) > settings.vllm_gpu_memory_utilization * gpu.gib:
        return False
    return needed(estimate(settings, gpu)) <= gpu.gib


def seconds_per_step(settings: TrainSettings, gpu: Gpu) -> float:
    """The authors' 209 s a step (16 h / 275 steps on 8 A800) times ours / theirs in each of three.

    Responses a step, parameters, and peak teraflop/s of all GPUs. Not in it: responses of another length, LoRA's
    cheaper update, a judge that is slower than training, and memory bandwidth, which decides generation.
    """
    theirs = profiles.load_profile("paper").train
    work = batch_plan(settings).rollouts_per_step * size_of(settings).parameters
    of_theirs = batch_plan(theirs).rollouts_per_step * size_of(theirs).parameters
    speed = settings.processes * gpu.teraflops / (PAPERS_GPUS * PAPERS_GPU.teraflops)
    return paper.constant("seconds_per_step") * work / of_theirs / speed


def disk_gib(settings: TrainSettings) -> float:
    """GiB under --out: checkpoints, one of them half written, and the policy."""
    size = size_of(settings)
    one = 4 if settings.lora_rank else BYTES[settings.dtype]
    weights = (2 if settings.fsdp else 1) * one * size.trained  # FSDP: for us, and for going on
    return ((checkpoints.KEPT + 1) * (weights + 2 * one * size.trained) + one * size.trained) / GIB


def host_gib(settings: TrainSettings) -> float:
    """GiB of main memory at most: all weights in every process; with FSDP the first gathers weights and optimiser."""
    weights = BYTES[settings.dtype] * size_of(settings).parameters
    return max(settings.processes * weights, 3 * weights * settings.fsdp) / GIB


def planning_table(prices: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Which profile fits which GPU, in what time, at what cost; every cell says how it is known.

    Args:
        prices: GPU of `GPUS` -> what you pay for one GPU-hour, in any currency. There is no price list here.
    """
    rows = []
    for name in ("smoke", "laptop"):
        said = profiles.load_profile(name).measured
        rows.append((name, "2 CPU cores", "yes (measured)", f"{said} (measured)", "none"))
    for name in ("gpu", "paper"):
        settings = profiles.load_profile(name).train
        for kind, gpu in GPUS.items():
            # As many for the judge, as the authors had; whether it fits them is not looked at.
            whole = f"{settings.processes} + {settings.processes} for the judge, {kind}"
            both = 2 * settings.processes
            gib = needed(estimate(settings, gpu))
            if not fits(settings, gpu):
                rows.append((name, whole, f"no: {gib:.1f} of {gpu.gib} GiB ({NEVER})", "-", "-"))
                continue
            hours = settings.max_steps * seconds_per_step(settings, gpu) / 3600
            theirs = name == "paper" and gpu is PAPERS_GPU
            how = (
                "measured by the authors, with their own code; never executed by us"
                if theirs
                else NEVER
            )
            price = (prices or {}).get(kind)
            cost = (
                f"{price * hours * both:.2f} ({NEVER})" if price is not None else "no price given"
            )
            fit = f"yes: {gib:.1f} of {gpu.gib} GiB ({NEVER})"
            rows.append((name, whole, fit, f"{hours:.1f} h ({how})", cost))
    return pd.DataFrame(rows, columns=["profile", "machine", "fits", "time", "cost"])


# --- commands --------------------------------------------------------------------------------------


def launch_command(
    settings: TrainSettings, config: str | Path, data: str | Path, out: str | Path, *more: str
) -> list[str]:
    """The command that trains on one machine: plain, under torchrun, or sharded by `accelerate launch`."""
    python, processes = sys.executable, str(settings.processes)
    given = ["--config", str(config), "--data", str(data), "--out", str(out), *more]
    what = ["-m", "perception_r1.training.train", *given]
    if settings.fsdp:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(FSDP)]
        return [python, *launcher, "--num_processes", processes, *what]
    if settings.processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        return [python, *launcher, "--nproc_per_node", processes, *what]
    return [python, *what]


def shell(command: list[str]) -> str:
    """A command as one line for a shell."""
    return shlex.join(command)


def judge_commands(settings: TrainSettings, gpus: int | None = None) -> list[str]:
    """Shell lines that start the settings' judge with vLLM on GPUs of its own, and ask whether it answers.

    As the authors serve it [R examples/vllm_qwen_serve.sh], but for VLLM_USE_V1=0, which vLLM no longer knows; never
    executed by us.

    Args:
        settings: their `judge` must be a URL.
        gpus: to share the model; None: as many as train, as the authors have it.
    """
    if settings.judge == "exact":
        raise InputError("the exact judge needs no server; set judge to a URL")
    parts = urlsplit(settings.judge)
    length = settings.max_completion_length + 4096  # and the facts and the judge's own prompt
    serve = [
        "vllm", "serve", settings.judge_model, "--port", str(parts.port or 8000),
        "--tensor-parallel-size", str(gpus or settings.processes), "--enable-prefix-caching",
        "--gpu-memory-utilization", "0.9", "--max-model-len", str(length),
    ]  # fmt: skip
    asked = settings.judge.rstrip("/") + "/models"
    return [shell(serve), shell(["curl", "--fail", "--silent", asked])]
