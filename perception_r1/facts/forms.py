"""Logic forms: the notation in which Geometry3K's figures are annotated, read into small trees.

It is that of Inter-GPS (Lu et al. 2021): `Equals(LengthOf(Line(A, B)), 10)`. Names in capitals and lower
case make calls; everything else, up to a comma or bracket, is an atom: a point, a number, `2x-14`, `$`.
"""

import functools
import re
from dataclasses import dataclass

from perception_r1.common.errors import InputError

MAX_CHARACTERS = 2000  # of a form or a sentence; the longest of Geometry3K has 104
MAX_DEPTH = 20


class FactError(InputError):
    """Text that is neither a logic form nor a sentence of the grammar."""


@dataclass(frozen=True)
class Call:
    """A name with its arguments: `Line(A, B)`; a fact is the call of a predicate."""

    name: str
    args: tuple["Term", ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})"


Term = str | Call

_CALL = re.compile(r"\s*([A-Z][a-z][A-Za-z]*)\s*\(")
_SPACE = re.compile(r"\s*")
_FORBIDDEN = re.compile(r'[][",;#~]')  # they have a meaning in sentences


@functools.lru_cache(maxsize=2**14)
def parse(form: str) -> Call:
    """Read a logic form.

    Raises:
        FactError: it is empty, not one balanced call, or too long or deep.
    """
    if len(form) > MAX_CHARACTERS:
        raise FactError(f"a logic form of more than {MAX_CHARACTERS} characters")
    term, end = _term(form, 0, 0)
    if isinstance(term, str) or form[end:].strip():
        raise FactError(f"{short(form)} is no logic form such as Parallel(Line(A, B), Line(C, D))")
    return term


def _term(form: str, at: int, depth: int) -> tuple[Term, int]:
    if depth > MAX_DEPTH:
        raise FactError(f"{short(form)} is nested deeper than {MAX_DEPTH}")
    call = _CALL.match(form, at)
    if not call:
        return _atom(form, at)
    args, at = [], call.end()
    while True:
        arg, at = _term(form, at, depth + 1)
        args.append(arg)
        if form[at : at + 1] == ")":
            break
        if form[at : at + 1] != ",":
            raise FactError(f"{short(form)}: a bracket of {call.group(1)} is not closed")
        at += 1
    return Call(call.group(1), tuple(args)), _SPACE.match(form, at + 1).end()


def _atom(form: str, start: int) -> tuple[str, int]:
    """A name or a value; it ends at a comma or bracket that is not its own."""
    at, open_brackets = start, 0
    while at < len(form) and (open_brackets or form[at] not in ",)"):
        open_brackets += {"(": 1, ")": -1}.get(form[at], 0)
        at += 1
    text = " ".join(form[start:at].split())
    text = re.sub(r"(?<=\w) \(", "(", text)  # "2 (x+1)" and "2(x+1)" are one
    bad = _FORBIDDEN.search(text)
    if not text or open_brackets or bad or _CALL.search(text) or not text.isprintable():
        reason = f"the character {bad.group()!r}" if bad else "an argument is empty or not closed"
        raise FactError(f"{short(form)} is not a logic form: {reason}")
    return text, at


def short(text: str) -> str:
    """Quote the beginning of a text for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
