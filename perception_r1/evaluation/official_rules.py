r"""How benchmarks' authors score responses, their rules as they are, mistakes included. Used for method "official".

Written from the rules of MATH-Vision (github.com/mathllm/MATH-V, evaluation/), MathVista
(github.com/lupantech/MathVista, evaluation/calculate_score.py), We-Math (github.com/We-Math/We-Math, evaluation/), MMMU
and MMMU-Pro (github.com/MMMU-Benchmark/MMMU, mmmu/eval/ and mmmu-pro/evaluate.py), MMStar (github.com/MMStar-Benchmark/
MMStar, eval/vlmeval/evaluate/mmstar.py) and EMMA (fast-eval of github.com/hychaochao/EMMA, evaluation/).
The first three are tested on published results; of the others there were none to test on, so they are tested by hand.

Each benchmark has one function, response and item to (extracted, right), and its parts. MathVerse has none: a language
model scores it. Rules without the authors' mistakes stand in `our_rules`.
"""

import contextlib
import functools
import operator
import random
import re
from collections.abc import Callable, Mapping, Sequence

from perception_r1.evaluation.our_rules import LETTERS, NUMERIC, Item, extract, golds
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
    """Whether MATH-Vision's and EMMA's rules take an answer for the gold one, or for the text of the gold option.

    Numbers are compared after rounding to two places: 1/300 counts as 1/900. Of EMMA's rules this leaves out that
    they read number words ("three") and let sympy simplify the difference of two formulas.
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


# --- MMMU and MMMU-Pro -----------------------------------------------------------------------------

_MARKS = ",.!?;:'"
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def mmmu(response: str, item: Item) -> tuple[str, bool]:
    """MMMU's rules: "(B)", else " B ", else, in more than five words, an option's text; of several the last.

    Where they find none they guess: theirs with one generator for all items, in their order; here each item has its
    own, so that scoring a part changes nothing. In an open question one of the gold texts counts wherever it stands in
    what follows "is", "so", "=", ...; a number after rounding to two places.
    """
    if item.options:
        letter = _last_choice(response, item, (" {} ",))
        return letter, letter == item.answer
    wanted = [value for gold in golds(item.answer) for value in _normal(gold)]
    parts = _mmmu_parts(response)
    texts = [part for part in parts if isinstance(part, str)]
    right = [v in parts or isinstance(v, str) and any(v in text for text in texts) for v in wanted]
    return response, any(right)


def mmmu_pro(response: str, item: Item) -> tuple[str, bool]:
    """MMMU-Pro's rules: those of MMMU, but first the one letter that occurs after the last "Answer:"."""
    letters = LETTERS[: len(item.options)]
    tail = response.rsplit("Answer:", 1)[1] if "Answer:" in response else ""
    after = [letter for letter in letters if letter in tail]
    if len(after) == 1:
        return after[0], after[0] == item.answer
    letter = _last_choice(response, item, ("{} ", "{}."))
    return letter, letter == item.answer


def _last_choice(response: str, item: Item, forms: Sequence[str]) -> str:
    """The option whose last occurrence is furthest to the right (the first of several at one place), or a guess."""
    for mark in _MARKS:
        response = response.strip(mark)
    text, letters = f" {response} ", LETTERS[: len(item.options)]
    places = {a: text.rfind(f"({a})") for a in letters if f"({a})" in text}
    for form in forms:
        if not places:
            places = {a: text.rfind(f" {a} ") for a in letters if form.format(a) in text}
    if not places and len(text.split()) > 5:
        small = text.lower()
        named = zip(letters, (option.lower() for option in item.options), strict=True)
        places = {a: small.rfind(option) for a, option in named if option in small}
    if not places:
        return random.Random(f"42 {item.id}").choice(letters)
    return max(places, key=places.get)


def _mmmu_parts(response: str) -> list[str | float]:
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


def mmstar(response: str, item: Item) -> tuple[str | None, bool]:
    """MMStar's rules: the first letter, or that after "(", "option " or "the answer is "."""
    text = response.lower().strip().replace("\n", " ")
    characters = {text[:1]}
    for start in ("(", "option ", "the answer is "):
        if text.startswith(start):
            characters.add(text[len(start) : len(start) + 1])
    letters = sorted(characters & set("abcd"))
    letter = letters[0].upper() if letters else None
    return letter, letter == item.answer


# --- EMMA ------------------------------------------------------------------------------------------


_EMMA_PHRASES = ("final answer is", "correct answer is", "answer should be", "answer is", "answer:")


def emma(response: str, item: Item) -> tuple[str, bool]:
    """EMMA's rules, those of its fast evaluation: a lone letter, a number, the last box, or after "answer is"."""
    answer = _emma_answer(response)
    return answer, equal_by_value(answer, item)


def _emma_answer(response: str) -> str:
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
    for phrase in _EMMA_PHRASES:
        if phrase in small:
            return small.split(phrase)[-1].strip().split("\n")[0].split(".")[0]
    return ""


def _boxes(text: str) -> list[str]:
    r"""Contents of all closed `\boxed{...}`, in the order in which they begin."""
    contents, opened = {}, []
    for token in re.finditer(r"boxed{|[{}]", text):
        if token[0] != "}":
            opened.append(token)
        elif opened and (opening := opened.pop())[0] == "boxed{":
            contents[opening.end()] = text[opening.end() : token.start()]
    return [contents[start] for start in sorted(contents)]


OFFICIAL: Mapping[str, Callable[[str, Item], tuple[str | None, bool]]] = {
    "mathvista": mathvista, "mathvision": mathvision, "wemath": wemath, "mmmu": mmmu,
    "mmmupro": mmmu_pro, "mmstar": mmstar, "emma": emma,
}  # fmt: skip
