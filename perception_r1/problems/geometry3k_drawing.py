"""Draw a textbook diagram again from its points, lines, circles and logic forms. Used in notebook 02."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from PIL import Image, ImageDraw, ImageFont

from perception_r1.common.fonts import FONT

Point = tuple[float, float]

_SCALE = 3  # drawn this much larger, then reduced, so that lines are smooth
_NAME = r"(\w'?)"


def draw_diagram(
    points: Mapping[str, Point],
    lines: Iterable[tuple[str, str]],
    circles: Iterable[str],
    forms: Iterable[str],
    size: int,
) -> Image.Image:
    """Draw a diagram as the original lies on its page.

    Args:
        points: name -> place in pixels of the original, y downwards.
        lines: drawn segments.
        circles: centres; the radius is the mean distance of the points that lie on the circle.
        forms: logic forms, of which lengths, angles and right angles are written or marked.
        size: of the square image, in pixels.
    """
    forms = list(forms)
    font = ImageFont.truetype(FONT, size // 17 * _SCALE)
    image = Image.new("L", (size * _SCALE, size * _SCALE), 255)
    pen = ImageDraw.Draw(image)
    radii = _radii(points, circles, forms)
    place, scale = _fit(points, radii, size * _SCALE)
    at = {name: place(point) for name, point in points.items()}
    for a, b in lines:
        pen.line([at[a], at[b]], fill=0, width=_SCALE)
    for centre, radius in radii.items():
        pen.circle(at[centre], radius * scale, outline=0, width=_SCALE)
    for corner, u, v in _right_angles(at, forms):
        (x, y), side = corner, 0.5 * font.size
        (ux, uy), (vx, vy) = _unit(corner, u), _unit(corner, v)
        path = [(ux, uy), (ux + vx, uy + vy), (vx, vy)]
        pen.line([(x + side * dx, y + side * dy) for dx, dy in path], fill=0, width=_SCALE)
    for text, (x, y), away, distance in _labels(at, forms):
        u, v = _unit((0.0, 0.0), away) if any(away) else (0.0, -1.0)
        reach = distance * font.size
        half_width = font.getlength(text) / 2
        middle = x + u * (half_width + reach / 2), y + v * reach
        pen.text(middle, text, fill=0, font=font, anchor="mm")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _radii(
    points: Mapping[str, Point], circles: Iterable[str], forms: Iterable[str]
) -> dict[str, float]:
    """Centre -> radius in the original's pixels, of circles with at least one point on them."""
    distances: dict[str, list[float]] = {centre: [] for centre in circles}
    for form in forms:
        match = re.match(rf"PointLiesOnCircle\({_NAME}, ?Circle\({_NAME}", form)
        if match and match[2] in distances and match[1] in points:
            distances[match[2]].append(math.dist(points[match[1]], points[match[2]]))
    return {centre: sum(d) / len(d) for centre, d in distances.items() if d}


def _fit(
    points: Mapping[str, Point], radii: Mapping[str, float], page: int
) -> tuple[Callable[[Point], Point], float]:
    """A function from the original's pixels to ours, with a margin for names, and its scale."""
    around = [(points[c], r) for c, r in radii.items()] + [(p, 0.0) for p in points.values()]
    ends = [[(p[k] - r, p[k] + r) for p, r in around] for k in (0, 1)]
    low_x, low_y = (min(low for low, _ in axis) for axis in ends)
    high_x, high_y = (max(high for _, high in axis) for axis in ends)
    scale = 0.8 * page / max(high_x - low_x, high_y - low_y, 1)

    def place(point: Point) -> Point:
        return (
            page / 2 + (point[0] - (low_x + high_x) / 2) * scale,
            page / 2 + (point[1] - (low_y + high_y) / 2) * scale,
        )

    return place, scale


def _right_angles(at: Mapping[str, Point], forms: Iterable[str]) -> Iterator[list[Point]]:
    """Corner and two arms of every right angle between lines that share an end."""
    line = rf"Line\({_NAME}, ?{_NAME}\)"
    for form in forms:
        if match := re.match(rf"Perpendicular\({line}, ?{line}\)", form):
            first, second = set(match.groups()[:2]), set(match.groups()[2:])
            shared, ends = first & second, first | second
            if len(shared) == 1 and len(ends) == 3 and ends <= set(at):
                yield [
                    at[name] for part in (shared, first - second, second - first) for name in part
                ]


def _unit(start: Point, end: Point) -> Point:
    x, y = end[0] - start[0], end[1] - start[1]
    length = (x * x + y * y) ** 0.5 or 1.0
    return x / length, y / length


def _labels(
    at: Mapping[str, Point], forms: Iterable[str]
) -> Iterator[tuple[str, Point, Point, float]]:
    """Texts to write: text, place, the direction away from it, and how far, in heights of the font."""
    centre = tuple(sum(p[k] for p in at.values()) / len(at) for k in (0, 1))
    for form in forms:
        length = rf"Equals\(LengthOf\(Line\({_NAME}, ?{_NAME}\)\), ?([^()]+)\)$"
        angle = rf"Equals\(MeasureOf\(Angle\({_NAME}, ?{_NAME}, ?{_NAME}\)\), ?(.+)\)$"
        if match := re.match(length, form):
            a, b, value = match.groups()
            if a in at and b in at:
                middle = ((at[a][0] + at[b][0]) / 2, (at[a][1] + at[b][1]) / 2)
                x, y = at[a][1] - at[b][1], at[b][0] - at[a][0]  # at a right angle to the line
                outward = x * (middle[0] - centre[0]) + y * (middle[1] - centre[1]) >= 0
                yield _plain(value), middle, (x, y) if outward else (-x, -y), 0.7
        elif match := re.match(angle, form):
            a, b, c, value = match.groups()
            value = re.sub(r"^MeasureOf\((?:angle |Angle\()(\w+)\)+$", r"\1", value)
            if {a, b, c} <= set(at) and "(" not in value:
                (ux, uy), (vx, vy) = _unit(at[b], at[a]), _unit(at[b], at[c])
                degrees = "°" if re.search(r"[a-z]|\d{2}", value) else ""  # else an angle's number
                yield _plain(value) + degrees, at[b], (ux + vx, uy + vy), 1.4
    for name, point in at.items():
        yield name, point, (point[0] - centre[0], point[1] - centre[1]), 0.7


def _plain(value: str) -> str:
    r"""A LaTeX value as it can be written with one font: 7\sqrt{2} -> 7√2."""
    value = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", value)
    value = re.sub(r"\\sqrt\{([^{}]*)\}", r"√\1", value)
    return value.replace(r"\pi", "π").replace("{", "").replace("}", "")
