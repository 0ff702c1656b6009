"""What many training runs say about a method: paired over seeds. Reads what `batch` gathered, or `recorded` keeps.

One run is one draw: sampling and order of problems differ from seed to seed, and results by as much as the arms.
So a statement about a method takes the seeds as its sample: the exact sign-flip test over seeds, and intervals
that let both seeds and figures vary. A policy is named by its cell of the plan and its arm, "default/perception".

    python -m perception_r1 study PLAN DIR [DIR ...]

writes a batch's results to `data/results/study_<plan>*.csv`, with provenance, and keeps its rows in
`data/results/rows/<plan>/`: what each policy answered, so that a plan can be run in parts, on machines that are not
kept, and compared with later. Further folders are of other batches, or of rows kept, with whose policies it compares.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as sps

from perception_r1.common import recorded
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import sha256, whole, write_text
from perception_r1.evaluation import comparison
from perception_r1.evidence.stats import holm, paired_difference, ratio, seed_sign_flip
from perception_r1.study.plans import RESULTS, Plan, read_plan, read_results

SECONDARY = (*comparison.SEEN, *comparison.STATED)
FEWEST_FOR_A_TEST = 6  # seeds; with fewer no sign-flip test is below 0.05
TABLES = ("outcomes", "grpo_log")  # what a batch gathers of these plans
RESAMPLES = 2000  # of the bootstrap over seeds and figures
INERT = 0.05  # a mechanism that touches fewer completions did not act
Seeds = Mapping[int, pd.DataFrame]  # seed -> outcomes, as `perception_metrics.measure` gives them


def policies(outcomes: pd.DataFrame) -> dict[str, Seeds]:
    """A batch's `outcomes.csv` by policy and seed: "cell/arm" -> seed -> outcomes.

    The base, which every row evaluates again, is "cell/base".

    Raises:
        InputError: a row without seed, or a policy with other outcomes of the same problem and seed.
    """
    keys = ["plan_cell", "artifact", "train_seed"]
    if outcomes.reindex(columns=keys).isna().any(axis=None):
        raise InputError(f"outcomes without {some(keys)}; give each row of the plan a train_seed")
    by_policy: dict[str, dict[int, pd.DataFrame]] = {}
    for (cell, file, seed), table in outcomes.groupby(keys):
        policy = f"{cell}/{file.removeprefix('outcomes_')}"
        own = table.columns.difference(["row", "arms"], sort=False)
        table = table.drop_duplicates(own)  # the base stands once for each arm
        if twice := set(table["id"][table["id"].duplicated()]):
            fault = f"policy {policy}, seed {seed}, has two outcomes of {some(twice)}"
            remedy = "give cells of one name to one batch, and let arms and train_seed alone vary in a cell"
            raise InputError(f"{fault}; {remedy}")
        by_policy.setdefault(policy, {})[int(seed)] = table.reset_index(drop=True)
    return by_policy


def over_seeds(before: Seeds, after: Seeds) -> pd.DataFrame:
    """Two methods on the same problems and seeds: the mean over seeds of each measure's paired difference.

    The interval (95%) is from a bootstrap that draws seeds and figures, and never narrower than Student's t over
    the seeds, nor than so many problems without any change would give. With one seed only figures are drawn: a
    statement about two checkpoints.

    Args:
        before: seed -> outcomes of one method.
        after: of another; seeds that only one of them has are left out.

    Returns:
        Columns kind, measure, before, after, difference, low, high, seeds, n (problems of a seed), figures, p
        (exact sign-flip over seeds; missing with fewer than `FEWEST_FOR_A_TEST`), verdict (of the interval).

    Raises:
        InputError: no seed in common, or other problems.
    """
    seeds = sorted(set(before) & set(after))
    if not seeds:
        raise InputError(f"no seed in common: {some(before)} before, {some(after)} after")
    counted = [comparison.paired_counts(before[seed], after[seed]) for seed in seeds]
    rows = []
    for kind, measure in counted[0]:
        tables = [counts[kind, measure] for counts in counted if (kind, measure) in counts]
        if len(tables) < len(seeds):
            continue  # a seed has no problem to measure it on
        figures = sorted(set().union(*(table.index for table in tables)))
        by_figure = np.stack([table.reindex(figures, fill_value=0) for table in tables])
        n = int(np.mean([table["problems"].sum() for table in tables]))
        sums = by_figure.sum(axis=1, dtype=float)  # a row a seed
        differences = comparison.change(sums)
        low, high = _interval(by_figure, differences, n)
        share_before, share_after = ratio(sums).mean(), ratio(sums[:, 2:]).mean()
        p = np.nan
        if len(seeds) >= FEWEST_FOR_A_TEST and np.isfinite(differences).all():
            by_seed = dict(zip(seeds, differences, strict=True))
            p = seed_sign_flip(dict.fromkeys(seeds, 0.0), by_seed)[1]
        rows.append({
            "kind": kind, "measure": measure, "before": share_before, "after": share_after,
            "difference": differences.mean(), "low": low, "high": high, "seeds": len(seeds), "n": n,
            "figures": len(figures), "p": p, "verdict": comparison.verdict(low, high),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _interval(table: np.ndarray, differences: np.ndarray, n: int) -> tuple[float, float]:
    """See `over_seeds`; `table` has the shape (seeds, figures, `COUNTED`)."""
    seeds, figures, _ = table.shape
    if not np.isfinite(differences).all() or figures < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(figures, np.full(figures, 1 / figures), size=RESAMPLES)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    sums = np.tensordot(drawn.astype(float), table, (1, 1))
    values = (weights * comparison.change(sums)).sum(axis=1)
    low, high = np.nanquantile(values, [0.025, 0.975])
    middle = differences.mean()
    _, least, most = paired_difference(0, 0, n)
    low, high = min(low, middle + least), max(high, middle + most)
    if seeds > 1:
        half = sps.t.ppf(0.975, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds)
        low, high = min(low, middle - half), max(high, middle + half)
    return float(max(-1.0, low)), float(min(1.0, high))


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
    return "no" if row["high"] < comparison.NO_GAIN else "undecided"


def answer(plan: Plan, outcomes: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """The comparisons that a plan announced, in its order; the first one is the plan's primary comparison.

    Args:
        plan: its `analysis` has `comparisons` (policies `before` and `after`, the measure `primary`, perhaps `kind`
            of problems, image-only if not said; `acted`: a policy whose repetition penalty must have acted, or the
            comparison is inert), and perhaps `seeds`, to which all are confined and all of which they need.
        outcomes: as a batch gathers them.
        trained: as `training` gives it.

    Returns:
        `over_seeds` of each, with the columns policy_before, policy_after; role: "primary" and "secondary" of the
        first comparison, "planned" for the named measure of the others, else empty; p_holm, over the secondary
        ones; decision, of those with a role of their own, by the test only if it is the primary one. The p of
        rows that are neither primary nor secondary is descriptive. Comparisons of which a side, or one of the
        plan's seeds of a side, has not been run are left out: the first seed to finish answers nothing.
    """
    seeds, tables = set(plan.analysis.get("seeds", ())), []
    for place, (planned, before, after) in enumerate(_sides(plan, outcomes)):
        common = before.keys() & after.keys()
        if not common or not common >= seeds:
            continue
        table = over_seeds(before, after).assign(**_names(planned))
        of_kind = table["kind"] == planned.get("kind", "image-only")
        named = of_kind & (table["measure"] == planned["primary"])
        secondary = of_kind & table["measure"].isin(SECONDARY) & ~named & (place == 0)
        name = "primary" if place == 0 else "planned"
        table["role"] = np.select([named, secondary], [name, "secondary"], "")
        tested = table[secondary & table["p"].notna()]
        table["p_holm"] = pd.Series(holm(tested["p"].to_dict()), dtype=float)
        table["decision"] = ""
        inert = "acted" in planned and _repeated(planned["acted"], trained) < INERT
        for index, row in table[named].iterrows():
            if place > 0:
                row["p"] = np.nan  # only the primary comparison is tested
            table.loc[index, "decision"] = "inert here" if inert else decide(row)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _sides(plan: Plan, outcomes: pd.DataFrame) -> Iterator[tuple[dict, Seeds, Seeds]]:
    """Each planned comparison with its two sides, confined to the plan's seeds if it names some."""
    seeds = plan.analysis.get("seeds")
    known = policies(outcomes[outcomes["train_seed"].isin(seeds)] if seeds else outcomes)
    for planned in plan.analysis.get("comparisons", ()):
        yield planned, known.get(planned["before"], {}), known.get(planned["after"], {})


