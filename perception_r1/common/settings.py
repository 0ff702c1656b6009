"""What a training run is told: the `[train]` table of a profile, checked, and its batch sizes.

One table serves a laptop and a cluster; only numbers differ. Names are TRL's where TRL has the thing. Plain
numbers, no torch: so that a profile is read in an instant, and an impossible batch is refused before anything loads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perception_r1.common.errors import InputError, first_fault
from perception_r1.common.files import read_toml

Arm = Literal["accuracy_only", "perception", "perception_no_repetition", "repetition_only", "sft"]
LOCAL_JUDGES = ("exact", "presence", "lazy")


class TrainSettings(BaseModel):
    """Everything that decides what a training run does; lengths are tokens, sizes are counts.

    Raises:
        InputError: (from `read_settings`) a field that is missing, unknown, or out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # policy
    model: str = Field(description='folder, hub name, or "miniature"')
    dtype: Literal["float32", "bfloat16"] = Field(description="of the weights as they are loaded")
    bf16: bool = Field(False, description="compute in bfloat16 (mixed precision)")
    lora_rank: int = Field(0, ge=0, description="0: all weights are trained")
    lora_alpha: int = Field(64, ge=1)
    min_pixels: int | None = Field(None, ge=784, description="of one image")
    max_pixels: int | None = Field(None, ge=784)
    # rollouts
    prompts_per_step: int = Field(ge=1)
    num_generations: int = Field(ge=2, description="completions of one prompt: the group size G")
    max_prompt_length: int = Field(ge=1, description="with image tokens; longer ones are left out")
    max_completion_length: int = Field(ge=1)
    temperature: float = Field(1.0, gt=0)
    vllm: bool = False
    vllm_tensor_parallel_size: int = Field(1, ge=1)
    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, lt=1)
    vllm_sleep: bool = Field(
        False, description="vLLM gives its memory back while weights are updated"
    )
    # optimisation
    max_steps: int = Field(ge=1)
    per_device_train_batch_size: int = Field(ge=1, description="completions at once on one device")
    learning_rate: float = Field(gt=0)
    lr_scheduler_type: Literal["linear", "constant_with_warmup"]
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    loss_type: Literal["grpo", "dapo", "bnpo"] = "dapo"
    epsilon: float = Field(0.2, gt=0)
    epsilon_high: float = Field(0.3, gt=0)
    beta: float = Field(0.0, ge=0, description="weight of the KL term; 0: no reference model")
    gradient_checkpointing: bool = False
    # rewards
    arm: Arm = "perception"
    perception_weight: float = Field(0.7, ge=0, description="gamma, where the arm pays for sight")
    mode: Literal["recall", "contradiction_aware", "if_right"] = "recall"
    repetition: Literal["tokens", "words"] = Field(
        "tokens", description='what is counted; "words": the paper\'s form'
    )
    judge: str = Field("exact", description="exact, presence, lazy, tuned, or a server's URL")
    judge_model: str = Field(
        "", description="the server's name for its model; for tuned a GGUF file, or smollm2"
    )
    judge_ask: Literal["all", "each"] = Field(
        "all",
        description="a server's judge: all facts of a response in one question, or one by one",
    )
    judge_threshold: float = Field(0.5, ge=0, le=1, description='of "each"; `fit_threshold`')
    soft: bool = Field(False, description="pay for the scores of a judge that gives any")
    judge_deadline: float = Field(900, gt=0, description="seconds for a step's verdicts")
    judge_flip: float = Field(0.0, ge=0, le=1, description="share of its marks that are flipped")
    judge_lost: float = Field(0.0, ge=0, lt=1, description="share of its verdicts that get lost")
    lost_verdicts: Literal["left_out", "zero"] = Field(
        "left_out", description='"zero": a lost verdict counts as no sight, as in the reference'
    )
    max_failure_rate: float = Field(0.2, gt=0, le=1)
    # bookkeeping
    seed: int = Field(0, ge=0)
    save_steps: int = Field(ge=1)
    # machine
    processes: int = Field(1, ge=1, description="training processes, one for each GPU")
    fsdp: bool = False

    @model_validator(mode="after")
    def _possible(self) -> "TrainSettings":
        batch_sizes(self)
        served = self.judge.startswith(("http://", "https://"))
        if not served and self.judge not in (*LOCAL_JUDGES, "tuned"):
            raise ValueError(
                f"judge {self.judge!r} is none of {', '.join(LOCAL_JUDGES)}, tuned, and no URL (http://host:port/v1)"
            )
        if not self.judge_model and self.judge not in LOCAL_JUDGES:
            raise ValueError(
                "judge_model is empty; name the model that the judge's server has, for tuned a GGUF file or smollm2"
            )
        return self


@dataclass(frozen=True)
class BatchSizes:
    """What one optimiser step is made of.

    Attributes:
        rollouts_per_step: completions sampled for one step, over all processes.
        gradient_accumulation_steps: forward and backward passes on one process for one step.
        rollouts: completions of the whole run; as many judge calls with a perception reward.
    """

    rollouts_per_step: int
    gradient_accumulation_steps: int
    rollouts: int


def batch_sizes(settings: TrainSettings) -> BatchSizes:
    """One optimiser step for each batch of rollouts, as the paper's script has it (so the PPO ratio is 1).

    Raises:
        ValueError: the numbers do not divide; the message names them and what would do.
    """
    rollouts = settings.prompts_per_step * settings.num_generations
    micro, processes = settings.per_device_train_batch_size, settings.processes
    per_process, rest = divmod(rollouts, processes)
    if rest:
        raise ValueError(
            f"{settings.prompts_per_step} prompts_per_step x {settings.num_generations} num_generations = "
            f"{rollouts} completions cannot be shared by {processes} processes; make prompts_per_step a "
            f"multiple of {processes}"
        )
    if per_process % micro:
        fitting = max(k for k in range(1, min(micro, per_process) + 1) if per_process % k == 0)
        raise ValueError(
            f"{per_process} completions a process do not divide into batches of "
            f"per_device_train_batch_size {micro}; {fitting} would do"
        )
    return BatchSizes(rollouts, per_process // micro, rollouts * settings.max_steps)


def read_settings(file: Path, **changes: object) -> TrainSettings:
    """The `[train]` table of a TOML file (a profile is one), with some fields changed.

    Args:
        file: TOML.
        changes: field -> value; text is read as the field's type, as from a command line.

    Raises:
        InputError: no such file or table; a field that is missing, unknown or impossible.
    """
    try:
        return TrainSettings(**read_toml(file).get("train", {}) | changes)
    except ValidationError as error:
        raise InputError(f"{file}, table [train], {first_fault(error)}") from error


def read_pairs(text: str) -> dict[str, str]:
    """Fields or dials as a notebook's parameter holds them: "text_rich=0,sides=3" -> field -> value, as text.

    Raises:
        InputError: a part that is no name=value.
    """
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    pairs = {name.strip(): value.strip() for name, _, value in parts}
    if not all(pairs) or not all(pairs.values()):
        raise InputError(f"{text!r}: write it as name=value, parts with commas between")
    return pairs
