"""Geometry facts in foreign phrasings: how people and language models write, not how this project does.

It imports nothing of the project and reads logic forms with regular expressions of its own, so that what is
measured with it shares no code with what it measures.
"""

import random
import re

STYLES = ("symbols", "latex", "measures", "passive", "reordered", "embedded", "joined", "spelled")

# Fields of the sentences: s, t: the two lines (AB, CD), r, u: the same read backwards, S, T: in LaTeX;
# g, k: the two angles, h, l: backwards; a, b: ends of the first line, or the angle's first point and its
# vertex; x: a point, o: a centre; v: the value; p, q: the value in degrees as a symbol and in LaTeX.
_P = r"(\w'?)"
_LINE, _ANGLE = rf"Line\({_P}, {_P}\)", rf"Angle\({_P}, {_P}, {_P}\)"
_SHAPES = (  # kind, pattern, the names of its points and of its value
    ("equal lengths", rf"Equals\(LengthOf\({_LINE}\), LengthOf\({_LINE}\)\)", "abcd"),
    ("equal angles", rf"Equals\(MeasureOf\({_ANGLE}\), MeasureOf\({_ANGLE}\)\)", "abcdef"),
    ("length", rf"Equals\(LengthOf\({_LINE}\), (.+)\)", "abv"),
    ("angle", rf"Equals\(MeasureOf\({_ANGLE}\), (.+)\)", "abcv"),
    ("perpendicular", rf"Perpendicular\({_LINE}, {_LINE}\)", "abcd"),
    ("parallel", rf"Parallel\({_LINE}, {_LINE}\)", "abcd"),
    ("on line", rf"PointLiesOnLine\({_P}, {_LINE}\)", "xab"),
    ("on circle", rf"PointLiesOnCircle\({_P}, Circle\({_P}\)\)", "xo"),
    ("midpoint", rf"IsMidpointOf\({_P}, {_LINE}\)", "xab"),
)
# Clauses start in lower case where they start with a word, so that a link can come before them.
_TABLE = r"""
length
symbols ; {s} = {v} ; {s}={v} ; |{s}| = {v} ; {r} = {v} ; {s} = {v} units
latex ; ${s} = {v}$ ; $|{S}| = {v}$ ; \({r} = {v}\) ; ${s} = {v} \text{{ units}}$
measures ; segment {s} measures {v} ; side {r} has a length of {v} units ; {s} is {v} units long
measures ; the length of {s} is {v} ; the distance between {a} and {b} is {v}
passive ; {s} is labelled {v} ; {s} is marked as {v} ; the length of {s} is given as {v}
reordered ; {v} is the length of {r} ; the {v} in the figure is the length of {r}
embedded ; looking at the diagram, I can see that side {s} is {v} units long, which will matter later
denied ; {s} is not {v} ; it would be wrong to say that {s} = {v} ; {s} ≠ {v} ; the length of {r} isn't {v}
things ; the length of {s} ; side {r}

angle
symbols ; ∠{g} = {p} ; ∠{h}={p} ; m∠{g} = {v} ; angle {g} = {p} ; ∠{g} = {v} degrees
latex ; $m\angle {g} = {q}$ ; $\angle {h} = {q}$ ; \(\angle {g} = {q}\) ; $\measuredangle {g} = {q}$
measures ; angle {g} has a measure of {v} degrees ; ∠{h} measures {p} ; the measure of angle {g} is {v}
passive ; angle {g} is labelled {p} ; ∠{g} is marked {p} in the diagram ; ∠{h} is given as {v} degrees
reordered ; {v} degrees is the size of angle {h} ; the {p} mark at {b} belongs to angle {h}
embedded ; I notice that the angle formed at {b}, namely ∠{g}, equals {p}, so that is a start
denied ; angle {g} is not {v} degrees ; ∠{g} ≠ {p} ; the measure of ∠{h} cannot be {p}
things ; angle {g} ; the measure of ∠{h}

equal lengths
symbols ; {s} = {t} ; {s} ≅ {t} ; {t} = {s} ; |{s}| = |{t}|
latex ; ${s} = {t}$ ; ${S} \cong {T}$ ; \({t} = {s}\)
measures ; {s} and {t} have the same length ; {s} is as long as {t} ; {s} and {t} are congruent
passive ; {s} and {t} are marked congruent ; {s} is shown to be equal to {t}
reordered ; equal in length are {t} and {r} ; the length of {u} equals that of {r}
embedded ; the tick marks show that {s} and {t} are equal, which makes things easier
denied ; {s} is not equal to {t} ; {s} ≠ {t} ; {s} and {t} do not have the same length
things ; the sides {s} and {t} ; the lengths of {s} and {t}

equal angles
symbols ; ∠{g} = ∠{k} ; ∠{g} ≅ ∠{k} ; m∠{k} = m∠{g}
latex ; $\angle {g} = \angle {k}$ ; $m\angle {g} = m\angle {k}$ ; \(\angle {h} \cong \angle {l}\)
measures ; angles {g} and {k} have the same measure ; angle {g} is congruent to angle {k}
passive ; angles {g} and {k} are marked equal ; ∠{g} is shown to be equal to ∠{k}
reordered ; equal to angle {l} is angle {h} ; the measure of ∠{k} is the same as that of ∠{h}
embedded ; the matching arcs tell us that ∠{g} and ∠{k} are equal, and this is the key step
denied ; angle {g} is not equal to angle {k} ; ∠{g} ≠ ∠{k} ; ∠{g} and ∠{k} aren't congruent
things ; angles {g} and {k} ; ∠{g} and ∠{k}

perpendicular
symbols ; {s} ⊥ {t} ; {t} ⊥ {s} ; {r} ⟂ {t}
latex ; ${S} \perp {T}$ ; ${s} \perp {t}$ ; \({t} \perp {s}\)
measures ; {s} and {t} meet at 90 degrees ; {s} makes a right angle with {t} ; {s} is perpendicular to {t}
passive ; {s} and {t} are marked perpendicular ; {s} is drawn at a right angle to {t}
reordered ; perpendicular to {t} is {r} ; {u} is perpendicular to {r} ; at right angles to {s} runs {t}
embedded ; the little square tells us that {s} is perpendicular to {t}, as expected
denied ; {s} is not perpendicular to {t} ; {s} and {t} do not meet at a right angle
things ; the segments {s} and {t} ; the angle between {s} and {t}

parallel
symbols ; {s} ∥ {t} ; {s} || {t} ; {t} // {s}
latex ; ${S} \parallel {T}$ ; ${s} \parallel {t}$ ; \({t} \parallel {s}\)
measures ; {s} and {t} are parallel ; line {s} is parallel to line {t} ; {s} and {t} are parallel lines
passive ; {s} and {t} are marked parallel ; {t} is drawn parallel to {s}
reordered ; {t} runs parallel to {s} ; parallel to {s} we have {u} ; {u} is parallel to {r}
embedded ; because of the arrows, {s} must be parallel to {t}, so alternate angles carry over
denied ; {s} and {t} are not parallel ; {s} isn't parallel to {t} ; it is not true that {s} ∥ {t}
things ; the lines {s} and {t} ; how {s} and {t} are related

on line
symbols ; {x} ∈ {s} ; point {x} on {s} ; {x} is on {r}
latex ; ${x} \in {S}$ ; ${x}$ is on ${S}$ ; \({x}\) lies on \({s}\)
measures ; {x} is a point on {s} ; {x} lies on line {s} ; {x}, {a} and {b} are collinear
passive ; {x} is placed on {s} ; {x} is located on {r}
reordered ; on {s} lies {x} ; {r} passes through {x} ; line {s} contains the point {x}
embedded ; we see that the point {x} lies on {s}, so this gives us a straight angle to work with
denied ; {x} does not lie on {s} ; {x} is not on line {s} ; {s} does not pass through {x}
things ; the point {x} and line {s} ; where {x} is relative to {s}

on circle
symbols ; {x} ∈ ⊙{o} ; {x} is on ⊙{o}
latex ; ${x} \in \odot {o}$ ; ${x}$ lies on $\odot {o}$
measures ; {x} is a point on circle {o} ; {x} lies on the circle with center {o}
passive ; {x} is placed on the circle centred at {o}
reordered ; the circle with centre {o} passes through {x} ; on circle {o} lies the point {x}
embedded ; since {x} sits on circle {o}, its distance from the center is just the radius
denied ; {x} is not on circle {o} ; {x} does not lie on the circle with center {o}
things ; the point {x} and circle {o} ; the distance from {o} to {x}

midpoint
symbols ; {x} = midpoint of {s} ; {x} is the midpoint of {r} ; {x} on {s} with {a}{x} = {x}{b}
latex ; ${x}$ is the midpoint of ${S}$ ; \({x}\) is the midpoint of \({r}\)
measures ; {x} is halfway between {a} and {b} ; {x} is the midpoint of segment {s}
passive ; {s} is bisected at {x}
reordered ; the midpoint of {r} is {x} ; halfway along {s} lies {x} ; {x} divides {r} into two equal parts
embedded ; the equal marks tell us that {x} is the middle of {s}, which is useful
denied ; {x} is not the midpoint of {s} ; {s} is not bisected at {x}
things ; the point {x} and segment {s} ; the lengths of {a}{x} and {x}{b}
"""
_PHRASES: dict[tuple[str, str], list[str]] = {}
for _block in _TABLE.strip().split("\n\n"):
    _kind, *_rows = _block.splitlines()
    for _style, *_clauses in (_row.split(" ; ") for _row in _rows):
        _PHRASES.setdefault((_kind, _style), []).extend(_clauses)
