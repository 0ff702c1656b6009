"""The seaborn style of all figures, tables and numbers as they are printed, and what several figures draw."""

import hashlib
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

# Colour-blind safe; the same meaning in every figure: grey is the base, orange accuracy-only, blue perception.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#9AA3AF"
COLOURS = [BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00"]  # the first two are arms alone
GAIN, LOSS = COLOURS[2:4]
ARMS = {"base": GREY, "accuracy_only": ORANGE, "perception": BLUE}  # arm -> colour
SOURCES = '<a href="../data/paper/sources.csv">{}</a>'  # seen from notebooks/
INK, SOFT = "#1d2433", "#6b7280"
# Behind words that a line would cross.
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def use_style() -> None:
    """Set the style of all figures; `notebook.start` does it."""
    sns.set_theme(
        style="ticks",
        palette=COLOURS,
        font="DejaVu Sans",  # comes with matplotlib, so figures look the same everywhere
    )
    plt.rc("figure", dpi=100, titlesize=13, titleweight="bold")
    plt.rc(
        "axes", titlesize=13, titleweight="bold", titlelocation="left", titlepad=12, labelsize=11
    )
    plt.rc("axes.spines", top=False, right=False)
    plt.rc(("xtick", "ytick"), labelsize=10)
    plt.rc("legend", fontsize=10, frameon=False)


# --- numbers and tables ------------------------------------------------------------------------------


def format_p(p: float) -> str:
    """A p-value as it is printed: three digits, or "< 0.001"."""
    return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def points(share: float) -> str:
    """A difference of two shares as it is printed, +8.0 points: a percent sign would say percent of what there was."""
    return "" if pd.isna(share) else f"{100 * share:+z.1f} points"


def table(frame: pd.DataFrame, digits: int = 3, **formats: object) -> Styler:
    """Show a table without its index, text to the left, numbers to `digits` places, source tags as links.

    Args:
        frame: the table; its columns `pvalue` and `p_holm` are shown by `format_p`.
        digits: places of all other fractions.
        formats: column -> format string or function, where that is not enough.
    """
    # a column of numbers of all sizes, with words among them: 1e-06 is not 0.000
    mixed = frame.select_dtypes("object").columns
    fractions = frame.select_dtypes("float").columns.intersection(["pvalue", "p_holm"])
    formats = dict.fromkeys(fractions, format_p) | dict.fromkeys(mixed, _as_it_is) | formats
    formats |= dict.fromkeys(frame.columns.intersection(["source"]), SOURCES.format)
    numeric = frame.select_dtypes("number").columns
    text = [i for i, name in enumerate(frame.columns) if name not in numeric]
    left = [{"selector": f".col{i}", "props": "text-align: left"} for i in text]
    # An id from the content, so that equal runs give equal committed HTML.
    identity = hashlib.sha256(frame.to_csv().encode()).hexdigest()[:8]
    styler = frame.style.set_uuid(identity).hide(axis="index").set_table_styles(left)
    return styler.format(formats, precision=digits, na_rep="")


def _as_it_is(value: object) -> object:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return "" if value is None else value


# --- what several figures draw -----------------------------------------------------------------------


def one_panel(width: float, height: float, **about: object) -> tuple[Figure, plt.Axes]:
    """A figure of one panel.

    Args:
        width: in inches.
        height: in inches.
        about: what matplotlib's `Axes.set` takes: title, xlabel, xlim, ...
    """
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set(**about)
    return figure, axes


def panels(
    names: list[str], size: tuple[float, float], title: str = "", columns: int = 0, **look: object
) -> tuple[Figure, list[plt.Axes]]:
    """A figure of several panels under one title, row by row.

    Args:
        names: of the panels, which stand above them.
        size: width and height of the figure, in inches.
        title: of the figure.
        columns: panels in a row; 0: all. Places that are left over stay blank.
        look: `sharex`, `sharey`: whether panels have one axis.
    """
    columns = columns or len(names)
    look |= {"figsize": size, "layout": "constrained", "squeeze": False}
    figure, grid = plt.subplots(-(-len(names) // columns), columns, **look)
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name, fontsize=11, fontweight="normal")
    if title:
        title_above(figure, title)
    return figure, list(grid.flat[: len(names)])


def title_above(figure: Figure, title: str, small: bool = False) -> None:
    """The title of a figure, from its left edge on, in as many lines as it takes."""
    width = 34 if small else round(11.5 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(title, width), fontsize=9.5 if small else 13, x=0.01, ha="left")


def label_lines(axes: plt.Axes, labels: Sequence[str]) -> None:
    """Name the horizontal lines of a panel, from the top down: line k is at y = k."""
    axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)


def legend_beside(axes: plt.Axes, title: str | None = None) -> None:
    """A legend to the right of a panel."""
    handles, labels = axes.get_legend_handles_labels()
    names = [label.replace("_", "-") for label in labels]
    axes.legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5), title=title)


def interval(axes: plt.Axes, y: float, middle: float, low: float, high: float, colour: str) -> None:
    """One value with its interval, on the line `y`."""
    axes.plot([low, high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
    axes.scatter(middle, y, color=colour, s=40, zorder=3)


def card(
    values: dict[str, float], title: str, colours: Sequence[str] = (GREEN,), fmt: str = "{:.0%}"
) -> Figure:
    """A figure for the index, readable at 272 pixels: a bar a share, with its number.

    Args:
        values: what a bar is called -> a share, or what `fmt` prints.
        title: what the figure shows, in at most 70 characters.
        colours: of the bars, or one of all.
        fmt: of the numbers.
    """
    figure, axes = one_panel(2.9, 0.9 + 0.28 * len(values), xticks=[])
    bars = axes.barh(range(len(values)), list(values.values()), color=colours, height=0.7)
    axes.bar_label(bars, fmt=fmt, padding=3, fontsize=9)
    label_lines(axes, list(values))
    sns.despine(ax=axes, bottom=True)
    axes.margins(x=0.15)
    title_above(figure, title, small=True)
    return figure
