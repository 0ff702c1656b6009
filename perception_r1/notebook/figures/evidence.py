"""Figures of paired tests and what they can show; notebook 01."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy import stats as sps

from perception_r1.evidence.stats import McNemarResult, PairedTable
from perception_r1.notebook.figures import style


def paired_counts(table: PairedTable) -> Figure:
    """The 2x2 table, with the two discordant cells in colour."""
    title = f"Only {table.b + table.c} of {table.n} items can tell the two apart"
    figure, axes = style.one_panel(5.4, 3.5, title=title)
    texts = [[f"{table.both}\nright both times", f"{table.b}\nb: lost"]]
    texts += [[f"{table.c}\nc: gained", f"{table.neither}\nwrong both times"]]
    colours = ["#EEF1F5", style.LOSS, style.GAIN]
    look = {"annot": texts, "fmt": "", "annot_kws": {"fontsize": 14}, "linewidths": 6}
    look |= dict.fromkeys(["xticklabels", "yticklabels"], ["right", "wrong"])
    sns.heatmap([[0, 1], [2, 0]], cmap=colours, ax=axes, cbar=False, **look)
    axes.set(xlabel="after", ylabel="before")
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure


def coin_flips(result: McNemarResult) -> Figure:
    """Where the observed split lies among all splits that a fair coin would deal."""
    d = result.b + result.c
    title = f"A coin deals {result.b} to {result.c}, or worse, with chance {result.pvalue:.3f}"
    about = {"xlabel": f"gains among {d} discordant items", "ylabel": "chance under a fair coin"}
    figure, axes = style.one_panel(6.6, 3.3, title=title, **about)
    gains = np.arange(d + 1)
    extreme = np.minimum(gains, d - gains) <= min(result.b, result.c)
    chance = sps.binom.pmf(gains, d, 0.5)
    bars = axes.bar(gains, chance, color=np.where(extreme, style.SOFT, "#D5DAE1"), width=0.8)
    axes.bar_label(bars, fmt="%.3f", fontsize=9, padding=2)
    axes.text(result.c, chance[result.c] + 0.03, "observed", ha="center", color=style.INK)
    axes.set_xticks(gains)
    return figure


def power_curves(curves: pd.DataFrame, marks: tuple[int, ...], split: str) -> Figure:
    """Power of the exact test over the number of discordant pairs, one curve a split; 80% as a line.

    Args:
        curves: columns `d`, `split` (text, "5 : 1"), `power`.
        marks: numbers of discordant pairs to mark (those of a study).
        split: the split that the title speaks of.
    """
    chosen = curves[curves["split"] == split].set_index("d")["power"]
    read = ", ".join(f"{chosen[d]:.0%} with {d} pairs" for d in marks)
    about = {"title": f"Power to see a true {split} split: {read}", "ylim": (0, 1.04)}
    figure, axes = style.one_panel(7.6, 3.9, xscale="log", **about)
    look = {"hue": "split", "palette": style.COLOURS[2:], "linewidth": 2}
    sns.lineplot(curves, x="d", y="power", ax=axes, **look)
    axes.axhline(0.8, color=style.INK, linewidth=0.9, linestyle="--")
    for d in marks:
        axes.axvline(d, color=style.GREY, linewidth=0.9, linestyle=":")
        axes.scatter(d, chosen[d], s=60, color=style.INK, zorder=3)
    axes.set(xlabel="discordant pairs d (log scale)", xlim=(4, curves["d"].max()))
    ticks = sorted({4, *marks, 25, 50, 100})
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    style.legend_beside(axes, "gains : losses")
    return figure


def forest(rows: pd.DataFrame, title: str, xlabel: str) -> Figure:
    """Differences with their intervals, one line each, grouped by family.

    Args:
        rows: columns `label`, `family`, `difference`, `low`, `high` (in percentage points), `note`,
            and `arm`, which gives the colour, or `clear` (bool): whether the difference stands after correction; only
            those get a colour.
        title: what the figure shows.
        xlabel: what the differences are.
    """
    count = len(rows) + rows["family"].nunique()
    about = {"title": title, "xlabel": xlabel, "ylim": (count - 0.4, -0.7)}
    figure, axes = style.one_panel(8.2, 1.1 + 0.42 * count, **about)
    heading = {"fontsize": 10, "fontweight": "bold", "va": "center", "bbox": style.PLAIN}
    right = max(rows["high"].max(), 0) + 1.5
    y, lines = 0, {}  # y -> label
    for family, part in rows.groupby("family", sort=False):
        axes.text(0, y, family, transform=axes.get_yaxis_transform(), **heading)
        for row in part.itertuples():
            y += 1
            sign = (style.LOSS, style.GAIN)[row.difference > 0]
            colour = style.ARMS[row.arm] if "arm" in rows else sign if row.clear else style.GREY
            style.interval(axes, y, row.difference, row.low, row.high, colour)
            axes.text(right, y, row.note, va="center", fontsize=10)
            lines[y] = row.label
        y += 1
    axes.axvline(0, color=style.INK, linewidth=0.9)
    axes.set_yticks(list(lines), lines.values())
    axes.tick_params(axis="y", length=0)
    sns.despine(figure, left=True)
    return figure
