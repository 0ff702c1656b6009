"""Geometry facts in foreign phrasings: how people and language models write, not how this project does.

It imports nothing of the project and reads logic forms with regular expressions of its own, so that what is
measured with it shares no code with what it measures.
"""

import random
import re

STYLES = ("symbols", "latex", "measures", "passive", "reordered", "embedded", "joined", "spelled")

_SHAPES = (
    ("length", r"Equals\(LengthOf\(Line\((\w'?), (\w'?)\)\), ([^()]+)\)"),
    ("angle", r"Equals\(MeasureOf\(Angle\((\w'?), (\w'?), (\w'?)\)\), ([^()]+)\)"),
    (
        "equal lengths",
        r"Equals\(LengthOf\(Line\((\w'?), (\w'?)\)\), LengthOf\(Line\((\w'?), (\w'?)\)\)\)",
    ),
    ("perpendicular", r"Perpendicular\(Line\((\w'?), (\w'?)\), Line\((\w'?), (\w'?)\)\)"),
    ("parallel", r"Parallel\(Line\((\w'?), (\w'?)\), Line\((\w'?), (\w'?)\)\)"),
    ("on line", r"PointLiesOnLine\((\w'?), Line\((\w'?), (\w'?)\)\)"),
    ("on circle", r"PointLiesOnCircle\((\w'?), Circle\((\w'?)\)\)"),
    ("midpoint", r"IsMidpointOf\((\w'?), Line\((\w'?), (\w'?)\)\)"),
)

# kind -> style -> sentences; {0}, {1}, ... are the points and the value, in the order of the logic form
_PHRASES = {
    "length": {
        "symbols": ("{0}{1} = {2}", "|{0}{1}| = {2}", "{1}{0}={2}."),
        "latex": ("${0}{1} = {2}$", r"$\overline{{{0}{1}}} = {2}$", r"\({1}{0}={2}\)"),
        "measures": ("segment {0}{1} measures {2}", "Side {1}{0} has a length of {2} units."),
        "passive": ("{0}{1} is labelled {2}.", "It is given by the figure that {0}{1} is {2}."),
        "reordered": ("{2} is the length of {1}{0}.", "There are {2} units between {0} and {1}."),
        "embedded": (
            "Looking at the diagram, I can see that side {0}{1} is {2} units long, which will matter later.",
            "First, note that the distance from {0} to {1} equals {2}, so let us keep that in mind.",
        ),
    },
    "angle": {
        "symbols": ("∠{0}{1}{2} = {3}°", "∠{2}{1}{0}={3}°.", "m∠{0}{1}{2} = {3}"),
        "latex": (r"$\angle {0}{1}{2} = {3}^\circ$", r"$m\angle {2}{1}{0} = {3}^{{\circ}}$"),
        "measures": (
            "angle {0}{1}{2} has a measure of {3} degrees",
            "The angle at {1} measures {3} degrees ({0}{1}{2}).",
        ),
        "passive": ("Angle {0}{1}{2} is marked {3}°.", "We are told that ∠{0}{1}{2} is {3} degrees."),
        "reordered": ("{3} degrees is the size of angle {2}{1}{0}.", "At {1}, rays {0} and {2} open by {3}°."),
        "embedded": (
            "From the picture it is clear that angle {0}{1}{2} is {3}°, and we will use this below.",
            "The diagram tells us ∠{2}{1}{0} is {3} degrees, which is what we need.",
        ),
    },
    "equal lengths": {
        "symbols": ("{0}{1} = {2}{3}", "{0}{1} ≅ {2}{3}"),
        "latex": ("${0}{1} = {2}{3}$", r"$\overline{{{0}{1}}} \cong \overline{{{2}{3}}}$"),
        "measures": ("{0}{1} and {2}{3} have the same length", "{0}{1} is as long as {2}{3}."),
        "passive": ("{0}{1} and {2}{3} are marked congruent.", "{0}{1} is shown equal to {2}{3}."),
        "reordered": ("Equal in length are {2}{3} and {1}{0}.", "{2}{3} matches {0}{1}."),
        "embedded": ("The tick marks show that {0}{1} and {2}{3} are equal, which makes things easy.",),
    },
    "perpendicular": {
        "symbols": ("{0}{1} ⊥ {2}{3}", "{2}{3} ⊥ {0}{1}."),
        "latex": (r"$\overline{{{0}{1}}} \perp \overline{{{2}{3}}}$", r"${0}{1} \perp {2}{3}$"),
        "measures": ("{0}{1} and {2}{3} meet at 90 degrees", "{0}{1} makes a right angle with {2}{3}."),
        "passive": ("A right angle is marked between {0}{1} and {2}{3}.",),
        "reordered": ("Perpendicular to {2}{3} is {0}{1}.", "{3}{2} is perpendicular to {1}{0}"),
        "embedded": ("The little square tells us that {0}{1} is perpendicular to {2}{3}, as expected.",),
    },
    "parallel": {
        "symbols": ("{0}{1} ∥ {2}{3}", "{0}{1} || {2}{3}"),
        "latex": (r"$\overline{{{0}{1}}} \parallel \overline{{{2}{3}}}$", r"${0}{1} \parallel {2}{3}$"),
        "measures": ("{0}{1} and {2}{3} are parallel", "{0}{1} never meets {2}{3}."),
        "passive": ("{0}{1} and {2}{3} are marked parallel.", "{2}{3} is drawn parallel to {0}{1}."),
        "reordered": ("{2}{3} runs parallel to {0}{1}.", "Parallel to {0}{1} we have {3}{2}."),
        "embedded": ("Because of the arrows, {0}{1} must be parallel to {2}{3}, so angles carry over.",),
    },
    "on line": {
        "symbols": ("{0} ∈ {1}{2}",),
        "latex": (r"${0} \in \overline{{{1}{2}}}$", r"${0}$ is on $\overline{{{1}{2}}}$"),
        "measures": ("{0} is a point of segment {1}{2}", "{0} is on {1}{2}"),
        "passive": ("{0} is placed on side {1}{2}.", "{1}{2} is divided by the point {0}."),
        "reordered": ("On {1}{2} lies {0}.", "{2}{1} passes through {0}."),
        "embedded": ("We see a point {0} somewhere between {1} and {2}, which splits the side.",),
    },
    "on circle": {
        "symbols": ("{0} ∈ ⊙{1}",),
        "latex": (r"${0} \in \odot {1}$",),
        "measures": ("{0} is a point of circle {1}", "{0} is on the circle with centre {1}."),
        "passive": ("{0} is placed on the circle around {1}.",),
        "reordered": ("The circle around {1} passes through {0}.",),
        "embedded": ("Since {0} sits on circle {1}, its distance from {1} is a radius.",),
    },
    "midpoint": {
        "symbols": ("{1}{0} = {0}{2}",),
        "latex": (r"${1}{0} = {0}{2}$", r"${0}$ is the midpoint of $\overline{{{1}{2}}}$"),
        "measures": ("{0} is halfway between {1} and {2}", "{0} is the midpoint of {1}{2}."),
        "passive": ("{1}{2} is bisected at {0}.",),
        "reordered": ("The midpoint of {2}{1} is {0}.",),
        "embedded": ("The equal marks tell us {0} is the middle of {1}{2}, which is useful.",),
    },
}  # fmt: skip
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_LINKS = ("", "", "Next, ", "Also, ", "We have ", "Then we note: ")


