r"""How benchmarks' authors score responses, their rules as they are, mistakes included. Used for method "official".

Written from the rules of MATH-Vision (github.com/mathllm/MATH-V, evaluation/), MathVista
(github.com/lupantech/MathVista, evaluation/calculate_score.py), We-Math (github.com/We-Math/We-Math, evaluation/), MMMU
and MMMU-Pro (github.com/MMMU-Benchmark/MMMU, mmmu/eval/ and mmmu-pro/evaluate.py), MMStar (github.com/MMStar-Benchmark/
MMStar, eval/vlmeval/evaluate/mmstar.py) and EMMA (fast-eval of github.com/hychaochao/EMMA, evaluation/).
The first three are tested on published results; of the others there were none to test on, so they are tested by hand.
For a grader without their mistakes see `benchmarks`.
"""

import ast
import math
import random
import re
from collections.abc import Sequence

import pandas as pd

from perception_r1.common.errors import InputError, some
from perception_r1.facts import expressions

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


def mathvista_extraction(
    response: str, question_type: str, answer_type: str, choices: Sequence[str] | None
) -> str | None:
    """The answer where MathVista's rules extract one without their language model; None where they ask it."""
    if not response:
        return ""
    if question_type == "multi_choice" and response in (choices or ()):
        return response
    for kind, read in (("integer", int), ("float", float)):
        if answer_type == kind:
            try:
                return str(read(response))
            except ValueError:
                pass
    quoted = re.search(r'The answer is "(.*)"\.', response)
    return quoted[1] if quoted else None


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


# --- MMMU and MMMU-Pro -----------------------------------------------------------------------------

_MARKS = ",.!?;:'"
_INDICATORS = (
    "could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ",
)  # fmt: skip
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def mmmu_choice(response: str, options: Sequence[str], seed: str) -> str:
    """The option letter that MMMU's rules find; where they find none they guess.

    "(B)", else " B ", else, in more than five words, an option's text; of several the last. Theirs guesses with one
    generator for all items, in their order; here each item has its own, so that scoring a part changes nothing.

    Args:
        response: what the model said.
        options: texts of the options.
        seed: of the guess, the item's id.
    """
    letters = "ABCDEFGHIJ"[: len(options)]
    for mark in _MARKS:
        response = response.strip(mark)
    return _choice(f" {response} ", letters, options, (" {} ",)) or _guess(letters, seed)


def mmmu_pro_choice(response: str, options: Sequence[str], seed: str) -> str:
    """The same of MMMU-Pro: first the one letter that occurs after the last "Answer:"."""
    letters = "ABCDEFGHIJ"[: len(options)]
    if "Answer:" in response:
        tail = response.rsplit("Answer:", 1)[1].strip()
        if len(found := [letter for letter in letters if letter in tail]) == 1:
            return found[0]
    for mark in _MARKS:
        response = response.strip(mark)
    return _choice(f" {response} ", letters, options, ("{} ", "{}.")) or _guess(letters, seed)


def _choice(text: str, letters: str, options: Sequence[str], forms: Sequence[str]) -> str | None:
    """The candidate whose last occurrence is furthest to the right; the first of several at one place."""
    places = {a: text.rfind(f"({a})") for a in letters if f"({a})" in text}
    for form in forms:
        if not places:
            places = {a: text.rfind(f" {a} ") for a in letters if form.format(a) in text}
    if not places and len(text.split()) > 5:
        small = text.lower()
        named = zip(letters, (option.lower() for option in options), strict=True)
        places = {a: small.rfind(option) for a, option in named if option in small}
    return max(places, key=places.get) if places else None


def _guess(letters: str, seed: str) -> str:
    return random.Random(f"42 {seed}").choice(letters)


def golds(gold: str) -> list[str]:
    """The right answers of an open question: the file may hold a list of texts."""
    if gold.startswith(("['", '["')):
        try:
            return [str(one) for one in ast.literal_eval(gold)]
        except (ValueError, SyntaxError):
            pass
    return [gold]


