r"""What an answer's text names: a letter, a word, a number, or other LaTeX, with its name and unit.

Read by our own rules (`$`, units, degrees, thousands separators, `x = 5`, option letters); `answers` compares.
"""

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from perception_r1.common.errors import InputError

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


_UNICODE = str.maketrans(
    "−–÷：，（）\u00a0\u2009\u202f" + "".join(chr(0xFF10 + digit) for digit in range(10)),
    "--/:,()   0123456789",
)
_UNICODE |= {
    ord(sign): latex
    for sign, latex in zip(
        "×·π∞°º²³≈∠√½¼¾",
        r"\times |\cdot |\pi |\infty |^\circ|^\circ|^2|^3|\approx |\angle |\sqrt|"
        r"\frac{1}{2}|\frac{1}{4}|\frac{3}{4}".split("|"),
        strict=True,
    )
}
_WORDS = "text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname"
_REWRITE = [
    (re.compile(pattern), new)
    for pattern, new in [
        (r"\\\\(?=[a-zA-Z])", r"\\"),  # a doubled backslash, as JSON text has it
        (r"\\[()\[\]]|\\?\$|\*\*|\\displaystyle|\\(?:left|right|[Bb]igg?)(?![a-zA-Z])\.?", " "),
        (r"(?<=\d)(?:\{,\}|\\[,!;: ]|\\,\\!)(?=\d{3}(?!\d))", ","),  # 1{,}234 and 1\,234
        (r"\\[,!;: ]|~|\\q?quad(?![a-zA-Z])", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (rf"\\(?:{_WORDS})\s*\{{([^{{}}]*)\}}", r" \1 "),
        (r"\\boxed\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r" \1 "),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"\s+", " "),
    ]
]
_UNITS = {
    "degree": r"\^ ?\{? ?\\circ ?\}?|\\degree|\\deg|(?<=[\d}) {])deg(?:rees?)?",
    "radian": r"rad(?:ians?)?",
    "mm": r"mm|millimet(?:er|re)s?",
    "cm": r"cm|centimet(?:er|re)s?",
    "km": r"km|kilomet(?:er|re)s?",
    "m": r"m|met(?:er|re)s?",
    "in": r"(?<= )in|inch(?:es)?",
    "ft": r"ft|foot|feet",
    "yd": r"yds?|yards?",
    "mi": r"(?<= )mi|miles?",
    "": r"units?",  # "5 units" says nothing
}
_UNIT = re.compile(
    r"(?<=[\d}) ({i])\{? ?(?P<power>square|sq\.?|cubic|cu\.?)? ?(?:"
    + "|".join(f"(?P<unit{k}>{pattern})" for k, pattern in enumerate(_UNITS.values()))
    + r")\.? ?(?:\^? ?\{? ?(?P<exponent>[23]) ?\}?)? ?\}?$"
)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?) ?(?:\^ ?\{? ?\\circ ?\}?|\\degree)")
_NAME = re.compile(r"(?:\\(?:angle|overline|widehat|triangle)|[a-zA-Z '{}])+(?:_ ?\{?\w+\}?)?")
_LETTER = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice) )?\(?([A-Ea-e])(?: ?\)| ?[.:])?(?:(?<=[).:]) (?P<rest>.*))?"
)
_HEDGE = re.compile(r"(?:or|and)\b|.*(?:\([A-E]\)|\b[A-E][.:](?: |$))")
_SIGNED = r"([-+]?) ?"
_NUMBER = re.compile(_SIGNED + r"(\d+\.?\d*|\.\d+)")
_RATIO = re.compile(_SIGNED + r"(\d+) ?[/:] ?([-+]?\d+)")
_FRAC = re.compile(_SIGNED + r"(\d+)? ?\\frac ?\{ ?([-+]?\d+) ?\} ?\{ ?([-+]?\d+) ?\}")
_MIXED = re.compile(_SIGNED + r"(\d+) (\d+) ?/ ?(\d+)")
_THOUSANDS = re.compile(
    r"(?<![\d.,({\[] )(?<![\d.,({\[])\d{1,3}(?:,\d{3})+(?![\d,])|^\d{1,3}(?: \d{3})+$"
)
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "and", "arcsin", "arccos", "arctan"}


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
    text = re.sub(r"√ ?(\d+)", r"\\sqrt{\1}", text).translate(_UNICODE)
    for pattern, new in _REWRITE:
        text = pattern.sub(new, text)
    text = text.strip().rstrip(" .,;")
    _check_shape(text)
    letter = _LETTER.fullmatch(text)
    if letter and (letter[1].isupper() or ")" in text):  # a lone "a" may be a variable
        if _HEDGE.match(letter["rest"] or ""):
            raise InputError("more than one option")
        return AnswerValue("letter", letter[1].upper())
    text = _exact_part(text)
    text, unit = _split_unit(text)
    text, name = _split_name(text)
    text = _THOUSANDS.sub(lambda number: re.sub("[, ]", "", number[0]), text)
    return replace(_classify(text), name=name, unit=unit)


