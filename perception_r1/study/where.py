"""Where on the map is a model? Sampled responses to annotated problems say it, by inference alone. Notebook 05.

    python -m perception_r1 study where --data FILE --model NAME_OR_DIR [--out DIR]
    python -m perception_r1 study where --data FILE --server URL --server-model NAME [--judge-url URL ...]

"Read" is here what a response states and the judge marks so. An annotation that is not stated may have been seen all
the same, and the answer may not need it: so the lucky share is the most that luck can be.
"""

import argparse
import asyncio
import random
from pathlib import Path

import numpy as np
import pandas as pd

from perception_r1.common import recorded
from perception_r1.common.chat import ChatError
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import write_text
from perception_r1.evaluation.responses import from_policy, from_server
from perception_r1.problems import load_problems
from perception_r1.problems.schema import Problem, read_annotations
from perception_r1.reward import ExactJudge, LLMJudge, PerceptionReward, accuracy_reward
from perception_r1.reward.judges import Judge, Verdict
from perception_r1.reward.rewards import describe
from perception_r1.study.credit import credit

CELLS = "map_cells"  # recorded: a row a cell of the map, with coordinates as columns
NEAR_BY = ["silent", "lucky_share", "signal_to_noise"]
COORDINATES = {  # in the order of `_values`
    "silent": "groups without accuracy signal",
    "lucky_share": "of right answers, those with an annotation not stated",
    "luck": "right answers, of responses with an annotation not stated",
    "reward_correlation": "accuracy and perception reward, within groups",
    "read": "annotations stated: p",
    "within": "of p(1 - p), the share within a problem",
    "signal": "credit of an annotation, accuracy alone: mean over groups",
    "noise": "and standard deviation over groups",
    "signal_to_noise": "mean over standard deviation; 0 where nothing is credited",
}


