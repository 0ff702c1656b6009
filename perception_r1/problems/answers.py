r"""One grader for loading, filtering, rewards and scoring: is this answer the gold answer? Used in notebooks 02 to 05.

An answer is first read by our own rules (`$`, units, degrees, thousands separators, `x = 5`, option
letters). Letters, words and plain numbers are then compared here, exactly. Everything else, surds, pi,
sets, algebra, is for math-verify, whose two traps are closed: it reads bare LaTeX such as `2 \sqrt { 221 }`
as 221 (we always hand it over between `$`), and it bounds its time by a signal, which fails off the main
thread. Here it runs in worker processes that are killed at a deadline, so that no expression, however
hostile, holds up the caller or fills its memory, in any thread and on any platform.

Order of arguments: ours is `grade(answer, gold)`; math-verify's `verify` takes the gold first, and its
verdict depends on the order. The one call is in `_serve`.
"""

import atexit
import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from fractions import Fraction

from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT

MAX_CHARACTERS = 1000  # of one answer, not of a response
MAX_DEPTH = 30  # of nested brackets
MAX_DIGITS = 100  # of one number
DEADLINE = 1.0  # seconds for one comparison in a worker; an ordinary one takes 5 to 20 ms
GOLD_DEADLINE = (
    10.0  # seconds to read a gold answer: no attacker wrote it, and a slow moment must not lose it
)
START_LIMIT = 60.0  # seconds for a worker to start; usually under 1 s
MEMORY_LIMIT = 512 * 2**20  # bytes of address space of a worker
WORKERS = max(2, min(4, os.cpu_count() or 1))  # at most, at a time
DECOYS = (
    r"\frac{1009}{7}",
    r"-17\sqrt{11}",
)  # answers that no problem has; what equals them equals anything
PLACES = 6  # decimals are compared after rounding to this many places, as math-verify does


def extract_answer(response: str | None) -> str | None:
    r"""The content of the last `\boxed{...}` of the last `<answer>` block.

    Without an `<answer>` the whole response is searched. An answer block without a box has no answer: a
    box in the thoughts before it does not count. Takes time linear in the length.

    Returns:
        The box's content, stripped; None where there is no box that is closed and not empty.
    """
    text = response or ""
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


_BOX_TOKENS = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)


def parse_answer(text: str) -> str:
    r"""The value that a text names, as normalised LaTeX: `$x = 60^\circ$` -> `60`.

    Raises:
        InputError: empty, too long, too deep, garbled, or prose.
    """
    return _read(text).value


def usable_gold(gold: str) -> str:
    """The gold answer as normalised LaTeX, if an answer could ever be graded against it.

    Raises:
        InputError: it cannot be read (see `parse_answer`), or math-verify makes nothing of it.
    """
    value, fault = _usable(gold) if isinstance(gold, str) else ("", "not text")
    if fault:
        raise InputError(f"gold answer {str(gold)[:60]!r} is unusable: {fault}")
    return value


def grade(answer: str | None, gold: str) -> bool:
    r"""Whether `answer` (the content of a box, see `extract_answer`) is the gold answer.

    Exact: 26/3 is `\frac{26}{3}`, but 8.67 is not; 8.666667 is (six decimals). A unit may be missing on
    either side, but two that differ are wrong (cm and m: nothing is converted), and so are two unknowns
    (x and y). Never takes much longer than `DEADLINE`, plus the start of a worker at first use.

    Args:
        answer: what to grade; None, unreadable or hostile is wrong, never an error.
        gold: the right answer.

    Raises:
        InputError: the gold answer is unusable.
        RuntimeError: no worker process can be started; no answer is to blame for that.
    """
    usable_gold(gold)
    right = _read(gold)
    if not isinstance(answer, str):
        return False
    try:
        given = _read(answer)
    except InputError:
        return False
    if right.kind == "letter":
        return given.value.upper() == right.value
    if right.unit and given.unit and right.unit != given.unit:
        return False
    if len(right.name) == len(given.name) == 1 and right.name != given.name:
        return False
    if right.kind == "word" or given.kind == "word" or given.kind == "letter":
        return given.value.casefold() == right.value.casefold()
    if right.number is not None and given.number is not None:
        if right.decimal or given.decimal:
            return round(right.number, PLACES) == round(given.number, PLACES)
        return right.number == given.number
    return _squeeze(right.value) == _squeeze(given.value) or _ask(right.value, given.value) == "1"


