"""Figures of training (notebook 04) and of what holds (05)."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from perception_r1.notebook.figures import style


def training_curves(logs: pd.DataFrame, measures: dict[str, str], title: str) -> Figure:
    """Curves of several runs side by side: each step faint, a running mean of nine in full.

    Args:
        logs: columns `arm`, `step`, and those named in `measures`.
        measures: column -> what its panel is called.
        title: what the figure shows.
    """
    figure, places = style.panels([*measures.values()], (10.2, 3.1), title)
    colours = [style.ORANGE, style.BLUE, *style.COLOURS[2:]]
    for axes, column in zip(places, measures, strict=True):
        for (arm, part), colour in zip(logs.groupby("arm", sort=False), colours, strict=False):
            mean = part[column].rolling(9, min_periods=1, center=True).mean()
            axes.plot(part["step"], part[column], color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(part["step"], mean, color=colour, linewidth=2, label=arm.replace("_", "-"))
        axes.set_xlabel("step")
    places[0].legend()
    return figure


def arms(runs: pd.DataFrame, live: pd.DataFrame | None, title: str) -> Figure:
    """Base and arms, a dot a run and a line at their mean: a panel a cell, in it a group a measure.

    Args:
        runs: columns `cell`, `arm`, `measure`, `share`; a row a run and measure.
        live: the same columns, of the run at hand, drawn as diamonds; or None.
        title: what the figure shows.
    """
    cells = list(dict.fromkeys(runs["cell"]))
    figure, places = style.panels(cells, (10.2, 4.2), title, sharey=True)
    for axes, cell in zip(places, cells, strict=True):
        look = {"x": "measure", "y": "share", "hue": "arm", "hue_order": list(style.ARMS)}
        look |= {"palette": style.ARMS, "dodge": True, "ax": axes, "legend": cell == cells[-1]}
        sns.stripplot(runs[runs["cell"] == cell], **look, size=5, alpha=0.5, jitter=0.15)
        look |= {"legend": False}
        means = {"linestyle": "none", "marker": "_", "markersize": 22, "errorbar": None}
        sns.pointplot(runs[runs["cell"] == cell], **look | means | {"dodge": 0.8 * 2 / 3})
        if live is not None and cell in set(live["cell"]):
            look |= {"marker": "D", "edgecolor": style.INK, "linewidth": 1}
            sns.stripplot(live[live["cell"] == cell], **look, size=9, jitter=False)
        axes.set(xlabel="", ylabel="")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    style.legend_beside(places[-1])
    return figure


def predicted(cells: pd.DataFrame, title: str, live: pd.DataFrame | None = None) -> Figure:
    """The map: a dot a cell, the predicted difference against the measured one, with the diagonal.

    Args:
        cells: columns `cell`, `where` (in words), `predicted`, `difference`, `low`, `high` (shares), `in_trial`; cells
            that had not been seen before are open.
        title: what the figure shows.
        live: comparisons of the run at hand (columns `cell`, `measure`, `difference`), a diamond in its cell.
    """
    about = {"xlabel": "predicted, points", "ylabel": "measured, points"}
    figure, axes = style.one_panel(7.8, 6.4, **about)
    # Names stand in a row under the dots, each with a line to its own.
    at, under = 0, 100 * cells["low"].quantile(0.1) - 2
    for row in cells.sort_values("predicted").itertuples():
        x, y, low, high = (100 * v for v in (row.predicted, row.difference, row.low, row.high))
        axes.plot([x, x], [low, high], color=style.BLUE, linewidth=2)
        face = style.BLUE if row.in_trial else "white"
        look = {"facecolor": face, "edgecolor": style.BLUE, "linewidth": 1.5, "zorder": 3}
        axes.scatter(x, y, s=68, **look)
        at = max(at + 0.55, x - 0.35)
        look = {"rotation": 90, "ha": "center", "va": "top", "fontsize": 9}
        line = {"arrowstyle": "-", "color": style.GREY, "linewidth": 0.7, "relpos": (0.5, 1)}
        axes.annotate(
            f"{row.cell}: {row.where}", (x, max(low, under)), (at, under), arrowprops=line, **look
        )
    if live is not None:
        now = live[live["measure"] == "answers"].merge(cells[["cell", "predicted"]], on="cell")
        axes.scatter("predicted", "difference", data=100 * now[["predicted", "difference"]],
                     marker="D", color=style.INK, zorder=4, label="this run")  # fmt: skip
    for label, face in {"seen in the trial": style.BLUE, "not seen before": "white"}.items():
        axes.scatter([], [], s=68, facecolor=face, edgecolor=style.BLUE, label=label)
    axes.axline((0, 0), slope=1, color=style.GREY, ls="--", linewidth=1, label="as predicted")
    axes.legend(loc="upper center")
    axes.axhline(0, color=style.INK, linewidth=0.8)
    axes.margins(y=0.18)
    axes.set_xlim(100 * cells["predicted"].min() - 1.5, None)
    style.title_above(figure, title)
    return figure


def table1(rows: pd.DataFrame, title: str) -> Figure:
    """Published scores with the noise of so many items, a panel a benchmark.

    Args:
        rows: columns `benchmark`, `label` (who, by whom), `score` and `half` (half of the 95% interval), in percent,
            and `group`: "compared", "Perception-R1" or "measured by others".
        title: what the figure shows.
    """
    names, labels = list(rows["benchmark"].unique()), list(rows["label"].unique())
    colours = {"compared": style.GREY, "Perception-R1": style.BLUE}
    colours |= {"measured by others": style.COLOURS[3]}
    size, columns = (11.5, 1.6 + 0.44 * len(labels)), -(-len(names) // 2)
    figure, places = style.panels(names, size, title, columns, sharey=True)
    for axes, name in zip(places, names, strict=True):
        part = rows[rows["benchmark"] == name]
        best = part[part["group"] == "Perception-R1"].iloc[-1]
        low, high = best["score"] - best["half"], best["score"] + best["half"]
        axes.axvspan(low, high, color="#DCEBF5", lw=0)
        y, colour = part["label"].map(labels.index), list(part["group"].map(colours))
        axes.errorbar(part["score"], y, xerr=part["half"], fmt="none", ecolor=colour)
        axes.scatter(part["score"], y, color=colour, s=40, zorder=3)
        style.label_lines(axes, labels)
        axes.grid(axis="y", color="#eef0f3")
    figure.supxlabel("score in percent; bars: 95% binomial interval of so many items", fontsize=11)
    return figure


SYMBOLS = {"shown": "✓", "against": "✗", "ruled out": "✗", "open": "?", "cited": "–"}


def verdicts(rows: pd.DataFrame, labels: list[str], title: str) -> Figure:
    """Claims with their verdicts: one line each, the interval where the evidence is a difference in points, else words.

    Args:
        rows: columns `status`, `verdict`, `unit`, `our_value`, `ci_low`, `ci_high`, `text`, as `claims.judge_claims`
            gives them.
        labels: of the lines.
        title: what the figure shows.
    """
    measured = (rows["unit"] == "points") & rows["ci_low"].notna()
    values = 100 * rows[["our_value", "ci_low", "ci_high"]].where(measured).astype(float)
    edge = max(values[["ci_low", "ci_high"]].abs().max().max(), 5) + 1
    lines = sum(label.count("\n") + 1 for label in labels)
    meaning = "(right of 0: the one named first is better); other evidence in words"
    about = {"xlabel": f"difference in points, 95% interval {meaning}", "xlim": (-edge, edge)}
    figure, axes = style.one_panel(9.4, 1.3 + 0.24 * max(lines, 1.3 * len(rows)), **about)
    for y, (row, value) in enumerate(zip(rows.itertuples(), values.to_numpy(), strict=True)):
        colour = style.SOFT if row.verdict in ("open", "cited") else style.INK
        if np.isnan(value[1]):
            look = {"color": colour, "va": "center", "fontsize": 8.5, "bbox": style.PLAIN}
            axes.text(0.5 - edge, y, row.text, **look)
        else:
            style.interval(axes, y, *value, colour)
        status = f" ({row.status})" if row.status != row.verdict else ""
        word = f"{SYMBOLS[row.verdict]} {row.verdict}{status}"
        axes.text(edge + 0.5, y, word, color=colour, va="center")
    axes.axvline(0, color=style.INK, linewidth=0.8)
    style.label_lines(axes, labels)
    axes.grid(axis="y", color="#eef0f3")
    style.title_above(figure, title)
    return figure
