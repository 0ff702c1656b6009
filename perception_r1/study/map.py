"""The map of conditions: what the rows of `data/plans/map.toml` say, cell by cell. Shown in notebook 05.

    python -m perception_r1 study map [DIR ...]

keeps the rows that batches left in DIR and computes `data/results/map.csv` and `map_arms.csv` anew from all kept rows
(contract C11). A row is one training run; a pair is two arms of one base and seed. Intervals are Student's over pairs:
they speak of other seeds, on these problems and bases.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as sps

from perception_r1.common import recorded
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import DATA, read_toml, sha256
from perception_r1.evaluation.comparison import MEASURES, by_problem
from perception_r1.evidence.stats import holm, mean_interval, sign_flip
from perception_r1.study.credit import ARMS, Condition, credit, mixed, predict, rollouts
from perception_r1.study.plans import read_results
from perception_r1.study.where import CELLS

PLAN = DATA / "plans" / "map.toml"
ROWS = recorded.FOLDER / "map_rows.parquet"
SOURCE, COMMAND = "this project: data/plans/map*.toml", "python -m perception_r1 study map"
FEWEST_FOR_A_TEST = 6  # pairs; with fewer no sign-flip test is below 0.05
RUN = ["cell", "base", "arm", "seed"]
CELL_COLUMNS = (
    "cell s k p g in_trial predicted measure base accuracy_only perception difference low high seeds bases pvalue"
).split()
OUTCOME = "right visual seen needed probe_right redraw sampled_right sampled_seen".split()


def keep(folder: Path) -> None:
    """Add the outcomes that a batch gathered in `folder` to the kept rows; rows that are kept already stay.

    Raises:
        InputError: there are none.
    """
    path = folder / "outcomes.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing; run the batch first: see data/plans/map.toml")
    about = [
        {"row": result["row"], "cell": result["cell"], **_run_of(result["parameters"])}
        for result in read_results(folder)
    ]
    new = pd.read_csv(path)[["row", "test", "id", *OUTCOME]].merge(pd.DataFrame(about), on="row")
    known = pd.read_parquet(ROWS) if ROWS.is_file() else new.iloc[:0]
    new = new[~new["row"].isin(known["row"])]
    pd.concat([known, new]).to_parquet(ROWS, index=False)


def _run_of(parameters: dict) -> dict[str, object]:
    """Base, arm and seed of a row; an arm whose settings are changed goes by its label, else by the changes."""
    arm = parameters.get("label") or f"{parameters['arm']} {parameters.get('changes', '')}".strip()
    return {"base": parameters["base"], "arm": arm, "seed": parameters.get("train_seed", 0)}


def read_cell(name: str) -> dict:
    """A cell of the map as the plan has it: s, k, question, base, coordinates, predictions.

    Raises:
        InputError: no such cell.
    """
    cells = read_toml(PLAN)["analysis"]["cells"]
    if name not in cells:
        raise InputError(f"no cell {name!r} in {PLAN.name}; there are {some(cells, len(cells))}")
    return cells[name]


def read_rates() -> dict[str, float]:
    """Arm -> the learning rate that the tuning gave it."""
    return read_toml(PLAN)["analysis"]["rates"]


def recorded_runs() -> pd.DataFrame:
    """All kept runs, tested on image-only problems: columns cell, base, arm, seed, measure, share."""
    runs = each_run(pd.read_parquet(ROWS)).rename_axis(columns="measure")
    return runs.stack().rename("share").reset_index()


def each_run(rows: pd.DataFrame, test: str = "image-only") -> pd.DataFrame:
    """Every measure of every run: index cell, base, arm, seed; a column a measure, shares."""
    rows = rows[rows["test"] == test]
    return by_problem(rows).groupby([rows[name] for name in RUN]).mean()


def compare(runs: pd.DataFrame, cell: str, before: str, after: str) -> pd.DataFrame:
    """Two arms of a cell over their pairs.

    Args:
        runs: as `each_run` gives them.
        cell: its name.
        before: an arm, or "base", which stands for every seed.
        after: another arm; pairs that only one of the two has are left out.

    Returns:
        Columns measure, before, after, difference, low, high, seeds (pairs), bases, pvalue (exact sign-flip; missing
        with fewer than `FEWEST_FOR_A_TEST` pairs). No row where there is no pair.
    """
    arms = runs.loc[cell].unstack("arm")
    if not {before, after} <= set(arms.columns.get_level_values("arm")):
        return pd.DataFrame()
    one, other = (arms.xs(arm, axis=1, level="arm") for arm in (before, after))
    if before == "base":
        one = one.groupby("base").first().reindex(other.index, level="base")
    change = (other - one).dropna(how="all")
    table = []
    for measure in MEASURES if len(change) else ():
        pairs = change[measure].dropna()
        low, high = mean_interval(pairs)
        p = sign_flip(pairs) if len(pairs) >= FEWEST_FOR_A_TEST else np.nan
        shares = one.loc[pairs.index, measure].mean(), other.loc[pairs.index, measure].mean()
        bases = pairs.index.get_level_values("base").nunique()
        table.append((measure, *shares, pairs.mean(), low, high, len(pairs), bases, p))
    columns = "measure before after difference low high seeds bases pvalue".split()
    return pd.DataFrame(table, columns=columns)


def cell_table(runs: pd.DataFrame, cells: dict[str, dict]) -> pd.DataFrame:
    """The map, a row a cell and measure (contract C11); a cell of which no pair has been run has no row.

    Args:
        runs: as `each_run` gives them.
        cells: name -> s, k, p, g, in_trial, and the predicted differences, as the plan has them.
    """
    tables = []
    for cell, planned in cells.items():
        table = compare(runs, cell, "accuracy_only", "perception") if cell in runs.index else []
        if not len(table):
            continue
        tested = runs.loc[cell].xs("base", level="arm").droplevel("seed").mean()
        about = {name: planned[name] for name in ("s", "k", "p", "g", "in_trial")}
        table = table.rename(columns={"before": "accuracy_only", "after": "perception"})
        table = table.assign(cell=cell, **about, base=table["measure"].map(tested))
        table["predicted"] = table["measure"].map(planned["predicted"])
        tables.append(table)
    return pd.concat(tables)[CELL_COLUMNS] if tables else pd.DataFrame(columns=CELL_COLUMNS)


def arms_table(runs: pd.DataFrame, cell: str = "s1") -> pd.DataFrame:
    """Every arm of a cell against its base, accuracy-only and perception: `compare`, with columns arm and against."""
    arms = runs.loc[cell].index.unique("arm")
    tables = [
        compare(runs, cell, against, arm).assign(arm=arm, against=against)
        for arm in arms
        for against in ("accuracy_only", "perception")
        if against != arm
    ]
    return pd.concat(tables)


def predictions(cells: dict[str, dict], theory: dict) -> pd.DataFrame:
    """What the theory says of each cell before it is run, from the coordinates of its base.

    Args:
        cells: name -> s, k, p, g, within, computed; see `credit.Condition`.
        theory: steps, pull and drift (see `credit.predict`), and rates: arm -> its rate, in units of theirs.

    Returns:
        A row a cell (the index): answers and facts, the difference that paying for sight makes to them after training;
        static_gain, what it adds to the signal at the start, to compare.
    """
    rows = {}
    for name, cell in cells.items():
        about = Condition(*(cell[key] for key in ("k", "p", "g", "s", "computed", "within")))
        how = {name: theory[name] for name in ("steps", "pull", "drift")}
        ends = [predict(about, ARMS[arm], **how, rate=theory["rates"][arm]) for arm in ARMS]
        drawn = rollouts(about, 4000, rng=np.random.default_rng(0))
        signals = [credit(drawn[0], mixed(*drawn, gamma)).signal for gamma in ARMS.values()]
        answers, facts = ([end.answers[-1] for end in ends], [end.facts[-1] for end in ends])
        rows[name] = [float(np.diff(pair)[0]) for pair in (answers, facts, signals)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["answers", "facts", "static_gain"])


def order_test(table: pd.DataFrame, column: str = "predicted") -> tuple[float, float]:
    """Does `column` order the cells as their measured difference in answers does?

    Returns:
        Spearman's correlation, and the one-sided p against all, or 10,000, permutations of the column over cells.
    """
    answers = table[table["measure"] == "answers"]
    measured = answers["difference"].to_numpy()
    test = sps.permutation_test(
        (answers[column].to_numpy(),), lambda x: sps.spearmanr(x, measured).statistic,
        permutation_type="pairings", alternative="greater", n_resamples=9999, vectorized=False, rng=0,
    )  # fmt: skip
    return float(test.statistic), float(test.pvalue)


def primary_tests(table: pd.DataFrame) -> pd.DataFrame:
    """The plan's two tests, with Holm's p over the two: columns test, value, pvalue, holm."""
    control = table[table["cell"].eq("s1") & table["measure"].eq("answers")].iloc[0]
    rho, p = order_test(table)
    tests = pd.DataFrame(
        [("s1: perception minus accuracy-only", control["difference"], control["pvalue"]),
         ("order of the cells: Spearman's rho", rho, p)],
        columns=["test", "value", "pvalue"],
    )  # fmt: skip
    return tests.assign(holm=pd.Series(holm(tests["pvalue"].to_dict())))


def fifty_problems(
    rows: pd.DataFrame, cell: str, problems: int = 50, draws: int = 500
) -> pd.Series:
    """What the paper's own test would find: exact McNemar on a few problems, drawn again and again from every run.

    A problem counts as seen where all needed facts are stated right. Seen before and after training are compared, with
    the base that the run began from.

    Args:
        rows: the kept rows.
        cell: whose runs.
        problems: of one drawing, without repetition; the paper has 50.
        draws: from every pair of runs.

    Returns:
        Shares of all drawings: "accuracy_only" and "perception", in which that arm's change is significant (p < 0.05);
        "pattern", in which perception's is a significant gain and accuracy_only's is not significant.
    """
    rows = rows[rows["cell"].eq(cell) & rows["test"].eq("image-only")]
    seen = rows.assign(seen=rows["needed"].eq("right"))
    seen = seen.pivot(index="id", columns=["arm", "base", "seed"], values="seen").astype(int)
    seen = seen.sort_index(axis=1)
    rng, tables = np.random.default_rng(0), []
    for base, seed in sorted(set(seen["accuracy_only"]) & set(seen["perception"])):
        before = seen["base", base].iloc[:, 0].to_numpy()
        picks = rng.permuted(np.tile(np.arange(len(seen)), (draws, 1)), axis=1)[:, :problems]
        significant, gained = {}, {}
        for arm in ARMS:
            change = (seen[arm, base, seed].to_numpy() - before)[picks]
            b, c = (change < 0).sum(1), (change > 0).sum(1)
            significant[arm] = 2 * sps.binom.cdf(np.minimum(b, c), b + c, 0.5) < 0.05
            gained[arm] = c > b
        pattern = significant["perception"] & gained["perception"] & ~significant["accuracy_only"]
        tables.append(significant | {"pattern": pattern})
    return pd.concat(map(pd.DataFrame, tables)).mean()


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 study map [DIR ...]`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 study map", allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="of batches")
    for folder in parser.parse_args(arguments).folders:
        keep(folder)
        if (folder / "coordinates.csv").is_file():
            measured = pd.read_csv(folder / "coordinates.csv").rename(columns={"plan_cell": "cell"})
            cells = measured.pivot_table("value", "cell", "coordinate").reset_index()  # bases' mean
            inputs = {"coordinates.csv": sha256(folder / "coordinates.csv")}
            recorded.write(CELLS, cells, SOURCE, "Apache-2.0", inputs, COMMAND)
    runs = each_run(pd.read_parquet(ROWS))
    inputs = {path.name: sha256(path) for path in (PLAN, ROWS)}
    cells = read_toml(PLAN)["analysis"]["cells"]
    tables = {"map": cell_table(runs, cells), "map_arms": arms_table(runs)}
    for name, table in tables.items():
        recorded.write(name, table, SOURCE, "Apache-2.0", inputs, COMMAND)
    shown = ["cell", "predicted", "difference", "low", "high", "seeds"]
    print(tables["map"].query("measure == 'answers'")[shown].to_string(index=False))
    return 0
