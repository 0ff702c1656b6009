"""Drawing a scene: every fact is one mark or label, and labels keep off the lines and off each other.

`layout` turns a scene into pixels without drawing, so that it can be refused cheaply; `paint` draws it.
"""

import cmath
import functools
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perception_r1.world.label_placement import Box, Places, Room
from perception_r1.world.scene import Scene, value_of

OVERSAMPLING = 4  # strokes are drawn this much larger and averaged down
FONT = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"  # the same on every machine
INK = 20  # grey level of strokes and text; the page is 255
# Places for a length: on the inner side or not, share of the segment, gap; places for a name: turn, distance.
SHARES = (0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68)
BESIDE = np.array(list(product((0, 1), SHARES, (0.3, 0.42, 0.6)))).T
AROUND = np.array(list(product(np.arange(30) * math.tau / 30, (0.75, 0.85, 0.95, 1.1, 1.25)))).T


@dataclass(frozen=True)
class Pose:
    """How a figure lies on the page: mirrored, upside down, then turned by so many degrees."""

    turn: float
    mirrored: bool = False
    upside_down: bool = False

    def apply(self, place: complex) -> complex:
        """Move one place; the origin stays."""
        x = -place.real if self.mirrored else place.real
        y = -place.imag if self.upside_down else place.imag
        return complex(x, y) * cmath.rect(1, math.radians(self.turn))


@dataclass(frozen=True)
class Label:
    """A text and the box that its ink fills."""

    text: str
    box: Box


@dataclass
class Drawing:
    """A figure in pixels: x to the right, y downwards.

    Attributes:
        size: width and height of the page.
        paths: polylines, each an array (points, 2).
        dots: centres of dots.
        labels: placed texts.
    """

    size: int
    paths: list[np.ndarray] = field(default_factory=list)
    dots: list[complex] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    @property
    def font(self) -> int:
        """Text height in pixels: relatively larger in small pictures, so that it can be read."""
        return round(7 + self.size * 0.042)

    @property
    def pen(self) -> float:
        """Width of the strokes in pixels."""
        return max(1.1, self.size / 220)


def layout(scene: Scene, size: int, pose: Pose) -> Drawing | None:
    """Place a scene on a square page; None if some label finds no clear place."""
    figure = _Figure(scene, size, pose)
    drawing = figure.drawing
    room = Room(size, drawing.font, drawing.pen, figure.pieces())
    for text, places in figure.texts():
        box = room.take(*text_size(text, drawing.font), places)
        if box is None:
            return None
        drawing.labels.append(Label(text, box))
    return drawing


def paint(drawing: Drawing) -> Image.Image:
    """Draw on white, antialiased."""
    scale = OVERSAMPLING
    big = Image.new("L", (drawing.size * scale, drawing.size * scale), 255)
    pen = ImageDraw.Draw(big)
    width = round(drawing.pen * scale)
    for path in drawing.paths:
        pen.line([tuple(p) for p in path * scale], fill=INK, width=width, joint="curve")
    radius = drawing.pen * 1.6 * scale
    for dot in drawing.dots:
        pen.circle((dot.real * scale, dot.imag * scale), radius, fill=INK)
    page = big.reduce(scale)
    pen, font = ImageDraw.Draw(page), _font(drawing.font)
    for label in drawing.labels:
        left, top, _, _ = font.getbbox(label.text)
        pen.text((label.box[0] - left, label.box[1] - top), label.text, fill=INK, font=font)
    return page.convert("RGB")


def png(image: Image.Image) -> bytes:
    """A drawing as PNG bytes, in grey as it is; packed quickly, since lines are small however they are packed."""
    buffer = io.BytesIO()
    image.convert("L").save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=2**12)
def text_size(text: str, font: int) -> tuple[int, int]:
    """Width and height in pixels of a text's ink, at this text height."""
    left, top, right, bottom = _font(font).getbbox(text)
    return int(right - left), int(bottom - top)