_FRAMES = {  # words around a plain clause
    "passive": (
        "it is given by the figure that {}",
        "we are told that {}",
        "it can be seen that {}",
    ),
    "embedded": (
        "from the picture it is clear that {}, and we will use this below",
        "okay, so the figure shows that {}, which we should keep in mind",
        "wait, let me check the picture again: {}, so I can use it",
    ),
}
_HINTS = ("we should look at {}", "let us think about {}", "the next step is to consider {}",
          "maybe {} will help us here", "we need to know more about {}", "I'm not sure yet about {}")  # fmt: skip
_OPENINGS = ("", "", "Okay, let's see.", "To solve this problem, let's analyze the figure step by step.",
             "Let me start with what the diagram gives us.")  # fmt: skip
_LINKS = (
    "",
    "",
    "",
    "next, ",
    "also, ",
    "we have that ",
    "then ",
    "moreover, ",
    "so ",
    "note that ",
)
_BOTH = ("{} and {}", "{}, and {}", "we know that {} and that {}", "{}, while {}", "{}; {}")
_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def _read(form: str) -> tuple[str, dict[str, str]]:
    for kind, pattern, names in _SHAPES:
        if found := re.fullmatch(pattern, form.strip()):
            got = dict(zip(names, found.groups(), strict=True))
            a, b, c, d, e, f = (got.get(name, "") for name in "abcdef")
            value = got.get("v", "")
            degrees = value if re.fullmatch(r"[\w.]*", value) else f"({value})"
            return kind, got | {
                "s": a + b, "r": b + a, "S": rf"\overline{{{a}{b}}}",
                "t": c + d, "u": d + c, "T": rf"\overline{{{c}{d}}}",
                "g": a + b + c, "h": c + b + a, "k": d + e + f, "l": f + e + d,
                "p": degrees + "°", "q": degrees + r"^\circ",
            }  # fmt: skip
    raise ValueError(f"no such shape: {form}")


