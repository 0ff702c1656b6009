"""Geometry3K: 3,002 textbook problems whose visual facts people wrote down as logic forms. Used in notebook 02.

The annotation files are Inter-GPS's (github.com/lupantech/InterGPS, MIT): the diagram's facts with the places
of its points, and the question's facts. The images and questions of the whole set are on the hub.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.common.files import read_json
from perception_r1.common.fonts import FONT
from perception_r1.problems.parquet import load_problems
from perception_r1.problems.schema import IMAGE_MARK, DatasetError, Problem

HUB = "hiyouga/geometry3k"
LICENCE = "MIT, github.com/lupantech/InterGPS"


@dataclass(frozen=True)
class Record:
    """One annotated problem.

    Attributes:
        id: its number in the dataset.
        gold: logic forms of the diagram, as annotated (some are empty or malformed, see `faults`).
        text: logic forms of the question.
        points: name -> place in the original image, in pixels, y downwards.
        lines: drawn segments, each a pair of points.
        circles: centres of drawn circles.
        question, choices, answer, image: where the whole problem is at hand; `answer` is the right
            choice's text.
    """

    id: str
    gold: tuple[str, ...]
    text: tuple[str, ...]
    points: Mapping[str, tuple[float, float]]
    lines: tuple[tuple[str, str], ...]
    circles: tuple[str, ...]
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: str = ""
    image: Path | None = field(default=None, compare=False)


# --- sentences -------------------------------------------------------------------------------------


def to_sentence(form: str) -> str:
    """Say a logic form in English; distinct facts give distinct sentences.

    Raises:
        FactError: the form is empty or malformed.
    """
    return facts.to_sentence(facts.parse(form))


def from_sentence(sentence: str) -> str:
    """The logic form of a sentence made by `to_sentence`, exact but for spaces after commas.

    Raises:
        FactError: it is no such sentence.
    """
    return str(facts.from_sentence(sentence))


def faults(records: Iterable[Record]) -> pd.DataFrame:
    """Forms that say nothing usable: columns `id`, `form`, `why` ("empty" or "malformed")."""
    rows = []
    for record in records:
        for form in (*record.gold, *record.text):
            if not form.strip():
                rows.append((record.id, form, "empty"))
            elif not _parses(form):
                rows.append((record.id, form, "malformed"))
    return pd.DataFrame(rows, columns=["id", "form", "why"])


def usable(forms: Iterable[str]) -> tuple[str, ...]:
    """The forms that parse, in the project's spelling; `faults` names the others."""
    return tuple(str(facts.parse(form)) for form in forms if form.strip() and _parses(form))


def _parses(form: str) -> bool:
    try:
        facts.parse(form)
    except facts.FactError:
        return False
    return True


# --- loading -----------------------------------------------------------------------------------------


def load_local(folder: Path) -> list[Record]:
    """Read the two annotation files of a folder, and whole problems from `examples/` where there are any.

    Raises:
        InputError: a file is missing or unreadable.
        DatasetError: a problem lacks a part; its id and the part are named.
    """
    diagrams = read_json(folder / "diagram_logic_forms_annot.json")
    texts = read_json(folder / "text_logic_forms_annot.json")
    if not isinstance(diagrams, dict) or not isinstance(texts, dict):
        raise InputError(f"{folder}: the annotation files must be objects with an entry a problem")
    records = []
    for id_, diagram in diagrams.items():
        try:
            records.append(_record(id_, diagram, texts[id_], folder / "examples" / id_))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = f"problem {id_} of {folder} has no usable {error}"
            raise DatasetError(what, "fetch the annotation files again") from error
    return records


def _record(id_: str, diagram: dict, text: dict, example: Path) -> Record:
    points = {name: (float(x), float(y)) for name, (x, y) in diagram["point_positions"].items()}
    lines = (tuple(re.findall("[A-Za-z]'*", line)) for line in diagram["line_instances"])
    whole = {}
    if example.is_dir():
        about = read_json(example / "data.json")
        whole = {
            "question": about["problem_text"],
            "choices": tuple(about["choices"]),
            "answer": about["choices"]["ABCD".index(about["answer"])],
            "image": example / "img_diagram.png",
        }
    return Record(
        id=id_,
        gold=tuple(diagram["diagram_logic_forms"]),
        text=tuple(text["text_logic_forms"]),
        points=points,
        lines=tuple(line for line in lines if len(line) == 2 and set(line) <= set(points)),
        circles=tuple(name for name in diagram["circle_instances"] if name in points),
        **whole,
    )


