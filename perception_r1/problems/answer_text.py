r"""An answer's text in one way of writing: Unicode signs, LaTeX fonts and spacing. What it means: `answer_values`.

The rules of this file and of its neighbours are data, in `answers.toml`.
"""

import functools
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace


def patterns(table: Mapping[str, str], **given: str) -> SimpleNamespace:
    """A table of patterns, compiled; in each, `⟨name⟩` stands for a given one or for an earlier one of the table."""
    known = dict(given)
    for name, pattern in table.items():
        known[name] = re.sub("⟨(\\w+)⟩", lambda named: known[named[1]], pattern)
    return SimpleNamespace(**{name: re.compile(known[name]) for name in table})


RULES = tomllib.loads(Path(__file__).with_name("answers.toml").read_text(encoding="utf-8"))
_DRESS = patterns(RULES["dress"])
_REWRITE = patterns({written: written for written in RULES["rewrite"]}, **RULES["dress"])
_SIGNS = str.maketrans(RULES["signs"])


@functools.lru_cache(4096)
def plain_text(text: str) -> str:
    r"""An answer without dress: `{\bf ⅔}` is `\frac{2}{3}`, `１２^\circ` is `12°`, `3×10⁸` is `3\times 10^{8}`.

    What cannot be seen goes (zero width), signs become LaTeX, fonts, colours and spacing go, `\frac 3 5` gets its
    braces. Meant for texts of at most `answer_values.MAX_CHARACTERS`.
    """
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    text = re.sub("[˚º∘]", "°", text)
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻⁽⁾]+", lambda raised: f"^{{{_usual(raised[0])}}}", text)
    text = re.sub("[₀-₉]+", lambda lowered: f"_{{{_usual(lowered[0])}}}", text)
    text = re.sub(
        "[¼-¾⅐-⅞]", lambda one: r"\frac{{{}}}{{{}}}".format(*_usual(one[0]).split("⁄")), text
    )
    text = _usual(text).translate(_SIGNS)
    for written, new in RULES["rewrite"].items():
        text = vars(_REWRITE)[written].sub(new, text)
    for _ in range(9):  # fonts in fonts
        text = _DRESS.font.sub(r" \1 ", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(" .,;")
    while whole := _DRESS.braces.fullmatch(text):
        text = whole[1].strip()
    return text


def _usual(text: str) -> str:
    """Full-width, bold and other forms of a letter or digit as the usual one."""
    return unicodedata.normalize("NFKC", text).replace("−", "-")
