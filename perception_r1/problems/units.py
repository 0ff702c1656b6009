r"""Units that people write beside a number, read by a written list; `pint` only knows how they convert.

pint alone reads `B` as byte and `C` as coulomb, and its parser computes whatever a text holds. So no text reaches it:
a unit is looked up here, and its name on this list is all that pint is asked about.
"""

import functools
import math
import re

# pint's name (words joined by _), then other ways to write it; plurals and "metre" are understood.
_TABLE = """
millimeter mm 毫米, centimeter cm 厘米 公分, decimeter dm 分米, kilometer km 千米 公里, meter m 米, micrometer μm,
nanometer nm, inch in inches, foot ft feet, yard yd yds, mile mi, light_year ly,
milligram mg, gram g gm 克, kilogram kg kgs kilo 千克 公斤, tonne ton t 吨, pound lb lbs, ounce oz,
millisecond ms, second s sec secs 秒, minute min mins 分钟, hour h hr hrs 小时, day 天, week wk wks,
month mo mos, year yr yrs 年 岁, milliliter mL 毫升, liter L l 升, gallon gal, quart qt, pint pt, cup,
newton N, kilonewton kN, pascal Pa, kilopascal kPa, atmosphere atm, joule J, kilojoule kJ, calorie cal,
kilocalorie kcal, electron_volt eV, watt W, kilowatt kW, kilowatt_hour kWh, volt V, ampere A amp,
milliampere mA, ohm Ω, kiloohm kΩ, coulomb C, tesla T, hertz Hz, kilohertz kHz, megahertz MHz, kelvin K, mole mol,
degree ° deg 度, radian rad, degree_Celsius °C celsius, degree_Fahrenheit °F fahrenheit,
percent % percentage per_cent, acre, hectare ha, mile_per_hour mph, kilometer_per_hour kph kmh,
revolutions_per_minute rpm, ante_meridiem AM a.m, post_meridiem PM p.m,
dollar USD, cent ¢, euro € EUR, pound_sterling GBP, yen JPY, yuan RMB 元, rupee INR
"""
_NAMES = {
    written.replace("_", " "): names[0]
    for names in map(str.split, _TABLE.split(","))
    for written in names
}
_NAMES |= {name.lower(): unit for name, unit in _NAMES.items() if len(name) > 1}
_NAMES["unit"] = ""  # "5 units" says nothing
_MONEY = {"$": "dollar", "US$": "dollar", "USD": "dollar", "€": "euro", "£": "pound_sterling", "¥": "yen",
          "₹": "rupee", "Rs": "rupee", "Rs.": "rupee"}  # fmt: skip


def _pattern(written: str) -> str:
    """A written unit as a pattern: short signs by their case, or all small or capital; words in any case and number."""
    pattern = re.escape(written).replace("meter", "met(?:er|re)").replace("liter", "lit(?:er|re)")
    if written == "in":  # "12 in total" are no inches
        return r"in(?! [A-Za-z])"
    if len(written) == 1 or not written.isascii():
        return pattern
    return rf"(?i:{pattern}{'s?' if len(written) > 2 else ''})"


