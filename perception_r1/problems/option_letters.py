r"""Which option an answer names by its letter: `(C) 5 cm`, `Option C`, `C because ...`; none if it names two."""

import re

from perception_r1.problems.answer_text import RULES, patterns, plain_text

LETTERS = "ABCDEFGHIJ"
LETTER_PATTERNS = patterns(RULES["letters"])


def option_letter(text: str) -> str | None:
    r"""The letter of the one option that an answer names, A to J; None if it names none, or more than one.

    Read are dress and words before the letter (`\textbf{(C)}`, `[C]`, "Option C", "I think it is C"), and behind it the
    option's text or a reason (`C: 5 cm`, `C - 5 cm`, "C, since ..."). A small letter counts alone, in brackets or after
    "option". Refused: a list (`C, D`, `B or C`, `C: 5 cm, D: 6 cm`), a denial (`not C`, "C is wrong"), an equation
    (`C = 5`), the words "A" and "I" ("A car", "I am").
    """
    text = plain_text(text)
    match = LETTER_PATTERNS.letter.match(text)
    if not match:
        return None
    letter, rest = match["letter"], match["rest"].strip()
    before = text[: match.start("letter")].lower()
    dressed = match["close"] or any(word in before for word in ("option", "choice", "letter"))
    if letter.islower() and not dressed and rest and rest[0] not in ".:":
        return None
    behind = LETTER_PATTERNS.behind_a if letter in "AI" else LETTER_PATTERNS.behind
    if not (dressed or behind.match(rest)):
        return None
    if LETTER_PATTERNS.denied.match(rest) or LETTER_PATTERNS.another.match(rest):
        return None
    text_of_option = LETTER_PATTERNS.reason.split(rest, maxsplit=1)[0]
    return None if LETTER_PATTERNS.label.search(text_of_option) else letter.upper()


def several_letters(text: str) -> list[str]:
    """The letters of an answer that is nothing but two or more of them, sorted: `C and A` -> A, C; else none."""
    several = LETTER_PATTERNS.several.fullmatch(text)
    return sorted(re.findall("[A-J]", text)) if several else []
