"""Drawing a scene: every fact is one mark or label, and labels keep off the lines and off each other.

`layout` turns a scene into pixels without drawing, so that it can be refused cheaply; `render` draws it.
"""

import cmath
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perception_r1.common.fonts import FONT
from perception_r1.facts.visual_facts import Call
from perception_r1.world.scene import Scene, value_of

OVERSAMPLING = 4  # strokes are drawn this much larger and averaged down
INK = 20  # grey level of strokes and text; the page is 255
AT_ONCE = 24  # places for a label that are looked at together, the cheapest first
# Places for a length: on the inner side or not, share of the segment, gap; places for a name: turn, distance.
BESIDE = np.array(
    list(product((0, 1), (0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68), (0.3, 0.42, 0.6)))
).T
AROUND = np.array(list(product(np.arange(30) * math.tau / 30, (0.75, 0.85, 0.95, 1.1, 1.25)))).T
Places = tuple[np.ndarray, np.ndarray]  # centres (complex) and costs
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside


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
    return figure.drawing if figure.label_all() else None


def render(drawing: Drawing, labels: bool = True) -> Image.Image:
    """Draw on white, antialiased; without `labels`, the strokes and dots alone."""
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
    if labels:
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
def _text_size(text: str, font: int) -> tuple[int, int]:
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
            self._arc(self.at["O"], self.scale * scene.radius, 0, math.tau)
        self._dots()
        self._marks()

    # --- strokes

    def _fit(self, pose: Pose) -> None:
        """Scale the posed scene to the page, with a margin for labels."""
        size, radius = self.drawing.size, self.scene.radius
        self.at = places = {name: pose.apply(z) for name, z in self.scene.points.items()}
        edge = list(places.values())
        if radius:
            edge += [places["O"] + radius * d for d in (1, -1, 1j, -1j)]
        margin = 1.4 * self.font + 2
        if far := self._beside_circle():
            edge, margin = edge + far, margin + 0.9 * self.font
        left, right = min(z.real for z in edge), max(z.real for z in edge)
        low, high = min(z.imag for z in edge), max(z.imag for z in edge)
        middle = complex((left + right) / 2, (low + high) / 2)
        self.scale = (size - 2 * margin) / max(right - left, high - low)
        page = complex(size / 2, size / 2)
        self.at = {
            name: page + ((z - middle) * self.scale).conjugate() for name, z in places.items()
        }

    def _path(self, *places: complex) -> None:
        self.drawing.paths.append(np.array([(z.real, z.imag) for z in places]))

    def _arc(self, centre: complex, radius: float, start: float, sweep: float) -> None:
        """A circular arc as a polyline; angles in radians, clockwise as seen."""
        steps = max(4, math.ceil(abs(sweep) * max(radius, 16) ** 0.5 / 0.9))
        self._path(
            *(centre + cmath.rect(radius, start + sweep * k / steps) for k in range(steps + 1))
        )

    def _dots(self) -> None:
        """Dots where no stroke's end or corner shows the point, and on circles."""
        ends = "".join(self.scene.strokes)
        for name, place in self.at.items():
            if name == "O" or ends.count(name) < 2:
                self.drawing.dots.append(place)

    def _marks(self) -> None:
        ticked = arrowed = 0
        for fact in self.scene.facts:
            if fact.name == "IsMidpointOf":
                ticked += 1
                middle, (p, q) = fact.args[0], fact.args[1].args
                self._ticks(p, middle, ticked)
                self._ticks(middle, q, ticked)
            elif fact.name == "Perpendicular":
                self._square(*(line.args for line in fact.args))
            elif fact.name == "Parallel":
                arrowed += 1
                for line in fact.args:
                    self._arrows(*line.args, arrowed)
            elif fact.name == "Equals" and value_of(fact) is None:
                ticked += 1
                for side in fact.args:
                    self._ticks(*side.args[0].args, ticked)
            elif fact.name == "Equals" and (corner := _corner(fact)):
                self._angle_arc(*corner)

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
        stops = [a, *self._between(p, q), b]
        start, end = max(
            zip(stops, stops[1:], strict=False), key=lambda ends: abs(ends[1] - ends[0])
        )
        along = (b - a) / abs(b - a)
        if (along.real, -along.imag) < (0, 0) or along.real < -1e-6:
            along = -along
        size, gap = 0.42 * self.font, 0.34 * self.font
        share = 0.5 if len(stops) > 2 else 0.42  # beside the middle, where ticks and lengths are
        for k in range(count):
            tip = start + (end - start) * share + along * (gap * (k - (count - 1) / 2) + size / 2)
            wings = (tip - along * size * cmath.rect(1, turn) for turn in (0.5, -0.5))
            left, right = wings
            self._path(left, tip, right)

    def _square(self, ab: Sequence[str], cd: Sequence[str]) -> None:
        """The square in the right angle where two lines meet."""
        corner = next((p for p in ab if p in cd), None) or next(
            p for p in (*ab, *cd) if p in {m for m in (*ab, *cd) if self._is_foot(m, ab, cd)}
        )
        z = self.at[corner]
        arms = [max((self.at[p] for p in line), key=lambda w: abs(w - z)) - z for line in (ab, cd)]
        side = min(0.55 * self.font, *(abs(arm) / 3 for arm in arms))
        u, v = (arm / abs(arm) * side for arm in arms)
        self._path(z + u, z + u + v, z + v)

    def _is_foot(self, m: str, ab: Sequence[str], cd: Sequence[str]) -> bool:
        """Whether a point ends one of the lines and lies between the ends of the other."""
        other = cd if m in ab else ab
        return m not in other and self.at[m] in self._between(*other)

    def _angle_arc(self, p: str, q: str, r: str) -> None:
        start, sweep = self._sector(p, q, r)
        self._arc(self.at[q], self._arc_radius(p, q, r), start, sweep)

    def _arc_radius(self, p: str, q: str, r: str) -> float:
        arms = abs(self.at[p] - self.at[q]), abs(self.at[r] - self.at[q])
        return min(0.9 * self.font, 0.4 * min(arms))

    def _sector(self, p: str, q: str, r: str) -> tuple[float, float]:
        """Where the angle at q begins, and how far it goes (signed, less than half a turn)."""
        start = cmath.phase(self.at[p] - self.at[q])
        sweep = cmath.phase((self.at[r] - self.at[q]) / (self.at[p] - self.at[q]))
        return start, sweep

    def _beside_circle(self) -> list[complex]:
        """Where dimension lines may end that pass outside the circle."""
        if not self.scene.radius:
            return []
        far = []
        for fact in self.scene.facts:
            ends = _segment(fact) if value_of(fact) is not None else None
            if ends and self._between(*ends):
                a, b = (self.at[p] for p in ends)
                outwards = self._outwards(a, b)
                beyond = self.scene.radius - _dot((a + b) / 2 - self.at["O"], outwards)
                far += [a + beyond * outwards, b + beyond * outwards]
        return far

    def _outwards(self, a: complex, b: complex) -> complex:
        """The direction across a segment that leads away from the figure's middle."""
        across = 1j * (b - a) / abs(b - a)
        middle = sum(self.at.values()) / len(self.at)
        return -across if _dot(middle - (a + b) / 2, across) > 1e-6 else across

    def _between(self, p: str, q: str) -> list[complex]:
        """Named points strictly inside a segment, in their order from p."""
        a, b = self.at[p], self.at[q]
        found = []
        for place in self.at.values():
            ratio = (place - a) / (b - a)
            if 1e-6 < ratio.real < 1 - 1e-6 and abs(ratio.imag) < 1e-6:
                found.append(place)
        return sorted(found, key=lambda z: abs(z - a))

    # --- labels

    def label_all(self) -> bool:
        """Place all labels, the least movable first; False if one finds no clear place."""
        self.clear = _Clear(self.drawing, self._obstacles())
        values = [fact for fact in self.scene.facts if value_of(fact) is not None]
        for fact in values:
            if corner := _corner(fact):
                if not self._place(f"{value_of(fact)}°", self._angle_places(*corner)):
                    return False
        for fact in values:
            if ends := _segment(fact):
                text = str(value_of(fact))
                if self._between(*ends):
                    if not self._dimension(text, *ends):
                        return False
                elif not self._place(text, self._length_places(text, *ends)):
                    return False
        return all(self._place(name, self._name_places(name)) for name in self.at)

    def _obstacles(self) -> np.ndarray:
        """All strokes as segments, (n, 2, 2); a dot is a short one."""
        pieces = [np.stack([path[:-1], path[1:]], axis=1) for path in self.drawing.paths]
        dots = [[(d.real - 0.5, d.imag), (d.real + 0.5, d.imag)] for d in self.drawing.dots]
        return np.concatenate([*pieces, np.array(dots).reshape(-1, 2, 2)])

    def _place(self, text: str, places: Places) -> bool:
        """Put a text at the cheapest of the places that are clear."""
        label = self.clear.best(text, *places)
        if label:
            self.drawing.labels.append(label)
        return label is not None

    def _angle_places(self, p: str, q: str, r: str) -> Places:
        """Along the bisector outside the arc, nearer first."""
        start, sweep = self._sector(p, q, r)
        radius = self._arc_radius(p, q, r)
        found = []
        for k in range(24):
            distance = radius + self.font * (0.5 + 0.1 * k)
            for share in (0.5, 0.42, 0.58, 0.35, 0.65):
                place = self.at[q] + cmath.rect(distance, start + sweep * share)
                if not self._behind_a_stroke(place, self.at[q]):
                    found.append((place, k * 0.1 + abs(share - 0.5) * 2))
        centres, costs = zip(*found, strict=True) if found else ((), ())
        return np.array(centres, complex), np.array(costs, float)

    def _behind_a_stroke(self, place: complex, corner: complex) -> bool:
        """Whether a stroke parts a place from the corner of its angle."""
        if self.scene.radius and abs(self._from_centre(corner)) < 1.01:
            if abs(self._from_centre(place)) > 1:
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
        width, height = _text_size(text, self.font)
        outwards = self._outwards(a, b)
        others = [(c, d) for c, d in self.lines if not (_on(a, c, d) and _on(b, c, d))]
        reach = abs(outwards.real) * width / 2 + abs(outwards.imag) * height / 2
        inside, share, gap = BESIDE
        side = outwards * np.where(inside, -1, 1)
        places = a + (b - a) * share + side * (reach + gap * self.font)
        costs = 4 * np.abs(share - 0.5) + 0.35 * inside + gap
        return places, costs + _confusion(places, (a, b), others)

    def _dimension(self, text: str, p: str, q: str) -> bool:
        """A whole length beside its segment: a line with end bars, and the text in its gap."""
        a, b = self.at[p], self.at[q]
        along = (b - a) / abs(b - a)
        outwards = self._outwards(a, b)
        width, height = _text_size(text, self.font)
        gap = along * (abs(along.real) * width + abs(along.imag) * height + 0.5 * self.font) / 2
        if abs(gap) * 2.6 > abs(b - a):
            return False
        for shift in self._dimension_shifts((a + b) / 2, outwards):
            start, end, bar = a + shift, b + shift, 0.3 * self.font * outwards
            centre = (start + end) / 2
            strokes = [(start, centre - gap), (centre + gap, end)]
            strokes += [(start - bar, start + bar), (end - bar, end + bar)]
            label = self.clear.best(text, np.array([centre]), np.zeros(1))
            if label and self.clear.strokes(strokes):
                lead = self._lead() * outwards
                leads = [(a + lead, start - bar), (b + lead, end - bar)]
                # leading lines from the ends to the bars, where these are far away and there is room
                if abs(shift) > 1.5 * abs(lead) and self.clear.strokes(leads):
                    strokes += leads
                for stroke in strokes:
                    self._path(*stroke)
                self.clear.add(strokes)
                self.drawing.labels.append(label)
                return True
        return False

    def _dimension_shifts(self, middle: complex, outwards: complex) -> list[complex]:
        """Where a dimension line may lie beside a segment: near it outside, inside, out of the circle."""
        shifts = [k * self.font * outwards for k in (1.0, 1.4, 1.8, -1.4, -1.8)]
        if self.scene.radius:
            inside = _dot(middle - self.at["O"], outwards)
            shifts.append((self.scale * self.scene.radius - inside + 0.9 * self.font) * outwards)
        return shifts

    def _lead(self) -> float:
        """How far from a segment's ends its leading lines begin: off the circle they may touch there."""
        off, radius = 0.6 * self.font, self.scale * self.scene.radius
        return max(math.sqrt(off * (2 * radius + off)), self.font)

    def _name_places(self, name: str) -> Places:
        """Round the point, in the widest gap between its strokes first."""
        z = self.at[name]
        directions = []
        for a, b in self.lines:
            if _on(z, a, b):
                directions += [cmath.phase(end - z) for end in (a, b) if abs(end - z) > 1]
        if self.scene.radius and name != "O" and abs(abs(self._from_centre(z)) - 1) < 1e-6:
            outward = cmath.phase(self._from_centre(z))
            directions += [outward + math.pi * k / 6 for k in (3, 4, 5, 6, 7, 8, 9)]
        turn, distance = AROUND
        places = z + np.exp(1j * (_widest_gap(directions) + turn)) * (distance * self.font)
        return places, 2 * distance + np.minimum(turn, math.tau - turn)

    def _from_centre(self, z: complex) -> complex:
        """In units of the radius."""
        return (z - self.at["O"]) / (self.scene.radius * self.scale)


