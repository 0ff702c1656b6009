r"""Reading a sentence: which fact does it state, if any? By the grammar of `sentences`, and by short notations.

A statement is read whole or not at all: `AB = 5`, `\angle ABC = 40^\circ`, "The length of segment AB is 5."; no
denials, no guesses, no two facts in one.
"""

import functools
import re

from perception_r1.facts.forms import Call, FactError, Term, parse
from perception_r1.facts.sentences import from_sentence, to_sentence

MAX_NOTATION = 120  # characters of a statement in short notation

# What people write beside full sentences, each as a logic form; points are capital letters.
_SIDE = r"(?:(?:[Ss]egment|[Ss]ide|[Ll]ine) )?([A-Z]'?)([A-Z]'?)"
_ANGLE = r"[Aa]ngle ([A-Z]'?)([A-Z]'?)([A-Z]'?)"
# 5, x+21, 2\sqrt{3}
_VALUE = r"((?:\\(?:frac|sqrt|pi)|[\d.+\-*/^(){}]|(?<![a-z\\])[a-z](?![a-z]))+)"
_NOTATIONS = {
    f"{_SIDE} (?:=|is|measures) {_VALUE}": "Equals(LengthOf(Line({0}, {1})), {2})",
    f"{_ANGLE} (?:=|is|measures) {_VALUE}": "Equals(MeasureOf(Angle({0}, {1}, {2})), {3})",
    f"{_SIDE} (?:=|equals) {_SIDE}": "Equals(LengthOf(Line({0}, {1})), LengthOf(Line({2}, {3})))",
    f"{_SIDE} is parallel to {_SIDE}": "Parallel(Line({0}, {1}), Line({2}, {3}))",
    f"{_SIDE} is perpendicular to {_SIDE}": "Perpendicular(Line({0}, {1}), Line({2}, {3}))",
    f"(?:[Pp]oint )?([A-Z]'?) (?:is|lies) on {_SIDE}": "PointLiesOnLine({0}, Line({1}, {2}))",
}
_SYMBOLS = {  # in this order
    r"\\angle\b|∠": " angle ",
    r"\\parallel\b|∥": " is parallel to ",
    r"\\perp\b|⊥": " is perpendicular to ",
    r"\\overline\{([A-Z']+)\}": r"\1",
    r"\^\{?\\circ\}?|°|\$": "",
    r"(?<! )=|=(?! )": " = ",
    r"\bm *(?=angle )": "",
    r"\s+": " ",
}
_PLAIN = set(
    "Equals Perpendicular Parallel PointLiesOnLine PointLiesOnCircle Tangent IsMidpointOf IsDiameterOf IsRadiusOf "
    "IsChordOf LengthOf MeasureOf AreaOf PerimeterOf Line Angle Arc Circle Triangle Quadrilateral Parallelogram "
    "Rectangle Square Rhombus Kite Trapezoid".split()
)


@functools.lru_cache(maxsize=2**14)  # policies repeat themselves
def read_statement(sentence: str) -> Call | None:
    r"""Read one plain statement of one fact: the world's own sentences, or short notation (`\angle ABC = 40^\circ`).

    It reads whole sentences about points with capital names, or nothing (None): no negations, no passages with
    more in them than one fact.
    """
    text = sentence.strip()
    try:
        fact = from_sentence(text)
    except FactError:
        return _read_notation(text)
    # The grammar of `sentences` covers all of Geometry3K and takes many words for names; we do not.
    return fact if _is_plain(fact) and to_sentence(fact) == text else _read_notation(text)


def split_sentences(text: str) -> list[str]:
    """The sentences of a chain of thought: its lines, cut after full stops; without the answer block and tags."""
    thoughts = re.sub(r"(?s)<answer>.*", "", text)
    thoughts = re.sub(r"</?think>", "\n", thoughts)
    parts = (part for line in thoughts.splitlines() for part in re.split(r"(?<=[.!?])\s+", line))
    return [part.strip() for part in parts if part.strip()]


def _is_plain(fact: Term) -> bool:
    """Whether a fact speaks of known things: points by capital letters, angles by number, circles."""
    if isinstance(fact, str):
        return re.fullmatch(r"[A-Z]'?|angle \d+|radius_\d+_\d+", fact) is not None
    if fact.name == "Equals" and len(fact.args) == 2 and isinstance(fact.args[1], str):
        return _is_plain(fact.args[0]) and re.fullmatch(_VALUE, fact.args[1]) is not None
    return fact.name in _PLAIN and all(map(_is_plain, fact.args))


def _read_notation(text: str) -> Call | None:
    text = text.rstrip(".")
    if len(text) > MAX_NOTATION:
        return None
    for symbol, words in _SYMBOLS.items():
        text = re.sub(symbol, words, text)
    for pattern, form in _NOTATIONS.items():
        if match := re.fullmatch(pattern, text.strip()):
            try:
                return parse(form.format(*match.groups()))
            except FactError:
                return None
    return None
