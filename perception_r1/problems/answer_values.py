r"""What an answer's text names: a letter, a word, a number, or other LaTeX, with its name and unit.

Read by our own rules (`$`, units, degrees, thousands separators, `x = 5`, option letters); `answers` compares.
"""

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from perception_r1.common.errors import InputError
from perception_r1.problems.answer_text import RULES, patterns, plain_text
from perception_r1.problems.option_letters import LETTER_PATTERNS, option_letter
from perception_r1.problems.units import split_unit

MAX_CHARACTERS = 1000  # of one answer, not of a response
MAX_DEPTH = 30  # of nested brackets
MAX_DIGITS = 100  # of one number


@dataclass(frozen=True)
class AnswerValue:
    """An answer, read.

    Attributes:
        kind: "letter" (of an option), "word" (isosceles), "number", or "latex" for all else.
        value: normalised text, without name and unit.
        number: of kind "number", exact.
        decimal: whether the number was written with a decimal point.
        name: the unknown that it was given for, "" if none.
        unit: "cm", "cm2", "degree", ...; "" if none.
    """

    kind: Literal["letter", "word", "number", "latex"]
    value: str
    number: Fraction | None = None
    decimal: bool = False
    name: str = ""
    unit: str = ""


COUNTS = RULES["words"]["count"].split()
_FUNCTIONS = set(RULES["words"]["function"].split())
_PATTERNS = patterns(RULES["values"], multiple="|".join(RULES["multiples"]))


@functools.lru_cache(4096)
def read_answer(text: str) -> AnswerValue:
    r"""Read one answer: `$x = 60^\circ$` is the number 60, named x, in degrees.

    Raises:
        InputError: empty, too long, too deep, garbled, or prose.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{len(text)} characters long, more than {MAX_CHARACTERS}")
    if any(ord(c) < 32 and c not in "\t\n\r" for c in text):
        raise InputError(r"a control character, as from '\f' of an unescaped '\frac'")
    text = plain_text(text)
    _check_shape(text)
    if LETTER_PATTERNS.gold.fullmatch(text) and (letter := option_letter(text)):
        return AnswerValue("letter", letter)
    text = _exact_part(text)
    if re.search(r"\\(?:sin|cos|tan|cot)(?![a-z])", text):  # sin 30^\circ is not sin 30
        text = _PATTERNS.degrees.sub(r"(\\frac{\1 \\pi}{180})", text)
    text = _PATTERNS.thousands.sub(lambda number: re.sub("[, ]", "", number[0]), text)
    text = _counted(text)
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        raise InputError(f"a number of more than {MAX_DIGITS} digits")
    text, unit = split_unit(text)
    text, name = _split_name(text)
    return replace(_classify(text.replace("°", " ").strip()), name=name, unit=unit)


def _check_shape(text: str) -> None:
    """Refuse what no answer looks like, before anything slow sees it."""
    if not re.search(r"[^\W_]", text):
        raise InputError("empty, or nothing but signs")
    depth = 0
    for sign in re.findall(r"[(\[{)\]}]", text):
        depth += 1 if sign in "([{" else -1
        if depth > MAX_DEPTH:
            raise InputError(f"brackets nested more than {MAX_DEPTH} deep")
    if re.search(r"\^ ?\{[^{}]*\^ ?\{[^{}]*\^", text):
        raise InputError("a tower of powers")


def _exact_part(text: str) -> str:
    r"""`5\sqrt{3} (\approx 8.66)` -> `5\sqrt{3}`, but `x \approx 8.66` -> `x = 8.66`, and `about 8.66` -> `8.66`."""
    sign = _PATTERNS.approximately.search(text)
    if not sign:
        return text
    exact = _PATTERNS.given_twice.sub("", text[: sign.start()]).strip()
    rest = text[sign.end() :].strip()
    return f"{exact} = {rest}" if exact and _PATTERNS.name.fullmatch(exact) else exact or rest


def _counted(text: str) -> str:
    """Number words as digits: `3 hundred` -> `300`, `two thirds` -> `2/3`."""
    first, _, others = text.partition(" ")
    if first.casefold() in COUNTS:
        text = f"{COUNTS.index(first.casefold())} {others}".strip()
    while match := _PATTERNS.multiple.search(text):
        number = Fraction(match[1]) * Fraction(RULES["multiples"][match[2]])
        text = f"{text[: match.start()]}{number}{text[match.end() :]}"
    return text


def _split_name(text: str) -> tuple[str, str]:
    r"""`x = 10 / 2 = 5` -> (`5`, `x`), `x = 3 or x = 2` -> (`3 , 2`, `x`); systems and equations stay as they are."""
    names = set(_PATTERNS.named.findall(text))
    if len(names) == 1 and _PATTERNS.several.match(text):
        return _PATTERNS.between.sub(",", _PATTERNS.named.sub("", text)), names.pop()
    parts = [part.strip() for part in re.split(r"(?<![<>!\\])=", text)]
    named = len(parts) > 1 and all(parts) and _PATTERNS.name.fullmatch(parts[0])
    if not named or "," in text or re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", parts[-1])):
        return text, ""
    return parts[-1], re.sub(r"\\[a-z]+|^m(?= ?\\)|[^\w]", "", parts[0])


def _classify(text: str) -> AnswerValue:
    """What is left after names and units: a number, a word, or LaTeX for math-verify."""
    try:
        if m := _PATTERNS.number.fullmatch(text):
            power = int((m[3] or m[4] or "0").replace(" ", ""))
            size = Fraction(m[1] + m[2]) * Fraction(10) ** power
            return AnswerValue("number", text, size, decimal="." in m[2])
        if m := _PATTERNS.hour.fullmatch(text):
            return AnswerValue("word", m[1])
        if m := _PATTERNS.ratio.fullmatch(text):
            return AnswerValue("number", text, Fraction(m[1] + m[2]) / Fraction(m[3]))
        if m := _PATTERNS.fraction.fullmatch(text) or _PATTERNS.mixed.fullmatch(text):
            size = int(m[2] or 0) + Fraction(int(m[3]), int(m[4]))
            return AnswerValue("number", text, -size if m[1] == "-" else size)
    except ZeroDivisionError as error:
        raise InputError("division by zero") from error
    if _PATTERNS.terms.fullmatch(text):
        terms = [Fraction(term) for term in text.replace(" ", "").split(":")]
        return AnswerValue("word", ":".join(str(term / (terms[0] or 1)) for term in terms))
    words = set(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)) - _FUNCTIONS
    if words and (word := _PATTERNS.word.fullmatch(text)):
        return AnswerValue("word", word[1])
    if len(words) > 1 and max(map(len, words)) > 3:
        raise InputError("prose, not an answer; give the value alone")
    if re.search(r"\d \d", text):  # math-verify adds the two
        raise InputError("two numbers side by side")
    sides = {side.strip() for side in text.split("=")}
    if len(sides) > 1 and all(map(_PATTERNS.number.fullmatch, sides)):
        raise InputError("two numbers set equal")
    return AnswerValue("latex", text)