@functools.lru_cache(4096)
def _usable(gold: str) -> tuple[str, str]:
    """(normalised gold, why it is unusable or "")."""
    try:
        read = _read(gold)
    except InputError as error:
        return "", str(error)
    if read.value.casefold() in _NO_ANSWER:
        return "", "it says that there is none; leave the problem out"
    verdict = "1" if read.kind != "latex" else _ask(read.value, None)
    faults = {
        "1": "",
        "0": "not an expression that can be compared",
        "late": "takes too long to read",
    }
    return read.value, faults[verdict]


_NO_ANSWER = {"none", "nan", "null", "unknown", "n/a", "na"}


# --- reading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """An answer, read: letter "A", word "isosceles", number 26/3, or other LaTeX."""

    kind: str
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
def _read(text: str) -> _Read:
    """Read one answer; InputError says why not."""
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
        return _Read("letter", letter[1].upper())
    text = _exact_part(text)
    text, unit = _split_unit(text)
    text, name = _split_name(text)
    text = _THOUSANDS.sub(lambda found: re.sub("[, ]", "", found[0]), text)
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
    found = _UNIT.search(text)
    if not found:
        return re.sub(r"(?<=\d)(?: [A-Za-z]{4,})+$", "", text), ""
    unit = next(u for k, u in enumerate(_UNITS) if found[f"unit{k}"])
    power = found["exponent"] or {"s": "2", "c": "3"}.get((found["power"] or " ")[0], "")
    return text[: found.start()].strip(), unit and unit + power


def _split_name(text: str) -> tuple[str, str]:
    r"""`x = 10 / 2 = 5` -> (`5`, `x`); sets, systems and equations with letters stay as they are."""
    parts = [part.strip() for part in re.split(r"(?<![<>!\\])=", text)]
    letters = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", parts[-1]))
    if len(parts) < 2 or not all(parts) or letters or "," in text or not _NAME.fullmatch(parts[0]):
        return text, ""
    return parts[-1], re.sub(r"\\[a-z]+|^m(?= ?\\)|[^\w]", "", parts[0])


def _classify(text: str) -> _Read:
    """What is left after names and units: a number, a word, or LaTeX for math-verify."""
    try:
        if m := _NUMBER.fullmatch(text):
            return _Read("number", text, Fraction(m[1] + m[2]), decimal="." in m[2])
        if m := _RATIO.fullmatch(text):
            return _Read("number", text, Fraction(int(m[1] + m[2]), int(m[3])))
        if m := _FRAC.fullmatch(text) or _MIXED.fullmatch(text):
            size = int(m[2] or 0) + Fraction(int(m[3]), int(m[4]))
            return _Read("number", text, -size if m[1] == "-" else size)
    except ZeroDivisionError as error:
        raise InputError("division by zero") from error
    if re.fullmatch(r"[A-Za-z]{3,}|no|NA|na|[Nn]/[Aa]", text):
        return _Read("word", text)
    words = set(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)) - _FUNCTIONS
    if len(words) > 1 and max(map(len, words)) > 3:
        raise InputError("prose, not an answer; give the value alone")
    if re.search(r"\d \d", text):  # math-verify adds the two
        raise InputError("two numbers side by side")
    return _Read("latex", text)


def _squeeze(latex: str) -> str:
    return latex.replace(" ", "")


# --- math-verify in worker processes --------------------------------------------------------------


@functools.lru_cache(4096)  # groups repeat their answers, and a late one is not paid for twice
def _ask(gold: str, answer: str | None) -> str:
    """Whether the two are equal, or with None whether gold can be read: "1", "0", or "late"."""
    return _pool.ask(gold, answer, GOLD_DEADLINE if answer is None else DEADLINE)


