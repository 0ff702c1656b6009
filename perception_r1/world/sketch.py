"""The sheet on which a family builds one scene: random choices within the dials, points, strokes, facts."""

import cmath
import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

from perception_r1.facts import Call
from perception_r1.world.scene import ANGLES, Scene, in_reading_order

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # names of points; O is every circle's centre
TRIPLES = [
    (a, b, math.isqrt(a * a + b * b))
    for a, b in itertools.product(range(1, 200), repeat=2)
    if 0.25 < a / b < 4 and math.isqrt(a * a + b * b) ** 2 == a * a + b * b
]
SMALLEST_ANGLE = math.radians(18)  # between two strokes at a point
SMALLEST_GAP = 0.14  # between two points, as a share of the figure's extent


class Unlucky(Exception):
    """These random choices make no figure; the caller tries others."""


class Sketch:
    """One scene in the making.

    A builder names points, puts them down, joins them, shows facts, and offers extra ones; `finish` then
    shows some of these and refuses what would be hard to read.
    """

    def __init__(self, rng: random.Random, dials: Any):
        self.rng = rng
        self.dials = dials  # a `WorldConfig`, whose file lists the families and so comes later
        self.points: dict[str, complex] = {}
        self.strokes: list[str] = []
        self.facts: list[Call] = []
        self.extras: list[Call] = []  # what may be shown too, and no answer needs
        self.radius = 0.0

    # --- choices

    def names(self, count: int) -> str:
        """Name the scene's points: consecutive letters."""
        start = self.rng.randint(0, self.dials.letters - count)
        return LETTERS[start : start + count]

    def polygon(self, corners: int, others: int = 0) -> str:
        """Names for the corners of a polygon, going round, then for other points of the scene."""
        names = self.names(corners + others)
        if not self.dials.shuffle:
            return names
        start = self.rng.randrange(corners)
        corner_names = names[start:corners] + names[:start]
        return corner_names[:: self.rng.choice((1, -1))] + names[corners:]

    def length(self) -> int:
        """A length that may be written."""
        return self.rng.randint(*self.dials.labels)

    def degrees(self, low: int = 0, high: int = 180) -> int:
        """An angle that may be written, within further limits."""
        low, high = max(low, ANGLES[0]), min(high, ANGLES[1])
        if low > high:
            raise Unlucky
        return self.rng.randint(low, high)

    def triple(self, *written: int) -> tuple[int, int, int]:
        """Two legs and hypotenuse, whole; `written` says which of the three (0, 1, 2) get labels."""
        low, high = self.dials.labels
        fitting = [t for t in TRIPLES if all(low <= t[k] <= high for k in written)]
        if not fitting:
            raise Unlucky
        return self.rng.choice(fitting)

    # --- the figure

    def put(self, names: str, *places: complex) -> None:
        """Put points down."""
        self.points.update(zip(names, places, strict=True))

    def join(self, *strokes: str) -> None:
        """Draw segments, each given by its ends."""
        self.strokes.extend(strokes)

    def ring(self, names: str) -> None:
        """Draw the sides of a polygon."""
        self.join(*(p + q for p, q in zip(names, names[1:] + names[0], strict=True)))

    def show(self, *facts: Call) -> tuple[Call, ...]:
        """Let the figure say these facts, which are given back."""
        self.facts.extend(facts)
        return facts

    def triangle(self, names: str, ab: float, bc: float, ca: float) -> None:
        """Draw the triangle with these sides, AB at the bottom."""
        x = (ab * ab + ca * ca - bc * bc) / (2 * ab)
        if x * x >= ca * ca:
            raise Unlucky
        self.put(names, 0, ab, complex(x, math.sqrt(ca * ca - x * x)))
        self.ring(names)

    # --- extras: visible and not needed

    def offer(self, fact: Call) -> None:
        """Offer a fact about what is drawn anyway."""
        self.extras.append(fact)

    # --- the end

    def finish(self) -> Iterator[Scene]:
        """The scene with at most `distractors` extras, then without, for pages on which these have no room.

        A scene in which points or strokes lie too close together to be told apart is left out.
        """
        count = min(self.dials.distractors, len(self.extras))
        extras = self.rng.sample(self.extras, count)
        if self._points_apart() and self._strokes_apart():
            for shown in (extras, []) if extras else ([],):
                facts = in_reading_order([*self.facts, *shown])
                yield Scene(self.points, tuple(self.strokes), self.radius, facts)

    def _points_apart(self) -> bool:
        places = self.points.values()
        across, upwards = [z.real for z in places], [z.imag for z in places]
        size = max(max(across) - min(across), max(upwards) - min(upwards), 2 * self.radius)
        pairs = itertools.combinations(places, 2)
        return all(abs(p - q) >= SMALLEST_GAP * size for p, q in pairs)

    def _strokes_apart(self) -> bool:
        """No two strokes that meet in an end make a small angle, unless they are one line."""
        for p, place in self.points.items():
            ends = [self.points[s.replace(p, "")] for s in self.strokes if p in s]
            for q, r in itertools.combinations(ends, 2):
                if abs(cmath.phase((q - place) / (r - place))) < SMALLEST_ANGLE:
                    return False
        return True
