"""The bases of the map: trains a miniature from nothing, measures it, and keeps it.

    OMP_NUM_THREADS=1 python data/miniature/make.py NAME [--out DIR]

NAME is one of `BASES`; without `--out` it goes to `data/miniature/NAME/`. Same name, versions, number of threads
and kind of processor: same weights.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lessons
import pandas as pd
import torch
from lessons import Figures, Pupil
from transformers import PreTrainedModel, ProcessorMixin

from perception_r1.common import provenance
from perception_r1.common.files import DATA, write_json
from perception_r1.evaluation.admission import admit_base, facts_read
from perception_r1.training.policy import new_miniature, save_policy
from perception_r1.world import WorldConfig, make_problems, make_world, map_world


class Base(NamedTuple):
    """What tells bases apart.

    Attributes:
        sides: of the figures it learns from.
        reading: probability at which it reads a side right when lessons end.
        seed: of weights, problems and order.
    """

    sides: int
    reading: float
    seed: int = 0


HELD_OUT = 200  # problems of split "dev"
BASES = {
    "four": Base(4, 0.70),
    "four_again": Base(4, 0.70, seed=1),
    "four_low": Base(4, 0.50),
    "two": Base(2, 0.70),
    "three_low": Base(3, 0.50),
    "six": Base(6, 0.70),
}
# Shares at which lessons end: 1 at `eyesight`, of the characters in unseen figures that are read; 2 and 3 at
# `computing`, of held-out chains of thought whose every token is the likeliest, lengths not counted; 4 short of the
# base's `reading` by `left`, 5 at it, by samples. Then the most steps of each, and how many figures there are.
RECIPE = {
    "eyesight": 0.85,
    "computing": 0.97,
    "left": 0.10,
    "limits": (1200, 800, 400, 300, 150),
    "figures": 4000,
}


def world_of(base: Base) -> WorldConfig:
    """The problems that a base learns from: with four sides every form of question, half of them with a shortcut."""
    if base.sides < 4:
        return map_world(sides=base.sides, seed=base.seed)
    forms = ("sum", "even or odd", "remainder") if base.sides == 4 else ("sum",)
    return map_world(sides=base.sides, shortcut=0.5, questions=forms, seed=base.seed)


def train_base(base: Base) -> tuple[PreTrainedModel, ProcessorMixin, pd.DataFrame]:
    """Train a miniature from nothing, by the lessons of `lessons`.

    Returns:
        Model, processor, and the log: lesson, step, seconds, loss, and held-out measures.
    """
    world, limits = world_of(base), RECIPE["limits"]
    pupil = Pupil(*new_miniature(base.seed), random.Random(base.seed))
    torch.manual_seed(base.seed)
    pupil.model.train()
    made = list(make_world(RECIPE["figures"], world))
    unseen = list(make_world(HELD_OUT, world, "dev"))
    image_only = make_problems(HELD_OUT, map_world(sides=base.sides, seed=base.seed), "dev")
    lessons.learn_to_see(pupil, made, unseen, RECIPE["eyesight"], limits[0])

    figures, held_out = (Figures(pupil, [one.problem for one in of]) for of in (made, unseen))

    def lesson(*kinds: tuple[list[lessons.Example], int]) -> Callable[[], torch.Tensor]:
        """Of each kind, so many examples a step; and some bare additions, or answers are learnt by heart."""

        def loss() -> torch.Tensor:
            loss = pupil.loss([lessons.additions(pupil) for _ in range(8)])
            return loss + sum(pupil.loss(pupil.rng.sample(of, size)) for of, size in kinds)

        return loss

    def computed(examples: list[lessons.Example]) -> dict[str, tuple[float, float]]:
        return {"computing": (pupil.right(examples)[1], RECIPE["computing"])}

    # What a language model without any sense of images sends back would spoil the eyes: they rest.
    pupil.model.model.visual.requires_grad_(False)
    blind, test = held_out.chains("words rest", blind=True), held_out.chains("words rest")
    lengths = Figures(pupil, image_only).chains("lengths")
    sums = figures.chains("words rest", blind=True)
    pupil.learn("sums", limits[1], 2e-3, 25, lesson((sums, 24)), lambda: computed(blind))
    answers = figures.chains("words rest")
    pupil.learn("answers", limits[2], 1e-3, 25, lesson((answers, 16)), lambda: computed(test))
    read = lesson((figures.chains("lengths"), 24), (figures.probes(), 8), (answers, 8))
    almost = base.reading - RECIPE["left"]
    pupil.learn(
        "reading", limits[3], 8e-4, 5, read, lambda: {"given": (pupil.right(lengths)[0], almost)}
    )
    pupil.learn(
        "reading, sampled", limits[4], 5e-4, 5, read,
        lambda: {"reading": (facts_read(pupil.model, pupil.processor, image_only).mean(), base.reading)},
    )  # fmt: skip
    return pupil.model.eval(), pupil.processor, pd.DataFrame(pupil.log)


def main(arguments: list[str]) -> int:
    """Train a base and keep it in a folder, with `training_log.csv` and `provenance.json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=BASES)
    parser.add_argument("--out", type=Path, metavar="DIR")
    given = parser.parse_args(arguments)
    base, out = BASES[given.name], given.out or DATA / "miniature" / given.name
    model, processor, log = train_base(base)
    dials = map_world(sides=base.sides, seed=base.seed + 1)
    unseen = make_problems(HELD_OUT, dials, "dev")
    admission = admit_base(model, processor, unseen, base.reading)
    save_policy(model, processor, out)
    log.to_csv(out / "training_log.csv", index=False)
    about = {
        "command": f"python data/miniature/make.py {' '.join(arguments)}".strip(),
        "created": provenance.now(),
        "threads": torch.get_num_threads(),
        **provenance.origin(("torch", "transformers", "numpy", "pillow")),
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": RECIPE,
        "base": base._asdict(),
        "held_out": f"{HELD_OUT} problems of split dev, seed {base.seed + 1}",
        "admission": json.loads(admission.table.to_json(orient="records")),
        "failed": admission.failed,
    }
    write_json(out / "provenance.json", about)
    print(f"{out}: " + ("; ".join(admission.failed) or "admitted"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
