r"""Values as people write them, `\frac{1}{2}x+12`, in one canonical form, so that equal ones compare equal.

A value is a sum of terms with exact fractions, as sympy expands it: letters, pi, roots and fractions, which covers all
labels of Geometry3K. Nothing is ever evaluated as code, and text that would be costly to expand is refused.
"""

import functools
import re
from fractions import Fraction

import lazy_loader

from perception_r1.common.errors import InputError

sympy = lazy_loader.load("sympy")  # half a second, and plain numbers need none of it
# Sorted terms, each what is multiplied (`()` for a plain number) and how often; equal values are equal tuples.
Value = tuple[tuple["sympy.Expr | tuple", Fraction], ...]

# Far above any textbook label (at most 2 terms in Geometry3K), and low enough that the worst text costs milliseconds.
MAX_CHARACTERS = 200
MAX_DEPTH = 20
MAX_OPERATIONS = 300
MAX_POWER = 10
MAX_BITS = 512

_TOKEN = re.compile(r"(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|[A-Za-z]|[-+*/^(){}])")
_SYNONYMS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cdot": "*", r"\times": "*", r"\div": "/",
    r"\left": "", r"\right": "", "−": "-", "·": "*", "×": "*", "÷": "/", "π": r"\pi ",
    "°": "", r"^\circ": "", r"^{\circ}": "", r"^ \circ": "", r"^ { \circ }": "",
}  # fmt: skip
_SYNONYM = re.compile(
    "|".join(
        re.escape(s) + ("(?![A-Za-z])" if s[-1].isalpha() and s != "π" else "")
        for s in sorted(_SYNONYMS, key=len, reverse=True)
    )
)


class ExpressionError(InputError):
    """Text that is not a value, or one too large to be a label in a figure."""


@functools.lru_cache(maxsize=4096)
def read_value(text: str) -> Value:
    r"""Read a value: numbers, letters, `+ - * / ^`, implicit products, `\frac`, `\sqrt`, `\pi`, brackets.

    A degree sign is dropped. As in LaTeX, `1/2x` is half of x, and `3\frac{1}{2}` is a product.

    Raises:
        ExpressionError: the text is not such a value, or passes one of the limits above.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"a value of more than {MAX_CHARACTERS} characters")
    plain = _SYNONYM.sub(lambda match: _SYNONYMS[match.group()], text)
    tokens = _TOKEN.findall(plain)
    if "".join(tokens) != "".join(plain.split()):
        raise ExpressionError(f"cannot read {text!r} as a value")
    if len(tokens) == 1 and not tokens[0].strip("0123456789."):  # most are plain numbers
        return (((), Fraction(tokens[0])),) if Fraction(tokens[0]) else ()
    reader = _Reader(text, tokens)
    terms = reader.sum().as_coefficients_dict()
    reader.need("")
    parts = [(() if part == 1 else part, Fraction(int(n.p), int(n.q))) for part, n in terms.items()]
    return tuple(sorted(((part, n) for part, n in parts if n), key=repr))


def is_number(value: Value) -> bool:
    """Whether the value holds no letter."""
    return not any(part and part.free_symbols for part, _ in value)


def to_float(value: Value) -> float:
    """A number as a float.

    Raises:
        ExpressionError: it holds a letter, or a root of a negative number.
    """
    try:
        return sum(float(n) * (float(part) if part else 1) for part, n in value)
    except TypeError as error:
        raise ExpressionError("a value that is no real number") from error


def differ(a: Value, b: Value) -> bool:
    """Whether two values differ whatever the letters stand for: 10 and 12, x+21 and x+22, not 10 and x."""
    left = dict(a)
    for part, n in b:
        left[part] = left.get(part, 0) - n
    try:
        return abs(to_float(tuple((part, n) for part, n in left.items() if n))) > 1e-9
    except ExpressionError:
        return False


class _Reader:
    """Recursive descent: sum of products of signed powers of atoms."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self.text, self.tokens, self.at, self.depth = text, tokens, 0, 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token, self.at = self.next, self.at + 1
        return token

    def need(self, *tokens: str) -> str:
        if self.next not in tokens:
            where = " ".join(self.tokens[self.at : self.at + 3]) or "the end"
            raise ExpressionError(f"cannot read {self.text!r} as a value at {where!r}")
        return self.take()

    def sum(self) -> "sympy.Expr":
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(f"a value nested deeper than {MAX_DEPTH}")
        value = self.product()
        while self.next in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = _checked(value + sign * self.product())
        self.depth -= 1
        return value

    def product(self) -> "sympy.Expr":
        value = self.signed()
        while True:
            if self.next in ("*", "/"):
                times = self.take() == "*"
                factor = self.signed()
                value = _checked(value * (factor if times else _inverse(factor)))
            elif self.next[:1].isalpha() or self.next in ("(", "{") or self.next[:1] == "\\":
                value = _checked(value * self.powered())  # implicit: 2x, but never x2
            else:
                return value

    def signed(self) -> "sympy.Expr":
        sign = 1
        while self.next in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        return _checked(sign * self.powered())

    def powered(self) -> "sympy.Expr":
        base = self.atom()
        if self.next != "^":
            return base
        self.take()
        return _power(base, self.atom())

    def group(self) -> "sympy.Expr":
        closing = {"{": "}", "(": ")"}[self.need("{", "(")]
        value = self.sum()
        self.need(closing)
        return value

    def atom(self) -> "sympy.Expr":
        token = self.next
        if token in ("{", "("):
            return self.group()
        if token[:1].isdigit() or token[:1] == ".":
            return sympy.Rational(self.take())
        if len(token) == 1 and token.isalpha():
            return sympy.Symbol(self.take())
        if self.need(r"\frac", r"\sqrt", r"\pi") == r"\frac":
            top = self.group()
            return _checked(top * _inverse(self.group()))
        return sympy.sqrt(self.atom()) if token == r"\sqrt" else sympy.pi


def _checked(value: "sympy.Expr") -> "sympy.Expr":
    """A value written out, if that has stayed small."""
    value = sympy.expand(value)
    if value.count_ops() > MAX_OPERATIONS:
        raise ExpressionError(f"a value of more than {MAX_OPERATIONS} operations")
    if any(max(abs(n.p), n.q).bit_length() > MAX_BITS for n in value.atoms(sympy.Rational)):
        raise ExpressionError("a value with a number of more than 150 digits")
    return value


def _inverse(value: "sympy.Expr") -> "sympy.Expr":
    if value == 0:
        raise ExpressionError("a value divided by zero")
    return 1 / value


def _power(base: "sympy.Expr", exponent: "sympy.Expr") -> "sympy.Expr":
    """A whole power, by one product after the other, so that a costly one is refused on the way; or a root."""
    if exponent == sympy.Rational(1, 2):
        return base**exponent
    if not exponent.is_Integer or abs(exponent) > MAX_POWER:
        raise ExpressionError(f"a power that is no whole number up to {MAX_POWER}")
    factor, power = _inverse(base) if exponent < 0 else base, sympy.Integer(1)
    for _ in range(abs(exponent)):
        power = _checked(power * factor)
    return power
