"""Measures one judge on labelled pairs and attacks, and keeps what it said: `data/results/llm_judges*.csv`.

    python data/judges/measure.py NAME [--gguf FILE] [--ask all|each] [--pairs N] [--shared DIR]

NAME is `exact`, `lazy`, `tuned` (FILE: SmolLM2's), or the upstream name of a language model that FILE holds. Three sets
never mixed: this world's own words, foreign styles that no judge was tuned on, and real sentences (in DIR). A graded
judge gets its threshold first, on problems of split dev in the styles to learn.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from pathlib import Path

import pandas as pd

from perception_r1.common import provenance, recorded
from perception_r1.common.files import DATA, read_json, sha256
from perception_r1.problems import load_problems
from perception_r1.reward import LLMJudge, TunedJudge, attacks
from perception_r1.reward.calibration import Calibration, calibrate, fit_threshold
from perception_r1.reward.foreign_wording import STYLES
from perception_r1.reward.gguf_server import GGUFServer
from perception_r1.reward.judge_admission import admit
from perception_r1.reward.judges import ExactJudge, Judge, LazyJudge
from perception_r1.reward.labelled_pairs import Pair, foreign_pairs, real_pairs, world_pairs
from perception_r1.reward.labelled_statements import STYLES_TO_LEARN
from perception_r1.world import WorldConfig, make_problems

SEED = 1  # notebook 03's, on the laptop
OTHER_STYLES = tuple(style for style in STYLES if style not in STYLES_TO_LEARN)
TWICE = 12  # pairs of which a served model is asked again; others, all
KEY = ["model", "ask", "set"]
SOURCE = "language models on texts of data/judges/; those of the real set are MATH-Vision's published responses"


def labelled_sets(real: Path | None, count: int | None) -> dict[str, list[Pair]]:
    """The first `count` pairs of each set (None: all), those of a problem together."""
    held_out = make_problems(160, WorldConfig(seed=SEED + 3), "test")
    sets = {
        "own": world_pairs(held_out, SEED),
        "foreign": foreign_pairs(held_out, OTHER_STYLES, SEED),
    }
    if real:
        sets["real"] = real_pairs(real)
    return {name: pairs[:count] for name, pairs in sets.items()} | {"four": four_responses()}


def four_responses() -> list[Pair]:
    """Every annotation of notebook 03's problem against each of its four responses, A to D, written by hand."""
    problems = {p.id: p for p in load_problems(DATA / "sample" / "annotations.parquet")}
    facts = problems["world-train-1-00018"].annotations
    pairs = []
    for name, text in read_json(DATA / "sample" / "four_responses.json").items():
        (verdict,) = asyncio.run(ExactJudge().judge([text], [facts]))
        labelled = zip(facts, verdict.marks, strict=True)
        pairs += [Pair(name, fact, text, mark, fact, "") for fact, mark in labelled]
    return pairs


async def fit(judge: LLMJudge) -> None:
    """Give a graded judge the threshold that is best on dev pairs, none of which is measured on."""
    dev = make_problems(6, WorldConfig(seed=SEED + 3), "dev")
    pairs = world_pairs(dev, SEED) + foreign_pairs(dev, STYLES_TO_LEARN, SEED)
    fitted = await calibrate(judge, pairs, "dev", twice=1)
    judge.threshold, judge.fitted_on = fit_threshold(fitted), fitted.card["pairs hash"]


