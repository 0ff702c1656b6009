"""Figures of problems and annotations (notebook 02), judges and rewards (03)."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from perception_r1.notebook.figures import style

REWARD = "reward r = 0.1 format\n+ 0.9 right answer\n+ 0.7 perception\n+ repetition penalty"
PIPELINE = {  # step -> (column, row, what it is, what it may rest on)
    "problem": (0, 0, "problem\nimage + question", ()),
    "cot": (1, 0, "right chains\nof thought", ("problem",)),
    "annotations": (2, 0, "visual\nannotations", ("cot",)),
    "policy": (0, 1, "policy", ()),
    "responses": (1, 1, "G responses", ("policy", "problem")),
    "judge": (2, 1, "judge: is each\nannotation stated?", ("responses", "annotations")),
    "reward": (3, 1, REWARD, ("judge",)),
    "advantage": (4, 1, "advantage A\nwithin the group", ("reward",)),
}


def pipeline(title: str) -> Figure:
    """The method as boxes and arrows: from a problem to the advantage that moves the policy."""
    about = {"title": title, "xlim": (-0.55, 4.55), "ylim": (-2.1, 0.45)}
    figure, axes = style.one_panel(10.6, 3.3, **about)
    middle, boxes = {"ha": "center", "va": "center", "fontsize": 9}, {}
    for name, (x, y, text, needs) in PIPELINE.items():
        judged = name in ("judge", "annotations")
        face, edge = ("#DCEBF5", style.BLUE) if judged else ("#F3F4F6", style.GREY)
        look = {"boxstyle": "square,pad=0.8", "facecolor": face, "edgecolor": edge}
        boxes[name] = axes.text(x, -y, text, bbox=look, **middle).get_bbox_patch()
        for other in needs:
            x0, y0 = PIPELINE[other][:2]
            arrow = {"arrowstyle": "->", "color": style.SOFT, "shrinkA": 0, "shrinkB": 0}
            arrow |= {"patchA": boxes[other], "patchB": boxes[name]}
            axes.annotate("", (x, -y), (x0, -y0), arrowprops=arrow, zorder=2)
    back = {"arrowstyle": "->", "color": style.BLUE, "connectionstyle": "arc3,rad=-0.12"}
    axes.annotate("", (0, -1.35), (4, -1.35), arrowprops=back)
    step = "GRPO step: responses above their group's mean become more likely"
    axes.text(2, -2.0, step, ha="center", fontsize=9.5)
    axes.axis("off")
    return figure


def gallery(images: list, captions: list[str], columns: int = 4) -> Figure:
    """Images in a grid, each with a short caption above it."""
    rows = -(-len(images) // columns)
    size = (2.6 * columns, 2.85 * rows)
    figure, places = style.panels(captions, size, columns=columns)
    for axes, image in zip(places, images, strict=True):
        axes.axis("off")
        axes.imshow(image, cmap="gray")
    return figure


def shares(rows: pd.DataFrame, title: str, xlabel: str) -> Figure:
    """Shares between 0 and 1 with their intervals: a line a label, a colour and a marker a group.

    Args:
        rows: columns `label`, `share`, `low`, `high`, `group` (at most three), and `panel` where there are several.
        title: what the figure shows.
        xlabel: what the shares are of.
    """
    rows = rows if "panel" in rows else rows.assign(panel="")
    names, labels, groups = (list(rows[name].unique()) for name in ("panel", "label", "group"))
    size = (4.3 + 3.5 * len(names), 1.4 + 0.4 * len(labels))
    figure, places = style.panels(names, size, title, sharex=True, sharey=True)
    for axes, name in zip(places, names, strict=True):
        for k, (group, marker) in enumerate(zip(groups, "osD", strict=False)):
            part = rows[rows["panel"].eq(name) & rows["group"].eq(group)]
            y = part["label"].map(labels.index) + 0.2 * (k - (len(groups) - 1) / 2)
            # The first two colours mean arms.
            look = {"color": style.COLOURS[2 + k], "zorder": 3, "linewidth": 2}
            axes.hlines(y, part["low"], part["high"], **look)
            axes.scatter(part["share"], y, marker=marker, s=24, label=group, **look)
        style.label_lines(axes, labels)
        axes.set(xlim=(-0.03, 1.03), xlabel=xlabel)
        axes.grid(axis="x", color="#e6e9ee")
    if len(groups) > 1:
        style.legend_beside(places[-1])
    return figure


def by_response(rows: pd.DataFrame, title: str, xlabel: str = "advantage") -> Figure:
    """What each response of a group gets, a panel for each way of paying, in its arm's colour if it has one.

    Args:
        rows: columns `response` (label), `paying` (panel), and one named as `xlabel`.
        title: what the figure shows.
        xlabel: what is drawn.
    """
    names = list(rows["paying"].unique())
    size, fmt = (2 + 2.6 * len(names), 3.0), "%+.2f" if xlabel == "advantage" else "%.2f"
    figure, places = style.panels(names, size, title, sharex=True, sharey=True)
    for axes, (name, part) in zip(places, rows.groupby("paying", sort=False), strict=True):
        colour = style.ARMS.get(name.replace("-", "_"), style.GREEN)
        bars = axes.barh(part["response"], part[xlabel], color=colour, height=0.6)
        axes.bar_label(bars, fmt=fmt, fontsize=10, padding=4)
        axes.axvline(0, color=style.INK, linewidth=1)
        axes.margins(x=0.3)
        axes.set_xlabel(xlabel)
        axes.tick_params(axis="y", length=0)
    places[0].invert_yaxis()
    return figure


def attack_grid(rates: pd.DataFrame, title: str) -> Figure:
    """Which attack is paid by which judge; a circle where responses escape without a verdict.

    Args:
        rates: columns `attack`, `judge`, `paid`, `escaped` (shares), in the order to be shown.
        title: what the figure shows.
    """
    attacks, judges = list(rates["attack"].unique()), list(rates["judge"].unique())
    paid, escaped = (
        rates.pivot(index="attack", columns="judge", values=name).loc[attacks, judges]
        for name in ("paid", "escaped")
    )
    size = (2.6 + 0.85 * len(judges), 1.8 + 0.3 * len(attacks))
    figure, axes = style.one_panel(*size, title=title)
    text = paid.map(lambda share: f"{share:.0%}" if share else "")
    look = {"annot": text, "fmt": "", "linewidths": 1.5, "annot_kws": {"fontsize": 9}}
    colours = sns.light_palette(style.LOSS, as_cmap=True)
    sns.heatmap(paid, ax=axes, cmap=colours, vmin=0, vmax=1, cbar=False, **look)
    y, x = np.nonzero(escaped.to_numpy() > 0.5)
    axes.scatter(x + 0.5, y + 0.5, marker="o", s=42, facecolor="none", edgecolor=style.GREY)
    axes.set(xlabel="", ylabel="")
    axes.xaxis.tick_top()
    axes.set_xticklabels(judges, rotation=35, ha="left")
    axes.tick_params(length=0)
    return figure


def gamma_sweep(rows: pd.DataFrame, title: str) -> Figure:
    """Advantages of one group's responses over the weight of the perception reward.

    Args:
        rows: columns `gamma`, `advantage`, `response`, one line a response.
        title: what the figure shows.
    """
    figure, axes = style.one_panel(7.2, 3.8, title=title)
    look = {"palette": [*style.COLOURS[2:5], style.GREY], "linewidth": 2.2}
    sns.lineplot(rows, x="gamma", y="advantage", hue="response", ax=axes, **look)
    axes.axvspan(0.1, 0.9, color="#eef3f8", zorder=0)
    axes.axhline(0, color=style.INK, linewidth=1)
    axes.set_xlabel("gamma, the weight of the perception reward")
    style.legend_beside(axes)
    return figure
