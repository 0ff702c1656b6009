"""Geometry facts in foreign phrasings: how people and language models write, not how this project does.

It shares no code with any judge and reads logic forms with regular expressions of its own. The phrasings are a
table, `data/calibration/foreign_phrases.csv`: clauses by kind of fact and style; `denied` denies the fact, `things`
names what it is about. Clauses of the kind `any` go around or between others.
"""

import random
import re

import pandas as pd

from perception_r1.common.files import DATA

STYLES = ("symbols", "latex", "measures", "passive", "reordered", "embedded", "joined", "spelled")
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED = _ONES + [f"{ten}-{one}".removesuffix("-zero") for ten in _TENS for one in _ONES[:10]]

_POINT = r"(\w'?)"
_LINE, _ANGLE = rf"Line\({_POINT}, {_POINT}\)", rf"Angle\({_POINT}, {_POINT}, {_POINT}\)"
_SHAPES = (  # kind, pattern, the names of its points and of its value
    ("equal lengths", rf"Equals\(LengthOf\({_LINE}\), LengthOf\({_LINE}\)\)", "abcd"),
    ("equal angles", rf"Equals\(MeasureOf\({_ANGLE}\), MeasureOf\({_ANGLE}\)\)", "abcdef"),
    ("length", rf"Equals\(LengthOf\({_LINE}\), (.+)\)", "abv"),
    ("angle", rf"Equals\(MeasureOf\({_ANGLE}\), (.+)\)", "abcv"),
    ("perpendicular", rf"Perpendicular\({_LINE}, {_LINE}\)", "abcd"),
    ("parallel", rf"Parallel\({_LINE}, {_LINE}\)", "abcd"),
    ("on line", rf"PointLiesOnLine\({_POINT}, {_LINE}\)", "xab"),
    ("on circle", rf"PointLiesOnCircle\({_POINT}, Circle\({_POINT}\)\)", "xo"),
    ("midpoint", rf"IsMidpointOf\({_POINT}, {_LINE}\)", "xab"),
)


_TABLE = pd.read_csv(DATA / "calibration" / "foreign_phrases.csv", keep_default_na=False)
_PHRASES: dict[tuple[str, str], list[str]] = (
    _TABLE.groupby(["kind", "style"])["clause"].agg(list).to_dict()
)


def render(form: str, style: str, rng: random.Random) -> str:
    """One sentence that truly states the fact in a style."""
    return _sentence(_clause(form, style, rng))


def negate(form: str, rng: random.Random) -> str:
    """A sentence that denies the fact."""
    kind, fields = _read(form)
    return _sentence(rng.choice(_PHRASES[kind, "denied"]).format(**fields))


def hint(form: str, rng: random.Random) -> str:
    """A sentence about the same things that does not state the fact."""
    kind, fields = _read(form)
    things = rng.choice(_PHRASES[kind, "things"]).format(**fields)
    return _sentence(rng.choice(_PHRASES["any", "hint"]).format(things))


def render_solution(forms: list[str], style: str, rng: random.Random, answer: str) -> str:
    """A whole response that states the facts in a style, with connecting words and a short computation."""
    size = 2 if style == "joined" else 1
    clauses = [_joined(forms[k : k + size], style, rng) for k in range(0, len(forms), size)]
    mark = rng.choice(("", "", "- ", "{}. "))  # prose, or a list with marks or numbers
    linked = not mark and style not in ("embedded", "joined")
    lines = []
    for number, clause in enumerate(clauses, start=1):
        if linked and number > 1:
            link = rng.choice(_PHRASES["any", "link"])
            clause = f"{link} {clause}".strip()
        lines.append(mark.format(number) + _sentence(clause))
    opening = rng.choice(_PHRASES["any", "opening"])
    computing = _computing(forms, answer, rng)
    if mark and rng.random() < 0.5:
        lines = [line[:-1] for line in lines]
    if not mark and rng.random() < 0.5:  # one paragraph
        lines, computing = [" ".join(lines)], [" ".join(computing)]
    body = "\n".join(filter(None, [opening, *lines, *computing]))
    return f"<think>\n{body}\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>"