async def measure(judge: Judge, sets: dict[str, list[Pair]]) -> tuple[list[dict], pd.DataFrame]:
    """A row a set (measures with intervals, cost, admission), and all scores and marks."""
    if isinstance(judge, LLMJudge) and judge.graded:
        await fit(judge)
    victims = make_problems(2, WorldConfig(seed=SEED + 4), "test")
    rates = attacks.success_rates(await attacks.run_attacks({judge.name: judge}, victims, SEED))
    rates = rates[rates["attack"] != attacks.RELATIONS]  # any right verdict pays these
    rows, marked = [], []
    for name, pairs in sets.items():
        usage = getattr(judge, "usage", None)
        twice = TWICE if usage else len(pairs)
        start, tokens = time.monotonic(), usage.prompt_tokens if usage else 0
        result = await calibrate(judge, pairs, name, twice=twice)
        marked.append(result.rows[["id", "kind", "how", "label", "mark", "score"]].assign(set=name))
        if name == "four":
            continue
        seconds = (time.monotonic() - start) / (len(pairs) + twice)
        tokens = (usage.prompt_tokens - tokens) / (len(pairs) + twice) if usage else 0
        failed = admit(result, rates, seed=SEED).failed
        row = {"set": name, "pairs": len(pairs), "threshold": getattr(judge, "threshold", None)}
        row |= {"seconds": round(seconds, 3), "prompt_tokens": round(tokens)}
        row |= {"paid_attacks": ", ".join(rates.loc[rates["paid"] > 0, "attack"])}
        rows.append(row | _wide(result) | {"failed": "; ".join(failed)})
    return rows, pd.concat(marked)


def _wide(result: Calibration) -> dict[str, float]:
    """Measures with their limits: precision, precision_low, precision_high, ..."""
    summary = result.summary(seed=SEED).set_index("measure")[["value", "low", "high"]].stack()
    return {"_".join(key).removesuffix("_value"): value for key, value in summary.items()}


def _key_first(table: pd.DataFrame) -> pd.DataFrame:
    return table[[*KEY, *table.columns.difference(KEY, sort=False)]]


def keep(name: str, new: pd.DataFrame, made_by: str) -> None:
    """Record rows in the place of those of the same model, ask and set."""
    path = recorded.FOLDER / f"{name}.csv"
    old = recorded.read(name) if path.is_file() else new.iloc[:0]
    measured = pd.MultiIndex.from_frame(new[KEY])
    old = old[~pd.MultiIndex.from_frame(old[KEY]).isin(measured)]
    table = pd.concat([old, new]).sort_values(KEY, kind="stable")
    recorded.write(name, table, SOURCE, "Apache-2.0; real: MIT", {}, made_by)


def main(arguments: list[str]) -> int:
    """Measure a judge and record it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--ask", choices=["all", "each"], default="each")
    parser.add_argument("--pairs", type=int, help="of each set, at most")
    parser.add_argument("--shared", type=Path, help="folder with mathvision/outputs")
    given = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        if given.name in ("exact", "lazy"):
            judge = ExactJudge() if given.name == "exact" else LazyJudge()
        elif given.name == "tuned":
            judge = TunedJudge(given.gguf)
        else:
            server = stack.enter_context(GGUFServer(given.gguf, model=given.name))
            more = {"timeout": 600, "deadline": 900, "step_deadline": 36_000, "concurrency": 2}
            judge = LLMJudge(server.url, given.name, ask=given.ask, **more)
        real = given.shared and given.shared / "mathvision" / "outputs"
        rows, marked = asyncio.run(measure(judge, labelled_sets(real, given.pairs)))
    card = judge.card()
    about = {"model": given.name, "ask": getattr(judge, "ask", "by rules")}
    measured = pd.DataFrame(rows).assign(**about, prompt=card.get("prompt", ""))
    measured["file"] = sha256(given.gguf) if given.gguf else ""
    versions = provenance.versions(("xllamacpp", "transformers", "peft"))
    made_by = f"python data/judges/measure.py, a row a judge, way of asking and set; {versions}"
    keep("llm_judges", _key_first(measured), made_by)
    keep("llm_judges_pairs", _key_first(marked.assign(**about)), made_by)
    shown = pd.DataFrame(rows).filter(["set", "auc", "precision", "recall", "specificity"])
    print(shown.to_string(index=False, float_format="{:.2f}".format))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
