"""Supervised fine-tuning on the same chains of thought: the paper's other way to use its data (Table 2).

The same problems in the same order as GRPO asks them, each with its right chain of thought, by TRL's `SFTTrainer`. It
takes a fraction of GRPO's time, and keeps no checkpoints: a stopped run begins again. Started by `train` as arm "sft".
"""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from transformers import PrinterCallback, ProcessorMixin, TrainerCallback
from trl import SFTConfig, SFTTrainer

from perception_r1.annotation.pipeline import keep_right, own_trajectories
from perception_r1.common import checkpoints, provenance
from perception_r1.common.errors import InputError
from perception_r1.common.settings import TrainSettings
from perception_r1.problems.schema import Problem
from perception_r1.training.policy import prompt_of, with_image
from perception_r1.training.trainer import LOG


def examples(problems: Sequence[Problem], processor: ProcessorMixin) -> datasets.Dataset:
    """Prompts and right chains of thought as text, with images: columns id, prompt, completion, images.

    Raises:
        InputError: no problem has a chain of thought with the right answer.
    """
    with_cot = [problem for problem in problems if problem.cot]
    kept, _ = keep_right(with_cot, own_trajectories(with_cot))
    right = {trajectory.id for trajectory in kept}
    rows = []
    for problem in (p for p in with_cot if p.id in right):
        asked = with_image(prompt_of(problem), len(problem.images))
        rows.append(
            {
                "id": problem.id,
                "prompt": processor.apply_chat_template(asked, add_generation_prompt=True),
                "completion": problem.cot.strip() + processor.tokenizer.eos_token,
                "images": problem.open_images(),
            }
        )
    if not rows:
        raise InputError(
            f"none of {len(problems)} problems has a chain of thought with the right answer (column cot); the arm "
            "sft learns from these: give the dataset that notebook 02 writes"
        )
    return datasets.Dataset.from_list(rows)


def sft_config(settings: TrainSettings, out: Path) -> SFTConfig:
    """The settings as TRL's configuration; a step learns from `prompts_per_step` chains of thought."""
    micro = min(settings.per_device_train_batch_size, settings.prompts_per_step)
    accumulated, rest = divmod(settings.prompts_per_step, micro * settings.processes)
    if rest:
        raise InputError(
            f"prompts_per_step {settings.prompts_per_step} is no multiple of per_device_train_batch_size {micro} x "
            f"{settings.processes} processes; lower per_device_train_batch_size"
        )
    values = {
        "output_dir": str(out), "seed": settings.seed, "max_steps": settings.max_steps,
        "per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulated,
        "learning_rate": settings.learning_rate, "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps, "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm, "bf16": settings.bf16,
        "gradient_checkpointing": settings.gradient_checkpointing, "completion_only_loss": True,
        "max_length": None, "shuffle_dataset": False, "train_sampling_strategy": "sequential",
        "use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    return SFTConfig(**values)


NOT_HERE = (
    "format", "accuracy", "repetition", "perception", "zero_variance_groups", "repeated",
    "left_out", "entropy", "seconds_generation", "seconds_rewards", "seconds_update", "seconds_other",
)  # fmt: skip


class Log(TrainerCallback):
    """One row a step, as in GRPO's log; what there is no such thing of here stays empty."""

    def __init__(self, path: Path):
        self.path, self._begin = path, time.perf_counter()

    def on_log(self, args: object, state: object, control: object, logs: dict, **_: object) -> None:
        """Append the step's row."""
        if "loss" not in logs or not state.is_world_process_zero:
            return
        row = dict.fromkeys(NOT_HERE) | {
            "step": state.global_step, "loss": round(float(logs["loss"]), 8),
            "learning_rate": logs["learning_rate"], "grad_norm": float(logs["grad_norm"]),
            "seconds": round(time.perf_counter() - self._begin, 4),
            "peak_memory_mb": provenance.peak_memory_mb(),
        }  # fmt: skip
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        if state.global_step == 1:
            self.path.unlink(missing_ok=True)
            writer.writeheader()
        writer.writerow(row)
        checkpoints.append(self.path, text.getvalue())
        self._begin = time.perf_counter()


def sft_trainer(
    settings: TrainSettings,
    model: object,
    processor: ProcessorMixin,
    rows: datasets.Dataset,
    out: Path,
    peft_config: object = None,
) -> SFTTrainer:
    """TRL's trainer for `rows`, in their order; see `examples`."""
    trainer = SFTTrainer(
        model=model, args=sft_config(settings, out), train_dataset=rows,
        processing_class=processor, peft_config=peft_config, callbacks=[Log(out / LOG)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer
