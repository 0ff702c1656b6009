"""One seaborn style, one function a figure. Titles state what the figure shows, from its numbers."""

import hashlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter
from pandas.io.formats.style import Styler
from scipy import stats as sps

from perception_r1.evidence.stats import McNemarResult, PairedTable, mcnemar, smallest_pvalue

# Colour-blind safe; the same meaning in every figure.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#9AA3AF"
GAIN, LOSS = BLUE, ORANGE
# Behind words that a line would cross.
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def use_style() -> None:
    """Set the style of all figures; call once at the top of a notebook."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=[BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00"],
        rc={
            "figure.dpi": 100,
            "axes.titlesize": 13,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 12,
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.family": "DejaVu Sans",  # comes with matplotlib, so figures look the same everywhere
        },
    )


def format_p(p: float) -> str:
    """A p-value as it is printed: three digits, or "< 0.001"."""
    return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def points(share: float) -> str:
    """A difference of two shares as it is printed, +8.0 points: a percent sign would say percent of what there was."""
    return "" if pd.isna(share) else f"{100 * share:+.1f} points"


def table(frame: pd.DataFrame, digits: int = 3, **formats: object) -> Styler:
    """Show a table without its index, text to the left, numbers to `digits` places.

    Args:
        frame: the table; columns named `p...` that hold fractions are shown by `format_p`.
        digits: places of all other fractions.
        formats: column -> format string or function, where that is not enough.
    """
    fractions = frame.select_dtypes("float").columns
    # a column of numbers of all sizes, with words among them: 1e-06 is not 0.000
    mixed = frame.select_dtypes("object").columns
    formats = {name: _as_it_is for name in mixed} | formats
    formats = {name: format_p for name in fractions if name in ("pvalue", "p_holm")} | formats
    text = [
        i
        for i, name in enumerate(frame.columns)
        if name not in frame.select_dtypes("number").columns
    ]
    left = [{"selector": f".col{i}", "props": "text-align: left"} for i in text]
    # An id from the content, so that equal runs give equal committed HTML.
    identity = hashlib.sha256(frame.to_csv().encode()).hexdigest()[:8]
    styler = frame.style.set_uuid(identity).hide(axis="index").set_table_styles(left)
    return styler.format(formats, precision=digits, na_rep="")


def _as_it_is(value: object) -> object:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return "" if value is None else value


def _figure(width: float, height: float) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return figure, axes


def paired_counts(table: PairedTable) -> Figure:
    """The 2x2 table, with the two discordant cells in colour."""
    figure, axes = _figure(5.4, 3.5)
    cells = [(0, 1, table.both, "right both times", "#EEF1F5"), (1, 1, table.b, "b: lost", LOSS),
             (0, 0, table.c, "c: gained", GAIN), (1, 0, table.neither, "wrong both times", "#EEF1F5")]  # fmt: skip
    for x, y, count, label, colour in cells:
        ink = "white" if colour in (GAIN, LOSS) else "#1d2433"
        axes.add_patch(plt.Rectangle((x, y), 0.97, 0.95, color=colour, linewidth=0))
        axes.text(x + 0.48, y + 0.56, str(count), ha="center", va="center", fontsize=24, color=ink)
        axes.text(x + 0.48, y + 0.2, label, ha="center", va="center", fontsize=11, color=ink)
    axes.set(xlim=(0, 2), ylim=(0, 2), xticks=[0.48, 1.48], yticks=[1.48, 0.48])
    axes.set_xticklabels(["right", "wrong"])
    axes.set_yticklabels(["right", "wrong"], rotation=90, va="center")
    axes.set(xlabel="after", ylabel="before")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    sns.despine(figure, left=True, bottom=True)
    axes.set_title(f"Only {table.b + table.c} of {table.n} items can tell the two apart")
    return figure


def coin_flips(result: McNemarResult) -> Figure:
    """Where the observed split lies among all splits that a fair coin would deal."""
    d = result.b + result.c
    figure, axes = _figure(6.6, 3.3)
    gains = np.arange(d + 1)
    extreme = np.minimum(gains, d - gains) <= min(result.b, result.c)
    chance = sps.binom.pmf(gains, d, 0.5)
    axes.bar(gains, chance, color=np.where(extreme, BLUE, "#D5DAE1"), width=0.8)
    for x, y, counted in zip(gains, chance, extreme, strict=True):
        axes.text(
            x,
            y + 0.006,
            f"{y:.3f}",
            ha="center",
            fontsize=9,
            color="#1d2433" if counted else "#6b7482",
        )
    axes.annotate(
        "observed", (result.c, chance[result.c] + 0.03), xytext=(0, 26), textcoords="offset points",
        ha="center", color=ORANGE, arrowprops={"arrowstyle": "->", "color": ORANGE},
    )  # fmt: skip
    axes.set(
        xlabel=f"gains among {d} discordant items",
        ylabel="chance under a fair coin",
        xticks=gains,
    )
    axes.set_title(
        f"A coin deals {result.b} to {result.c}, or worse, with chance {result.pvalue:.3f}"
    )
    return figure


def pvalue_forms(forms: pd.DataFrame) -> Figure:
    """p-values of several forms of McNemar's test against the published ones.

    Args:
        forms: columns `comparison`, `form`, `pvalue`, `reported` (as published, rounded).
    """
    figure, axes = _figure(7.6, 3.3)
    order = list(dict.fromkeys(forms["comparison"]))
    kinds = list(dict.fromkeys(forms["form"]))
    for y, comparison in enumerate(order):
        reported = forms.loc[forms["comparison"] == comparison, "reported"].iloc[0]
        axes.plot([reported] * 2, [y - 0.36, y + 0.36], color="#1d2433", linewidth=1.6, zorder=1)
    for k, (form, marker) in enumerate(zip(kinds, ["o", "s", "D", "^"], strict=False)):
        rows = forms[forms["form"] == form]
        y = rows["comparison"].map(order.index) + 0.17 * (k - (len(kinds) - 1) / 2)
        axes.scatter(
            rows["pvalue"], y, marker=marker, s=55, label=form, zorder=2, edgecolor="white"
        )
    axes.plot([], [], color="#1d2433", linewidth=1.6, label="as published")
    axes.set(
        yticks=range(len(order)),
        yticklabels=order,
        xlabel="two-sided p-value (log scale)",
        xscale="log",
    )
    axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    agrees = (forms["pvalue"].round(2) == forms["reported"]).groupby(forms["form"]).all()
    matching = ", ".join(form for form in kinds if agrees[form]) or "no"
    axes.set_title(f"All three published p-values come out of: the {matching} form")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def attainable(d_max: int, studies: dict[str, tuple[int, int]], alpha: float = 0.05) -> Figure:
    """The smallest p-value each number of discordant pairs can give, and where the studies stand.

    Args:
        d_max: right end of the axis.
        studies: name -> (b, c).
        alpha: the level drawn.
    """
    figure, axes = _figure(7.2, 3.8)
    d = np.arange(1, d_max + 1)
    smallest = [smallest_pvalue(int(k)) for k in d]
    axes.step(d, smallest, where="mid", color=GREY, label="smallest p that d pairs can give")
    axes.axhline(alpha, color="#1d2433", linewidth=0.9, linestyle="--")
    axes.text(d_max, alpha * 1.15, f"p = {alpha}", ha="right", fontsize=10)
    axes.xaxis.set_major_locator(MultipleLocator(2))
    for (name, (b, c)), marker in zip(studies.items(), ["s", "^", "o"], strict=False):
        p = mcnemar(b, c).pvalue
        axes.scatter(b + c, p, s=60, marker=marker, color=BLUE if p <= alpha else ORANGE, zorder=3)
        below = -8 if p <= alpha else 0  # clear of the line
        axes.annotate(
            name,
            (b + c, p),
            xytext=(9, below),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    axes.set(yscale="log", xlabel="discordant pairs d", ylabel="p-value", ylim=(1e-5, 1.6))
    needed = next(int(k) for k, p in zip(d, smallest, strict=True) if p <= alpha)
    axes.set_title(f"Under {needed} discordant pairs nothing can be significant")
    axes.legend(frameon=False, loc="lower left")
    return figure


def power_curves(
    curves: pd.DataFrame, marks: tuple[int, ...], split: str, target: float = 0.8
) -> Figure:
    """Power of the exact test over the number of discordant pairs, one curve a split.

    Args:
        curves: columns `d`, `split` (text, "5 : 1"), `power`.
        marks: numbers of discordant pairs to mark (those of a study).
        split: the split that the title speaks of.
        target: the power drawn as a line.
    """
    figure, axes = _figure(7.6, 3.9)
    sns.lineplot(curves, x="d", y="power", hue="split", ax=axes, linewidth=2)
    axes.axhline(target, color="#1d2433", linewidth=0.9, linestyle="--")
    chosen = curves[curves["split"] == split].set_index("d")["power"]
    for d in marks:
        axes.axvline(d, color=GREY, linewidth=0.9, linestyle=":")
        axes.scatter(d, chosen[d], s=60, color="#1d2433", zorder=3)
    most = curves["d"].max()
    axes.set(
        xlabel="discordant pairs d (log scale)",
        ylabel="power",
        ylim=(0, 1.04),
        xscale="log",
        xlim=(4, most),
    )
    ticks = sorted({*marks, *(t for t in (4, 25, 50, 100) if t <= most)})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    read = ", ".join(f"{chosen[d]:.0%} with {d} pairs" for d in marks)
    axes.set_title(f"Power to see a true {split} split: {read}")
    axes.legend(title="gains : losses", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def possible_splits(splits: pd.DataFrame, alpha: float = 0.05) -> Figure:
    """p-value of each split that an unpublished comparison could have had.

    Args:
        splits: columns `b`, `c`, `pvalue`.
        alpha: the level drawn.
    """
    figure, axes = _figure(7.2, 3.4)
    names = [f"{row.b} : {row.c}" for row in splits.itertuples()]
    found = splits["pvalue"] <= alpha
    axes.bar(names, splits["pvalue"], color=np.where(found, BLUE, GREY), width=0.7)
    for x, p in enumerate(splits["pvalue"]):
        axes.text(x, p + 0.006, f"{p:.3f}", ha="center", fontsize=10)
    axes.axhline(alpha, color="#1d2433", linewidth=0.9, linestyle="--")
    axes.text(len(names) - 0.4, alpha, f" p = {alpha}", va="center", fontsize=10)
    axes.set(xlim=(-0.6, len(names) - 0.4))
    axes.set(
        xlabel="items only accuracy-only sees right : items only Perception-R1 sees right",
        ylabel="exact p-value",
    )
    axes.set_title(
        f"Significant in {found.sum()} of the {len(splits)} splits that fit the published counts"
    )
    return figure


def forest(rows: pd.DataFrame, title: str, xlabel: str) -> Figure:
    """Differences with their intervals, one line each, grouped by family.

    Args:
        rows: columns `label`, `family`, `difference`, `low`, `high` (in percentage points), `note`,
            and `clear` (bool): whether the difference stands after correction; only those get a colour.
        title: what the figure shows.
        xlabel: what the differences are.
    """
    figure, axes = _figure(8.2, 1.1 + 0.42 * (len(rows) + rows["family"].nunique()))
    y, ticks, labels, family = 0, [], [], None
    right = max(rows["high"].max(), 0) + 1.5
    for row in rows.itertuples():
        if row.family != family:
            family = row.family
            axes.text(
                0,
                y,
                family,
                transform=axes.get_yaxis_transform(),
                fontsize=10,
                fontweight="bold",
                va="center",
                bbox=PLAIN,
            )
            y += 1
        colour = (GAIN if row.difference > 0 else LOSS) if row.clear else GREY
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.scatter(row.difference, y, s=52, color=colour, zorder=3)
        axes.text(right, y, row.note, va="center", fontsize=10)
        ticks.append(y)
        labels.append(row.label)
        y += 1
    axes.axvline(0, color="#1d2433", linewidth=0.9)
    axes.set(yticks=ticks, yticklabels=labels, xlabel=xlabel, ylim=(y - 0.4, -0.7))
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)
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
    figure, axes = _figure(8.6, 5.2)
    text = grid.map(lambda value: "" if np.isnan(value) else f"{value:+.1f}")
    sns.heatmap(
        grid.iloc[:-1, 1:].where(clear.iloc[:-1, 1:]), ax=axes, cmap="vlag_r", center=0, vmin=-20, vmax=20,
        linewidths=2, cbar=False, annot=text.iloc[:-1, 1:].where(clear.iloc[:-1, 1:], ""), fmt="",
    )  # fmt: skip
    for y, first in enumerate(order[:-1]):
        for x, second in enumerate(order[1:]):
            if text.loc[first, second] and not clear.loc[first, second]:
                axes.text(
                    x + 0.5,
                    y + 0.5,
                    text.loc[first, second],
                    ha="center",
                    va="center",
                    color="#8a93a0",
                )
    axes.set(xlabel="minus this system", ylabel="this system")
    axes.set_xticklabels(axes.get_xticklabels(), rotation=30, ha="right")
    axes.tick_params(length=0)
    axes.set_title(
        f"{order[0]} leads; {int(clear.loc[order[0]].sum())} of its {len(order) - 1} unadjusted intervals exclude zero"
    )
    return figure


PIPELINE = {  # step -> (column, row, what it is, what it may rest on)
    "problem": (0, 0, "problem\nimage + question", ()),
    "cot": (1, 0, "right chains\nof thought", ("problem",)),
    "annotations": (2, 0, "visual\nannotations", ("cot",)),
    "policy": (0, 1, "policy", ()),
    "responses": (1, 1, "G responses", ("policy", "problem")),
    "judge": (2, 1, "judge: is each\nannotation stated?", ("responses", "annotations")),
    "reward": (
        3,
        1,
        "reward r = 0.1 format\n+ 0.9 right answer\n+ 0.7 perception\n+ repetition penalty",
        ("judge",),
    ),
    "advantage": (4, 1, "advantage A\nwithin the group", ("reward",)),
}


def pipeline(title: str) -> Figure:
    """The method as boxes and arrows: from a problem to the advantage that moves the policy."""
    figure, axes = _figure(10.6, 3.3)
    width, height = 0.86, 0.66
    for name, (x, y, text, needs) in PIPELINE.items():
        judged = name in ("judge", "annotations")
        box = plt.Rectangle(
            (x - width / 2, -y - height / 2), width, height,
            facecolor="#DCEBF5" if judged else "#F3F4F6", edgecolor=BLUE if judged else GREY, linewidth=1.2,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x, -y, text, ha="center", va="center", fontsize=9)
        for other in needs:
            x0, y0 = PIPELINE[other][:2]
            start, end = (
                ((x0 + width / 2, -y0), (x - width / 2, -y))
                if y0 == y
                else ((x0 + (0.2 if x0 < x else 0), -y0 - height / 2), (x, -y + height / 2))
            )
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#6b7280"})
    last = (PIPELINE["advantage"][0], -1 - height / 2)
    axes.annotate(
        "", (0, -1 - height / 2), last,
        arrowprops={"arrowstyle": "->", "color": BLUE, "connectionstyle": "arc3,rad=-0.12"},
    )  # fmt: skip
    axes.text(
        2,
        -1.86,
        "GRPO step: responses above their group's mean become more likely",
        ha="center",
        fontsize=9.5,
    )
    axes.set(xlim=(-0.55, 4.55), ylim=(-2.05, 0.45))
    axes.axis("off")
    axes.set_title(title)
    return figure


def gallery(images: list, captions: list[str], columns: int = 4) -> Figure:
    """Images in a grid, each with a short caption above it."""
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.85 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image, cmap="gray")
        axes.set_title(caption, fontsize=10, fontweight="normal", loc="center", pad=4)
    return figure


def shares(rows: pd.DataFrame, title: str, xlabel: str, begin: float = 0.0) -> Figure:
    """Shares between 0 and 1 with their intervals, one line each, a colour for each group.

    Args:
        rows: columns `label`, `share`, `low`, `high`, `group`; equal labels share a line.
        title: what the figure shows.
        xlabel: what the shares are of.
        begin: of the axis, if no interval reaches below it; else 0.
    """
    begin = begin if rows["low"].min() >= begin else 0.0
    labels = list(dict.fromkeys(rows["label"]))
    groups = list(dict.fromkeys(rows["group"]))
    figure, axes = _figure(7.8, 1.3 + 0.36 * len(labels))
    for k, (group, colour, marker) in enumerate(
        zip(groups, [BLUE, ORANGE, GREEN], ["o", "s", "D"], strict=False)
    ):
        part = rows[rows["group"] == group]
        y = part["label"].map(labels.index) + 0.2 * (k - (len(groups) - 1) / 2)
        axes.hlines(y, part["low"], part["high"], color=colour, linewidth=2)
        axes.scatter(part["share"], y, color=colour, marker=marker, s=38, zorder=3, label=group)
    axes.set(yticks=range(len(labels)), yticklabels=labels, xlabel=xlabel)
    axes.set_xlim(begin - 0.03 * (1 - begin), 1 + 0.03 * (1 - begin))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", color="#e6e9ee")
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)
    if len(groups) > 1:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def filtering(rows: pd.DataFrame) -> Figure:
    """What the filter by right answers does to wrong facts, over the teacher's error rate.

    Args:
        rows: columns `error_rate` (trajectories with a planted error), `before`, `after` (shares of
            trajectories that state a wrong fact, before and after the filter).
    """
    figure, axes = _figure(6.6, 3.6)
    axes.plot(rows["error_rate"], rows["before"], color=GREY, marker="s", label="all trajectories")
    axes.plot(
        rows["error_rate"], rows["after"], color=ORANGE, marker="o", label="right answer only"
    )
    axes.set(
        xlabel="trajectories with a planted error", ylabel="state a wrong fact", ylim=(0, None)
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    last = rows.iloc[-1]
    axes.set_title(
        f"Where {last['before']:.0%} state a wrong fact, {last['after']:.0%} of those kept still do"
    )
    axes.legend(frameon=False)
    return figure


def group_advantages(rows: pd.DataFrame, title: str) -> Figure:
    """The advantages in one group of responses, a panel for each way of paying.

    Args:
        rows: columns `response` (label), `paying` (panel), `advantage`.
        title: what the figure shows.
    """
    panels = list(dict.fromkeys(rows["paying"]))
    figure, grid = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.0), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, panel in zip(grid.flat, panels, strict=True):
        part = rows[rows["paying"] == panel].reset_index(drop=True)
        colours = [GAIN if a > 0 else LOSS for a in part["advantage"]]
        axes.barh(part["response"], part["advantage"], color=colours, height=0.6)
        for y, value in enumerate(part["advantage"]):
            x = value + (0.06 if value >= 0 else -0.06)
            axes.text(
                x,
                y,
                f"{value:+.2f}",
                va="center",
                ha="left" if value >= 0 else "right",
                fontsize=10,
            )
        axes.axvline(0, color="#1d2433", linewidth=1)
        axes.margins(x=0.22)
        axes.set(xlabel="advantage")
        axes.set_title(panel, fontsize=11, fontweight="normal")
        axes.tick_params(axis="y", length=0)
    grid[0, 0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def judge_quality(rows: pd.DataFrame, title: str) -> Figure:
    """Measures of several judges, a panel for each set of labelled pairs.

    Args:
        rows: columns `judge`, `pairs` (panel), `measure`, `value`, `low`, `high`.
        title: what the figure shows.
    """
    panels, judges = (list(dict.fromkeys(rows[name])) for name in ("pairs", "judge"))
    measures = list(dict.fromkeys(rows["measure"]))
    figure, grid = plt.subplots(
        1, len(panels), figsize=(1.2 + 3.5 * len(panels), 1.5 + 0.5 * len(judges)),
        sharex=True, sharey=True, layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, panel in zip(grid.flat, panels, strict=True):
        for k, (measure, colour, marker) in enumerate(
            zip(measures, [BLUE, ORANGE, GREEN], ["o", "s", "D"], strict=False)
        ):
            part = rows[(rows["pairs"] == panel) & (rows["measure"] == measure)]
            y = part["judge"].map(judges.index) + 0.2 * (k - (len(measures) - 1) / 2)
            axes.hlines(y, part["low"], part["high"], color=colour, linewidth=2)
            axes.scatter(
                part["value"], y, color=colour, marker=marker, s=34, zorder=3, label=measure
            )
        axes.set(xlim=(-0.03, 1.03), yticks=range(len(judges)), yticklabels=judges, xlabel="share")
        axes.set_ylim(len(judges) - 0.5, -0.5)
        axes.grid(axis="x", color="#e6e9ee")
        axes.tick_params(axis="y", length=0)
        axes.set_title(panel, fontsize=11, fontweight="normal")
    grid.flat[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def attack_grid(rates: pd.DataFrame, title: str) -> Figure:
    """Which attack is paid by which judge; a circle where responses escape without a verdict.

    Args:
        rates: columns `attack`, `judge`, `paid`, `escaped` (shares), in the order to be shown.
        title: what the figure shows.
    """
    attacks, judges = (list(dict.fromkeys(rates[name])) for name in ("attack", "judge"))
    paid, escaped = (
        rates.pivot(index="attack", columns="judge", values=name).loc[attacks, judges]
        for name in ("paid", "escaped")
    )
    figure, axes = _figure(2.6 + 0.85 * len(judges), 1.8 + 0.3 * len(attacks))
    text = paid.map(lambda share: f"{share:.0%}" if share else "")
    sns.heatmap(
        paid, ax=axes, cmap=sns.light_palette(LOSS, as_cmap=True), vmin=0, vmax=1, cbar=False,
        annot=text, fmt="", linewidths=1.5, annot_kws={"fontsize": 9},
    )  # fmt: skip
    y, x = np.nonzero(escaped.to_numpy() > 0.5)
    axes.scatter(x + 0.5, y + 0.5, marker="o", s=42, facecolor="none", edgecolor=GREY)
    axes.set(xlabel="", ylabel="")
    axes.xaxis.tick_top()
    axes.set_xticklabels(judges, rotation=35, ha="left")
    axes.tick_params(length=0)
    axes.set_title(title)
    return figure


def gamma_sweep(rows: pd.DataFrame, title: str) -> Figure:
    """Advantages of one group's responses over the weight of the perception reward.

    Args:
        rows: columns `gamma`, `advantage`, `response`, one line a response.
        title: what the figure shows.
    """
    figure, axes = _figure(7.2, 3.8)
    sns.lineplot(rows, x="gamma", y="advantage", hue="response", ax=axes, linewidth=2.2)
    axes.axvspan(0.1, 0.9, color="#eef3f8", zorder=0)
    axes.axhline(0, color="#1d2433", linewidth=1)
    axes.set(xlabel="gamma, the weight of the perception reward", ylabel="advantage")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title(title)
    return figure


def lessons(log: pd.DataFrame, title: str) -> Figure:
    """How a base learned: its measures on held-out problems, a panel for each lesson.

    Args:
        log: of `base.train_base`: lesson, step, and a column for each measure.
        title: what the figure shows.
    """
    names = list(dict.fromkeys(log["lesson"]))
    figure, grid = plt.subplots(
        1, len(names), figsize=(2.5 * len(names), 2.8), sharey=True, layout="constrained"
    )
    measures = {"eyesight": BLUE, "computing": ORANGE, "reading": GREEN}
    for axes, name in zip(np.atleast_1d(grid), names, strict=True):
        part = log[log["lesson"] == name]
        for measure, colour in measures.items():
            if measure in part and part[measure].notna().any():
                axes.plot(
                    part["step"], part[measure], color=colour, marker="o", markersize=3, label=measure
                )  # fmt: skip
        axes.legend(frameon=False, fontsize=10, loc="lower right", handlelength=1)
        axes.set(xlabel="step", ylim=(0, 1.05))
        axes.set_title(name, fontsize=11)
    np.atleast_1d(grid)[0].set_ylabel("right, held out")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def training_curves(
    logs: pd.DataFrame, measures: dict[str, str], title: str, window: int = 9
) -> Figure:
    """Curves of several runs side by side: each step faint, a running mean in full.

    Args:
        logs: columns `arm`, `step`, and those named in `measures`.
        measures: column -> what its panel is called.
        title: what the figure shows.
        window: steps of the running mean.
    """
    rows = -(-len(measures) // 3)
    figure, grid = plt.subplots(
        rows, 3, figsize=(10.2, 2.6 * rows + 0.5), sharex=True, layout="constrained", squeeze=False
    )
    arms = list(dict.fromkeys(logs["arm"]))
    for axes, (column, name) in zip(grid.flat, measures.items(), strict=False):
        for arm, colour in zip(arms, [ORANGE, BLUE, GREEN, "#CC79A7"], strict=False):
            part = logs[logs["arm"] == arm]
            mean = part[column].rolling(window, min_periods=1, center=True).mean()
            axes.plot(part["step"], part[column], color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(part["step"], mean, color=colour, linewidth=2, label=arm.replace("_", " "))
        axes.set_title(name, fontsize=11, fontweight="normal")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for axes in list(grid.flat)[len(measures) :]:
        axes.axis("off")
    grid.flat[0].legend(frameon=False, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def token_weights(tokens: list[str], weights: list[float], title: str) -> Figure:
    """How hard each token of a response is pushed, in the order of the text."""
    figure, axes = _figure(10.2, 2.7)
    axes.bar(range(len(tokens)), weights, color=[GAIN if w > 0 else LOSS for w in weights])
    axes.axhline(0, color="#1d2433", linewidth=0.8)
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
    axes.set(ylabel="advantage x (1 - p)", title=title)
    axes.margins(x=0.01)
    return figure


def table1(rows: pd.DataFrame, title: str) -> Figure:
    """Published scores with the noise of so many items, a panel a benchmark.

    Args:
        rows: columns `benchmark`, `label` (who, by whom), `score` and `half` (half of the 95% interval), in percent,
            and `group`: "compared", "Perception-R1" or "measured by others".
        title: what the figure shows.
    """
    names = list(dict.fromkeys(rows["benchmark"]))
    labels = list(dict.fromkeys(rows["label"]))
    colours = {"compared": GREY, "Perception-R1": BLUE, "measured by others": ORANGE}
    figure, grid = plt.subplots(
        2, -(-len(names) // 2), figsize=(11.5, 1.6 + 0.44 * len(labels)), sharey=True, layout="constrained"
    )  # fmt: skip
    for axes, name in zip(grid.flat, names, strict=False):
        part = rows[rows["benchmark"] == name]
        y = part["label"].map(labels.index)
        best = part[part["group"] == "Perception-R1"].iloc[-1]
        axes.axvspan(
            best["score"] - best["half"], best["score"] + best["half"], color="#DCEBF5", lw=0
        )
        for row, place in zip(part.itertuples(), y, strict=True):
            colour = colours[row.group]
            axes.plot(
                [row.score - row.half, row.score + row.half], [place] * 2, color=colour, linewidth=2
            )
            axes.scatter(row.score, place, color=colour, s=26, zorder=3)
        axes.set_title(name, fontsize=11)
        axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color="#eef0f3")
    for axes in list(grid.flat)[len(names) :]:
        axes.axis("off")
    figure.supxlabel("score in percent; bars: 95% binomial interval of so many items", fontsize=11)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


FOUR = {  # cell -> colour; what is right is blue, what is wrong orange, where facts are left out pale
    "right": BLUE, "lucky": "#56B4E9", "right, unsaid": "#C5E3F4",
    "wrong, unsaid": "#F6D5C0", "miscalculated": "#E69F00", "misread": ORANGE,
}  # fmt: skip


def four_cells(rows: pd.DataFrame, title: str) -> Figure:
    """Answers by sight, a bar a policy, a panel a kind of problems.

    Args:
        rows: columns `kind`, `policy`, `cell`, `share`, as `comparison.cells` gives them.
        title: what the figure shows.
    """
    kinds, policies = (list(dict.fromkeys(rows[column])) for column in ("kind", "policy"))
    figure, grid = plt.subplots(
        1, len(kinds), figsize=(10.2, 1.5 + 0.5 * len(policies)), sharey=True, layout="constrained", squeeze=False
    )  # fmt: skip
    for axes, kind in zip(grid.flat, kinds, strict=True):
        left = np.zeros(len(policies))
        for cell, colour in FOUR.items():
            part = rows[(rows["kind"] == kind) & (rows["cell"] == cell)].set_index("policy")
            width = part["share"].reindex(policies).fillna(0).to_numpy()
            axes.barh(range(len(policies)), width, left=left, color=colour, label=cell, height=0.62)
            for place, (start, one) in enumerate(zip(left, width, strict=True)):
                if one >= 0.05:
                    dark = cell in ("right", "misread")
                    axes.text(
                        start + one / 2,
                        place,
                        f"{one:.0%}",
                        color="white" if dark else "#1d2433",
                        ha="center",
                        va="center",
                        fontsize=9,
                    )
            left += width
        axes.set_title(kind, fontsize=11)
        axes.set(
            yticks=range(len(policies)),
            yticklabels=[p.replace("_", " ") for p in policies],
            xlim=(0, 1),
        )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.tick_params(axis="y", length=0)
    grid.flat[0].invert_yaxis()
    grid.flat[-1].legend(
        frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), title="answer by sight"
    )
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


VERDICTS = {"yes": BLUE, "no": ORANGE, "undecided": "#6b7280", "": "#D5DAE1"}


def verdicts(rows: pd.DataFrame, title: str) -> Figure:
    """Claims with their verdicts: one line each, the interval where the evidence is a difference in points, else words.

    Args:
        rows: columns `id`, `status`, `agrees`, `unit`, `our_value`, `ci_low`, `ci_high`, as
            `claims.judge_claims` gives them, and `ours`, the evidence in words.
        title: what the figure shows.
    """
    figure, axes = _figure(9.4, 1.3 + 0.31 * len(rows))
    points = rows[(rows["unit"] == "points") & rows["ci_low"].notna()]
    edge = 100 * max(points[["ci_low", "ci_high"]].abs().max().max(), 0.05) + 1
    for place, row in enumerate(rows.itertuples()):
        colour = VERDICTS[row.agrees]
        if row.Index in points.index:
            axes.plot(
                [100 * row.ci_low, 100 * row.ci_high], [place] * 2, color=colour, linewidth=2.5
            )
            axes.scatter(100 * row.our_value, place, color=colour, s=34, zorder=3)
        else:
            axes.text(
                0.5 - edge, place, row.ours, color="#6b7280", va="center", fontsize=8.5, bbox=PLAIN
            )
        axes.text(
            edge + 0.5, place, f"{row.agrees or 'no verdict'} ({row.status})",
            color=colour if row.agrees else "#6b7280", va="center", fontsize=10,
            fontweight="bold" if row.agrees else "normal",
        )  # fmt: skip
    axes.axvline(0, color="#1d2433", linewidth=0.8)
    axes.set(
        yticks=range(len(rows)),
        yticklabels=rows["id"],
        ylim=(len(rows) - 0.4, -0.6),
        xlim=(-edge, edge),
    )
    axes.set_xlabel(
        "difference in points, 95% interval (right of 0: the one named first is better); other evidence in words"
    )
    axes.grid(axis="y", color="#eef0f3")
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)
    return figure
