"""What many training runs say about a method: paired over seeds. Reads what `batch` gathered, or `recorded` keeps.

One run is one draw: sampling and order of problems differ from seed to seed, and results by as much as the arms.
So a statement about a method takes the seeds as its sample: the exact sign-flip test over seeds, and intervals
that let both seeds and figures vary. A policy is named by its cell of the plan and its arm, "default/perception".

    python -m perception_r1.study.analysis PLAN DIR [DIR ...]

writes a batch's results to `data/results/study_<plan>*.csv`, with provenance, and keeps its rows in
`data/results/rows/<plan>/`: what each policy answered, so that a plan can be run in parts, on machines that are not
kept, and compared with later. Further folders are of other batches, or of rows kept, with whose policies it compares.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as sps

from perception_r1 import facts
from perception_r1.annotation.pipeline import read_statement
from perception_r1.common import recorded
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import sha256, whole, write_text
from perception_r1.evaluation.comparison import (
    COUNTED,
    NO_GAIN,
    change,
    compare,
    paired_counts,
    verdict,
)
from perception_r1.evidence.stats import holm, paired_difference, seed_sign_flip
from perception_r1.study.plans import RESULTS, Plan, read_plan, read_results
from perception_r1.world.scene import value_of, with_value

SECONDARY = ("probe", "redrawing, where stated", "recall", "precision")
FEWEST_FOR_A_TEST = 6  # seeds; with fewer no sign-flip test is below 0.05
TABLES = ("outcomes", "grpo_log")  # what a batch gathers of these plans
INERT = 0.05  # a mechanism that touches fewer completions did not act
Seeds = Mapping[int, pd.DataFrame]  # seed -> outcomes, as `sight.evaluate` gives them


def policies(outcomes: pd.DataFrame) -> dict[str, Seeds]:
    """A batch's `outcomes.csv` by policy and seed: "cell/arm" -> seed -> outcomes.

    The base, which every row evaluates again, is "cell/base".

    Raises:
        InputError: a column is missing.
    """
    wanted = {"plan_cell", "train_seed", "artifact", "id", "figure"}
    if missing := wanted - set(outcomes.columns):
        raise InputError(
            f"the outcomes have no column {some(missing)}; give a batch's outcomes.csv"
        )
    if outcomes["train_seed"].isna().any():
        raise InputError("a row of the batch has no train_seed; give each row one in the plan")
    found: dict[str, dict[int, pd.DataFrame]] = {}
    own = [name for name in outcomes.columns if name not in ("row", "arms")]
    for (cell, file, seed), table in outcomes.groupby(["plan_cell", "artifact", "train_seed"]):
        policy = f"{cell}/{file.removeprefix('outcomes_')}"
        if policy.endswith("/base"):  # it stands once for each arm
            table = table.drop_duplicates(own)
        if twice := set(table["id"][table["id"].duplicated()]):
            raise InputError(
                f"policy {policy}, seed {seed}, has two outcomes of {some(twice)}; give cells of one name to one "
                "batch only, and let arms and train_seed alone vary in a cell"
            )
        found.setdefault(policy, {})[int(seed)] = table.reset_index(drop=True)
    return found


def over_seeds(before: Seeds, after: Seeds, *, n_resamples: int = 2000) -> pd.DataFrame:
    """Two methods on the same problems and seeds: the mean over seeds of each measure's paired difference.

    The interval (95%) is from a bootstrap that draws seeds and figures, and never narrower than Student's t over
    the seeds, nor than so many problems without any change would give. With one seed only figures are drawn: a
    statement about two checkpoints.

    Args:
        before: seed -> outcomes of one method.
        after: of another; seeds that only one of them has are left out.
        n_resamples: of the bootstrap.

    Returns:
        Columns kind, measure, before, after, difference, low, high, seeds, n (problems of a seed), figures, p
        (exact sign-flip over seeds; missing with fewer than `FEWEST_FOR_A_TEST`), verdict (of the interval).

    Raises:
        InputError: no seed in common, or other problems.
    """
    seeds = sorted(set(before) & set(after))
    if not seeds:
        raise InputError(f"no seed in common: {some(before)} before, {some(after)} after")
    counts = [paired_counts(before[seed], after[seed]) for seed in seeds]
    rows = []
    for kind, measure in counts[0]:
        tables = [found.get((kind, measure)) for found in counts]
        if any(table is None for table in tables):
            continue
        figures = sorted(set().union(*(table.index for table in tables)))
        table = np.stack([t.reindex(figures, fill_value=0)[list(COUNTED)] for t in tables])
        n = int(np.mean([t["problems"].sum() for t in tables]))
        sums = table.sum(axis=1, dtype=float)  # a row a seed
        differences = change(sums)
        low, high = _interval(table, differences, n, n_resamples)
        with np.errstate(invalid="ignore"):
            shares = [np.mean(sums[:, k] / sums[:, k + 1]) for k in (0, 2)]
        p = np.nan
        if len(seeds) >= FEWEST_FOR_A_TEST and np.isfinite(differences).all():
            after_by_seed = dict(zip(seeds, differences, strict=True))
            p = seed_sign_flip(dict.fromkeys(seeds, 0.0), after_by_seed)[1]
        rows.append((kind, measure, *shares, differences.mean(), low, high, len(seeds), n,
                     len(figures), p, verdict(low, high)))  # fmt: skip
    columns = ["kind", "measure", "before", "after", "difference", "low", "high", "seeds", "n",
               "figures", "p", "verdict"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _interval(
    table: np.ndarray, differences: np.ndarray, n: int, n_resamples: int
) -> tuple[float, float]:
    """See `over_seeds`; `table` has the shape (seeds, figures, 4)."""
    seeds, figures, _ = table.shape
    if not np.isfinite(differences).all() or figures < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(figures, np.full(figures, 1 / figures), size=n_resamples)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n_resamples) / seeds
    values = (weights * change(np.einsum("rf,sfc->rsc", drawn, table))).sum(axis=1)
    ends = [np.nanquantile(values, [0.025, 0.975])]
    middle = differences.mean()
    if seeds > 1:
        half = sps.t.ppf(0.975, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds)
        ends.append((middle - half, middle + half))
    _, least, most = paired_difference(0, 0, n)
    ends.append((middle + least, middle + most))
    lows, highs = zip(*ends, strict=True)
    return float(max(-1.0, min(lows))), float(min(1.0, max(highs)))


def decide(row: Mapping) -> str:
    """Whether `after` is better: "yes", "no" or "undecided", by the rule of the plans.

    With enough seeds for a test: yes or no if p < 0.05, by the sign; else, and with fewer seeds, by the interval:
    yes if it lies above 0, no if it lies below 0 or ends below +5 points. The test knows seeds alone, the interval
    figures, too: so a yes of the test with an interval that holds 0 says nothing about other figures.
    """
    if np.isfinite(row["p"]):
        if row["p"] < 0.05:
            return "yes" if row["difference"] > 0 else "no"
    elif row["low"] > 0:
        return "yes"
    return "no" if row["high"] < NO_GAIN else "undecided"


def answer(plan: Plan, outcomes: pd.DataFrame, trained: pd.DataFrame | None = None) -> pd.DataFrame:
    """The comparisons that a plan announced, in its order; the first one is the plan's primary comparison.

    Args:
        plan: its `analysis` has `comparisons` (policies `before` and `after`, the measure `primary`, perhaps `kind`
            of problems, image-only if not said; `acted`: a policy whose repetition penalty must have acted, or the
            comparison is inert), and perhaps `seeds`, to which all are confined and all of which they need.
        outcomes: as a batch gathers them.
        trained: as `training` gives it; needed for `acted`.

    Returns:
        `over_seeds` of each, with the columns policy_before, policy_after; role: "primary" and "secondary" of the
        first comparison, "planned" for the named measure of the others, else empty; p_holm, over the secondary
        ones; decision, of those with a role of their own, by the test only if it is the primary one. The p of
        rows that are neither primary nor secondary is descriptive. Comparisons of which a side, or one of the
        plan's seeds of a side, has not been run are left out: the first seed to finish answers nothing.
    """
    known = policies(outcomes)
    if "seeds" in plan.analysis:
        known = {
            name: {seed: table for seed, table in seeds.items() if seed in plan.analysis["seeds"]}
            for name, seeds in known.items()
        }
    found = []
    for place, wanted in enumerate(plan.analysis.get("comparisons", ())):
        pair = wanted["before"], wanted["after"]
        if not set(pair) <= set(known):
            continue
        both = set(known[pair[0]]) & set(known[pair[1]])
        if not both.issuperset(plan.analysis.get("seeds", ())):
            continue
        table = over_seeds(known[pair[0]], known[pair[1]])
        table.insert(0, "policy_before", pair[0])
        table.insert(1, "policy_after", pair[1])
        kind = wanted.get("kind", "image-only")
        of_kind = table["kind"] == kind
        named = of_kind & (table["measure"] == wanted["primary"])
        secondary = of_kind & table["measure"].isin(SECONDARY) & ~named & (place == 0)
        name = "primary" if place == 0 else "planned"
        table["role"] = np.select([named, secondary], [name, "secondary"], "")
        tested = table[secondary & table["p"].notna()]
        corrected = holm(dict(zip(tested.index, tested["p"], strict=True))) if len(tested) else {}
        table["p_holm"] = pd.Series(corrected, dtype=float).reindex(table.index)
        table["decision"] = ""
        for row in table.index[named]:
            told = dict(table.loc[row]) | ({} if place == 0 else {"p": np.nan})
            inert = _inert(wanted.get("acted"), trained)
            table.loc[row, "decision"] = "inert here" if inert else decide(told)
        found.append(table)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _inert(policy: str | None, trained: pd.DataFrame | None) -> bool:
    """Whether the repetition penalty of a policy touched too few completions to have acted."""
    if policy is None:
        return False
    rows = trained[trained["policy"] == policy] if trained is not None else pd.DataFrame()
    if rows.empty:
        raise InputError(f"no training log of {policy}; give the folder of its batch, too")
    return rows["repeated"].mean() < INERT


def each_seed(plan: Plan, outcomes: pd.DataFrame) -> pd.DataFrame:
    """The same comparisons, seed by seed, as `comparison.compare` gives them: nothing is averaged away."""
    known = policies(outcomes)
    found = []
    for wanted in plan.analysis.get("comparisons", ()):
        before, after = (known.get(wanted[side], {}) for side in ("before", "after"))
        kept = plan.analysis.get("seeds", before)
        for seed in sorted(set(before) & set(after) & set(kept)):
            table = compare(before[seed], after[seed])
            about = {
                "policy_before": wanted["before"],
                "policy_after": wanted["after"],
                "seed": seed,
            }
            found.append(table.assign(**about)[[*about, *table.columns]])
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def training(logs: pd.DataFrame) -> pd.DataFrame:
    """What a batch's `grpo_log.csv` says of each run, a row a run.

    Returns:
        Columns policy, seed; accuracy and perception (means of the last fifth of the steps; perception as that run's
        own judge paid it); repeated (share of all completions that the repetition penalty touched: below `INERT` it
        did not act); left_out (share of completions left out for want of a verdict; missing in logs that do not
        say how many there were); entropy (last fifth); seconds; peak_memory_mb.
    """
    rows = []
    for (cell, arm, seed), log in logs.groupby(["plan_cell", "arm", "train_seed"]):
        late = log[log["step"] > 0.8 * log["step"].max()]
        row = {"policy": f"{cell}/{arm}", "seed": int(seed)}
        for name in ("accuracy", "perception", "entropy"):
            row[name] = late[name].mean() if name in late else np.nan
        row["repeated"] = log["repeated"].mean()
        rollouts = log["rollouts"].sum() if "rollouts" in log else 0
        row["left_out"] = log["left_out"].sum() / rollouts if rollouts else np.nan
        row |= {"seconds": log["seconds"].sum(), "peak_memory_mb": log["peak_memory_mb"].max()}
        rows.append(row)
    return pd.DataFrame(rows)


def listing(batch: Path, spans: int = 5) -> pd.DataFrame:
    """How often training's responses name two values for one length or angle, which presence alone would pay.

    Args:
        batch: its folder, with the rows' `completions.jsonl` (a sample of each step's responses).
        spans: parts of equal length into which the steps are cut.

    Returns:
        Columns row, first_step, last_step, completions, listing (share of them).

    Raises:
        InputError: no row of the batch has left completions.
    """
    files = sorted(batch.glob("rows/*/artifacts/*/completions.jsonl"))
    if not files:
        raise InputError(f"{batch} has no rows with a completions.jsonl; give a batch's folder")
    parts = []
    for file in files:
        told = pd.read_json(file, lines=True)[["step", "completion"]]
        told["listing"] = told["completion"].map(_lists)
        told["span"] = pd.cut(told["step"], np.linspace(0, told["step"].max(), spans + 1))
        part = told.groupby("span", observed=True).agg(
            first_step=("step", "min"), last_step=("step", "max"),
            completions=("step", "size"), listing=("listing", "mean"),
        )  # fmt: skip
        parts.append(part.assign(row=file.parents[2].name))
    return pd.concat(parts)[["row", *parts[0].columns[:-1]]].reset_index(drop=True)


def _lists(response: str) -> bool:
    """Whether two statements differ in the value alone."""
    told = filter(None, map(read_statement, response.splitlines()))
    about = {facts.key(f): facts.key(with_value(f, 0)) for f in told if value_of(f) is not None}
    return len(set(about.values())) < len(about)


def keep(plan_file: Path, folder: Path) -> Path:
    """Add a batch's finished rows to those kept of its plan; a row that is kept already is replaced.

    Returns:
        The folder of kept rows, in which tables are packed; else it is laid out as a batch's.

    Raises:
        InputError: the batch's tables cannot be read, or do not fit its `results.jsonl`.
    """
    kept = recorded.FOLDER / "rows" / plan_file.stem
    if folder.resolve() == kept.resolve():
        return kept
    old, new = ({line["row"]: line for line in read_results(f)} for f in (kept, folder))
    finished = {row for row, line in new.items() if line["status"] == "ok"}
    lines = new | {row: line for row, line in old.items() if row not in finished}
    for name in TABLES:
        table = _read(folder, name, dtype=str, keep_default_na=False)
        if name == "outcomes":
            _about(folder, table)  # complete, or refused
        if old:
            before = _read(kept, name, dtype=str, keep_default_na=False)
            table = pd.concat([before[~before["row"].isin(finished)], table], ignore_index=True)
        with whole(kept / f"{name}.csv.gz") as part:
            table.to_csv(part, index=False, compression={"method": "gzip", "mtime": 0})
    write_text(
        kept / RESULTS,
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()),
    )
    return kept


def _read(folder: Path, name: str, **how: object) -> pd.DataFrame:
    """A batch's table, gathered or kept."""
    path = folder / f"{name}.csv"
    try:
        return pd.read_csv(path if path.exists() else folder / f"{name}.csv.gz", **how)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the tables of a batch: {error}; run it first") from error