class _Figure:
    """A drawing in the making: places in pixels as complex numbers, y downwards."""

    def __init__(self, scene: Scene, size: int, pose: Pose):
        self.scene = scene
        self.drawing = Drawing(size)
        self.font = self.drawing.font
        self._fit(pose)
        self.lines = [(self.at[p], self.at[q]) for p, q in scene.strokes]
        for ends in self.lines:
            self._path(*ends)
        if scene.radius:
            self._arc(self.at["O"], self.radius, 0, math.tau)
        self._dots()
        self._marks()

    # --- strokes

    def _fit(self, pose: Pose) -> None:
        """Scale the posed scene to the page, with a margin for labels."""
        places = {name: pose.apply(z) for name, z in self.scene.points.items()}
        edge = list(places.values())
        if self.scene.radius:
            edge += [places["O"] + self.scene.radius * d for d in (1, -1, 1j, -1j)]
        left, right = min(z.real for z in edge), max(z.real for z in edge)
        low, high = min(z.imag for z in edge), max(z.imag for z in edge)
        middle = complex((left + right) / 2, (low + high) / 2)
        size = self.drawing.size
        scale = (size - 2 * (1.4 * self.font + 2)) / max(right - left, high - low)
        page = complex(size / 2, size / 2)
        self.at = {name: page + ((z - middle) * scale).conjugate() for name, z in places.items()}
        self.radius = self.scene.radius * scale

    def _path(self, *places: complex) -> None:
        self.drawing.paths.append(np.array([(z.real, z.imag) for z in places]))

    def _arc(self, centre: complex, radius: float, start: float, sweep: float) -> None:
        """A circular arc as a polyline; angles in radians, clockwise as seen."""
        steps = max(4, math.ceil(abs(sweep) * max(radius, 16) ** 0.5 / 0.9))
        turns = (start + sweep * k / steps for k in range(steps + 1))
        self._path(*(centre + cmath.rect(radius, turn) for turn in turns))

    def _dots(self) -> None:
        """Dots where no stroke's end or corner shows the point, and on circles."""
        ends = "".join(self.scene.strokes)
        for name, place in self.at.items():
            if name == "O" or ends.count(name) < 2:
                self.drawing.dots.append(place)

    def _marks(self) -> None:
        """Ticks, arrows, the squares of right angles, and the arcs of angles with a value."""
        ticked = arrowed = 0
        for fact in self.scene.facts:
            if fact.name == "IsMidpointOf":
                ticked += 1
                middle, (p, q) = fact.args[0], fact.args[1].args
                self._ticks(p, middle, ticked)
                self._ticks(middle, q, ticked)
            elif fact.name == "Equals" and value_of(fact) is None:
                ticked += 1
                for side in fact.args:
                    self._ticks(*side.args[0].args, ticked)
            elif fact.name == "Parallel":
                arrowed += 1
                for line in fact.args:
                    self._arrows(*line.args, arrowed)
            elif fact.name == "Perpendicular":
                self._square(*(line.args for line in fact.args))
        for corner, _ in self._values("MeasureOf"):
            self._arc(*self._sector(*corner))

    def _values(self, measure: str) -> list[tuple[Sequence[str], int]]:
        """The points and the number of each length ("LengthOf") or angle ("MeasureOf") that has one."""
        return [
            (fact.args[0].args[0].args, value)
            for fact in self.scene.facts
            if (value := value_of(fact)) is not None and fact.args[0].name == measure
        ]

    def _ticks(self, p: str, q: str, count: int) -> None:
        """Short strokes across the middle of a segment."""
        a, b = self.at[p], self.at[q]
        along = (b - a) / abs(b - a)
        half, gap = 0.32 * self.font, max(0.24 * self.font, 2 * self.drawing.pen)
        for k in range(count):
            z = (a + b) / 2 + along * gap * (k - (count - 1) / 2)
            self._path(z - 1j * along * half, z + 1j * along * half)

    def _arrows(self, p: str, q: str, count: int) -> None:
        """Arrow heads in the longest free part of a line, pointing rightwards or upwards alike."""
        a, b = self.at[p], self.at[q]
        stops = [a, *self._between(a, b), b]
        parts = zip(stops, stops[1:], strict=False)
        start, end = max(parts, key=lambda ends: abs(ends[1] - ends[0]))
        along = (b - a) / abs(b - a)
        if (along.real, -along.imag) < (0, 0) or along.real < -1e-6:
            along = -along
        size, gap = 0.42 * self.font, 0.34 * self.font
        share = 0.5 if len(stops) > 2 else 0.42  # beside the middle, where ticks and lengths are
        for k in range(count):
            tip = start + (end - start) * share + along * (gap * (k - (count - 1) / 2) + size / 2)
            left, right = (tip - along * size * cmath.rect(1, turn) for turn in (0.5, -0.5))
            self._path(left, tip, right)

    def _between(self, a: complex, b: complex) -> list[complex]:
        """Named points strictly inside a segment, in their order from its first end."""
        shares = {place: (place - a) / (b - a) for place in self.at.values()}
        inside = [z for z, r in shares.items() if 1e-6 < r.real < 1 - 1e-6 and abs(r.imag) < 1e-6]
        return sorted(inside, key=lambda z: abs(z - a))

    def _square(self, ab: Sequence[str], cd: Sequence[str]) -> None:
        """The square in the right angle at the common end of two lines."""
        (corner,) = set(ab) & set(cd)
        z = self.at[corner]
        arms = [self.at[p] - z for line in (ab, cd) for p in line if p != corner]
        side = min(0.55 * self.font, *(abs(arm) / 3 for arm in arms))
        u, v = (arm / abs(arm) * side for arm in arms)
        self._path(z + u, z + u + v, z + v)

    def _sector(self, p: str, q: str, r: str) -> tuple[complex, float, float, float]:
        """The corner q, the arc's radius, where the angle begins, how far it goes (signed, less than half a turn)."""
        u, v = self.at[p] - self.at[q], self.at[r] - self.at[q]
        radius = min(0.9 * self.font, 0.4 * min(abs(u), abs(v)))
        return self.at[q], radius, cmath.phase(u), cmath.phase(v / u)

    # --- labels

    def pieces(self) -> np.ndarray:
        """All strokes in straight pieces, (n, 2, 2); a dot is a short one."""
        paths = [np.stack([path[:-1], path[1:]], axis=1) for path in self.drawing.paths]
        dots = [[(d.real - 0.5, d.imag), (d.real + 0.5, d.imag)] for d in self.drawing.dots]
        return np.concatenate([*paths, np.array(dots).reshape(-1, 2, 2)])

    def texts(self) -> Iterator[tuple[str, Places]]:
        """All texts with the places where they may stand, the least movable first."""
        for corner, value in self._values("MeasureOf"):
            yield f"{value}°", self._angle_places(*corner)
        for ends, value in self._values("LengthOf"):
            yield str(value), self._length_places(str(value), *ends)
        for name in self.at:
            yield name, self._name_places(name)

    def _angle_places(self, p: str, q: str, r: str) -> Places:
        """Along the bisector outside the arc, nearer first."""
        corner, radius, start, sweep = self._sector(p, q, r)
        centres, costs = [], []
        for k in range(24):
            distance = radius + self.font * (0.5 + 0.1 * k)
            for share in (0.5, 0.42, 0.58, 0.35, 0.65):
                place = corner + cmath.rect(distance, start + sweep * share)
                if not self._behind_a_stroke(place, corner):
                    centres.append(place)
                    costs.append(k * 0.1 + abs(share - 0.5) * 2)
        return np.array(centres, complex), np.array(costs, float)

    def _behind_a_stroke(self, place: complex, corner: complex) -> bool:
        """Whether a stroke or the circle parts a place from the corner of its angle."""
        if self.radius and self._from_centre(corner) < 1.01 and self._from_centre(place) > 1:
            return True
        for a, b in self.lines:
            sides = _cross(b - a, place - a) * _cross(b - a, corner - a)
            ends = _cross(place - corner, a - corner) * _cross(place - corner, b - corner)
            if sides < 0 and ends < 0:
                return True
        return False

    def _length_places(self, text: str, p: str, q: str) -> Places:
        """Beside the segment, near its middle, outside rather than inside."""
        a, b = self.at[p], self.at[q]
        width, height = text_size(text, self.font)
        outwards = self._outwards(a, b)
        others = [(c, d) for c, d in self.lines if not (_on(a, c, d) and _on(b, c, d))]
        reach = abs(outwards.real) * width / 2 + abs(outwards.imag) * height / 2
        inside, share, gap = BESIDE
        side = outwards * np.where(inside, -1, 1)
        places = a + (b - a) * share + side * (reach + gap * self.font)
        costs = 4 * np.abs(share - 0.5) + 0.35 * inside + gap
        return places, costs + _confusion(places, (a, b), others)

    def _outwards(self, a: complex, b: complex) -> complex:
        """The direction across a segment that leads away from the figure's middle."""
        across = 1j * (b - a) / abs(b - a)
        away = sum(self.at.values()) / len(self.at) - (a + b) / 2
        return -across if (away * across.conjugate()).real > 1e-6 else across

    def _name_places(self, name: str) -> Places:
        """Round the point, in the widest gap between its strokes first."""
        z = self.at[name]
        directions = []
        for a, b in self.lines:
            if _on(z, a, b):
                directions += [cmath.phase(end - z) for end in (a, b) if abs(end - z) > 1]
        if self.radius and name != "O" and abs(self._from_centre(z) - 1) < 1e-6:
            outward = cmath.phase(z - self.at["O"])
            directions += [outward + math.pi * k / 6 for k in (3, 4, 5, 6, 7, 8, 9)]
        turn, distance = AROUND
        places = z + np.exp(1j * (_widest_gap(directions) + turn)) * (distance * self.font)
        return places, 2 * distance + np.minimum(turn, math.tau - turn)

    def _from_centre(self, z: complex) -> float:
        """How far a place is from the circle's centre, in units of the radius."""
        return abs(z - self.at["O"]) / self.radius