def _sentence(clause: str) -> str:
    start = clause[0].upper() if re.match(r"[a-z]{2,}\b", clause) else clause[0]
    return start + clause[1:] + "."


def _spelled(value: str) -> str:
    if not re.fullmatch(r"\d{1,2}", value):
        return value
    tens, ones = divmod(int(value), 10)
    if tens < 2:
        return _SMALL[int(value)]
    return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")


def _clause(form: str, style: str, rng: random.Random) -> str:
    kind, fields = _read(form)
    if style == "spelled":
        word = _spelled(fields.get("v", ""))
        fields |= {"v": word, "p": f"{word} degrees"}
        text = rng.choice(_PHRASES[kind, "measures"]).format(**fields)
        return re.sub(r"\bone (unit|degree)s", r"one \1", text.replace("90 deg", "ninety deg"))
    if style == "joined":
        style = rng.choice(("measures", "symbols", "passive"))
    if style in _FRAMES and rng.random() < 0.5:
        return rng.choice(_FRAMES[style]).format(_clause(form, "measures", rng))
    return rng.choice(_PHRASES[kind, style]).format(**fields)


def _joined(forms: list[str], rng: random.Random) -> str:
    if len(forms) == 2:
        (kind, one), (other, two) = map(_read, forms)
        if kind == other == "length" and rng.random() < 0.3:
            return (
                f"{one['s']} and {two['s']} are {one['v']} and {two['v']} units long, respectively"
            )
        return rng.choice(_BOTH).format(*(_clause(form, "joined", rng) for form in forms))
    return _clause(forms[0], "joined", rng)