def record(plan_file: Path, folder: Path, *others: Path) -> list[str]:
    """Write a plan's results to `data/results/`: its comparisons, each seed, and the training runs.

    They are those of the batch's rows and of all rows of the plan that were kept before.

    Returns:
        The names of the tables written.

    Raises:
        InputError: the plan or the batch's tables cannot be read, or nothing has been run.
    """
    plan = read_plan(plan_file)
    folders = (keep(plan_file, folder), *others)
    logs, tables = ([_read(path, name) for path in folders] for name in reversed(TABLES))
    outcomes, trained = pd.concat(tables, ignore_index=True), training(pd.concat(logs))
    about = {
        "plan": plan.title, "plan file (SHA-256)": sha256(plan_file),
        "batches": [_about(path, table) for path, table in zip(folders, tables, strict=True)],
    }  # fmt: skip
    written = []
    name = f"study_{plan_file.stem}"
    own = training(logs[0])
    for end, table in (("", answer(plan, outcomes, trained)), ("_seeds", each_seed(plan, outcomes)),
                       ("_training", own)):  # fmt: skip
        source = f"this project: {plan.title}"
        inputs = {f"{path.name}/{file.name}": sha256(file) for path in folders
                  for file in path.glob("outcomes.csv*")}  # fmt: skip
        made_by = f"python -m perception_r1.study.analysis {plan_file.name} DIR"
        recorded.write(
            name + end, table.round(5), source, "Apache-2.0", inputs, made_by, more=about
        )
        written.append(name + end)
    return written