def load_hub(split: str = "train") -> list[Problem]:
    """The problems with images from the hub; never executed here, where no hub can be reached.

    They come without logic forms. Gold answers that no grader could use are dropped with a warning.
    """
    return load_problems(HUB, split, unusable="drop")


def to_problem(record: Record) -> Problem:
    """A whole problem with its facts; the image is the original where at hand, else redrawn.

    Raises:
        InputError: the record has no question or answer.
    """
    if not record.question or not record.answer:
        raise InputError(f"problem {record.id} has no question or answer here; use load_hub")
    image = Image.open(record.image) if record.image else redraw(record)
    return Problem(
        id=f"geometry3k-{record.id}",
        problem=IMAGE_MARK + record.question,
        images=(image.convert("RGB"),),
        answer=record.answer,
        gold_facts=usable(record.gold),
        text_facts=tuple(form for form in usable(record.text) if not form.startswith("Find(")),
    )


def count_kinds(records: Iterable[Record]) -> pd.DataFrame:
    """Distinct facts by kind, those of diagrams and those of questions: columns `kind`, `diagram`, `question`.

    What a question asks ("Find ...") is not a fact and is left out.
    """
    diagram, question = Counter(), Counter()
    for record in records:
        for forms, counter in ((record.gold, diagram), (record.text, question)):
            distinct = {facts.key(fact): fact for fact in map(facts.parse, usable(forms))}
            counter.update(facts.kind(fact) for fact in distinct.values())
    kinds = sorted(set(diagram) | set(question) - {"question"}, key=lambda kind: -diagram[kind])
    rows = [(kind, diagram[kind], question[kind]) for kind in kinds if kind != "question"]
    return pd.DataFrame(rows, columns=["kind", "diagram", "question"])


# --- drawing -----------------------------------------------------------------------------------------

_SCALE = 3  # drawn this much larger, then reduced, so that lines are smooth


