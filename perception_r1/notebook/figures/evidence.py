"""Figures of paired tests and what they can show; notebook 01."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from scipy import stats as sps

from perception_r1.evidence.stats import McNemarResult, PairedTable, mcnemar, smallest_pvalue
from perception_r1.notebook.figures import style

ALPHA = 0.05  # the level that is drawn


def paired_counts(table: PairedTable) -> Figure:
    """The 2x2 table, with the two discordant cells in colour."""
    title = f"Only {table.b + table.c} of {table.n} items can tell the two apart"
    about = {"xlabel": "after", "ylabel": "before", "xlim": (0, 2), "ylim": (0, 2)}
    figure, axes = style.one_panel(5.4, 3.5, title=title, **about)
    cells = [
        (0, 1, table.both, "right both times", "#EEF1F5"),
        (1, 1, table.b, "b: lost", style.LOSS),
        (0, 0, table.c, "c: gained", style.GAIN),
        (1, 0, table.neither, "wrong both times", "#EEF1F5"),
    ]
    for x, y, count, label, colour in cells:
        ink = "white" if colour in (style.GAIN, style.LOSS) else style.INK
        axes.add_patch(plt.Rectangle((x, y), 0.97, 0.95, color=colour, linewidth=0))
        middle = {"ha": "center", "va": "center", "color": ink}
        axes.text(x + 0.48, y + 0.56, str(count), fontsize=24, **middle)
        axes.text(x + 0.48, y + 0.2, label, fontsize=11, **middle)
    axes.set_xticks([0.48, 1.48], ["right", "wrong"])
    axes.set_yticks([1.48, 0.48], ["right", "wrong"], rotation=90, va="center")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    sns.despine(figure, left=True, bottom=True)
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
    bars = axes.bar(gains, chance, color=np.where(extreme, style.BLUE, "#D5DAE1"), width=0.8)
    texts = axes.bar_label(bars, fmt="%.3f", fontsize=9, padding=2)
    for text, counted in zip(texts, extreme, strict=True):
        text.set_color(style.INK if counted else "#6b7482")
    axes.annotate(
        "observed", (result.c, chance[result.c] + 0.03), xytext=(0, 26), textcoords="offset points",
        ha="center", color=style.ORANGE, arrowprops={"arrowstyle": "->", "color": style.ORANGE},
    )  # fmt: skip
    axes.set_xticks(gains)
    return figure


def pvalue_forms(forms: pd.DataFrame) -> Figure:
    """p-values of several forms of McNemar's test against the published ones.

    Args:
        forms: columns `comparison`, `form`, `pvalue`, `reported` (as published, rounded).
    """
    agrees = forms["pvalue"].round(2) == forms["reported"]
    matching = agrees.groupby(forms["form"], sort=False).all()
    names = ", ".join(matching.index[matching]) or "no"
    title = f"All three published p-values come out of: the {names} form"
    about = {"title": title, "xlabel": "two-sided p-value (log scale)", "xscale": "log"}
    figure, axes = style.one_panel(7.6, 3.3, **about)
    order, kinds = (list(forms[name].unique()) for name in ("comparison", "form"))
    published = forms.drop_duplicates("comparison")["reported"]
    y = np.arange(len(order))
    axes.vlines(published, y - 0.36, y + 0.36, color=style.INK, linewidth=1.6, label="as published")
    for k, (form, marker) in enumerate(zip(kinds, ["o", "s", "D", "^"], strict=False)):
        rows = forms[forms["form"] == form]
        y = rows["comparison"].map(order.index) + 0.17 * (k - (len(kinds) - 1) / 2)
        look = {"marker": marker, "s": 55, "label": form, "zorder": 2, "edgecolor": "white"}
        axes.scatter(rows["pvalue"], y, **look)
    style.label_lines(axes, order)
    axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    axes.minorticks_off()
    style.legend_beside(axes)
    return figure


def attainable(d_max: int, studies: dict[str, tuple[int, int]]) -> Figure:
    """The smallest p-value each number of discordant pairs can give, and where the studies stand.

    Args:
        d_max: right end of the axis.
        studies: name -> (b, c).
    """
    d = np.arange(1, d_max + 1)
    smallest = np.array([smallest_pvalue(int(k)) for k in d])
    title = f"Under {d[smallest <= ALPHA][0]} discordant pairs nothing can be significant"
    about = {"xlabel": "discordant pairs d", "ylabel": "p-value", "yscale": "log"}
    figure, axes = style.one_panel(7.2, 3.8, title=title, ylim=(1e-5, 1.6), **about)
    axes.step(d, smallest, where="mid", color=style.GREY, label="smallest p that d pairs can give")
    axes.axhline(ALPHA, color=style.INK, linewidth=0.9, linestyle="--")
    axes.text(d_max, ALPHA * 1.15, f"p = {ALPHA}", ha="right", fontsize=10)
    axes.xaxis.set_major_locator(MultipleLocator(2))
    for (name, (b, c)), marker in zip(studies.items(), ["s", "^", "o"], strict=False):
        p = mcnemar(b, c).pvalue
        colour = style.BLUE if p <= ALPHA else style.ORANGE
        axes.scatter(b + c, p, s=60, marker=marker, color=colour, zorder=3)
        look = {"xytext": (9, -8 if p <= ALPHA else 0), "va": "center", "fontsize": 10}
        axes.annotate(name, (b + c, p), textcoords="offset points", **look)
    axes.legend(loc="lower left")
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
    sns.lineplot(curves, x="d", y="power", hue="split", ax=axes, linewidth=2)
    axes.axhline(0.8, color=style.INK, linewidth=0.9, linestyle="--")
    for d in marks:
        axes.axvline(d, color=style.GREY, linewidth=0.9, linestyle=":")
        axes.scatter(d, chosen[d], s=60, color=style.INK, zorder=3)
    most = curves["d"].max()
    axes.set(xlabel="discordant pairs d (log scale)", xlim=(4, most))
    ticks = sorted({*marks, *(t for t in (4, 25, 50, 100) if t <= most)})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    style.legend_beside(axes, "gains : losses")
    return figure


def possible_splits(splits: pd.DataFrame) -> Figure:
    """p-value of each split that an unpublished comparison could have had.

    Args:
        splits: columns `b`, `c`, `pvalue`.
    """
    names = [f"{row.b} : {row.c}" for row in splits.itertuples()]
    significant = splits["pvalue"] <= ALPHA
    of = f"{significant.sum()} of the {len(splits)} splits that fit the published counts"
    about = {"title": f"Significant in {of}", "ylabel": "exact p-value"}
    about["xlabel"] = "items only accuracy-only sees right : items only Perception-R1 sees right"
    figure, axes = style.one_panel(7.2, 3.4, **about)
    colours = np.where(significant, style.BLUE, style.GREY)
    bars = axes.bar(names, splits["pvalue"], color=colours, width=0.7)
    axes.bar_label(bars, fmt="%.3f", fontsize=10, padding=2)
    axes.axhline(ALPHA, color=style.INK, linewidth=0.9, linestyle="--")
    axes.text(len(names) - 0.4, ALPHA, f" p = {ALPHA}", va="center", fontsize=10)
    axes.set_xlim(-0.6, len(names) - 0.4)
    return figure


def forest(rows: pd.DataFrame, title: str, xlabel: str) -> Figure:
    """Differences with their intervals, one line each, grouped by family.

    Args:
        rows: columns `label`, `family`, `difference`, `low`, `high` (in percentage points), `note`,
            and `clear` (bool): whether the difference stands after correction; only those get a colour.
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
            colour = style.by_sign([row.difference])[0] if row.clear else style.GREY
            style.interval(axes, y, row.difference, row.low, row.high, colour)
            axes.text(right, y, row.note, va="center", fontsize=10)
            lines[y] = row.label
        y += 1
    axes.axvline(0, color=style.INK, linewidth=0.9)
    axes.set_yticks(list(lines), lines.values())
    axes.tick_params(axis="y", length=0)
    sns.despine(figure, left=True)
    return figure