def _read(form: str) -> tuple[str, dict[str, str]]:
    """The kind of a fact and the fields of its phrases.

    Fields: s, t: the two lines (AB, CD), r, u: the same read backwards, S, T: in LaTeX; g, k: the two angles, h, l:
    backwards; a, b: ends of the first line, or the angle's first point and its vertex; x: a point, o: a centre; v:
    the value; p, q: the value in degrees as a symbol and in LaTeX.
    """
    for kind, pattern, names in _SHAPES:
        if match := re.fullmatch(pattern, form.strip()):
            fields = dict.fromkeys("abcdefv", "") | dict(zip(names, match.groups(), strict=True))
            value = fields["v"]
            degrees = value if re.fullmatch(r"[\w.]*", value) else f"({value})"
            a, b, c, d, e, f = (fields[name] for name in "abcdef")
            fields |= {"s": a + b, "r": b + a, "S": rf"\overline{{{a}{b}}}"}
            fields |= {"t": c + d, "u": d + c, "T": rf"\overline{{{c}{d}}}"}
            fields |= {"g": a + b + c, "h": c + b + a, "k": d + e + f, "l": f + e + d}
            return kind, fields | {"p": degrees + "°", "q": degrees + r"^\circ"}
    raise ValueError(f"no such shape: {form}")


def _sentence(clause: str) -> str:
    """With a full stop, and a capital letter where it starts with a word."""
    start = clause[0].upper() if re.match(r"[a-z]{2,}\b", clause) else clause[0]
    return start + clause[1:] + "."


def _clause(form: str, style: str, rng: random.Random) -> str:
    kind, fields = _read(form)
    if style == "spelled":
        word = re.sub(r"^\d{1,2}$", lambda number: _SPELLED[int(number[0])], fields["v"])
        fields |= {"v": word, "p": f"{word} degrees"}
        text = rng.choice(_PHRASES[kind, "measures"]).format(**fields)
        return re.sub(r"\bone (unit|degree)s", r"one \1", text.replace("90 deg", "ninety deg"))
    if style == "joined":
        style = rng.choice(("measures", "symbols", "passive"))
    frames = _PHRASES.get(("any", f"{style} frame"))
    if frames and rng.random() < 0.5:
        return rng.choice(frames).format(_clause(form, "measures", rng))
    return rng.choice(_PHRASES[kind, style]).format(**fields)


def _joined(forms: list[str], style: str, rng: random.Random) -> str:
    """A clause for one fact, or for two."""
    if len(forms) == 1:
        return _clause(forms[0], style, rng)
    (kind, one), (other, two) = map(_read, forms)
    if kind == other == "length" and rng.random() < 0.3:
        return f"{one['s']} and {two['s']} are {one['v']} and {two['v']} units long, respectively"
    join = rng.choice(_PHRASES["any", "join"])
    return join.format(*(_clause(form, style, rng) for form in forms))


def _computing(forms: list[str], answer: str, rng: random.Random) -> list[str]:
    values = [_read(form)[1]["v"] for form in forms]
    numbers = [float(value) for value in values if re.fullmatch(r"\d+(\.\d+)?", value)]
    lines = []
    if len(numbers) > 1 and rng.random() < 0.7:
        one, two = rng.sample(numbers, 2)
        lines.append(f"First I compute {one:g} + {two:g} = {one + two:g}.")
    elif numbers and rng.random() < 0.7:
        lines.append(f"Doubling it, we get 2 × {numbers[0]:g} = {2 * numbers[0]:g}.")
    closings = ("Simplifying, we get {}.", "Therefore, the answer is {}.", "Solving this gives {}.")
    return [*lines, rng.choice(closings).format(answer)]
