r"""How benchmarks' authors score responses, their rules as they are, mistakes included. Used for method "official".

Written from the rules of MATH-Vision (github.com/mathllm/MATH-V, evaluation/), MathVista
(github.com/lupantech/MathVista, evaluation/calculate_score.py) and We-Math (github.com/We-Math/We-Math, evaluation/).
For a grader without their mistakes see `answers`.
"""

import math
import re
from collections.abc import Sequence

import pandas as pd

from perception_r1 import expressions
from perception_r1.errors import InputError, some

# --- MATH-Vision -----------------------------------------------------------------------------------

_LETTERS = "ABCDE"
_PHRASES = (
    "the final answer is", "the answer is", "the correct answer is", "the answer should be",
)  # fmt: skip
# In this order; each leaves something that a later one may find.
_DROPPED = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""),
    ("\\text", ""), ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""),
    ("{km}", ""), ("km", ""), ("\\!", ""), ("tfrac", "frac"), ("dfrac", "frac"), ("\\$", ""),
    ("$", ""), ("\\%", ""), ("{.", "{0."),
)  # fmt: skip


def mathvision_answer(response: str) -> str:
    r"""The answer that MATH-Vision's rules find in a response, in small letters and without spaces.

    An option letter at its beginning or end; else the number after the last "is "; else what follows a phrase
    such as "the answer is"; else the last box, or, without one, the whole response. Of an equation the last side.
    """
    text = response.strip()
    for letter in _LETTERS:
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
                found = flag in text
                text = text.split(flag)[-1].strip()
                if found:
                    text = text.split("\n")[0].split(". ")[0]
    elif text.count("oxed{") > 1:
        text = "\\boxed{" + text.split("oxed{")[-1]
    text = _bare(text)
    for letter in _LETTERS.lower():
        text = text.replace(f"({letter})", letter)
    for letter in _LETTERS.lower():
        text = text.replace(f"{{{letter}}}", letter)
    return text.rstrip(".").lstrip(":").strip()


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
    ratio = re.fullmatch(r"(-?\d+)/(-?\d+)", text)
    if ratio and text == f"{int(ratio[1])}/{int(ratio[2])}":
        return f"\\frac{{{ratio[1]}}}{{{ratio[2]}}}"
    return text


def mathvision_right(answer: str, gold: str, options: Sequence[str] = ()) -> bool:
    """Whether MATH-Vision's rules take an answer for the gold one, or for the text of the gold option.

    Numbers are compared after rounding to two places: 1/300 counts as 1/900.
    """
    wanted = [gold]
    if options:
        wanted.append(options[_LETTERS.index(gold)])
    return any(_mathvision_equal(text, answer) for text in wanted)


def _mathvision_equal(gold: str, answer: str) -> bool:
    gold, answer = gold.lower(), answer.lower()
    if not gold.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if gold.strip() == answer.strip():
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
    first, *rest = (_value(expressions.read(part)) for part in text.split(":"))
    for value in rest:
        first /= value
    return first


def _value(value: expressions.Value) -> float:
    """A polynomial without letters as a number."""
    return sum(float(n) * math.prod(_part(g) ** p for g, p in monomial) for monomial, n in value)


def _part(generator: expressions.Generator) -> float:
    name, *inside = generator
    if name == "pi":
        return math.pi
    if name == "root":
        return math.sqrt(inside[0])
    if name == "letter":
        raise ValueError(generator)
    inner = _value(inside[0])
    return math.sqrt(inner) if name == "sqrt" else 1 / inner


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- MathVista -------------------------------------------------------------------------------------


def mathvista_prediction(
    extraction: object, question_type: str, answer_type: str, choices: Sequence[str] | None,
    precision: float | None,
) -> str | None:  # fmt: skip
    """What MathVista's rules make of an extracted answer, ready to be compared with the gold one.

    Args:
        extraction: as a language model extracted it from the response.
        question_type: "multi_choice" or "free_form".
        answer_type: "text", "integer", "float" or "list".
        choices: of a multiple-choice question: an option's letter is replaced by its text, and any other text by
            the option with the smallest edit distance to it: no answer is left without an option.
        precision: decimal places of a float.

    Returns:
        The prediction; None where a number was wanted and there is none.
    """
    if question_type == "multi_choice":
        text = str(extraction).strip()
        if letters := re.findall(r"\(([a-zA-Z])\)", text):
            text = letters[0].upper()
        if len(text) == 1 and 0 <= ord(text) - ord("A") < len(choices):
            return choices[ord(text) - ord("A")]
        return min(choices, key=lambda choice: _edits(text, choice))
    try:
        if answer_type == "integer":
            return str(
                int(extraction)
            )  # so the published verdicts; their code of today takes "1.5" for 1
        if answer_type == "float":
            return str(round(float(extraction), int(precision)))
    except (TypeError, ValueError, OverflowError):
        return None
    return str(extraction) if answer_type == "list" else extraction


def _edits(one: str, other: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


# --- We-Math ---------------------------------------------------------------------------------------


def wemath_answer(response: str) -> str | None:
    """The option letter that We-Math's rules find: the first character after the last "Answer"; None if it is none."""
    text = re.sub(r"[<>:.]", "", response.split("Answer")[-1].strip()).strip()
    return text[0] if text and text[0] in "ABCDEFGH" else None


def wemath_metrics(outcomes: pd.DataFrame) -> dict[str, float]:
    """We-Math's four-way metrics: does a model solve a problem of several steps, and its steps by themselves?

    Args:
        outcomes: columns ID (of the whole problem), key ("2steps_1", ..., "2steps_multi", or with 3), correct.

    Returns:
        Of all problems, the shares IK (insufficient knowledge: whole wrong, a step wrong), IG (inadequate
        generalisation: whole wrong, all steps right), CM (complete mastery: whole right, and, strict, all steps right
        or, loose, one); RM (rote memorisation: whole right and, strict, a step wrong or, loose, all) as a share of
        RM + CM; and score = 1 - IG / 2 - RM - IK, with RM as a share of all.

    Raises:
        InputError: a problem without its whole or one of its steps, or one of them twice.
    """
    counts = dict.fromkeys(("IK", "IG", "CM strict", "CM loose", "RM strict", "RM loose"), 0)
    groups = outcomes.groupby("ID", sort=False)
    for name, group in groups:
        found = dict(zip(group["key"], group["correct"].astype(bool), strict=True))
        steps = int(str(group["key"].iloc[0])[0])
        wanted = [f"{steps}steps_{k}" for k in (*range(1, steps + 1), "multi")]
        if sorted(group["key"]) != sorted(wanted):
            raise InputError(
                f"We-Math problem {name} has {some(group['key'])}; it takes {some(wanted)}"
            )
        whole, parts = found[wanted[-1]], [found[key] for key in wanted[:-1]]
        counts["IK"] += not whole and not all(parts)
        counts["IG"] += not whole and all(parts)
        counts["CM strict"] += whole and all(parts)
        counts["CM loose"] += whole and any(parts)
        counts["RM strict"] += whole and not all(parts)
        counts["RM loose"] += whole and not any(parts)
    n = len(groups)
    found = {name: count / n for name, count in counts.items() if not name.startswith("RM")}
    for rule in ("strict", "loose"):
        rote, mastered = counts[f"RM {rule}"], counts[f"CM {rule}"]
        found[f"RM {rule}"] = rote / (rote + mastered) if rote + mastered else math.nan
        found[f"score {rule}"] = 1 - (0.5 * counts["IG"] + rote + counts["IK"]) / n
    return found
