"""Our settings as the configurations of TRL and peft; names are theirs where they have the thing."""

from pathlib import Path

import torch
from trl import GRPOConfig, SFTConfig

from perception_r1.common.errors import InputError
from perception_r1.common.settings import TrainSettings, batch_sizes

# Passed on under the same name by every way to train.
SHARED = (
    "seed", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm",
    "bf16", "gradient_checkpointing",
)  # fmt: skip
GRPO = (
    "per_device_train_batch_size", "num_generations", "max_completion_length", "temperature", "loss_type", "epsilon",
    "epsilon_high", "beta", "save_steps",
)  # fmt: skip
VLLM = ("vllm_tensor_parallel_size", "vllm_gpu_memory_utilization")


def grpo_config(settings: TrainSettings, out: Path, **more: object) -> GRPOConfig:
    """The settings as TRL's configuration; `more` overrides (tests pass `use_cpu=True`)."""
    values = {name: getattr(settings, name) for name in SHARED + GRPO}
    values |= {
        "output_dir": str(out),
        "gradient_accumulation_steps": batch_sizes(settings).gradient_accumulation_steps,
        "top_p": 1.0,
        "top_k": 0,
        "shuffle_dataset": False,  # `data.schedule` has done it
        "scale_rewards": "group",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
    }
    if settings.vllm:
        values |= {name: getattr(settings, name) for name in VLLM}
        values |= {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_max_model_length": settings.max_prompt_length + settings.max_completion_length,
            "vllm_enable_sleep_mode": settings.vllm_sleep,
        }
    return GRPOConfig(**values | more)


def sft_config(settings: TrainSettings, out: Path) -> SFTConfig:
    """The same for imitation; a step learns from `prompts_per_step` chains of thought.

    Raises:
        InputError: they cannot be shared by the processes.
    """
    micro = min(settings.per_device_train_batch_size, settings.prompts_per_step)
    accumulated, rest = divmod(settings.prompts_per_step, micro * settings.processes)
    if rest:
        raise InputError(
            f"prompts_per_step {settings.prompts_per_step} is no multiple of per_device_train_batch_size {micro} x "
            f"{settings.processes} processes; lower per_device_train_batch_size"
        )
    gpu = torch.cuda.is_available()
    values = {name: getattr(settings, name) for name in SHARED}
    values |= {
        "output_dir": str(out),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulated,
        "completion_only_loss": True,
        "max_length": None,
        "shuffle_dataset": False,
        "train_sampling_strategy": "sequential",
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return SFTConfig(**values)


def adapter_config(settings: TrainSettings):
    """The LoRA adapter on all linear layers, vision tower included; None if all weights are trained."""
    if not settings.lora_rank:
        return None
    from peft import LoraConfig  # a laptop does without

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear"
    )