def _computing(forms: list[str], answer: str, rng: random.Random) -> list[str]:
    values = [_read(form)[1].get("v", "") for form in forms]
    numbers = [float(value) for value in values if re.fullmatch(r"\d+(\.\d+)?", value)]
    lines = []
    if len(numbers) > 1 and rng.random() < 0.7:
        one, two = rng.sample(numbers, 2)
        lines.append(f"First I compute {one:g} + {two:g} = {one + two:g}.")
    elif numbers and rng.random() < 0.7:
        lines.append(f"Doubling it, we get 2 × {numbers[0]:g} = {2 * numbers[0]:g}.")
    closings = ("Simplifying, we get {}.", "Therefore, the answer is {}.", "Solving this gives {}.")
    return [*lines, rng.choice(closings).format(answer)]


def render(form: str, style: str, rng: random.Random) -> str:
    """One sentence that truly states the fact in a style."""
    return _sentence(_clause(form, style, rng))


def negate(form: str, rng: random.Random) -> str:
    """A sentence that denies the fact."""
    kind, fields = _read(form)
    return _sentence(rng.choice(_PHRASES[kind, "denied"]).format(**fields))


def contradict(form: str, rng: random.Random) -> str:
    """A sentence that gives a numeric fact another value.

    Raises:
        ValueError: the fact has no number.
    """
    value = _read(form)[1].get("v", "")
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        raise ValueError(f"no number in {form}")
    other = f"{float(value) + rng.choice((1, 2, 5, 10)):g}"
    style = rng.choice([style for style in STYLES if style != "spelled"])
    return render(f"{form.strip()[: -len(value) - 1]}{other})", style, rng)


def hint(form: str, rng: random.Random) -> str:
    """A sentence about the same things that does not state the fact."""
    kind, fields = _read(form)
    things = rng.choice(_PHRASES[kind, "things"]).format(**fields)
    return _sentence(rng.choice(_HINTS).format(things))


def render_solution(forms: list[str], style: str, rng: random.Random, answer: str) -> str:
    """A whole response that states the facts in a style, with connecting words and a short computation."""
    size = 2 if style == "joined" else 1
    groups = [forms[k : k + size] for k in range(0, len(forms), size)]
    told = [
        _joined(group, rng) if style == "joined" else _clause(group[0], style, rng)
        for group in groups
    ]
    mark = rng.choice(("", "", "- ", "{}. "))  # prose, or a list with marks or numbers
    linked = not mark and style not in ("embedded", "joined")
    lines = [
        mark.format(k) + _sentence((rng.choice(_LINKS) if linked and k > 1 else "") + text)
        for k, text in enumerate(told, 1)
    ]
    opening, computing = rng.choice(_OPENINGS), _computing(forms, answer, rng)
    if mark and rng.random() < 0.5:
        lines = [line[:-1] for line in lines]
    if not mark and rng.random() < 0.5:  # one paragraph
        lines, computing = [" ".join(lines)], [" ".join(computing)]
    body = "\n".join(filter(None, [opening, *lines, *computing]))
    return f"<think>\n{body}\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>"
