"""Supervised fine-tuning on the same chains of thought: the paper's other way to use its data (Table 2).

The same problems in the same order as GRPO asks them, each with its right chain of thought, by TRL's `SFTTrainer`. It
takes a fraction of GRPO's time, and keeps no checkpoints: a stopped run begins again. Started by `train` as arm "sft".
"""

from collections.abc import Sequence
from pathlib import Path

import datasets
from transformers import PreTrainedModel, PrinterCallback, ProcessorMixin
from trl import SFTTrainer

from perception_r1.annotation.pipeline import keep_right, own_trajectories
from perception_r1.common.errors import InputError
from perception_r1.common.settings import TrainSettings
from perception_r1.problems.schema import Problem
from perception_r1.training.configuration import adapter_config, sft_config
from perception_r1.training.policy import prompt_of, with_image
from perception_r1.training.progress import REWARDS, Progress


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
        prompt = with_image(prompt_of(problem), len(problem.images))
        rows.append(
            {
                "id": problem.id,
                "prompt": processor.apply_chat_template(prompt, add_generation_prompt=True),
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


def sft_trainer(
    settings: TrainSettings,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: datasets.Dataset,
    out: Path,
) -> SFTTrainer:
    """TRL's trainer for `rows`, in their order; see `examples`. It logs as GRPO does, without rewards."""
    trainer = SFTTrainer(
        model=model,
        args=sft_config(settings, out),
        train_dataset=rows,
        processing_class=processor,
        peft_config=adapter_config(settings),
    )
    trainer.progress = Progress(out, REWARDS)
    trainer.add_callback(trainer.progress)
    trainer.remove_callback(PrinterCallback)
    return trainer
