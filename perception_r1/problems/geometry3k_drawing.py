"""Draw a textbook diagram again from its points, lines, circles and facts. Used in notebook 02."""

import re
from collections.abc import Iterable, Iterator, Mapping

from PIL import Image, ImageDraw, ImageFont

from perception_r1.common.fonts import FONT
from perception_r1.facts import Call

_SCALE = 3  # drawn this much larger, then reduced, so that lines are smooth


def draw_diagram(
    points: Mapping[str, tuple[float, float]],
    lines: Iterable[tuple[str, str]],
    circles: Iterable[str],
    facts: Iterable[Call],
    size: int,
) -> Image.Image:
    """Draw a diagram as the original lies on its page.

    Args:
        points: name -> place in pixels of the original, y downwards.
        lines: drawn segments.
        circles: centres; the radius is the mean distance of the points that lie on the circle.
        facts: of which lengths, angles and right angles are written or marked.
        size: of the square image, in pixels.
    """
    facts, page = list(facts), size * _SCALE
    places = {name: complex(*place) for name, place in points.items()}
    radii = {centre: r for centre in circles if (r := _radius(centre, places, facts))}
    reach = [places[c] + r * side for c, r in radii.items() for side in (1, -1, 1j, -1j)]
    across, down = ([getattr(z, k) for z in (*places.values(), *reach)] for k in ("real", "imag"))
    scale = 0.8 * page / max(max(across) - min(across), max(down) - min(down), 1)
    middle = complex(max(across) + min(across), max(down) + min(down)) / 2
    at = {name: complex(page, page) / 2 + (z - middle) * scale for name, z in places.items()}

    font = ImageFont.truetype(FONT, size // 17 * _SCALE)
    image = Image.new("L", (page, page), 255)
    pen = ImageDraw.Draw(image)
    for a, b in lines:
        pen.line([_xy(at[a]), _xy(at[b])], fill=0, width=_SCALE)
    for centre, radius in radii.items():
        pen.circle(_xy(at[centre]), radius * scale, outline=0, width=_SCALE)
    for corner, *arms in _right_angles(at, facts):
        u, v = (_unit(arm - corner) * font.size / 2 for arm in arms)
        pen.line([_xy(corner + z) for z in (u, u + v, v)], fill=0, width=_SCALE)
    for text, place, away, distance in _labels(at, facts):
        away, far = _unit(away) or -1j, distance * font.size
        aside = away.real * (font.getlength(text) + far) / 2
        pen.text(_xy(place + complex(aside, away.imag * far)), text, fill=0, font=font, anchor="mm")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _xy(z: complex) -> tuple[float, float]:
    return z.real, z.imag


def _unit(z: complex) -> complex:
    return z / abs(z) if z else 0


def _radius(centre: str, places: Mapping[str, complex], facts: Iterable[Call]) -> float:
    """The mean distance of the points on the circle; 0 if there are none."""
    distances = [
        abs(places[fact.args[0]] - places[centre])
        for fact in facts
        if fact.name == "PointLiesOnCircle" and fact.args[0] in places
        if isinstance(fact.args[1], Call) and fact.args[1].args[0] == centre
    ]
    return sum(distances) / len(distances) if distances else 0


def _right_angles(at: Mapping[str, complex], facts: Iterable[Call]) -> Iterator[list[complex]]:
    """Corner and two arms of every right angle between lines that share an end."""
    for fact in facts:
        match fact:
            case Call("Perpendicular", (Call("Line", first), Call("Line", second))):
                corner, ends = set(first) & set(second), set(first) ^ set(second)
                if len(corner) == 1 and len(ends) == 2 and corner | ends <= set(at):
                    yield [at[name] for name in (*corner, *sorted(ends))]


def _labels(
    at: Mapping[str, complex], facts: Iterable[Call]
) -> Iterator[tuple[str, complex, complex, float]]:
    """Texts to write: text, place, the direction away from it, and how far, in heights of the font."""
    centre = sum(at.values()) / len(at)
    for fact in facts:
        match fact:
            case Call("Equals", (Call("LengthOf", (Call("Line", (a, b)),)), str(value))):
                if a in at and b in at:
                    middle, across = (at[a] + at[b]) / 2, (at[a] - at[b]) * -1j
                    outward = (across * (middle - centre).conjugate()).real >= 0
                    yield _plain(value), middle, across if outward else -across, 0.7
            case Call("Equals", (Call("MeasureOf", (Call("Angle", (a, b, c)),)), value)):
                value = re.sub(r"^MeasureOf\((?:angle |Angle\()(\w+)\)+$", r"\1", str(value))
                if {a, b, c} <= set(at) and "(" not in value:
                    arms = _unit(at[a] - at[b]) + _unit(at[c] - at[b])
                    degrees = "°" if re.search(r"[a-z]|\d{2}", value) else ""  # else its number
                    yield _plain(value) + degrees, at[b], arms, 1.4
    for name, place in at.items():
        yield name, place, place - centre, 0.7


def _plain(value: str) -> str:
    r"""A LaTeX value as it can be written with one font: 7\sqrt{2} -> 7√2."""
    value = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", value)
    value = re.sub(r"\\sqrt\{([^{}]*)\}", r"√\1", value)
    return value.replace(r"\pi", "π").replace("{", "").replace("}", "")