def redraw(record: Record, size: int = 336) -> Image.Image:
    """Draw a diagram again from its points, lines, circles and labels, as the original lies on its page.

    Returns:
        A square image; a circle's radius is the mean distance of the points that lie on it.
    """
    font = ImageFont.truetype(FONT, size // 17 * _SCALE)
    place = _fit(record, size)
    image = Image.new("L", (size * _SCALE, size * _SCALE), 255)
    pen = ImageDraw.Draw(image)
    strokes = [(place(record.points[a]), place(record.points[b])) for a, b in record.lines]
    for a, b in strokes:
        pen.line([a, b], fill=0, width=_SCALE)
    for centre, radius in _circles(record).items():
        (x, y), (edge, _) = (
            place(record.points[centre]),
            place(_shift(record.points[centre], radius)),
        )
        pen.circle((x, y), edge - x, outline=0, width=_SCALE)
    for corner, u, v in _right_angles(record, place):
        side = 0.5 * font.size
        (ux, uy), (vx, vy) = _unit(corner, u), _unit(corner, v)
        path = [(ux, uy), (ux + vx, uy + vy), (vx, vy)]
        pen.line(
            [(corner[0] + side * x, corner[1] + side * y) for x, y in path], fill=0, width=_SCALE
        )
    taken: list[tuple[float, float, float, float]] = []
    for text, at, away, sideways in _labels(record, place):
        _write(pen, font, text, at, away, sideways, strokes, taken)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _shift(point: tuple[float, float], dx: float) -> tuple[float, float]:
    return point[0] + dx, point[1]


def _circles(record: Record) -> dict[str, float]:
    """Centre -> radius in the original's pixels, of circles with at least one point on them."""
    distances: dict[str, list[float]] = {centre: [] for centre in record.circles}
    for form in record.gold:
        if found := re.match(r"PointLiesOnCircle\((\w'?), ?Circle\((\w'?)", form):
            point, centre = found.groups()
            if centre in distances and point in record.points:
                (x, y), (u, v) = record.points[point], record.points[centre]
                distances[centre].append(((x - u) ** 2 + (y - v) ** 2) ** 0.5)
    return {centre: sum(d) / len(d) for centre, d in distances.items() if d}


def _fit(record: Record, size: int):
    """A function from the original's pixels to ours, with a margin for names."""
    xs, ys = zip(*record.points.values(), strict=True)
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    for centre, radius in _circles(record).items():
        x, y = record.points[centre]
        low_x, high_x = min(low_x, x - radius), max(high_x, x + radius)
        low_y, high_y = min(low_y, y - radius), max(high_y, y + radius)
    scale = 0.8 * size * _SCALE / max(high_x - low_x, high_y - low_y, 1)
    middle = size * _SCALE / 2

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (
            middle + (point[0] - (low_x + high_x) / 2) * scale,
            middle + (point[1] - (low_y + high_y) / 2) * scale,
        )

    return place


def _right_angles(record: Record, place):
    """Corner and two arms of every right angle between lines that share an end."""
    for form in record.gold:
        pattern = r"Perpendicular\(Line\((\w'?), ?(\w'?)\), ?Line\((\w'?), ?(\w'?)\)\)"
        if found := re.match(pattern, form):
            first, second = set(found.groups()[:2]), set(found.groups()[2:])
            shared = first & second
            if (
                len(shared) == 1
                and len(first | second) == 3
                and first | second <= set(record.points)
            ):
                corner, (u,), (v,) = shared.pop(), first - second, second - first
                yield tuple(place(record.points[name]) for name in (corner, u, v))


def _unit(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    x, y = end[0] - start[0], end[1] - start[1]
    length = (x * x + y * y) ** 0.5 or 1.0
    return x / length, y / length


def _labels(record: Record, place):
    """Texts to write: text, place, direction away from it, and what another direction costs."""
    at = {name: place(point) for name, point in record.points.items()}
    centre = tuple(sum(p[k] for p in at.values()) / len(at) for k in (0, 1))
    for form in record.gold:
        if found := re.match(r"Equals\(LengthOf\(Line\((\w'?), ?(\w'?)\)\), ?([^()]+)\)$", form):
            a, b, value = found.groups()
            if a in at and b in at:
                middle = ((at[a][0] + at[b][0]) / 2, (at[a][1] + at[b][1]) / 2)
                normal = (at[a][1] - at[b][1], at[b][0] - at[a][0])
                yield _plain(value), middle, normal, 0.3
        elif found := re.match(
            r"Equals\(MeasureOf\(Angle\((\w'?), ?(\w'?), ?(\w'?)\)\), ?(.+)\)$", form
        ):
            a, b, c, value = found.groups()
            if {a, b, c} <= set(at):
                value = re.sub(r"^MeasureOf\((?:angle |Angle\()(\w+)\)+$", r"\1", value)
                if "(" not in value:
                    degrees = (
                        "°" if re.search(r"[a-z]|\d{2}", value) else ""
                    )  # else a number of the angle
                    arms = _unit(at[b], at[a]), _unit(at[b], at[c])
                    inside = tuple(map(sum, zip(*arms, strict=True)))
                    yield _plain(value) + degrees, at[b], inside, 3.0
    for name, point in at.items():
        yield name, point, (point[0] - centre[0], point[1] - centre[1]), 0.3


def _plain(value: str) -> str:
    r"""A LaTeX value as it can be written with one font: 7\sqrt{2} -> 7√2."""
    value = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", value)
    value = re.sub(r"\\sqrt\{([^{}]*)\}", r"√\1", value)
    return value.replace(r"\pi", "π").replace("{", "").replace("}", "")


def _write(pen, font, text, at, away, sideways, strokes, taken) -> None:
    """Write a text near a place, where it is clearest of the page's edge, of texts and of lines."""
    x, y = _unit((0, 0), away) if any(away) else (0.0, -1.0)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    half_w, half_h = (right - left) / 2, (bottom - top) / 2
    page, best, best_cost = pen.im.size[0], None, float("inf")
    for k in range(9):
        reach = font.size * (0.45 + 0.22 * k)
        for turn, (u, v) in enumerate(
            ((x, y), (-x, -y), (-y, x), (y, -x), (x - y, x + y), (x + y, y - x))
        ):
            middle_x, middle_y = at[0] + u * (half_w + reach), at[1] + v * (half_h + reach)
            box = (middle_x - half_w, middle_y - half_h, middle_x + half_w, middle_y + half_h)
            off_page = min(box) < 0 or max(box) > page
            hits = 4 * sum(_meet(box, other) for other in taken) + sum(
                _cuts(box, *s) for s in strokes
            )
            cost = 20 * off_page + 10 * hits + 0.5 * k + (sideways + 0.1 * turn if turn else 0)
            if cost < best_cost:
                best, best_cost = box, cost
    taken.append(best)
    pen.text((best[0] - left, best[1] - top), text, fill=0, font=font)


def _meet(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _cuts(box, p, q) -> bool:
    """Whether a segment passes through a box (looked at in 40 steps)."""
    for k in range(41):
        x, y = p[0] + (q[0] - p[0]) * k / 40, p[1] + (q[1] - p[1]) * k / 40
        if box[0] <= x <= box[2] and box[1] <= y <= box[3]:
            return True
    return False