def difference_grid(pairs: pd.DataFrame, order: list[str]) -> Figure:
    """All pairs of systems: difference in accuracy, faint where the interval holds zero.

    Args:
        pairs: columns `before`, `after`, `difference`, `low`, `high` (shares), each pair once.
        order: the systems, best first.
    """
    grid = pd.DataFrame(np.nan, index=order, columns=order)
    clear = pd.DataFrame(False, index=order, columns=order)
    for row in pairs.itertuples():
        first, second = sorted((row.before, row.after), key=order.index)
        sign = 1 if first == row.after else -1
        grid.loc[first, second] = sign * row.difference * 100
        clear.loc[first, second] = row.low > 0 or row.high < 0
    count = f"{int(clear.loc[order[0]].sum())} of its {len(order) - 1}"
    title = f"{order[0]} leads; {count} unadjusted intervals exclude zero"
    figure, axes = style.one_panel(8.6, 5.2, title=title)
    shown, strong = grid.iloc[:-1, 1:], clear.iloc[:-1, 1:]
    look = {"ax": axes, "annot": shown, "fmt": "+.1f", "linewidths": 2, "cbar": False}
    sns.heatmap(shown, mask=~strong, cmap="vlag_r", center=0, vmin=-20, vmax=20, **look)
    faint = {"cmap": ["white"], "annot_kws": {"color": "#8a93a0"}}
    sns.heatmap(shown, mask=strong | shown.isna(), **look, **faint)
    axes.set(xlabel="minus this system", ylabel="this system")
    axes.set_xticklabels(axes.get_xticklabels(), rotation=30, ha="right")
    axes.tick_params(length=0)
    return figure
