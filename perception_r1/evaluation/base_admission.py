"""The base: the miniature before any reinforcement, and whether it may be used. Shown in notebook 04.

`train_base` gives it the lessons of `lessons`; `admit_base` measures it on held-out problems. A base that
cannot compute from the facts it states, or that has nothing left to learn, says nothing about perception
and is not used.
"""

import inspect
import json
import random
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel, ProcessorMixin

from perception_r1.common import provenance
from perception_r1.common.files import write_json
from perception_r1.evaluation import lessons
from perception_r1.evaluation.admission import BaseAdmission, admit_base
from perception_r1.evaluation.lessons import HELD_OUT, Pupil
from perception_r1.training.policy import MINIATURE, new_miniature, save_policy
from perception_r1.world import WorldConfig, make_problems, miniature_world

# --- training ----------------------------------------------------------------------------------------


def train_base(
    world: WorldConfig | None = None,
    *,
    seed: int = 0,
    eyesight: float = 0.80,
    reading: float = 0.75,
    computing: float = 0.97,
    limits: tuple[int, int, int, int] = (1200, 200, 150, 275),
    charts: int = 6000,
    problems: int = 1500,
    quiet: bool = False,
) -> tuple[PreTrainedModel, ProcessorMixin, pd.DataFrame]:
    """Train a miniature from nothing, by the four lessons of `lessons`.

    Eyes stay imperfect because lessons stop early; habits are imperfect because the teacher's are (`slop`).

    Args:
        world: what the problems are like; its seed is replaced.
        seed: of weights, problems and order. The same seed, versions and thread count repeat a base.
        eyesight: lesson 1 ends when this share of the digits on unseen eye charts is read.
        reading: lesson 3 ends when this share of the lengths in held-out figures is read.
        computing: lesson 2 ends when this share of held-out computations from stated facts is right;
            lesson 4 ends when both this and `reading` are met.
        limits: most steps of each lesson.
        charts: how many eye charts there are.
        problems: how many problems to learn from.
        quiet: no progress bars.

    Returns:
        Model, processor, and the log: lesson, step, seconds, loss, and held-out measures.

    Raises:
        InputError: the lessons do not cover such a world.
    """
    lessons.check_teachable(world := world or miniature_world())
    world = world.model_copy(update={"seed": seed})
    neat = world.model_copy(update={"text_rich": 0.0, "slop": 0.0})
    unseen = make_problems(HELD_OUT, neat, "dev")
    pupil = Pupil(*new_miniature(seed), random.Random(seed), quiet)
    pupil.model.train()
    lessons.learn_to_see(pupil, eyesight, limits[0], charts)

    images = pupil.see([problem.image for problem in unseen])
    test = [lessons.reading(pupil, p, k) for p, k in zip(unseen, images, strict=True)]
    told = [lessons.told(pupil, problem, None) for problem in unseen]
    shown = [lessons.told(pupil, p, k) for p, k in zip(unseen, images, strict=True)]

    def read() -> dict[str, tuple[float, float]]:
        return {"reading": (pupil.right(test)[0], reading)}

    def computed(examples: list[lessons.Example]) -> dict[str, tuple[float, float]]:
        return {"computing": (pupil.right(examples)[1], computing)}

    sums, drill = lessons.sums(pupil, world, 2 * problems), lessons.drill(pupil)

    def again(size: int) -> torch.Tensor:  # without bare additions it learns answers by heart
        return sums(size) + drill(size)

    pupil.learn("sums", limits[1], 2e-3, lambda: again(32), lambda: computed(told))
    # What a language model without any sense of images sends back would spoil the eyes: they rest.
    pupil.model.model.visual.requires_grad_(False)
    short = lessons.short_readings(pupil, neat, problems)
    pupil.learn("reading", limits[2], 2e-3, lambda: short(20) + again(20), read)
    pupil.model.model.visual.requires_grad_(True)
    whole = lessons.whole_answers(pupil, world, problems)
    pupil.learn(
        "answers", limits[3], 1e-3, lambda: whole(24) + short(12) + again(12),
        lambda: {**read(), **computed(shown)},
    )  # fmt: skip
    return pupil.model.eval(), pupil.processor, pd.DataFrame(pupil.log)


def record_base(
    folder: Path = MINIATURE,
    world: WorldConfig | None = None,
    *,
    seed: int = 0,
    held_out: int = 512,
) -> BaseAdmission:
    """Train a base (see `train_base`), measure it on held-out problems, and keep it with its log and provenance."""
    world = world or miniature_world()
    model, processor, log = train_base(world, seed=seed)
    test = make_problems(held_out, world.model_copy(update={"seed": seed + 1}), "dev")
    found = admit_base(model, processor, test)
    save_policy(model, processor, folder)
    log.to_csv(folder / "training_log.csv", index=False)
    about = {
        "command": f"perception_r1.evaluation.base_admission.record_base(world, seed={seed})",
        "created": provenance.now(), "commit": provenance.commit(),
        "machine": provenance.machine(), "threads": torch.get_num_threads(),
        "versions": provenance.versions(("torch", "transformers", "numpy", "pillow")),
        "peak_memory_mb": provenance.peak_memory_mb(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": {k: v.default for k, v in inspect.signature(train_base).parameters.items()
                   if k not in ("world", "seed", "quiet")},
        "seed": seed, "dials": world.model_dump(mode="json"),
        "steps": log.groupby("lesson", sort=False).step.max().to_dict(),
        "seconds": log.seconds.max(),
        "held_out": f"{held_out} problems of split dev, seed {seed + 1}, answered greedily",
        "admission": json.loads(found.table.to_json(orient="records")), "failed": found.failed,
    }  # fmt: skip
    write_json(folder / "provenance.json", about)
    return found