class _Clear:
    """Where there is still room on the page."""

    def __init__(self, drawing: Drawing, obstacles: np.ndarray):
        self.drawing, self.obstacles = drawing, obstacles
        self.hard, self.soft = 0.5 * drawing.pen + max(1.0, 0.1 * drawing.font), 0.4 * drawing.font

    def best(self, text: str, centres: np.ndarray, costs: np.ndarray) -> Label | None:
        """The text at the cheapest clear place of many; closeness to other things costs too."""
        width, height = _text_size(text, self.drawing.font)
        low = np.round(centres.view(float).reshape(-1, 2) - (width / 2, height / 2))
        boxes = np.concatenate([low, low + (width, height)], axis=1)
        taken = np.array([label.box for label in self.drawing.labels]).reshape(-1, 4)
        order = np.argsort(costs, kind="stable")
        found = []  # (cost, number) of clear places
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            if found and min(found)[0] < costs[some[0]]:
                break  # what is left is dearer
            near = boxes[some]
            on_page = (near >= 2).all(axis=1) & (near <= self.drawing.size - 2).all(axis=1)
            some, near = some[on_page], near[on_page]
            meets = _crossed(_grown(near, self.hard, self.soft), self.obstacles)
            meets |= _overlap(_grown(near, 2 * self.hard, self.soft), taken)
            blocked, crowded = meets.reshape(2, -1)
            dear = costs[some] + 0.5 * crowded
            found += [(dear[k], some[k]) for k in np.flatnonzero(~blocked)]
        if not found:
            return None
        return Label(text, tuple(int(v) for v in boxes[min(found)[1]]))

    def strokes(self, strokes: list[tuple[complex, complex]]) -> bool:
        """Whether new strokes would keep off the page's edge, all labels and all strokes."""
        ends = np.array([[(z.real, z.imag) for z in stroke] for stroke in strokes])
        if ends.min() < 2 or ends.max() > self.drawing.size - 2:
            return False
        boxes = np.array([label.box for label in self.drawing.labels], float).reshape(-1, 4)
        if len(boxes) and _crossed(_grown(boxes, self.hard), ends).any():
            return False
        steps = np.linspace(0, 1, 40)[:, None, None]  # closer together than the boxes are wide
        points = (ends[:, 0] * (1 - steps) + ends[:, 1] * steps).reshape(-1, 2)
        around = _grown(np.concatenate([points, points], axis=1), 0.3 * self.drawing.font)
        return not _crossed(around, self.obstacles).any()

    def add(self, strokes: list[tuple[complex, complex]]) -> None:
        """Take up the room of new strokes."""
        ends = np.array([[(z.real, z.imag) for z in stroke] for stroke in strokes])
        self.obstacles = np.concatenate([self.obstacles, ends])


