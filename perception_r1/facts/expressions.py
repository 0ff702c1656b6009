r"""Values as people write them, `\frac{1}{2}x+12`, in one canonical form, so that equal ones compare equal.

A value is a polynomial with exact fractions over letters, pi and square roots of numbers, which covers all
labels of Geometry3K; other roots and fractions are equal only to themselves. Nothing is ever evaluated as
code, and text that would be costly to expand is refused.
"""

import functools
import math
import re
from fractions import Fraction

from perception_r1.common.errors import InputError

# What the polynomials are made of: ("letter", "x"), ("pi",), ("root", 2) for the square root of a square-free whole
# number, ("sqrt", value) and ("inverse", value) for what does not simplify.
Generator = tuple
Monomial = tuple[tuple[Generator, int], ...]  # each generator with its power, sorted
Value = tuple[tuple[Monomial, Fraction], ...]  # sorted; equal values are equal tuples

# Far above any textbook label (at most 2 terms in Geometry3K), and low enough that the worst text costs milliseconds.
MAX_CHARACTERS = 200
MAX_DEPTH = 20
MAX_TERMS = 24
MAX_POWER = 10
MAX_BITS = 512
MAX_RADICAND = 10**12
MAX_INSIDE = 2000  # characters of a value below a root or a line, as Python writes it

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
        raise ExpressionError(
            f"a value of {len(text)} characters; at most {MAX_CHARACTERS} are read"
        )
    plain = _SYNONYM.sub(lambda match: _SYNONYMS[match.group()], text)
    tokens = _TOKEN.findall(plain)
    if "".join(tokens) != "".join(plain.split()):
        raise ExpressionError(f"cannot read {text!r} as a value")
    reader = _Reader(text, tokens)
    value = reader.sum()
    if reader.next:
        raise reader.error()
    return value


def subtract(a: Value, b: Value) -> Value:
    """The value of a - b."""
    return _add(a, _multiply(_number(-1), b))


def is_number(value: Value) -> bool:
    """Whether the value holds no letter and is simplified as far as numbers go: it is 0 only if it is `()`."""
    return all(g[0] in ("pi", "root") for monomial, _ in value for g, _ in monomial)


