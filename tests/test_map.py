"""The map's tables, from rows whose numbers are known beforehand."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import binomtest

from perception_r1.__main__ import main
from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.common.files import read_toml
from perception_r1.notebook.batch import Batch
from perception_r1.study import map as conditions

PROBLEMS = 20
CELL = {"s": 1.0, "k": 4, "p": 0.7, "g": 0.0, "in_trial": True, "predicted": {"answers": 0.2}}


def run(cell, arm, seed, right, base="four"):
    """A run's outcomes: the first `right` problems are answered and seen right."""
    good = np.arange(PROBLEMS) < right
    return pd.DataFrame(
        {
            "row": f"{cell}-{arm}-{base}-{seed}", "cell": cell, "arm": arm, "base": base,
            "seed": seed, "test": "image-only", "id": np.arange(PROBLEMS), "right": good,
            "visual": 4, "seen": np.where(good, 4, 2), "needed": np.where(good, "right", "wrong"),
            "probe_right": good.astype(float), "redraw": np.where(good, "follows", "unsaid"),
            "sampled_right": good, "sampled_seen": 2, "sampled_needed": "wrong",
        }
    )  # fmt: skip


@pytest.fixture
def rows():
    """Perception is ahead by 4, 5, ..., 11 of 20 problems over eight seeds; of cell "s0" by 0, 1, 2."""
    tables = [run("s1", "base", 0, 8), run("s0", "base", 0, 8), run("low", "base", 0, 3)]
    for seed in range(8):
        tables += [run("s1", "accuracy_only", seed, 5), run("s1", "perception", seed, 9 + seed)]
    for seed in range(3):
        tables += [run("s0", "accuracy_only", seed, 9), run("s0", "perception", seed, 9 + seed)]
        tables += [run("low", "accuracy_only", seed, 3), run("low", "perception", seed, 6)]
    return pd.concat(tables)


def test_a_cell_is_the_mean_over_pairs_with_students_interval(rows):
    cells = {"s1": CELL, "s0": {**CELL, "s": 0.0}, "never run": CELL}
    table = conditions.cell_table(conditions.each_run(rows), cells).set_index(["cell", "measure"])
    assert set(table.index.unique("cell")) == {"s1", "s0"}
    answers = table.loc["s1", "answers"]
    gains = np.arange(4, 12) / PROBLEMS
    assert answers["difference"] == pytest.approx(gains.mean())
    assert answers["accuracy_only"] == 0.25 and answers["base"] == 0.4
    interval = stats.ttest_1samp(gains, 0).confidence_interval()
    assert [answers["low"], answers["high"]] == pytest.approx([*interval])
    assert answers["pvalue"] == 2 / 2**8 and answers["seeds"] == 8
    assert np.isnan(table.loc["s0", "answers"]["pvalue"])  # three pairs allow no test, six do
    six = conditions.cell_table(conditions.each_run(rows[rows["seed"] < 6]), {"s1": CELL})
    assert six.set_index("measure").loc["answers", "pvalue"] == 2 / 2**6
    assert table.loc["s1", "facts"]["accuracy_only"] == pytest.approx((5 * 4 + 15 * 2) / 80)
    against = conditions.compare(conditions.each_run(rows), "s1", "base", "accuracy_only")
    answers = against.set_index("measure").loc["answers"]  # the base stands before every seed
    assert (answers["before"], answers["after"], answers["seeds"]) == (0.4, 0.25, 8)
    split = table["perception"].xs("s1")
    assert split["answers"] == split["seen and computed"] + split["lucky"]


def test_the_order_of_the_cells_is_tested_against_permutations(rows):
    predicted = {"s1": 0.3, "low": 0.2, "s0": 0.1}
    cells = {name: {**CELL, "predicted": {"answers": p}} for name, p in predicted.items()}
    table = conditions.cell_table(conditions.each_run(rows), cells)
    assert conditions.order_test(table) == (1, pytest.approx(1 / 6))
    tests = conditions.primary_tests(table).set_index("test")
    assert tests["holm"].tolist() == pytest.approx([4 / 2**8, 1 / 6])


