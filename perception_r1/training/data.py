"""A training set as TRL takes it: prompts that fit, images at their final size, and which problem is asked when.

The dataset is read down to what training may know: question, images, answer, annotations. Gold facts, which the
embedded world has and real data have not, never reach the trainer.
"""

import hashlib
import json
import random
from collections.abc import Sequence

import datasets
from PIL import Image
from transformers import ProcessorMixin
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from perception_r1.common.errors import InputError
from perception_r1.common.settings import TrainSettings
from perception_r1.problems.schema import Problem
from perception_r1.training.policy import prompt_of, with_image


def training_rows(
    problems: Sequence[Problem], settings: TrainSettings, processor: ProcessorMixin
) -> tuple[datasets.Dataset, dict[str, int]]:
    """Problems as TRL takes them, and those whose prompts are too long.

    Returns:
        Rows with the columns id, prompt (a raw conversation), images (resized once to the processor's limits, so
        that nobody resizes them again), answer, visual_key_info; and of what was left out id -> tokens.

    Raises:
        InputError: no prompt is short enough, or Qwen's processor takes no such image.
    """
    rows, long = [], {}
    for problem in problems:
        try:
            images = [_resized(image, processor) for image in problem.open_images()]
        except ValueError as error:  # longer than 200 times its width
            remedy = "crop the image, or leave the row out"
            raise InputError(f"problem {problem.id}: {error}; {remedy}") from error
        prompt = prompt_of(problem)
        tokens = _prompt_tokens(prompt, images, processor)
        if tokens > settings.max_prompt_length:
            long[problem.id] = tokens
            continue
        rows.append(
            {
                "id": problem.id,
                "prompt": prompt,
                "images": images,
                "answer": problem.answer,
                "visual_key_info": problem.visual_key_info,
            }
        )
    if not rows:
        raise InputError(
            f"every prompt is longer than max_prompt_length {settings.max_prompt_length} (the shortest has "
            f"{min(long.values())} tokens, its images included); raise it, or lower max_pixels"
        )
    return datasets.Dataset.from_list(rows), long


def _resized(image: Image.Image, processor: ProcessorMixin) -> Image.Image:
    """The image at the size to which Qwen's processor would bring it."""
    wanted = processor.image_processor
    if not hasattr(wanted, "merge_size"):
        return image
    height, width = smart_resize(
        image.height,
        image.width,
        factor=wanted.patch_size * wanted.merge_size,
        min_pixels=wanted.size["shortest_edge"],
        max_pixels=wanted.size["longest_edge"],
    )
    return image.resize((width, height))


def _prompt_tokens(prompt: list[dict], images: list, processor: ProcessorMixin) -> int:
    """Tokens of a prompt as the model sees it, those of its images included."""
    text = processor.apply_chat_template(
        with_image(prompt, len(images)), add_generation_prompt=True
    )
    return len(processor(text=[text], images=images)["input_ids"][0])


def schedule(problems: int, prompts_per_step: int, steps: int, seed: int) -> list[int]:
    """Which problems each step asks, one after the other: shuffled epochs, the rest of each dropped.

    A function of its arguments alone, so that a resumed run asks what it would have asked.

    Raises:
        InputError: there are fewer problems than a step asks.
    """
    if problems < prompts_per_step:
        raise InputError(
            f"{problems} problems cannot fill a step of prompts_per_step {prompts_per_step}; lower it, or give "
            "more data"
        )
    order: list[int] = []
    epoch = 0
    while len(order) < steps * prompts_per_step:
        shuffled = list(range(problems))
        random.Random(f"{seed}/{epoch}").shuffle(shuffled)
        order += shuffled[: problems // prompts_per_step * prompts_per_step]
        epoch += 1
    return order[: steps * prompts_per_step]


def digest(problems: Sequence[Problem]) -> str:
    """SHA-256 of all that training reads of the problems, in their order."""
    whole = hashlib.sha256()
    for problem in problems:
        images = [hashlib.sha256(image).hexdigest() for image in problem.images]
        read = [problem.id, problem.problem, problem.answer, problem.visual_key_info, images]
        whole.update(json.dumps(read).encode())
    return whole.hexdigest()