def _names(planned: Mapping) -> dict[str, str]:
    return {"policy_before": planned["before"], "policy_after": planned["after"]}


def _repeated(policy: str, trained: pd.DataFrame) -> float:
    """The share of completions that the repetition penalty of a policy touched."""
    rows = trained[trained["policy"] == policy]
    if rows.empty:
        raise InputError(f"no training log of {policy}; give the folder of its batch, too")
    return rows["repeated"].mean()


def each_seed(plan: Plan, outcomes: pd.DataFrame) -> pd.DataFrame:
    """The same comparisons, seed by seed, as `comparison.compare` gives them: nothing is averaged away."""
    tables = [
        comparison.compare(before[seed], after[seed]).assign(**_names(planned), seed=seed)
        for planned, before, after in _sides(plan, outcomes)
        for seed in sorted(before.keys() & after.keys())
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def training(logs: pd.DataFrame) -> pd.DataFrame:
    """What a batch's `grpo_log.csv` says of each run, a row a run.

    Returns:
        Columns policy, seed; accuracy and perception (means of the last fifth of the steps; perception as that run's
        own judge paid it); repeated (share of all completions that the repetition penalty touched: below `INERT` it
        did not act); left_out (share of completions left out for want of a verdict; missing where none
        were sampled); entropy (last fifth); seconds; peak_memory_mb.
    """
    keys = ["plan_cell", "arm", "train_seed"]
    runs = logs.groupby(keys)
    late = logs[logs["step"] > 0.8 * runs["step"].transform("max")].groupby(keys)
    table = late[["accuracy", "perception", "entropy"]].mean()
    table["repeated"] = runs["repeated"].mean()
    table["left_out"] = runs["left_out"].sum() / runs["rollouts"].sum()
    table["seconds"], table["peak_memory_mb"] = runs["seconds"].sum(), runs["peak_memory_mb"].max()
    table = table.reset_index().rename(columns={"train_seed": "seed"})
    table.insert(0, "policy", table.pop("plan_cell") + "/" + table.pop("arm"))
    return table


# --- what is kept and recorded -----------------------------------------------------------------------


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
    new, as_text = read_results(folder), {"dtype": str, "keep_default_na": False}
    finished = {line["row"] for line in new if line["status"] == "ok"}
    old = [line for line in read_results(kept) if line["row"] not in finished]
    for name in TABLES:
        table = _read(folder, name, **as_text)
        if name == "outcomes":
            _provenance(folder, table)  # complete, or refused
        if old:
            before = _read(kept, name, **as_text)
            table = pd.concat([before[~before["row"].isin(finished)], table], ignore_index=True)
        with whole(kept / f"{name}.csv.gz") as part:
            table.to_csv(part, index=False, compression={"method": "gzip", "mtime": 0})
    lines = {line["row"]: json.dumps(line, ensure_ascii=False) + "\n" for line in [*new, *old]}
    write_text(kept / RESULTS, "".join(lines.values()))
    return kept


def _read(folder: Path, name: str, **how: object) -> pd.DataFrame:
    """A batch's table, gathered or kept."""
    path = folder / f"{name}.csv"
    try:
        return pd.read_csv(path if path.exists() else folder / f"{name}.csv.gz", **how)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the tables of a batch: {error}; run it first") from error


def record_study(plan_file: Path, folder: Path, *others: Path) -> list[str]:
    """Write a plan's results to `data/results/`: its comparisons, each seed, and the training runs.

    They are those of the batch's rows and of all rows of the plan that were kept before.

    Returns:
        The names of the tables written.

    Raises:
        InputError: the plan or the batch's tables cannot be read, or nothing has been run.
    """
    plan = read_plan(plan_file)
    folders = [keep(plan_file, folder), *others]
    tables = [_read(path, "outcomes") for path in folders]
    logs = [_read(path, "grpo_log") for path in folders]
    outcomes, trained = pd.concat(tables, ignore_index=True), training(pd.concat(logs))
    batches = [_provenance(path, table) for path, table in zip(folders, tables, strict=True)]
    about = {"plan": plan.title, "plan file (SHA-256)": sha256(plan_file), "batches": batches}
    files = [file for path in folders for file in path.glob("outcomes.csv*")]
    inputs = {f"{file.parent.name}/{file.name}": sha256(file) for file in files}
    name = f"study_{plan_file.stem}"
    results = {
        name: answer(plan, outcomes, trained),
        f"{name}_seeds": each_seed(plan, outcomes),
        f"{name}_training": training(logs[0]),
    }
    source = f"this project: {plan.title}"
    made_by = f"python -m perception_r1 study {plan_file.name} DIR"
    for name, table in results.items():
        recorded.write(name, table.round(5), source, "Apache-2.0", inputs, made_by, about)
    return list(results)


def _provenance(folder: Path, table: pd.DataFrame) -> dict[str, object]:
    """What made the rows of a batch's table, from its `results.jsonl`."""
    names, lines = set(table["row"]), read_results(folder)
    good = [line for line in lines if line["row"] in names and line["status"] == "ok"]
    if {line["row"] for line in good} != names:
        raise InputError(f"{folder}: outcomes.csv and results.jsonl differ; run the batch again")
    about: dict[str, object] = {"folder": folder.name, "rows": len(good)}
    about["rows that failed"] = [line["row"] for line in lines if line["status"] == "failed"]
    for name in ("plan_sha256", "commit", "machine", "versions"):
        values = [line[name] for line in good]
        about[name] = [value for k, value in enumerate(values) if value not in values[:k]]
    return about | {"seconds of all rows": round(sum(line["seconds"] for line in good), 1)}


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 study PLAN DIR ...`; see `record_study`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 study")
    parser.add_argument("plan", type=Path, metavar="PLAN")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="of the batch")
    given = parser.parse_args(arguments)
    print(*record_study(given.plan, *given.folders), sep="\n")
    return 0