def _cross(v: complex, w: complex) -> float:
    """Positive if w points to the left of v."""
    return (v.conjugate() * w).imag


def _on(z: complex, a: complex, b: complex) -> bool:
    """Whether a place lies on a segment, within half a pixel."""
    return _distance(z, a, b) < 0.5


def _confusion(
    places: np.ndarray, own: tuple[complex, complex], others: list[tuple[complex, complex]]
) -> np.ndarray:
    """High where a label is about as near to another stroke as to its own segment."""
    mine = _distance(places, *own)
    far = np.full(len(places), math.inf)
    nearest = np.min([far, *(_distance(places, a, b) for a, b in others)], axis=0)
    return np.where(nearest < 1.15 * mine, 3.0, np.where(nearest < 1.6 * mine, 0.8, 0.0))


def _distance(z: complex | np.ndarray, a: complex, b: complex) -> float | np.ndarray:
    """From a place, or from each of many, to a segment."""
    share = ((z - a) / (b - a)).real
    return abs(z - (a + (b - a) * np.minimum(1, np.maximum(0, share))))


def _widest_gap(directions: list[float]) -> float:
    """The middle of the widest gap between directions (radians); upwards if there are none."""
    if not directions:
        return -math.pi / 2
    sorted_ = sorted(d % math.tau for d in directions)
    gaps = [(b - a, a) for a, b in zip(sorted_, [*sorted_[1:], sorted_[0] + math.tau], strict=True)]
    width, start = max(gaps)
    return start + width / 2