def _about(folder: Path, table: pd.DataFrame) -> dict[str, object]:
    """What made the rows of a batch's table, from its `results.jsonl`."""
    names = set(table["row"])
    lines = read_results(folder)
    good = [line for line in lines if line["row"] in names and line["status"] == "ok"]
    if {line["row"] for line in good} != names:
        raise InputError(f"{folder}: outcomes.csv and results.jsonl differ; run the batch again")
    return {
        "folder": folder.name, "rows": len(good),
        "rows that failed": [line["row"] for line in lines if line["status"] == "failed"],
        "plan when they ran (SHA-256)": sorted({line["plan_sha256"] for line in good}),
        "commit": sorted({str(line["commit"]) for line in good}),
        "machine": sorted({line["machine"] for line in good}),
        "versions": [v for k, line in enumerate(good) if (v := line["versions"]) not in
                     [other["versions"] for other in good[:k]]],
        "seconds of all rows": round(sum(line["seconds"] for line in good), 1),
        "first and last finished": [min(x["finished"] for x in good), max(x["finished"] for x in good)],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Record a batch; 0: done, 2: bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m perception_r1.study.analysis", description=__doc__.split("\n")[0]
    )
    parser.add_argument("plan", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="of the batch")
    given = parser.parse_args(arguments)
    try:
        print(*record(given.plan, *given.folders), sep="\n")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