class _Reader:
    """Recursive descent: sum of products of signed powers of atoms."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self.text, self.tokens, self.at, self.depth = text, tokens, 0, 0

    def error(self) -> ExpressionError:
        where = " ".join(self.tokens[self.at : self.at + 3]) or "the end"
        return ExpressionError(f"cannot read {self.text!r} as a value at {where!r}")

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token, self.at = self.next, self.at + 1
        return token

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(f"a value nested deeper than {MAX_DEPTH}")
        value = self.product()
        while self.next in ("+", "-"):
            add = _add if self.take() == "+" else subtract
            value = add(value, self.product())
        self.depth -= 1
        return value

    def product(self) -> Value:
        value = self.signed()
        while True:
            if self.next in ("*", "/"):
                times = self.take() == "*"
                factor = self.signed()
                value = _multiply(value, factor if times else _inverse(factor))
            elif self.next[:1].isalpha() or self.next in ("(", "{") or self.next[:1] == "\\":
                value = _multiply(value, self.powered())  # implicit: 2x, but never x2
            else:
                return value

    def signed(self) -> Value:
        sign = 1
        while self.next in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        return _multiply(_number(sign), self.powered())

    def powered(self) -> Value:
        base = self.atom()
        if self.next != "^":
            return base
        self.take()
        return _power(base, self.atom())

    def group(self) -> Value:
        closing = {"{": "}", "(": ")"}.get(self.next)
        if not closing:
            raise self.error()
        self.take()
        value = self.sum()
        if self.next != closing:
            raise self.error()
        self.take()
        return value

    def atom(self) -> Value:
        token = self.next
        if token in ("{", "("):
            return self.group()
        if token[:1].isdigit() or token[:1] == ".":
            return _number(Fraction(self.take()))
        if len(token) == 1 and token.isalpha():
            return _generator("letter", self.take())
        if token not in (r"\frac", r"\sqrt", r"\pi"):
            raise self.error()
        self.take()
        if token == r"\frac":
            top = self.group()
            return _multiply(top, _inverse(self.group()))
        return _sqrt(self.atom()) if token == r"\sqrt" else _generator("pi")


# --- exact arithmetic on values --------------------------------------------------------------------


def _value(terms: dict[Monomial, Fraction]) -> Value:
    terms = {monomial: factor for monomial, factor in terms.items() if factor}
    if len(terms) > MAX_TERMS:
        raise ExpressionError(f"a value of more than {MAX_TERMS} terms")
    for factor in terms.values():
        if max(factor.numerator.bit_length(), factor.denominator.bit_length()) > MAX_BITS:
            raise ExpressionError("a value with a number of more than 150 digits")
    return tuple(sorted(terms.items(), key=repr))


def _number(number: Fraction | int) -> Value:
    return _value({(): Fraction(number)})


def _generator(*generator: object) -> Value:
    return ((((generator, 1),), Fraction(1)),)


def _add(a: Value, b: Value) -> Value:
    terms = dict(a)
    for monomial, factor in b:
        terms[monomial] = terms.get(monomial, Fraction(0)) + factor
    return _value(terms)


def _multiply(a: Value, b: Value) -> Value:
    total: Value = ()
    for left, p in a:
        for right, q in b:
            total = _add(total, _monomial(left, right, p * q))
    return total


def _monomial(left: Monomial, right: Monomial, factor: Fraction) -> Value:
    """The product of two monomials; of square roots that meet, one is left."""
    powers: dict[Generator, int] = dict(left)
    for generator, power in right:
        other = next((g for g in powers if g[0] == "root"), None)
        if generator[0] == "root" and other:
            del powers[other]
            common = math.gcd(other[1], generator[1])
            factor *= common
            generator = ("root", other[1] * generator[1] // common**2)
            if generator[1] == 1:
                continue
        powers[generator] = powers.get(generator, 0) + power
    if any(power > MAX_POWER for power in powers.values()):
        raise ExpressionError(f"a value with a power above {MAX_POWER}")
    return _value({tuple(sorted(powers.items(), key=repr)): factor})


def _inverse(value: Value) -> Value:
    """1 / value; without its root below the line where that is all there is: 1 / sqrt(n) = sqrt(n) / n."""
    if not value:
        raise ExpressionError("a value divided by zero")
    root = next((m for m, _ in value if m and m[0][0][0] == "root"), ())
    product = dict(_multiply(value, ((root, Fraction(1)),)))
    if set(product) == {()}:
        return ((root, 1 / product[()]),)
    return _opaque("inverse", value)


def _sqrt(value: Value) -> Value:
    """The root of a number is sqrt(n) with n square-free, times a fraction."""
    number = dict(value).get((), Fraction(0))
    if value != _number(number) or number < 0:
        return _opaque("sqrt", value)
    inside = number.numerator * number.denominator
    if inside > MAX_RADICAND:
        raise ExpressionError(f"a root of a number above {MAX_RADICAND}")
    outside, inside = _square_free(inside)
    root = ((("root", inside), 1),) if inside > 1 else ()
    return _value({root: Fraction(outside, number.denominator)})


def _opaque(name: str, value: Value) -> Value:
    """A root or an inverse that does not simplify, as a thing of its own."""
    if len(repr(value)) > MAX_INSIDE:
        raise ExpressionError("a root or a fraction of too large a value")
    return _generator(name, value)


def _square_free(n: int) -> tuple[int, int]:
    """Write n as outside^2 * inside, inside without square factors."""
    outside, inside, rest, prime = 1, 1, n, 2
    while prime**3 <= rest:
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        outside, inside = outside * prime ** (power // 2), inside * prime ** (power % 2)
        prime += 1
    root = math.isqrt(rest)  # what is left has at most two prime factors
    return (outside * root, inside) if root**2 == rest else (outside, inside * rest)


def _power(base: Value, exponent: Value) -> Value:
    number = dict(exponent).get((), Fraction(0))
    if number == Fraction(1, 2) and exponent == _number(number):
        return _sqrt(base)
    if exponent != _number(number) or number.denominator != 1 or abs(number) > MAX_POWER:
        raise ExpressionError(f"a power that is no whole number up to {MAX_POWER}")
    base = _inverse(base) if number < 0 else base
    return functools.reduce(_multiply, [base] * abs(int(number)), _number(1))