_WORD = "|".join(map(_pattern, sorted(_NAMES, key=len, reverse=True)))
_ONE = (
    r"(?:(?P<area>sq(?:uare|\.)?) ?|(?P<volume>cu(?:bic|\.)?) ?)?"
    rf"(?P<word>{_WORD})(?![A-Za-z])\.?"
    r"(?: ?\^? ?\{? ?(?P<power>-?[1-4])(?!\d) ?\}?|(?P<squared> squared)|(?P<cubed> cubed))?"
)
_PLAIN_ONE = re.sub(r"\?P<\w+>", "?:", _ONE)
# words that may stand behind a number or a unit; those left out are part of the value
_WORDS = (
    r"(?:(?! (?:or|and|to|plus|minus|over|divided|times|than|point|one|two|three|four|five|six|seven|eight|nine|ten|"
    r"sin|cos|tan|cot|sec|csc|log|half|hundred|thousand|million|billion)\b) [A-Za-z]{2,})*"
)
_BETWEEN = r" ?(?:/|\\cdot|\*|-|\bper\b| an? ) ?| "
_UNIT = re.compile(
    rf"(?<=[\d}})°i .])(?P<open>[({{]+ ?)?(?P<unit>{_PLAIN_ONE}(?:(?:{_BETWEEN}){_PLAIN_ONE})*)(?(open) ?[)}}]+)"
    rf"{_WORDS}$"
)
_NOUNS = re.compile(
    rf"(?<=\d)(?= [A-Za-z]{{3}}| of | in | on | ?(?:st|nd|rd|th)\b)(?: ?(?:st|nd|rd|th))?{_WORDS}$"
    r"|(?<=\d) ?(?!.*[万亿千百半倍分或和至])[\u4e00-\u9fff]+$"
)
_FRACTION = re.compile(
    r"(?<=\d) ?\\frac ?\{ ?([A-Za-z]+) ?\} ?\{ ?([A-Za-z]+(?: ?\^ ?\{?\d\}?)?) ?\}"
)
_EACH = re.compile(rf"(?P<below>/|per | an? )?[ ({{]*{_ONE}")
_PRICE = re.compile(
    rf"(?P<sign>[-+]?) ?(?P<money>{'|'.join(map(re.escape, sorted(_MONEY, key=len, reverse=True)))}) ?(?=[\d.-])"
)


def split_unit(text: str) -> tuple[str, str]:
    r"""An answer (see `plain_text`) without its unit, and the unit: `5 km/h` -> (`5`, `hour^-1 kilometer`).

    Words behind a unit go, too ("12 cm long"). A unit is "" where there is none, or one that says nothing ("5 units").
    Not one: a letter alone, or behind other letters (`2xs`), and what stands behind words ("my right foot").
    """
    if price := _PRICE.match(text):
        value, unit = split_unit(price["sign"] + text[price.end() :])
        return (
            (value, _MONEY[price["money"]]) if unit in ("", _MONEY[price["money"]]) else (text, "")
        )
    text = _FRACTION.sub(r" \1/\2", text)
    match = _UNIT.search(text)
    if not match:
        nouns = _NOUNS.search(text)
        return (text[: nouns.start()] if nouns else text), ""
    value = text[: match.start()].strip()
    letters = re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", "", value.rpartition("=")[2]))
    if not re.search(r"\d|\\pi|\\sqrt", value) or any(len(word) > 1 for word in letters):
        return text, ""
    if letters and len(match["unit"]) == 1:
        return text, ""
    return value, _canonical(match["unit"])


def _canonical(written: str) -> str:
    """`m/s^2` -> `meter second^-2`."""
    powers: dict[str, int] = {}
    for one in _EACH.finditer(written.replace(r"\cdot", "*")):
        power = int(one["power"] or 1)
        power = (
            2 if one["area"] or one["squared"] else 3 if one["volume"] or one["cubed"] else power
        )
        if name := _name(one["word"]):
            powers[name] = powers.get(name, 0) + (-power if one["below"] else power)
    return " ".join(
        name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items())
    )


def _name(written: str) -> str:
    for word in (written, written.lower(), written.lower().removesuffix("s")):
        if (word := word.replace("metre", "meter").replace("litre", "liter")) in _NAMES:
            return _NAMES[word]
    return ""


def convert(number: float, unit: str, wanted: str) -> float | None:
    """A number of one unit in another, both as `split_unit` gives them; None if they are not of one kind."""
    import pint  # half a second, and few answers need it

    registry = _registry()
    units = [
        math.prod(
            (registry.Unit(name.partition("^")[0]) ** int(name.partition("^")[2] or 1))
            for name in names.split()
        )
        for names in (unit, wanted)
    ]
    try:
        return float(registry.convert(number, *units))
    except (pint.PintError, OverflowError):
        return None


@functools.cache
def _registry() -> "pint.UnitRegistry":
    import pint

    registry = pint.UnitRegistry()
    registry.define("dollar = [money]")
    registry.define("cent = 0.01 * dollar")
    for name in (
        "euro",
        "pound_sterling",
        "yen",
        "yuan",
        "rupee",
        "ante_meridiem",
        "post_meridiem",
    ):
        registry.define(f"{name} = [{name}]")
    return registry