def mmmu_open(response: str, gold: str) -> bool:
    """Whether MMMU's rules find the gold answer, or one of a list of them, in a response to an open question.

    A gold text counts wherever it stands in what follows "is", "so", "=", ...; a number after rounding to two places.
    """
    values = [value for one in golds(gold) for value in _normal(one)]
    for said in _mmmu_said(response):
        if isinstance(said, float):
            if said in values:
                return True
        elif any(isinstance(value, str) and value in said for value in values):
            return True
    return False


def _mmmu_said(response: str) -> list[str | float]:
    parts = response.strip().strip(".").lower().split("\n")
    kept = []
    for place, part in enumerate(parts):
        signs = (*_INDICATORS, "=") if place == len(parts) - 1 else _INDICATORS
        shortest = ""
        for sign in (sign for sign in signs if sign in part):
            tail = part.split(sign)[-1].strip()
            if not shortest or len(tail) < len(shortest):  # so an empty one is replaced by the next
                shortest = tail
        if shortest and shortest not in set(_MARKS):
            kept.append(shortest)
    kept = kept or [response.strip().strip(".").lower()]
    numbers = [n for text in kept for form in _NUMBERS for n in re.findall(form, text)]
    return [value for text in (*kept, *numbers) for value in _normal(text)]


def _normal(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        small = text.lower()
        return [f" {small}", f"{small} "] if len(small) == 1 else [small]


# --- MMStar ----------------------------------------------------------------------------------------


def mmstar_answer(response: str) -> str | None:
    """The letter that MMStar's rules look at: the first one, or after "(", "option " or "the answer is "."""
    text = response.lower().strip().replace("\n", " ")
    found = {text[:1]}
    for start in ("(", "option ", "the answer is "):
        if text.startswith(start):
            found.add(text[len(start) : len(start) + 1])
    letters = sorted(found & set("abcd"))
    return letters[0].upper() if letters else None


# --- EMMA ------------------------------------------------------------------------------------------


def emma_answer(response: str) -> str:
    """The answer that EMMA's fast evaluation finds: a lone letter, a number, the last box, or after "answer is"."""
    text = response.strip()
    for letter in "ABCDEFGH":
        if text.upper() == letter or text.startswith((f"{letter}:", f"{letter}.")):
            return letter
    if _is_number(text):
        return text
    if boxes := _boxes(text):
        inner = re.findall(r"\\text{(.*?)}", boxes[-1])
        return (inner[-1] if inner else boxes[-1]).strip()
    small = text.lower()
    for flag in (
        "final answer is", "correct answer is", "answer should be", "answer is", "answer:",
    ):  # fmt: skip
        if flag in small:
            return small.split(flag)[-1].strip().split("\n")[0].split(".")[0]
    return ""


def _boxes(text: str) -> list[str]:
    r"""Contents of all closed `\boxed{...}`, in the order in which they begin."""
    found, opened = [], []
    for token in re.finditer(r"boxed{|[{}]", text):
        if token[0] != "}":
            opened.append((token.end(), len(token[0]) > 1))
        elif opened:
            start, box = opened.pop()
            if box:
                found.append((start, text[start : token.start()]))
    return [content for _, content in sorted(found)]


def emma_right(answer: str, gold: str, options: Sequence[str] = ()) -> bool:
    """Whether EMMA's fast evaluation takes an answer for the gold one, or for the gold option's text.

    Numbers are compared after rounding to two places. Not taken over: that theirs reads number words ("three") and
    lets sympy simplify the difference of two formulas.
    """
    wanted = [gold]
    if options and gold in "ABCDEFGHIJ"[: len(options)]:
        wanted.append(options["ABCDEFGHIJ".index(gold)])
    return any(_mathvision_equal(text, answer) for text in wanted)
