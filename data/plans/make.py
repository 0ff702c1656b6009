"""What the plans here need beside the recorded base: another base, and trained judges.

    python data/plans/make.py [NAME ...] [--out runs]

- `bases/lister`: the recorded base after imitating a teacher who names two values for a length now and then;
- `judges/learned-40`, `judges/learned-320`: the small judge of notebook 03 on this world, after so many steps.

The base `bases/eyes-only` is made by `python data/miniature/make.py --neat --out runs/bases/eyes-only`.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from perception_r1 import facts
from perception_r1.common.files import ROOT
from perception_r1.common.profiles import FOLDER
from perception_r1.common.settings import read_settings
from perception_r1.facts.reading import read_statement
from perception_r1.reward.labelled_statements import statements
from perception_r1.reward.learned_judge import LearnedJudge
from perception_r1.training.policy import load_policy, save_policy
from perception_r1.training.train import POLICY, train
from perception_r1.world import make_problems, miniature_world
from perception_r1.world.scene import value_of, with_value

LISTED = 0.3  # share of the stated lengths that get a second value


def lister(folder: Path) -> None:
    """A base that now and then names two values for a length, one of them wrong."""
    problems = make_problems(1500, miniature_world(slop=0, seed=1), "train")
    rng = random.Random(1)
    taught = [p.model_copy(update={"cot": listing(p.cot, rng)}) for p in problems]
    settings = read_settings(
        FOLDER / "laptop.toml", arm="sft", eval_steps=0, max_steps=90, learning_rate=5e-4
    )
    with tempfile.TemporaryDirectory() as out:
        train(settings, taught, Path(out))
        save_policy(*load_policy(Path(out) / POLICY), folder)


def listing(cot: str, rng: random.Random) -> str:
    """A chain of thought in which some stated lengths stand twice, with two values in any order."""
    lines = []
    for line in cot.splitlines():
        fact = read_statement(line)
        lines.append(line)
        if fact is not None and value_of(fact) is not None and rng.random() < LISTED:
            other = rng.choice([value for value in range(2, 10) if value != value_of(fact)])
            more = facts.to_sentence(with_value(fact, other))
            lines.insert(len(lines) - rng.randint(0, 1), more)
    return "\n".join(lines)


def learned(folder: Path, steps: int) -> None:
    """The judge of notebook 03, trained on the miniature's own sentences."""
    problems = make_problems(800, miniature_world(slop=0, seed=1), "train")
    LearnedJudge.train(statements(problems, seed=1), steps=steps, seed=1).save(folder)


MADE = {
    "bases/lister": lister,
    "judges/learned-40": lambda folder: learned(folder, 40),
    "judges/learned-320": lambda folder: learned(folder, 320),
}


def main(arguments: list[str]) -> int:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=MADE, default=MADE, help="none: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs")
    given = parser.parse_args(arguments)
    for name in given.names:
        if not (given.out / name).is_dir():
            MADE[name](given.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
