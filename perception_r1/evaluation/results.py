"""The policies of one experiment together: evaluated on the same problems, compared, and shown. Notebooks 04 and 05.

What one table of outcomes means stands in `perception_metrics`; `comparison` measures one, and compares two.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from perception_r1.common.settings import TrainSettings
from perception_r1.evaluation import comparison, perception_metrics
from perception_r1.problems.schema import Problem
from perception_r1.world import WorldProblem

KEY = ("answers", "facts", "probe", "redrawing")  # the measures that are told of every comparison
Outcomes = Mapping[str, pd.DataFrame]  # policy -> its outcomes; "base" first


def evaluate_policies(
    policies: Mapping[str, str | Path],
    made: Sequence[WorldProblem],
    settings: TrainSettings,
    *,
    seed: int,
    device: str = "cpu",
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Ask several policies the same problems; see `perception_metrics.measure`.

    Args:
        policies: name -> folder, hub name or "miniature".
        made: problems of the world, as `make_world` gives them.
        settings: they say the longest response and the weights' dtype.
        seed: decides what is probed and redrawn.
        device: "cpu" or "cuda".

    Returns:
        Name -> outcomes, without texts; and the free responses, a row a problem (index `id`), a column a policy.
    """
    from perception_r1.training.policy import load_policy  # loads torch

    outcomes, responses = {}, {}
    longest = settings.max_completion_length
    for name, source in policies.items():
        policy = load_policy(source, dtype=settings.dtype, device=device)
        table = perception_metrics.measure(*policy, made, seed=seed, max_new_tokens=longest)
        responses[name] = table.set_index("id")["response"]
        outcomes[name] = table.drop(columns="response")
    return outcomes, pd.DataFrame(responses)


def compare_policies(outcomes: Outcomes) -> pd.DataFrame:
    """Each arm against the base, and perception against accuracy-only where both are there.

    Returns:
        `comparison.compare` of each pair, with the columns before_is and after_is at the end.
    """
    pairs = [("base", name) for name in outcomes if name != "base"]
    if {"accuracy_only", "perception"} <= set(outcomes):
        pairs.append(("accuracy_only", "perception"))
    tables = [
        comparison.compare(outcomes[a], outcomes[b]).assign(before_is=a, after_is=b)
        for a, b in pairs
    ]
    return pd.concat(tables)


def in_points(row: pd.Series) -> str:
    """A difference of shares with its interval, in points: "+1.2 (-3.0 to +5.0)"."""
    return f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def side_by_side(problems: Sequence[Problem], responses: pd.DataFrame) -> str:
    """What each policy said to each problem, as HTML, facts marked (see `perception_metrics.marked`).

    Args:
        problems: to be shown.
        responses: as `evaluate_policies` gives them.
    """
    part, rows = '<div style="flex:1 1 13em">', ""  # side by side where there is room
    for problem in problems:
        question = html.escape(problem.problem.replace("<image>", ""))
        rows += f'<p>{question}</p><div style="display:flex;flex-wrap:wrap;gap:1em">'
        for name, response in responses.loc[problem.id].items():
            marked = perception_metrics.marked(problem, response)
            rows += f"{part}<b>{name}</b><br>{marked}</div>"
        rows += "</div>"
    return f'<div style="text-align:left">{rows}</div>'