def _parts(form: str) -> tuple[str, tuple[str, ...]]:
    for kind, pattern in _SHAPES:
        if found := re.fullmatch(pattern, form):
            return kind, found.groups()
    raise ValueError(f"no such shape: {form}")


def _phrase(form: str, style: str, rng: random.Random) -> str:
    kind, parts = _parts(form)
    return rng.choice(_PHRASES[kind][style]).format(*parts)


def render(form: str, style: str, rng: random.Random) -> str:
    """One sentence that truly states the fact in a style."""
    if style == "joined":
        return _phrase(form, rng.choice(("measures", "symbols")), rng)
    if style == "spelled":
        text = _phrase(form, "measures", rng)
        return re.sub(r"\b\d+\b", lambda n: _WORDS[int(n[0])] if int(n[0]) < 13 else n[0], text)
    return _phrase(form, style, rng)


def negate(form: str, rng: random.Random) -> str:
    """A sentence that denies the fact."""
    kind, parts = _parts(form)
    denials = {
        "length": ("{0}{1} is not {2}.", "It would be wrong to say that {0}{1} = {2}."),
        "angle": ("Angle {0}{1}{2} is not {3} degrees.", "∠{0}{1}{2} ≠ {3}°"),
        "equal lengths": ("{0}{1} is not equal to {2}{3}.",),
        "perpendicular": ("{0}{1} is not perpendicular to {2}{3}.",),
        "parallel": ("{0}{1} and {2}{3} are not parallel.",),
        "on line": ("{0} does not lie on {1}{2}.",),
        "on circle": ("{0} is not on circle {1}.",),
        "midpoint": ("{0} is not the midpoint of {1}{2}.",),
    }
    return rng.choice(denials[kind]).format(*parts)


def contradict(form: str, rng: random.Random) -> str:
    """A sentence that gives a numeric fact another value.

    Raises:
        ValueError: the fact has no number.
    """
    number = re.search(r", (\d+)\)$", form)
    if not number:
        raise ValueError(f"no number in {form}")
    other = int(number[1]) + rng.choice((1, 2, 5, 10))
    return render(f"{form[: number.start()]}, {other})", rng.choice(STYLES[:3]), rng)


def hint(form: str, rng: random.Random) -> str:
    """A sentence about the same things that does not state the fact."""
    _, parts = _parts(form)
    points = ", ".join(part for part in parts if re.fullmatch(r"[A-Z]'?", part))
    return rng.choice(
        (
            f"We should look at the points {points}.",
            f"What do we know about {points}?",
            f"Let us find what {points} tell us.",
        )
    )


def render_solution(forms: list[str], style: str, rng: random.Random, answer: str) -> str:
    """A whole response that states the facts in a style, with connecting words and a short computation."""
    told = [render(form, style, rng).rstrip(".") for form in forms]
    if style == "joined":
        told = [" and ".join(told[k : k + 2]) for k in range(0, len(told), 2)]
    links = [rng.choice(_LINKS) if style not in ("symbols", "latex") else "" for _ in told]
    lines = "\n".join(f"{link}{text}." for link, text in zip(links, told, strict=True))
    closing = rng.choice(
        ("Putting this together gives the result.", "Now we compute the requested value.")
    )
    return f"<think>\n{lines}\n{closing}\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>"
