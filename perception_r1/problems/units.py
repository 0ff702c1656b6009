r"""Units that people write beside a number, read by the list in `answers.toml`; `pint` only knows how they convert.

pint alone reads `B` as byte and `C` as coulomb, and its parser computes whatever a text holds. So no text reaches it:
a unit is looked up here, and its name on the list, with a whole power, is all that pint is asked about.
"""

import functools
import math
import re
from typing import Any

from perception_r1.problems.answer_text import RULES, patterns


def _key(word: str) -> str:
    """How a written unit is looked up: a single letter by its case, other words in any."""
    return word if len(word) == 1 else word.lower()


_NAMES = {"unit": ""} | {  # as written -> pint's name; "5 units" says nothing
    _key(word.replace("_", " ")): unit
    for unit, others in RULES["units"].items()
    for word in (unit, *others.split())
}


def _pattern(word: str) -> str:
    """A unit as people write it: in any case, and in the plural, but for single letters."""
    if word == "in":  # "12 in total" are no inches
        return "in(?! [A-Za-z])"
    if len(word) == 1:
        return re.escape(word)
    return f"(?i:{re.escape(word)}{'s?' if len(word) > 2 else ''})"


_PATTERNS = patterns(
    RULES["unit_patterns"],
    unit="|".join(map(_pattern, sorted(_NAMES, key=len, reverse=True))),
    money="|".join(map(re.escape, RULES["money"])),
    count=RULES["words"]["count"].replace(" ", "|"),
    function=RULES["words"]["function"].replace(" ", "|"),
    multiple="|".join(RULES["multiples"]),
)


def split_unit(text: str) -> tuple[str, str]:
    r"""An answer (see `plain_text`) without its unit, and the unit: `5 km/h` -> (`5`, `hour^-1 kilometer`).

    Words behind it go, too ("12 cm long", "24 red balls"). A unit is "" where there is none, or one that says nothing
    ("5 units"). None are: a letter alone, or behind other letters (`2xs`), and what stands behind words ("my foot").
    """
    if price := _PATTERNS.price.match(text):
        unit = RULES["money"][price["money"]]
        value, other = split_unit(price["sign"] + text[price.end() :])
        return (value, unit) if other in ("", unit) else (text, "")
    text = _PATTERNS.fraction.sub(r" \1/\2", text)
    match = _PATTERNS.written.search(text)
    if not match:
        return _PATTERNS.nouns.sub("", text), ""
    value = text[: match.start()].strip()
    plain = re.sub(r"\\[A-Za-z]+|(?<=\d)[eE](?=[-+\d])", "", value.rpartition("=")[2])
    letters = re.findall(r"[A-Za-z]+", plain)
    words = len(match["unit"]) == 1 and letters or any(len(word) > 1 for word in letters)
    if words or not re.search(r"\d|\\pi|\\sqrt", value):
        return text, ""
    return value, _canonical(match["unit"])


def _canonical(written: str) -> str:
    """`m/s^2` -> `meter second^-2`."""
    powers: dict[str, int] = {}
    for one in _PATTERNS.each.finditer(written.replace(r"\cdot", "*")):
        word = _key(one["unit"])
        name = _NAMES.get(word, _NAMES.get(word.removesuffix("s"), ""))
        power = RULES["powers"].get(one["before"] or one["after"]) or int(one["power"] or 1)
        powers[name] = powers.get(name, 0) + (-power if one["below"] else power)
    powers.pop("", None)
    return " ".join(f"{name}^{power}".removesuffix("^1") for name, power in sorted(powers.items()))


def convert(number: float, unit: str, wanted: str) -> float | None:
    """A number of one unit in another, both as `split_unit` gives them; None if they are not of one kind."""
    import pint  # half a second, and few answers need it

    try:
        size = float(_registry().convert(number, unit, wanted))
    except (pint.PintError, OverflowError):
        return None
    return size if math.isfinite(size) else None


@functools.cache
def _registry() -> Any:
    import pint

    registry = pint.UnitRegistry()
    registry.define("dollar = [money]")
    registry.define("cent = 0.01 * dollar")
    return registry
