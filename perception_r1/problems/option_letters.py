r"""Which option an answer names by its letter: `(C) 5 cm`, `Option C`, `C because ...`; none if it names two."""

import re

from perception_r1.problems.answer_text import plain_text

LETTERS = "ABCDEFGHIJ"
_LEAD = (
    r"(?:(?:the|my|correct|right|best|final|more|most|only|answer|option|choice|letter|is|it|it's|this|that|be|must|"
    r"should|would|can|seems?|to|likely|probably|definitely|clearly|i|think|believe|so|thus|therefore|hence|still)"
    r"\b[\s:,=*]*)*"
)
_LETTER = re.compile(
    rf"(?i:{_LEAD})(?P<open>[\[({{\"'`<]+)? ?(?P<letter>[A-Ja-j])(?![\w^]) ?"
    r"(?P<close>(?(open)[\])}\"'`>]*|[\])]?))(?P<rest>.*)",
    re.DOTALL,
)
_REASON = r"(?:because|since|as|for|given|due|than|not|rather|instead|whereas|while|but|is|are|was|with)\b"
# what may stand behind a letter that is not in brackets; "A" and "I" are words themselves
_BEHIND = re.compile(r"$|[.:;,!?(\[]|-\s|\\|\d|[^\W\d_]{2}")
_BEHIND_A = re.compile(rf"$|[.:;,!?(\[]|-\s|\\|{_REASON}")
_DENIED = re.compile(
    r"(?:(?:is|was|can|could|should|must|does|would|has|be)\s*)+"
    r"(?:n't|not|wrong|incorrect|false|ruled|excluded|eliminated|out)\b|cannot\b"
)
_ANOTHER = re.compile(
    r"(?:[\s,;/&|+(\\-]|(?:or|and|maybe|perhaps|possibly|both|also)\b)*[(\[]?[A-J](?:[\]).,;:]|\s*$|\s+(?:or|and)\b)"
)
_LABEL = re.compile(r"\([A-J]\)|\b[A-J][.:)](?=\s)")


def option_letter(text: str) -> str | None:
    r"""The letter of the one option that an answer names, A to J; None if it names none, or more than one.

    Read are dress and words before the letter (`\textbf{(C)}`, `[C]`, "Option C", "I think it is C"), and behind it the
    option's text or a reason (`C: 5 cm`, `C - 5 cm`, "C, since ..."). A small letter counts alone, in brackets or after
    "option". Refused: a list (`C, D`, `B or C`, `C: 5 cm, D: 6 cm`), a denial (`not C`, "C is wrong"), an equation
    (`C = 5`), the words "A" and "I" ("A car", "I am").
    """
    text = plain_text(text)
    match = _LETTER.match(text)
    if not match:
        return None
    bare, rest = match["letter"].isupper(), match["rest"].strip()
    dressed = bool(match["close"]) or re.search(
        r"(?i)option|choice|letter", text[: match.start("letter")]
    )
    if not (bare or dressed or not rest or rest[0] in ".:"):
        return None
    behind = _BEHIND_A if match["letter"] in "AI" else _BEHIND
    if not (dressed or behind.match(rest)) or _DENIED.match(rest) or _ANOTHER.match(rest):
        return None
    if _LABEL.search(re.split(rf"\b{_REASON}", rest, maxsplit=1)[0]):
        return None
    return None if rest[:1] in tuple("=+*/^_'") else match["letter"].upper()
