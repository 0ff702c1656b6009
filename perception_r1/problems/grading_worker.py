"""math-verify in worker processes that are killed at a deadline, so that no expression holds up its caller.

A hostile answer (a tower of powers, a factorial of a factorial) can take for ever or all memory. `pebble` kills the
worker at the deadline and starts another; a worker's memory is bounded, too. Workers are spawned, never forked: a
fork would copy the caller's locks and memory. They import this module and math-verify, and nothing else of ours:
torch or datasets would not fit under the bound.

math-verify's own timeout is a signal, which fails off the main thread; it is switched off here. Its `verify` takes
the gold answer first, and its verdict depends on the order.
"""

import contextlib
import functools
import logging
import multiprocessing.context
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable

import pebble

MEMORY_LIMIT = 512 * 2**20  # bytes of address space of a worker
START_LIMIT = 60.0  # seconds for a worker to start; usually under 1 s
WORKERS = max(2, min(4, os.cpu_count() or 1))  # each holds 65 MB
# answers that no problem has; what equals them equals anything
DECOYS = (r"\frac{1009}{7}", r"-17\sqrt{11}")


def are_equal(gold: str, answer: str | None, seconds: float) -> bool | None:
    """Whether two LaTeX values are equal or, with no answer, whether the gold value can be read.

    Args:
        gold: the right value, without `$`.
        answer: the given value.
        seconds: how long a worker may take.

    Returns:
        None where it took longer, or where two workers ended on it.

    Raises:
        RuntimeError: no worker can be started, or all end again and again; no answer is to blame for that.
    """
    ended = 0  # workers, on this expression or from outside
    for _ in range(5):
        pool = _running_pool()
        try:
            return pool.schedule(_compare, (gold, answer, seconds), timeout=seconds).result()
        except TimeoutError:
            return None
        except pebble.ProcessExpired:
            ended += 1
            if ended == 2:
                return None
        except RuntimeError:  # the whole pool ended: not by this expression
            continue
    raise RuntimeError("the processes that grade answers are ended from outside again and again")


# --- the caller's side -------------------------------------------------------------------------


class _Process(multiprocessing.context.SpawnProcess):
    """A spawned process that does not run the caller's script again, as multiprocessing has it do.

    A script may import torch, or grade answers itself while it is imported.
    """

    def start(self) -> None:
        """Start while `__main__` looks as it does in a notebook, where there is no file to run again."""
        self.daemon = True  # else a caller that ends waits for a worker that was just being started
        with _starting:
            main = vars(sys.modules["__main__"])
            kept = {name: main[name] for name in ("__file__", "__spec__") if name in main}
            main.update(dict.fromkeys(kept))
            try:
                super().start()
            finally:
                main.update(kept)


class _Context(multiprocessing.context.SpawnContext):
    Process = _Process


_lock, _starting = threading.Lock(), threading.Lock()
_pool: pebble.ProcessPool | None = None


def _running_pool() -> pebble.ProcessPool:
    """The pool of this process, started at the first use, or anew where all workers were ended."""
    global _pool
    with _lock:
        if _pool is None or not _pool.active:
            pool = pebble.ProcessPool(WORKERS, initializer=_start_worker, context=_Context())
            try:
                pool.schedule(int).result(START_LIMIT)  # any task: it waits for the first worker
            except BaseException as error:
                pool.stop()
                if not isinstance(error, RuntimeError | OSError):
                    raise  # Ctrl-C
                raise RuntimeError(
                    "the process that grades answers does not start; "
                    "`python -c 'import math_verify'` in a terminal may show why"
                ) from error
            _pool = pool
        return _pool


def _forget_pool() -> None:
    """After a fork the workers are the parent's; the child gets its own."""
    global _lock, _starting, _pool
    _lock, _starting, _pool = threading.Lock(), threading.Lock(), None


os.register_at_fork(after_in_child=_forget_pool)

# --- the worker's side -------------------------------------------------------------------------

_equal: Callable[[str, str | None], bool]


def _start_worker() -> None:
    """Bound the memory, then load math-verify."""
    global _equal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's handler waits for the expression
    os.setsid()  # signals to the caller's group are not meant for it: the caller may still end its step
    with contextlib.suppress(ValueError, OSError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    logging.disable(logging.CRITICAL)  # math-verify warns that it has no timeout of its own
    _equal = _load_math_verify()
    _equal(*DECOYS)  # the first comparison is slow, and belongs to the start
    sys.stdout = sys.stderr = open(os.devnull, "w")


def _compare(gold: str, answer: str | None, seconds: float) -> bool:
    signal.alarm(int(3 * seconds) + 1)  # ends this process if the caller is not there to do it
    try:
        return _equal(gold, answer)
    except Exception:  # of a hostile expression: memory, recursion, digits
        return False
    finally:
        signal.alarm(0)


def _load_math_verify() -> Callable[[str, str | None], bool]:
    """The comparison of a gold value with an answer, or the reading of a gold value alone."""
    import math_verify
    import sympy
    from latex2sympy2_extended import NormalizationConfig

    # without its own units: they take the variable off "3x + 2t"
    rules = NormalizationConfig(units=False, malformed_operators=True, nits=True)
    latex = [math_verify.LatexExtractionConfig(normalization_config=rules)]
    same = functools.partial(math_verify.verify, timeout_seconds=None)

    @functools.lru_cache(256)
    def parse(text: str) -> list:
        # between `$`: it reads a bare `2 \sqrt { 221 }` as 221
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

    def near(one: object, other: object) -> bool:
        """Whether two numbers are equal in their first digits, too: math-verify looks at six decimals."""
        if not all(isinstance(e, sympy.Expr) and e.is_number for e in (one, other)):
            return True
        a, b = one.evalf(15), other.evalf(15)
        return bool(abs(a - b) <= max(abs(a), abs(b)) * 1e-5)

    decoys = [parse(text) for text in DECOYS]

    def equal(gold: str, answer: str | None) -> bool:
        """math-verify's word, for what has a value: nan and infinities it simplifies to any gold answer."""
        right = parse(gold)
        if not right or answer is None:
            return bool(right)
        given = parse(answer)
        parts = [
            p for e in given if isinstance(e, sympy.Basic) for p in sympy.preorder_traversal(e)
        ]
        return (
            same(right, given)
            and all(map(near, right, given))
            and all(has_value(part) for part in parts if isinstance(part, sympy.Expr))
            and not any(same(decoy, given) for decoy in decoys if decoy != right)
        )

    return equal
