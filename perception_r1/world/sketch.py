"""The sheet on which a family builds one scene: random choices within the dials, points, strokes, facts."""

import cmath
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from perception_r1.common.errors import InputError
from perception_r1.facts.visual_facts import Call
from perception_r1.world.scene import Scene, in_reading_order, length, on_circle, on_line

TRIPLES = [
    (a, b, math.isqrt(a * a + b * b))
    for a, b in itertools.product(range(1, 200), repeat=2)
    if 0.25 < a / b < 4 and math.isqrt(a * a + b * b) ** 2 == a * a + b * b
]
SMALLEST_ANGLE = 18  # between two strokes at a point, degrees
SMALLEST_GAP = 0.14  # between two points, as a share of the figure's extent


class Unlucky(Exception):
    """These random choices make no figure; the caller tries others."""


class Dials(Protocol):
    """Those dials of `WorldConfig` that a scene depends on."""

    labels: tuple[int, int]
    angles: tuple[int, int]
    letters: str
    shuffle: bool
    distractors: int


@dataclass(frozen=True)
class Extra:
    """Something that may be added to a scene and that no answer needs."""

    points: Mapping[str, complex]
    strokes: tuple[str, ...]
    facts: tuple[Call, ...]


class Sketch:
    """One scene in the making.

    A builder names points, puts them down, joins them, shows facts, and offers extras; `finish` then
    adds some of the extras and refuses what would be hard to read.
    """

    def __init__(self, rng: random.Random, dials: Dials):
        self.rng, self.dials = rng, dials
        self.points: dict[str, complex] = {}
        self.strokes: list[str] = []
        self.facts: list[Call] = []
        self.extras: list[Extra] = []
        self.radius = 0.0
        self._spare: list[str] = []

    # --- choices

    def names(self, count: int) -> str:
        """Name the scene's points: consecutive letters; the next three are kept for extras."""
        letters = self.dials.letters
        if len(letters) < count:
            raise InputError(
                f"a figure of this kind has {count} named points, but letters={letters!r} has {len(letters)}; "
                "give more letters, or leave this family or question out"
            )
        start = self.rng.randint(0, max(0, len(letters) - count - 3))
        self._spare = list(letters[start + count : start + count + 3])
        return letters[start : start + count]

    def polygon(self, corners: int, others: int = 0) -> str:
        """Names for the corners of a polygon, going round, then for other points of the scene."""
        names = self.names(corners + others)
        if not self.dials.shuffle:
            return names
        start = self.rng.randrange(corners)
        corner_names = names[start:corners] + names[:start]
        return corner_names[:: self.rng.choice((1, -1))] + names[corners:]

    def length(self, low: float = 0, high: float = 999) -> int:
        """A length that may be written, within further limits."""
        return self._whole(*self.dials.labels, low, high)

    def degrees(self, low: float = 0, high: float = 180) -> int:
        """An angle that may be written, within further limits."""
        return self._whole(*self.dials.angles, low, high)

    def _whole(self, least: int, most: int, low: float, high: float) -> int:
        low, high = max(least, math.ceil(low)), min(most, math.floor(high))
        if low > high:
            raise Unlucky
        return self.rng.randint(int(low), int(high))

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

    def show(self, *facts: Call) -> None:
        """Let the figure say these facts."""
        self.facts.extend(facts)

    def triangle(self, names: str, ab: float, bc: float, ca: float) -> None:
        """Draw the triangle with these sides, AB at the bottom."""
        x = (ab * ab + ca * ca - bc * bc) / (2 * ab)
        if x * x >= ca * ca:
            raise Unlucky
        self.put(names, 0, ab, complex(x, math.sqrt(ca * ca - x * x)))
        self.ring(names)

    def distance(self, ab: str) -> float:
        """Between two points, in the figure's unit."""
        return abs(self.points[ab[0]] - self.points[ab[1]])

    # --- extras: visible and not needed

    def offer(self, *facts: Call) -> None:
        """Offer facts about what is drawn anyway; those out of the label range are not offered."""
        self.extras.append(Extra({}, (), facts))

    def offer_length(self, ab: str) -> None:
        """Offer a length for a segment of a figure that has no unit yet."""
        self.offer(length(ab, self.length()))

    def offer_beyond(self, ab: str) -> None:
        """Offer to produce segment AB beyond B, to a new point at a written distance."""
        size = self.distance(ab)
        low, high = self.dials.labels
        low, high = max(low, math.ceil(size * 0.3)), min(high, math.floor(size * 0.6))
        if not self._spare or low > high:
            return
        (a, b), d = ab, self._spare.pop(0)
        k = self.rng.randint(low, high)
        place = self.points[b] + (self.points[b] - self.points[a]) / size * k
        self.extras.append(Extra({d: place}, (b + d,), (on_line(b, a + d), length(b + d, k))))

    def offer_chord(self, a: str) -> None:
        """Offer a chord from A, which is on the circle, to a new point at a written distance."""
        low, high = self.dials.labels
        low, high = max(low, math.ceil(self.radius * 0.5)), min(high, int(self.radius * 1.7))
        if not self._spare or low > high:
            return
        d, k = self._spare.pop(0), self.rng.randint(low, high)
        swing = 2 * math.asin(k / (2 * self.radius)) * self.rng.choice((1, -1))
        centre = self.points["O"]
        place = centre + (self.points[a] - centre) * cmath.rect(1, swing)
        self.extras.append(Extra({d: place}, (a + d,), (on_circle(d), length(a + d, k))))

    # --- the end

    def finish(self) -> Iterator[Scene]:
        """The scene with at most `distractors` extras, then bare, for pages on which that has no room.

        A scene in which points or strokes lie too close together to be told apart is left out.
        """
        count = min(self.dials.distractors, len(self.extras))
        for extras in [self.rng.sample(self.extras, count), []][: 2 if count else 1]:
            points, strokes, facts = dict(self.points), list(self.strokes), list(self.facts)
            for extra in extras:
                points.update(extra.points)
                strokes.extend(extra.strokes)
                facts.extend(extra.facts)
            if self._points_apart(points) and _strokes_apart(points, strokes):
                yield Scene(points, tuple(strokes), self.radius, in_reading_order(facts))

    def _points_apart(self, points: Mapping[str, complex]) -> bool:
        places = list(points.values())
        extent = max(
            max(z.real for z in places) - min(z.real for z in places),
            max(z.imag for z in places) - min(z.imag for z in places),
            2 * self.radius,
        )
        return all(
            abs(p - q) >= SMALLEST_GAP * extent for p, q in itertools.combinations(places, 2)
        )


def _strokes_apart(points: Mapping[str, complex], strokes: list[str]) -> bool:
    """No two strokes that meet in an end make a small angle, unless they are one line."""
    for p in points:
        others = [s.replace(p, "") for s in strokes if p in s]
        for q, r in itertools.combinations(others, 2):
            ratio = (points[q] - points[p]) / (points[r] - points[p])
            if abs(math.degrees(cmath.phase(ratio))) < SMALLEST_ANGLE:
                return False
    return True