def _check_shape(text: str) -> None:
    """Refuse what no answer looks like, before anything slow sees it."""
    if not re.search(r"[A-Za-z0-9]", text):
        raise InputError("empty, or nothing but signs")
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        raise InputError(f"a number of more than {MAX_DIGITS} digits")
    depth = 0
    for sign in re.findall(r"[(\[{)\]}]", text):
        depth += 1 if sign in "([{" else -1
        if depth > MAX_DEPTH:
            raise InputError(f"brackets nested more than {MAX_DEPTH} deep")
    if re.search(r"\^ ?\{[^{}]*\^ ?\{[^{}]*\^", text):
        raise InputError("a tower of powers")


def _exact_part(text: str) -> str:
    r"""`5\sqrt{3} \approx 8.66` -> `5\sqrt{3}`, but `x \approx 8.66` -> `x = 8.66`."""
    exact, approximately, rest = (part.strip() for part in text.partition(r"\approx"))
    return f"{exact} = {rest}" if approximately and _NAME.fullmatch(exact) else exact


def _split_unit(text: str) -> tuple[str, str]:
    r"""`25 cm^2` -> (`25`, `cm2`); `60^\circ` -> (`60`, `degree`); `24 students` -> (`24`, ``)."""
    if re.search(r"\\(?:sin|cos|tan|cot)(?![a-z])", text):  # sin 30^\circ is not sin 30
        return _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text), ""
    match = _UNIT.search(text)
    if not match:
        return re.sub(r"(?<=\d)(?: [A-Za-z]{4,})+$", "", text), ""
    unit = next(u for k, u in enumerate(_UNITS) if match[f"unit{k}"])
    power = match["exponent"] or {"s": "2", "c": "3"}.get((match["power"] or " ")[0], "")
    return text[: match.start()].strip(), unit and unit + power


def _split_name(text: str) -> tuple[str, str]:
    r"""`x = 10 / 2 = 5` -> (`5`, `x`); sets, systems and equations with letters stay as they are."""
    parts = [part.strip() for part in re.split(r"(?<![<>!\\])=", text)]
    letters = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", parts[-1]))
    if len(parts) < 2 or not all(parts) or letters or "," in text or not _NAME.fullmatch(parts[0]):
        return text, ""
    return parts[-1], re.sub(r"\\[a-z]+|^m(?= ?\\)|[^\w]", "", parts[0])


def _classify(text: str) -> AnswerValue:
    """What is left after names and units: a number, a word, or LaTeX for math-verify."""
    try:
        if m := _NUMBER.fullmatch(text):
            return AnswerValue("number", text, Fraction(m[1] + m[2]), decimal="." in m[2])
        if m := _RATIO.fullmatch(text):
            return AnswerValue("number", text, Fraction(int(m[1] + m[2]), int(m[3])))
        if m := _FRAC.fullmatch(text) or _MIXED.fullmatch(text):
            size = int(m[2] or 0) + Fraction(int(m[3]), int(m[4]))
            return AnswerValue("number", text, -size if m[1] == "-" else size)
    except ZeroDivisionError as error:
        raise InputError("division by zero") from error
    if re.fullmatch(r"[A-Za-z]{3,}|no|NA|na|[Nn]/[Aa]", text):
        return AnswerValue("word", text)
    words = set(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)) - _FUNCTIONS
    if len(words) > 1 and max(map(len, words)) > 3:
        raise InputError("prose, not an answer; give the value alone")
    if re.search(r"\d \d", text):  # math-verify adds the two
        raise InputError("two numbers side by side")
    return AnswerValue("latex", text)
