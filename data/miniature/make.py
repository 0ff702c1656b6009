"""The base of notebook 04: trains a miniature from nothing, measures it on held-out problems, and keeps both.

    python data/miniature/make.py [--seed N] [--neat] [--out DIR] [--quick]

Without `--out` it writes the recorded base anew: same seed, versions and number of threads, same weights.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import lessons
import pandas as pd
import torch
from lessons import HELD_OUT, Pupil
from transformers import PreTrainedModel, ProcessorMixin

from perception_r1.common import provenance
from perception_r1.common.files import write_json
from perception_r1.evaluation.admission import admit_base
from perception_r1.training.policy import MINIATURE, new_miniature, save_policy
from perception_r1.world import WorldConfig, make_problems, miniature_world

# Shares at which a lesson ends: lesson 1 at `eyesight`, of the digits on unseen eye charts that are read; lesson 3 at
# `reading`, of the lengths in held-out figures; lesson 2 at `computing`, of held-out computations from stated facts;
# lesson 4 at both of these. Then the most steps of each lesson, and how many eye charts and problems there are.
RECIPE = {
    "eyesight": 0.80,
    "reading": 0.75,
    "computing": 0.97,
    "limits": (1200, 200, 150, 275),
    "charts": 6000,
    "problems": 1500,
}
QUICK = RECIPE | {"limits": (4, 3, 2, 2), "charts": 40, "problems": 40}  # it only has to run


def train_base(
    world: WorldConfig, seed: int = 0, recipe: Mapping = RECIPE, quiet: bool = False
) -> tuple[PreTrainedModel, ProcessorMixin, pd.DataFrame]:
    """Train a miniature from nothing, by the four lessons of `lessons`.

    Eyes stay imperfect because lessons stop early; habits are imperfect because the teacher's are (`slop`).

    Args:
        world: what the problems are like, some `miniature_world()`; its seed is replaced.
        seed: of weights, problems and order. The same seed, versions and thread count repeat a base.
        recipe: see `RECIPE`.
        quiet: no progress bars.

    Returns:
        Model, processor, and the log: lesson, step, seconds, loss, and held-out measures.
    """
    limits, problems = recipe["limits"], recipe["problems"]
    world = world.model_copy(update={"seed": seed})
    neat = world.model_copy(update={"text_rich": 0.0, "slop": 0.0})
    unseen = make_problems(HELD_OUT, neat, "dev")
    pupil = Pupil(*new_miniature(seed), random.Random(seed), quiet)
    pupil.model.train()
    lessons.learn_to_see(pupil, recipe["eyesight"], limits[0], recipe["charts"])

    images = pupil.see([problem.image for problem in unseen])
    test = [lessons.reading(pupil, p, k) for p, k in zip(unseen, images, strict=True)]
    blind = [lessons.computation(pupil, problem, None) for problem in unseen]
    shown = [lessons.computation(pupil, p, k) for p, k in zip(unseen, images, strict=True)]

    def read() -> dict[str, tuple[float, float]]:
        return {"reading": (pupil.right(test)[0], recipe["reading"])}

    def computed(examples: list[lessons.Example]) -> dict[str, tuple[float, float]]:
        return {"computing": (pupil.right(examples)[1], recipe["computing"])}

    sums, drill = lessons.sums(pupil, world, 2 * problems), lessons.drill(pupil)

    def again(size: int) -> torch.Tensor:  # without bare additions it learns answers by heart
        return sums(size) + drill(size)

    pupil.learn("sums", limits[1], 2e-3, lambda: again(32), lambda: computed(blind))
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


def main(arguments: list[str]) -> int:
    """Train a base and keep it in a folder, with `training_log.csv` and `provenance.json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=MINIATURE, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--neat", action="store_true", help="by a teacher without sloppy habits")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    given = parser.parse_args(arguments)
    recipe, held_out = (QUICK, 8) if given.quick else (RECIPE, 512)
    world = miniature_world(slop=0) if given.neat else miniature_world()
    model, processor, log = train_base(world, given.seed, recipe)
    test = make_problems(held_out, world.model_copy(update={"seed": given.seed + 1}), "dev")
    admission = admit_base(model, processor, test)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.out) as new:  # the folder holds this script, too
        save_policy(model, processor, Path(new) / "base")
        for file in (Path(new) / "base").iterdir():
            file.replace(given.out / file.name)
    log.to_csv(given.out / "training_log.csv", index=False)
    about = {
        "command": f"python data/miniature/make.py {' '.join(arguments)}".strip(),
        "created": provenance.now(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "threads": torch.get_num_threads(),
        "versions": provenance.versions(("torch", "transformers", "numpy", "pillow")),
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": recipe,
        "seed": given.seed,
        "dials": world.model_dump(mode="json"),
        "held_out": f"{held_out} problems of split dev, seed {given.seed + 1}, answered greedily",
        "admission": json.loads(admission.table.to_json(orient="records")),
        "failed": admission.failed,
    }
    write_json(given.out / "provenance.json", about)
    print(f"{given.out}: " + ("; ".join(admission.failed) or "admitted"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
