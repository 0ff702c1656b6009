r"""How benchmarks' authors score responses, their rules as they are, mistakes included. Used for method "official".

Written from the rules of MATH-Vision (github.com/mathllm/MATH-V, evaluation/), MathVista
(github.com/lupantech/MathVista, evaluation/calculate_score.py), both tested on published results, and We-Math
(github.com/We-Math/We-Math, evaluation/), by hand.

Each of these has one function, response and item to (extracted, right), and its parts. MathVerse is scored by a
language model; of MMMU, MMMU-Pro, MMStar and EMMA no published result was at hand on which to test rules: their
authors' repositories have them. Rules without the authors' mistakes, for all eight, stand in `our_rules`.
"""

import contextlib
import functools
import operator
import re
from collections.abc import Callable, Mapping

from perception_r1.evaluation.our_rules import LETTERS, NUMERIC, Item, extract
from perception_r1.facts import expressions

# --- MATH-Vision -----------------------------------------------------------------------------------

_PHRASES = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
# In this order; each leaves something that a later one may find.
_DROPPED = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""),
    ("\\text", ""), ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""),
    ("{km}", ""), ("km", ""), ("\\!", ""), ("tfrac", "frac"), ("dfrac", "frac"), ("\\$", ""),
    ("$", ""), ("\\%", ""), ("{.", "{0."),
)  # fmt: skip


def mathvision(response: str, item: Item) -> tuple[str, bool]:
    """MATH-Vision's rules; answers are in small letters and without spaces.

    An option letter at the response's beginning or end; else the number after the last "is "; else what follows a
    phrase such as "the answer is"; else the last box, or the whole response. Of an equation the last side.
    """
    text = response.strip()
    for letter in "ABCDE":
        ends = (f" {letter}.", f" ({letter}).")
        begins = (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if text.endswith(ends) or text.startswith(begins):
            text = letter
    last = text.split("is ")[-1].rstrip(".")
    if _is_number(last):
        text = last
    if "oxed{" not in text:
        for phrase in _PHRASES:
            for flag in (phrase, phrase.replace("the", "The")):
                announced = flag in text
                text = text.split(flag)[-1].strip()
                if announced:
                    text = text.split("\n")[0].split(". ")[0]
    elif text.count("oxed{") > 1:
        text = "\\boxed{" + text.split("oxed{")[-1]
    text = _bare(text)
    text = re.sub(r"\(([a-e])\)", r"\1", text)
    text = re.sub(r"\{([a-e])\}", r"\1", text)
    answer = text.rstrip(".").lstrip(":").strip()
    return answer, equal_by_value(answer, item)


def _bare(text: str) -> str:
    """The box's content, or all of the text, without LaTeX's clothes."""
    text = text.lower().replace("{}", "")
    if boxes := re.findall(r"oxed{(.*)}", text, flags=re.DOTALL):
        text = boxes[-1]
    close, opening = text.find("}"), text.find("{")
    if close >= 0 and (opening < 0 or close < opening):
        text = text[:close]
    text = text.split("=")[-1].split("\\approx")[-1]
    for old, new in _DROPPED:
        text = text.replace(old, new)
    if text.startswith("."):
        text = "0" + text
    if "\\sqrt" in text:
        text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)
        text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    if text == "0.5":
        return "\\frac{1}{2}"
    return re.sub(r"^(0|-?[1-9]\d*)/(0|-?[1-9]\d*)\Z", r"\\frac{\1}{\2}", text)


def equal_by_value(answer: str, item: Item) -> bool:
    """Whether MATH-Vision's rules take an answer for the gold one, or for the text of the gold option.

    Numbers are compared after rounding to two places: 1/300 counts as 1/900.
    """
    wanted = [item.answer]
    if item.answer in list(LETTERS[: len(item.options)]):
        wanted.append(item.options[LETTERS.index(item.answer)])
    return any(_equal(gold.lower(), answer.lower()) for gold in wanted)


def _equal(gold: str, answer: str) -> bool:
    if gold.strip() == answer.strip() != "":
        return True
    try:
        return round(_number(gold), 2) == round(_number(answer), 2)
    except (ValueError, ArithmeticError):
        return False


def _number(text: str) -> float:
    """The number that the authors' parser makes of LaTeX: "a:b" is a ratio; it stops where it can read no further.

    Raises:
        ValueError: letters, units, degrees, lists: no number.
        ArithmeticError: one that is too large, or a division by 0.
    """
    if _is_number(text):
        return float(text)
    text = text.replace("$", "").replace(" ", "")
    text = re.split(r"\.(?!\d)", text)[0]
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            text = text[:place]
            break
    if "\\circ" in text or "°" in text:
        raise ValueError(text)
    values = (expressions.to_float(expressions.read_value(part)) for part in text.split(":"))
    return functools.reduce(operator.truediv, values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- MathVista -------------------------------------------------------------------------------------


def mathvista(response: str, item: Item) -> tuple[str, bool]:
    """MathVista's rules; where they ask their language model, our extraction stands in for its."""
    extraction = mathvista_extraction(response, item)
    if extraction is None:
        extraction = extract(response, item.options, item.answer_type in NUMERIC) or ""
    return extraction, mathvista_prediction(extraction, item) == item.answer


def mathvista_extraction(response: str, item: Item) -> str | None:
    """The answer where MathVista's rules extract one without their language model; None where they ask it."""
    if not response or response in item.options:
        return response
    if item.answer_type in NUMERIC:
        with contextlib.suppress(ValueError):
            return str(int(response) if item.answer_type == "integer" else float(response))
    quoted = re.search(r'The answer is "(.*)"\.', response)
    return quoted[1] if quoted else None


def mathvista_prediction(extraction: str, item: Item) -> str | None:
    """What MathVista's rules make of an extracted answer, ready to be compared with the gold one.

    An option's letter is replaced by its text, and any other text by the option with the smallest edit distance to it:
    no answer is left without an option. None where a number was wanted and there is none.
    """
    if item.options:
        text = str(extraction).strip()
        if letters := re.findall(r"\(([a-zA-Z])\)", text):
            text = letters[0].upper()
        if len(text) == 1 and 0 <= ord(text) - ord("A") < len(item.options):
            return item.options[ord(text) - ord("A")]
        return min(item.options, key=lambda option: _edits(text, option))
    try:
        if item.answer_type == "integer":
            return str(int(extraction))  # so the published verdicts; their code now takes 1.5 for 1
        if item.answer_type == "float":
            return str(round(float(extraction), int(item.precision)))
    except (TypeError, ValueError, OverflowError):
        return None
    return extraction


def _edits(one: str, other: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


# --- We-Math ---------------------------------------------------------------------------------------


def wemath(response: str, item: Item) -> tuple[str | None, bool]:
    """We-Math's rules: the first character after the last "Answer", if it is a letter of an option."""
    text = re.sub(r"[<>:.]", "", response.split("Answer")[-1].strip()).strip()
    letter = text[0] if text and text[0] in "ABCDEFGH" else None
    return letter, letter == item.answer


OFFICIAL: Mapping[str, Callable[[str, Item], tuple[str | None, bool]]] = {
    "mathvista": mathvista, "mathvision": mathvision, "wemath": wemath,
}  # fmt: skip