class _Worker:
    """A process that runs `_serve`. Once `dead` (killed at the deadline, or ended) it is of no use."""

    def __init__(self):
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.ready, self.late, self.dead = False, False, False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "perception_r1.problems.answers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C and a notebook's interrupt are not meant for it
        )

    def ask(self, gold: str, answer: str | None, seconds: float) -> str:
        """The reply to a request; "" if the process is dead."""
        if not self.ready and self._reply(START_LIMIT) != "ready":
            raise RuntimeError(
                "the process that grades answers does not start; "
                "`python -m perception_r1.problems.answers` in a terminal shows why"
            )
        self.ready = True
        with contextlib.suppress(OSError):  # the process has ended: the empty reply says so
            self.process.stdin.write(json.dumps([gold, answer, seconds]).encode() + b"\n")
            self.process.stdin.flush()
        return self._reply(seconds)

    def _reply(self, seconds: float) -> str:
        """One line from the process, which is killed if none comes in time."""
        timer = threading.Timer(seconds, self._too_late)
        timer.daemon = True
        timer.start()
        reply = ""
        try:
            reply = self.process.stdout.readline().decode().strip()
        finally:  # also after an interrupt: what the process says later is no reply to anything
            timer.cancel()
            timer.join()
            self.dead = self.late or not reply
        return reply

    def _too_late(self) -> None:
        self.late = True
        self.process.kill()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class _Pool:
    """Up to `WORKERS` comparisons at a time. A worker starts when none is idle, for it holds 65 MB.

    One that died is replaced, and from then on a spare one stands by: where one expression is hostile, the
    next may be too, and nobody is to wait for the start.
    """

    def __init__(self):
        self.idle: list[_Worker] = []  # taken from the end; new ones go to the front, to start
        self.places = threading.BoundedSemaphore(WORKERS)

    def ask(self, gold: str, answer: str | None, seconds: float) -> str:
        """The reply of a worker, or "late" if it did not come in time."""
        with self.places:
            worker = self._take()
            try:
                reply = worker.ask(gold, answer, seconds)
                if (
                    worker.dead and not worker.late
                ):  # ended by the expression, or from outside: once more
                    worker.close()
                    worker = _Worker()
                    reply = worker.ask(gold, answer, seconds)
            except BaseException:
                worker.close()
                raise
            if worker.dead:
                worker.close()
                self.idle[:0] = [_Worker() for _ in range(max(1, 2 - len(self.idle)))]
            else:
                self.idle.append(worker)
            return reply or "late"

    def _take(self) -> _Worker:
        try:
            return self.idle.pop()
        except IndexError:
            return _Worker()

    def close(self) -> None:
        while self.idle:
            self.idle.pop().close()


def _fresh_pool() -> None:
    """After a fork the workers are the parent's; the child gets its own."""
    global _pool
    _pool = _Pool()


_fresh_pool()
atexit.register(lambda: _pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_pool)


def _serve() -> None:
    """The worker: one request a line from stdin, one reply a line to stdout, until stdin ends."""
    import logging
    import signal

    import math_verify
    import sympy
    from latex2sympy2_extended import NormalizationConfig

    logging.disable(logging.CRITICAL)
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints is a reply
    with contextlib.suppress(ImportError, ValueError, OSError):  # no such limits on every platform
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    alarm = getattr(signal, "alarm", lambda seconds: 0)
    # without its own units: they take the variable off "3x + 2t"
    rules = NormalizationConfig(units=False, malformed_operators=True, nits=True)
    latex = [math_verify.LatexExtractionConfig(normalization_config=rules)]

    @functools.lru_cache(256)
    def parse(text: str) -> list:
        return math_verify.parse(
            f"${text}$", latex, fallback_mode="no_fallback", parsing_timeout=None
        )

    def has_value(part: sympy.Expr) -> bool:
        """Whether no part of it is 0/0, a pole or a logarithm to base 0 or 1."""
        ends = (sympy.oo, -sympy.oo, sympy.Mul(-1, sympy.oo, evaluate=False))
        if part.has(sympy.oo, -sympy.oo) and part not in ends:
            return False
        if isinstance(part, sympy.log) and len(part.args) == 2 and part.args[1].is_number:
            if part.args[1].doit().evalf(chop=True) in (0, 1):
                return False
        values = (part.doit(), part.evalf()) if part.is_number else (part.doit(),)
        return not any(value.has(sympy.nan, sympy.zoo) for value in values)

    def equal(right: list, answer: str) -> bool:
        """math-verify's word, for what has a value: nan and infinities it simplifies to any gold answer."""
        given = parse(answer)
        parts = [
            p for e in given if isinstance(e, sympy.Basic) for p in sympy.preorder_traversal(e)
        ]
        return (
            math_verify.verify(right, given, timeout_seconds=None)
            and all(has_value(part) for part in parts if isinstance(part, sympy.Expr))
            and not any(
                math_verify.verify(d, given, timeout_seconds=None) for d in decoys if d != right
            )
        )

    decoys = [parse(text) for text in DECOYS]
    equal(decoys[0], DECOYS[1])  # the first comparison is slow, and belongs to the start
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        gold, answer, seconds = json.loads(line)
        alarm(int(3 * seconds) + 1)  # ends this process if the parent is not there to do it
        try:
            right = parse(gold)
            yes = right and (answer is None or equal(right, answer))
        except Exception:  # of a hostile expression: memory, recursion, digits
            yes = False
        alarm(0)
        print("1" if yes else "0", file=replies, flush=True)


if __name__ == "__main__":
    _serve()
