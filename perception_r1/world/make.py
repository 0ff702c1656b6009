"""The embedded world: small geometry problems of which everything is known. Explained in notebook 02.

A problem comes from its seed, split and number alone: first the scene with its facts (`families`), then the
pose and the drawing (`draw`), then the words (`cot`), each with random choices of its own, so that a dial
changes only what it names.

Splits are disjoint in (family, facts) by construction: a hash of the two says which split they belong to,
whatever the seed and the dials. "test_unseen" also holds positions that no other split has.
"""

import functools
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from perception_r1.common.errors import InputError
from perception_r1.facts import Call, key
from perception_r1.problems.schema import Problem
from perception_r1.world import draw
from perception_r1.world.config import Split, WorldConfig
from perception_r1.world.cot import Teacher, teach, work_out, write_question
from perception_r1.world.draw import Drawing, Pose
from perception_r1.world.families import FAMILIES
from perception_r1.world.scene import Question, Scene, with_value
from perception_r1.world.sketch import Sketch, Unlucky

# The shares of the splits: of 100 places for (family, facts), so many are each split's.
PLACES: list[Split] = 70 * ["train"] + 10 * ["dev"] + 10 * ["test"] + 10 * ["test_unseen"]
ATTEMPTS = 3000  # at one scene; with a share of 10 %, some 30 are usual
POSES = 4  # tried for one scene before it is given up
# Dials of the words: problems that differ in these alone have the same figure, which is drawn once.
OF_WORDS = {"text_rich": 0.0, "shortcut": 0.0, "teacher_error_rate": 0.0}


@dataclass(frozen=True)
class WorldProblem:
    """A problem with all that is known about it.

    Attributes:
        problem: as every dataset has it; its gold facts are those of the scene.
        question: kind of question, a name of `FAMILIES[problem.family]`.
        scene: points, strokes and facts.
        pose: how the figure lies on the page.
        drawing: the figure in pixels, with the places of its labels.
        teacher: what the chain of thought states, and what is wrong with it.
    """

    problem: Problem
    question: str
    scene: Scene
    pose: Pose
    drawing: Drawing
    teacher: Teacher


def make_problems(
    n: int, config: WorldConfig | None = None, split: Split = "train"
) -> list[Problem]:
    """Make `n` problems of one split; see `make_world` for what is known beside them.

    The first problems do not depend on `n`.

    Raises:
        InputError: dials (or no such split) under which some question has no figure.
    """
    return [made.problem for made in make_world(n, config, split)]


def make_world(
    n: int, config: WorldConfig | None = None, split: Split = "train"
) -> Iterator[WorldProblem]:
    """Make problems one by one, each with its scene, pose and teacher; see `make_problems`."""
    config = config or WorldConfig()
    return (_make(k, config, split) for k in range(n))


def make_distinct(n: int, config: WorldConfig, split: Split) -> list[WorldProblem]:
    """Problems of which no two show the same facts, so that each is an observation of its own.

    Raises:
        InputError: there are not so many among twice as many problems.
    """
    made = list({one.problem.gold_facts: one for one in make_world(2 * n, config, split)}.values())
    if len(made) < n:
        raise InputError(f"only {len(made)} of {n} problems show other facts; take fewer problems")
    return made[:n]


def redraw(made: WorldProblem, fact: str, value: int) -> bytes:
    """The same figure with one label changed: does what is stated follow what is seen?

    The figure is then no longer true to scale, as in many textbooks.

    Args:
        made: a problem of this world.
        fact: one of its gold facts that has a value, as a logic form.
        value: what the label says instead.

    Returns:
        The image as PNG.

    Raises:
        InputError: the new label has no room.
    """
    changed = tuple(with_value(f, value) if str(f) == fact else f for f in made.scene.facts)
    drawing = draw.layout(replace(made.scene, facts=changed), made.problem.image.width, made.pose)
    if drawing is None:
        raise InputError(f"{value} finds no room in {made.problem.id}; choose a shorter number")
    return draw.png(draw.paint(drawing))


def split_of(family: str, gold_facts: tuple[Call, ...]) -> Split:
    """The split that a family with these facts belongs to, whatever seed and dials it came from."""
    keys = sorted(repr(key(fact)) for fact in gold_facts)
    digest = hashlib.sha256("\n".join([family, *keys]).encode()).digest()
    return PLACES[int.from_bytes(digest[:8]) % len(PLACES)]


def _make(number: int, config: WorldConfig, split: Split) -> WorldProblem:
    """Problem `number` of a split."""
    dials = config.model_copy(update=OF_WORDS)
    family, kind, question, scene, pose, drawing, image = _figure(number, dials, split)
    text_rich = _choices(number, config, split, "text").random() < config.text_rich
    if question.shortcut and _choices(number, config, split, "shortcut").random() < config.shortcut:
        question = question.shortcut
    given = question.needed if text_rich else ()
    teacher = teach(question, scene, given, config, _choices(number, config, split, "teacher"))
    problem = Problem(
        id=f"world-{split}-{config.seed}-{number:05d}",
        split=split,
        problem=write_question(question, text_rich),
        images=(image,),
        answer=str(work_out(question, {})[1]),
        cot=teacher.cot,
        text_facts=tuple(map(str, given)),
        gold_facts=tuple(map(str, scene.facts)),
        needed_facts=tuple(map(str, question.needed)),
        family=family,
    )
    return WorldProblem(problem, kind, scene, pose, drawing, teacher)


@functools.lru_cache(maxsize=2**12)
def _figure(
    number: int, config: WorldConfig, split: Split
) -> tuple[str, str, Question, Scene, Pose, Drawing, bytes]:
    """Family, kind of question, question, scene of this split, pose, drawing and PNG; every label is clear."""
    rng = _choices(number, config, split, "scene")
    family = rng.choice(config.families)
    kind = rng.choice(config.questions_of(family))
    for _ in range(ATTEMPTS):
        sketch = Sketch(rng, config)
        try:
            question = FAMILIES[family][kind](sketch)
        except Unlucky:
            continue
        for scene in sketch.finish():
            if split_of(family, scene.facts) != split:
                continue
            for _ in range(POSES):
                pose = _pose(config, split, rng)
                if drawing := draw.layout(scene, config.image_size, pose):
                    image = draw.png(draw.paint(drawing))
                    return family, kind, question, scene, pose, drawing, image
    limits = f"labels {config.labels}, image_size {config.image_size}"
    fault = f"{ATTEMPTS} attempts gave no figure of {family!r} for {kind!r} in split {split!r}"
    raise InputError(f"{fault} with {limits}; widen these, or leave the question out")


def _choices(number: int, config: WorldConfig, split: Split, purpose: str) -> random.Random:
    """The random choices that make one thing of a problem."""
    return random.Random(f"{config.seed}/{split}/{number}/{purpose}")


def _pose(config: WorldConfig, split: Split, rng: random.Random) -> Pose:
    """A pose; those of "test_unseen" are turned further than all others."""
    turn = rng.uniform(-config.turn, config.turn)
    if split == "test_unseen":
        turn = rng.choice((1, -1)) * rng.uniform(config.turn + 5, config.turn + 20)
    if not config.shuffle:
        return Pose(turn)
    return Pose(turn, mirrored=rng.random() < 0.5, upside_down=rng.random() < 0.5)
