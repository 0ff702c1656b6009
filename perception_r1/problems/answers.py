r"""One grader for loading, filtering, rewards and scoring: is this answer the gold answer? Used in notebooks 02 to 05.

An answer is first read by our own rules (`answer_values`). Letters, words and plain numbers are then compared here,
exactly. Everything else, surds, pi, sets, algebra, is for math-verify in a worker process (`grading_worker`), so that
no expression, however hostile, holds up the caller or fills its memory, in any thread.
"""

import functools
import re
from dataclasses import replace
from fractions import Fraction

from perception_r1.common.errors import InputError
from perception_r1.problems import grading_worker
from perception_r1.problems.answer_text import plain_text
from perception_r1.problems.answer_values import MAX_CHARACTERS, AnswerValue, read_answer
from perception_r1.problems.option_letters import option_letter, several_letters
from perception_r1.problems.units import convert

DEADLINE = 1.0  # seconds for one comparison in a worker; an ordinary one takes 5 to 20 ms
GOLD_DEADLINE = 10.0  # to read a gold answer: a slow moment must not lose it
PLACES = 6  # decimals are compared after rounding to this many places, as math-verify does
SMALL = Fraction(1, 100)  # below it they must be equal in so many digits instead


def final_text(response: str) -> str:
    """What a response says when it has done with thinking.

    Its thoughts end at the last `</think>`, `</thinking>`, `[/THINK]` or `◁/think▷`, whether or not they were opened (a
    chat template may do that). If nothing follows, or they are not closed, it is the whole response.
    """
    ends = [tag.end() for tag in _THOUGHTS_END.finditer(response)]
    return response[ends[-1] :] if ends and response[ends[-1] :].strip() else response


_THOUGHTS_END = re.compile(r"</think(?:ing)?>|\[/think\]|◁/think▷", re.IGNORECASE)


def extract_answer(response: str | None) -> str | None:
    r"""The content of the last `\boxed{...}` of the last `<answer>` block, of what follows the thoughts.

    Without an `<answer>` the whole of `final_text` is searched. An answer block without a box has no answer: a
    box in the thoughts before it does not count, nor does one after the block. Takes time linear in the length.

    Returns:
        The box's content, stripped; None where there is no box that is closed and not empty.
    """
    text = final_text(response or "")
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end if end >= 0 else len(text))
    if start >= 0:
        text = text[start + len("<answer>") : end if end >= 0 else len(text)]
    best, open_braces = (-1, -1), []
    for token in _BOX_TOKENS.finditer(text):
        if token[0] == "}":
            if open_braces and (box := open_braces.pop()) > best[0]:
                best = (box, token.start())
        elif token[0].endswith("{") and token[0] != r"\{":
            open_braces.append(token.end() if len(token[0]) > 1 else -1)
    return text[best[0] : best[1]].strip() or None if best[0] >= 0 else None


_BOX_TOKENS = re.compile(r"\\(?:boxed|f(?:rame)?box)\s{0,9}\{|\\.|[{}]", re.DOTALL)


@functools.lru_cache(4096)
def gold_fault(gold: str) -> str:
    """Why no answer could ever be graded against this gold answer; empty if one could."""
    if not isinstance(gold, str):
        return "not text"
    try:
        right = read_answer(gold)
    except InputError as error:
        return str(error)
    if right.value.casefold() in {"none", "nan", "null", "unknown", "n/a", "na"}:
        return "it says that there is none; leave the problem out"
    readable = right.kind != "latex" or _compare(right.value, None)
    if readable is None:
        return "takes too long to read"
    return "" if readable else "not an expression that can be compared"


def grade(answer: str | None, gold: str) -> bool:
    r"""Whether `answer` (the content of a box, see `extract_answer`) is the gold answer.

    Exact: 26/3 is `\frac{26}{3}`, but 8.67 is not; 8.666667 is (six decimals, below 0.01 six digits). A unit may be
    missing on either side; two must be the same or convert (30 min is 0.5 h). A percentage is itself or its share.
    Wrong are two unknowns (x and y), two values or options where one is asked for, and a hedge or a span (`5 or 6`,
    `5 to 6`, `at least 5`). Never takes much longer than `DEADLINE`, plus the start of a worker at first use.

    Args:
        answer: what to grade; None, unreadable or hostile is wrong, never an error.
        gold: the right answer.

    Raises:
        InputError: the gold answer is unusable.
        RuntimeError: no worker process can be started; no answer is to blame for that.
    """
    if fault := gold_fault(gold):
        raise InputError(f"gold answer {str(gold)[:60]!r} is unusable: {fault}")
    right = read_answer(gold)
    if not isinstance(answer, str):
        return False
    if right.kind == "letter":
        return len(answer) <= MAX_CHARACTERS and option_letter(answer) == right.value
    if letters := several_letters(right.value):
        return several_letters(plain_text(answer[:MAX_CHARACTERS])) == letters
    try:
        given = read_answer(answer)
    except InputError:
        return False
    if len(right.name) == len(given.name) == 1 and right.name != given.name:
        return False
    return any(_equal(value, right) for value in _in_unit_of(right, given))


_TURN = {("radian", "degree"): r"\frac{180}{\pi}", ("degree", "radian"): r"\frac{\pi}{180}"}


def _in_unit_of(right: AnswerValue, given: AnswerValue) -> list[AnswerValue]:
    """What an answer says in the gold answer's unit: itself where one names none; a percentage also as a share."""
    units, size = (given.unit, right.unit), None
    same = given.unit == right.unit or "" in units
    if given.number is None and units in _TURN:
        return [replace(given, value=rf"({given.value}) \cdot {_TURN[units]}")]
    if given.number is not None and not same:
        size = convert(float(given.number), *units)
    elif given.number is not None and set(units) == {"", "percent"}:
        size = float(given.number * (Fraction(1, 100) if given.unit else 100))
    itself = [given] if same else []
    if size is None:
        return itself
    return [*itself, AnswerValue("number", str(size), Fraction(str(size)), decimal=True)]


def _equal(given: AnswerValue, right: AnswerValue) -> bool:
    """Whether two values in one unit are equal."""
    if right.kind == "word" or given.kind in ("word", "letter"):
        return given.value.casefold() == right.value.casefold()
    if right.number is not None and given.number is not None:
        if not (right.decimal or given.decimal):
            return right.number == given.number
        if abs(right.number) < SMALL:
            return abs(given.number - right.number) <= abs(right.number) / 10**PLACES
        return round(right.number, PLACES) == round(given.number, PLACES)
    if right.value.replace(" ", "") == given.value.replace(" ", ""):
        return True
    return _compare(right.value, given.value) is True


@functools.lru_cache(4096)  # groups repeat their answers, and a late one is not paid for twice
def _compare(gold: str, answer: str | None) -> bool | None:
    return grading_worker.are_equal(gold, answer, GOLD_DEADLINE if answer is None else DEADLINE)
