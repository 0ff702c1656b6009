r"""An answer's text in one way of writing: Unicode signs, LaTeX fonts and spacing. What it means: `answer_values`.

Rules are data here: signs, and rewrites that are applied in order.
"""

import re
import unicodedata

_SIGNS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∶": ":",
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "∠": r"\angle ", "∪": r"\cup ",
    "≈": r"\approx ", "≃": r"\approx ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "±": r"\pm ",
    "−": "-", "–": "-", "—": "-", "‐": "-", "、": ",", "。": ".", "【": "(", "】": ")", "’": "'", "‘": "'",
} | dict.fromkeys("“”「」『』", '"')  # fmt: skip
_TRANSLATE = str.maketrans(_SIGNS)
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴-⁹⁺⁻⁽⁾]+"), re.compile("[₀-₉]+")
_FRACTION_SIGN = re.compile("[¼-¾⅐-⅞]")

_BRACES = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_FONTS = (
    "text|textbf|textit|textrm|textsf|texttt|textnormal|emph|underline|mathrm|mathbf|mathit|mathsf"
    "|mathtt|mathcal|mathbb|boldsymbol|pmb|bm|mbox|hbox|fbox|boxed|operatorname"
)
_OLD_FONTS = "bf|rm|it|sf|tt|bfseries|itshape|normalfont|displaystyle|textstyle|large|Large"
_TOKEN = r"(\\[a-zA-Z]+|[^\s{}\\])"
_REWRITE = [
    (re.compile(pattern), new)
    for pattern, new in [
        (r"\\\\(?=[a-zA-Z])", r"\\"),  # a doubled backslash, as JSON text has it
        (
            r"\\[()\[\]]|(?<!\\)\$|\*\*|__|</?(?:b|i|u|em|strong|code)>|\\(?:left|right|[Bb]igg?)(?![a-zA-Z])\.?",
            " ",
        ),
        (r"(?<=\d)(?:\{,\}|\\[,!;: ]|\\,\\!)(?=\d{3}(?!\d))", ","),  # 1{,}234 and 1\,234
        (r"\\(?:[hv]space\*?|[hv]?phantom|(?:text|page)?color(?:box)?)\s*\{[^{}]*\}", " "),
        (rf"\\(?:{_OLD_FONTS})(?![a-zA-Z])|\\[,!;: ]|~|\\q?quad(?![a-zA-Z])", " "),
        (r"\^\s*\{?\s*\\circ(?:\s*\})?|\\degree|\\deg(?![a-zA-Z])", "°"),
        (r"° ?([CF])(?![A-Za-z])", r"°\1"),
        (r"\\([%$])", r"\1"),
        (r"(?<=[\dk ])\\(?:Omega|ohm)(?![a-zA-Z])", "Ω"),
        (r"(?<=[\d ])\\mu ?(?=[a-zA-Z]$)", "μ"),
        (r"\{\s*\}", ""),
        (r"\\(?:[dtc]|nice|s)frac(?![a-zA-Z])", r"\\frac"),
        (rf"\\frac\s*{_TOKEN}", r"\\frac{\1}"),
        (rf"(\\frac\s*{_BRACES})\s*{_TOKEN}", r"\1{\3}"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s+(\d+(?:\.\d+)?)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"\s+", " "),
    ]
]
_FONT = re.compile(rf"\\(?:{_FONTS})\s*{_BRACES}")
_OUTER = re.compile(_BRACES)


def plain_text(text: str) -> str:
    r"""An answer without dress: `{\bf ⅔}` is `\frac{2}{3}`, `１２^\circ` is `12°`, `3×10⁸` is `3\times 10^{8}`.

    What cannot be seen goes (zero width), signs become LaTeX, fonts, colours and spacing go, `\frac 3 5` gets its
    braces. Takes time linear in the length for each level of braces.
    """
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    text = re.sub("[˚º∘]", "°", text)
    text = _RAISED.sub(lambda raised: f"^{{{_compatible(raised[0])}}}", text)
    text = _LOWERED.sub(lambda lowered: f"_{{{_compatible(lowered[0])}}}", text)
    text = _FRACTION_SIGN.sub(
        lambda sign: r"\frac{{{}}}{{{}}}".format(*_compatible(sign[0]).split("⁄")), text
    )
    text = _compatible(text).translate(_TRANSLATE)
    for pattern, new in _REWRITE:
        text = pattern.sub(new, text)
    for _ in range(9):  # fonts in fonts
        text, found = _FONT.subn(r" \1 ", text)
        if not found:
            break
    text = re.sub(r"\s+", " ", text).strip().rstrip(" .,;")
    while whole := _OUTER.fullmatch(text):
        text = whole[1].strip()
    return text


def _compatible(text: str) -> str:
    """Full-width, bold and other forms of a letter or digit as the plain one."""
    return unicodedata.normalize("NFKC", text).replace("−", "-")