def coordinates(table: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Where a model stands, with 95% intervals from a bootstrap over problems.

    Args:
        table: as `judged` gives it, as many responses to each problem. A problem is left out if any of its responses
            has no grade or no verdict.
        resamples: of the bootstrap.

    Returns:
        Columns coordinate (of `COORDINATES`), value, low, high, what; missing where nothing counts.

    Raises:
        InputError: no problem is left.
    """
    kept = table[~table["id"].isin(table.loc[table.isna().any(axis=1), "id"])]
    if kept.empty:
        why = some(set(table["marks"]), 1)
        raise InputError(f"no problem has a verdict on all its responses ({why}); give --judge-url")
    kept = kept.sort_values("id", kind="stable")
    marks = kept["marks"].str.split(expand=True)  # None behind the last annotation of a problem
    problems, facts = kept["id"].nunique(), marks.eq("stated").where(marks.notna())
    arrays = [
        columns.to_numpy(float).reshape(problems, len(kept) // problems, -1)
        for columns in (facts, kept["accuracy"], kept["perception"])
    ]
    picks = np.random.default_rng(0).integers(problems, size=(resamples, problems))
    drawn = pd.DataFrame([_values(*(array[pick] for array in arrays)) for pick in picks])
    low, high = drawn.quantile([0.025, 0.975]).to_numpy() * (1 if problems > 1 else np.nan)
    measured = pd.DataFrame({"coordinate": list(COORDINATES), "value": _values(*arrays)})
    return measured.assign(low=low, high=high, what=list(COORDINATES.values()))


def _values(facts: np.ndarray, right: np.ndarray, paid: np.ndarray) -> list[float]:
    """All coordinates: (problems, G, k), nan behind a problem's last annotation; rewards are (problems, G, 1)."""
    earned = credit(facts, right[..., 0])
    read, within = np.nanmean(facts), np.nanmean(facts.var(axis=1, ddof=1))
    unread = (facts == 0).any(axis=2, keepdims=True)
    lucky = (right * unread).sum()
    answers, seen = (rewards - rewards.mean(axis=1, keepdims=True) for rewards in (right, paid))
    with np.errstate(invalid="ignore", divide="ignore"):
        both = (answers * seen).sum() / np.sqrt((answers**2).sum() * (seen**2).sum())
        return [
            earned.silent, lucky / right.sum(), lucky / unread.sum(), both, read,
            within / (read * (1 - read)), earned.signal, earned.noise,
            earned.signal / earned.noise if earned.noise else 0.0,
        ]  # fmt: skip


def nearest(measured: pd.DataFrame, cells: pd.DataFrame, most: int = 3) -> pd.DataFrame:
    """The cells of the map next to a model by `NEAR_BY`, each over its standard deviation over cells.

    What is missing, or equal in all cells, tells nothing and is left out.

    Args:
        measured: as `coordinates` gives it.
        cells: columns cell and `NEAR_BY`.
        most: how many.

    Returns:
        Columns cell, distance, and `NEAR_BY`; the nearest first.
    """
    own, values = measured.set_index("coordinate")["value"], cells[NEAR_BY]
    away = (values - own[NEAR_BY]) / values.std().replace(0, np.nan)
    table = cells[["cell"]].assign(distance=np.sqrt((away**2).sum(axis=1)))
    return table.join(values).nsmallest(most, "distance")


# --- responses ---------------------------------------------------------------------------------------


def judged(problems: list[Problem], responses: list[str], judge: Judge) -> pd.DataFrame:
    """Both rewards of each response.

    Args:
        problems: annotated, one a response; a problem that was asked several times stands here as often.
        responses: to be judged.
        judge: marks the annotations.

    Returns:
        Columns id, response, accuracy, perception (missing without grade or verdict), marks (a word an annotation,
        all "absent" where the response itself is at fault; without verdict the reason).
    """
    reward = PerceptionReward(judge)
    paid = asyncio.run(reward(responses, [p.visual_key_info for p in problems]))
    graded = accuracy_reward(responses, [p.answer for p in problems])
    rows = [
        (p.id, response, _marks(verdict, read_annotations(p.visual_key_info)))
        for p, response, verdict in zip(problems, responses, reward.verdicts, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["id", "response", "marks"])
    return table.assign(accuracy=np.array(graded, float), perception=np.array(paid, float))


def _marks(verdict: Verdict, annotations: list[str]) -> str:
    return " ".join(["absent"] * len(annotations)) if verdict.by_response else describe(verdict)


def _sampled(given: argparse.Namespace, prompted: list[Problem]) -> list[str]:
    """A response to each of these problems, which stand there as often as they are asked."""
    if given.model:
        ask = from_policy(given.model, greedy=False, seed=0, max_new_tokens=given.max_new_tokens)
        return ask(prompted)
    sampling = {"temperature": 1, "max_tokens": given.max_new_tokens}
    cache = given.out and given.out / "responses.sqlite"
    more = {"label": "responses", "cache": cache}
    ask = from_server(given.server, given.server_model, sampling, given.samples, **more)
    responses = ask(prompted)
    if failed := [reply for reply in responses if isinstance(reply, ChatError)]:
        raise InputError(f"{failed[0]}. With --out, the same command asks only for the rest")
    return responses


# --- the command -----------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 study where`; see this module."""
    parser = argparse.ArgumentParser("python -m perception_r1 study where")
    add = parser.add_argument
    add("--data", required=True, help="annotated problems: Parquet file, folder or hub name")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a checkpoint: folder, hub name, or miniature")
    source.add_argument("--server", metavar="URL", help="OpenAI-compatible, takes images (.../v1)")
    add("--server-model", default="", metavar="NAME", help="its model's name there")
    add("--judge-url", metavar="URL", help="a judging model's; else the exact judge reads")
    add("--judge-model", default="", metavar="NAME", help="its name there")
    add("--problems", type=int, default=200, help="drawn from the data, always the same")
    add("--samples", type=int, default=8, help="responses to each, at temperature 1")
    add("--max-new-tokens", type=int, default=2048, help="of one response")
    add("--out", type=Path, metavar="DIR", help="keeps rollouts.jsonl and coordinates.csv")
    given = parser.parse_args(arguments)
    if given.problems < 1 or given.samples < 2:
        raise InputError("give --problems 1 or more, --samples 2 or more: a group compares")
    known = [p for p in load_problems(given.data, unusable="drop") if p.visual_key_info]
    if not known:
        remedy = "annotate them first (python -m perception_r1 annotate)"
        raise InputError(f"no problem of {given.data} has annotations; {remedy}")
    judge, cache = ExactJudge(), given.out and given.out / "judge.sqlite"
    if given.judge_url:
        judge = LLMJudge(given.judge_url, given.judge_model, cache=cache)
    drawn = random.Random(0).sample(known, min(given.problems, len(known)))
    prompted = [problem for problem in drawn for _ in range(given.samples)]
    table = judged(prompted, _sampled(given, prompted), judge)
    measured = coordinates(table)
    if given.out:
        write_text(given.out / "rollouts.jsonl", table.to_json(orient="records", lines=True))
        write_text(given.out / "coordinates.csv", measured.to_csv(index=False))
    lost = table.loc[table.isna().any(axis=1), "id"].nunique()
    print(f"{len(drawn)} problems, {given.samples} responses each; {lost} left out, not judged")
    print(measured.round(2).to_string(index=False))
    print(nearest(measured, recorded.read(CELLS)).round(2).to_string(index=False))
    print("This says where accuracy alone is blind; it promises no gain in points.")
    return 0