def test_batches_add_rows_and_rows_make_the_recorded_tables(rows, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(conditions, "ROWS", tmp_path / "results" / "map_rows.parquet")
    plan = tmp_path / "plan.toml"
    about = "s = 1.0\nk = 4\np = 0.7\ng = 0.0\nin_trial = true\npredicted = {answers = 0.2}\n"
    plan.write_text("".join(f"[analysis.cells.{name}]\n{about}" for name in ("s1", "s0")))
    monkeypatch.setattr(conditions, "PLAN", plan)
    for part, some in enumerate([rows[rows["cell"] == "s1"], rows]):  # the second has old rows, too
        folder = tmp_path / f"batch{part}"
        folder.mkdir()
        some.to_csv(folder / "outcomes.csv", index=False)
        results = [
            {"row": run.row, "cell": run.cell, "parameters": dict(base=run.base, arm=run.arm, train_seed=run.seed)}
            for run in some.drop_duplicates("row").itertuples()
        ]  # fmt: skip
        (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results))
        assert conditions.main([str(folder)]) == 0
    assert "s0" in capsys.readouterr().out
    kept = pd.read_parquet(conditions.ROWS)
    assert len(kept) == len(rows) and not kept.duplicated(["row", "id"]).any()
    assert set(recorded.read("map")["cell"]) == {"s1", "s0"}
    with pytest.raises(InputError, match="run the batch first"):
        conditions.main([str(tmp_path)])


def test_the_papers_test_on_problems_drawn_again_and_again(rows):
    """Drawn without repetition: twenty of twenty problems are always the same, and McNemar's p is that of all."""
    changes = {"accuracy_only": (3, 0), **{seed: (0, 1 + seed) for seed in range(8)}}
    p = {name: binomtest(min(pair), sum(pair)).pvalue for name, pair in changes.items()}
    found = conditions.fifty_problems(rows, "s1", problems=PROBLEMS, draws=3)
    clear = [p[seed] < 0.05 for seed in range(8)]
    assert found["accuracy_only"] == (p["accuracy_only"] < 0.05)
    assert found["perception"] == found["pattern"] == np.mean(clear) > 0


def test_a_prediction_is_that_of_the_cell_and_of_nothing_else():
    cell = {"s": 0.0, "k": 4, "p": 0.7, "g": 0.0, "within": 1.0, "computed": 1.0}
    rates = {"accuracy_only": 1.0, "perception": 1.0}
    theory = {"steps": 60, "pull": 0.0, "drift": 0.0, "rates": rates}
    still = conditions.predictions({"a": cell}, theory)
    assert still.loc["a", ["answers", "facts"]].tolist() == [0, 0]
    cells = {"s0": cell, "s1": {**cell, "s": 1.0}}
    moved = conditions.predictions(cells, {**theory, "pull": 0.1, "drift": 0.1})
    assert moved.loc["s1", "answers"] > moved.loc["s0", "answers"] > 0
    assert moved.loc["s1", "static_gain"] == pytest.approx(0.92, abs=0.05)  # DESIGN's table
    with pytest.raises(InputError, match="no cell 'x'"):
        conditions.read_cell("x")


@pytest.mark.parametrize("name", ["map_bases", "map_tuning", "map", "map_arms"])
def test_the_plans_of_the_map_can_be_run(name, tmp_path):
    path = conditions.PLAN.with_name(f"{name}.toml")
    batch = Batch(path, tmp_path)
    assert batch.rows and {row.parameters["base"] for row in batch.rows} <= {
        "four", "four_again", "four_low", "two", "three_low", "six",
    }  # fmt: skip
    if name == "map":
        assert {row.cell for row in batch.rows} >= set(read_toml(path)["analysis"]["cells"])


def test_a_row_trains_one_arm_in_one_cell_and_tests_it(tmp_path):
    plan = f"""
title = "One row"
notebook = "01"
notebooks = "{conditions.PLAN.parent / "rows"}"
collect = ["outcomes.csv", "grpo_log.csv"]
[[cells]]
name = "short"
base = "four"
shortcut = 1.0
steps = 1
problems = 40
tests = 6
annotations = "shuffled"
changes = "mode=if_right"
"""
    (tmp_path / "plan.toml").write_text(plan)
    assert main(["batch", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "out")]) == 0
    outcomes = pd.read_csv(tmp_path / "out" / "outcomes.csv")
    assert outcomes["test"].value_counts().to_dict() == {"image-only": 6, "training kind": 3}
    assert set(conditions.OUTCOME) < set(outcomes)
    assert len(pd.read_csv(tmp_path / "out" / "grpo_log.csv")) == 1