def _grown(boxes: np.ndarray, *pads: float) -> np.ndarray:
    """The boxes (n, 4) wider by each of the pads on all sides: (pads * n, 4)."""
    return np.concatenate([boxes + (-pad, -pad, pad, pad) for pad in pads])


def _crossed(boxes: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) meet any of the segments (m, 2, 2)."""
    start, way = segments[:, 0], segments[:, 1] - segments[:, 0]
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    # (n, m, 2): how far along the segment it passes the box's sides
    enter = (boxes[:, None, :2] - start) / way
    leave = (boxes[:, None, 2:] - start) / way
    first, last = np.minimum(enter, leave), np.maximum(enter, leave)
    begin = np.maximum(first[..., 0], first[..., 1])
    end = np.minimum(last[..., 0], last[..., 1])
    return (np.maximum(begin, 0) <= np.minimum(end, 1)).any(axis=1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) have a part in common with any of the others (m, 4)."""
    below = (boxes[:, None, :2] < others[:, 2:]) & (boxes[:, None, 2:] > others[:, :2])
    return (below[..., 0] & below[..., 1]).any(axis=1)


def _segment(fact: Call) -> tuple[str, str] | None:
    """The ends of the segment whose length the fact states."""
    return fact.args[0].args[0].args if fact.args[0].name == "LengthOf" else None


def _corner(fact: Call) -> tuple[str, str, str] | None:
    """The arms and corner of the angle whose measure the fact states."""
    return fact.args[0].args[0].args if fact.args[0].name == "MeasureOf" else None


def _dot(v: complex, w: complex) -> float:
    """The scalar product of two vectors."""
    return (v * w.conjugate()).real


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
    nearest = np.full(len(places), math.inf)
    for a, b in others:
        nearest = np.minimum(nearest, _distance(places, a, b))
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
