"""What many runs say about a method: against hand-computed cases and scipy; and how a study is recorded."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests

from perception_r1.__main__ import main
from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.common.files import sha256
from perception_r1.evaluation.comparison import compare
from perception_r1.study import analysis
from perception_r1.study.plans import Plan
from tests.test_perception import outcomes


def method(seeds, share, spread=0.0, n=200, figures=40, name="right"):
    """Seed -> outcomes: so many problems right, more or fewer by seed; figures and problems are always the same."""
    found = {}
    for k, seed in enumerate(seeds):
        rng = np.random.default_rng([seed, int(1000 * share)])
        level = share + spread * (2 * k / max(1, len(seeds) - 1) - 1)
        right = rng.permutation(np.arange(n) < round(level * n))
        rows = [{name: bool(r), "figure": f"f{i % figures}"} for i, r in enumerate(right)]
        found[seed] = outcomes(*rows)
    return found


def line(table, measure="answers", kind="image-only"):
    return table.set_index(["kind", "measure"]).loc[(kind, measure)]


# --- two methods over seeds --------------------------------------------------------------------------


def test_the_mean_over_seeds_and_the_sign_flip_by_hand():
    seeds = range(11, 17)
    found = line(analysis.over_seeds(method(seeds, 0.5), method(seeds, 0.6)))
    assert found.difference == pytest.approx(0.1) and (found.seeds, found.n) == (6, 200)
    assert (found.before, found.after) == (pytest.approx(0.5), pytest.approx(0.6))
    assert found.p == pytest.approx(2 / 2**6)  # all six one way
    assert found.verdict == "gain" and analysis.decide(found) == "yes"


def test_no_interval_over_seeds_is_narrower_than_students():
    """Seeds that differ by far more than figures do: then it is Student's, as scipy has it."""
    seeds = [11, 12, 13]
    before, after = method(seeds, 0.5), method(seeds, 0.6, spread=0.2)
    found = line(analysis.over_seeds(before, after))
    differences = [after[s].right.mean() - before[s].right.mean() for s in seeds]
    theirs = sps.ttest_1samp(differences, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert analysis.decide(found) == "undecided"


def test_where_seeds_agree_the_interval_is_that_over_figures():
    before, after = method([1], 0.5)[1], method([1], 0.6)[1]
    one = line(compare(before, after, n_resamples=4000))
    for seeds in (1, 5):
        many = dict.fromkeys(range(seeds), before), dict.fromkeys(range(seeds), after)
        ours = line(analysis.over_seeds(*many))
        assert ours.high - ours.low == pytest.approx(one.high - one.low, rel=0.1)
        assert np.isnan(ours.p)  # five seeds cannot be tested


def test_equal_methods_are_no_gain_but_few_problems_prove_little():
    same = method(range(6), 0.5)
    found = line(analysis.over_seeds(same, same))
    assert found.difference == 0 and found.p == 1 and analysis.decide(found) == "no"
    few = method(range(6), 0.5, n=12)
    assert analysis.decide(line(analysis.over_seeds(few, few))) == "undecided"


def test_only_seeds_of_both_sides_count():
    found = line(analysis.over_seeds(method([1, 2, 3], 0.5), method([2, 3, 4], 0.6)))
    assert found.seeds == 2
    with pytest.raises(InputError, match="no seed in common: 1 before, 2 after"):
        analysis.over_seeds(method([1], 0.5), method([2], 0.5))


def test_shares_of_facts_are_pooled_within_a_seed():
    seen = {1: [3, 0, 1], 2: [3, 3, 3]}
    before = {s: outcomes(*[{"seen": 1}] * 3) for s in seen}
    after = {s: outcomes(*[{"seen": k} for k in values]) for s, values in seen.items()}
    found = line(analysis.over_seeds(before, after), "recall")
    assert found.before == pytest.approx(1 / 3)
    assert found.after == pytest.approx((4 / 9 + 1) / 2)


@pytest.mark.parametrize(
    ("p", "difference", "low", "high", "word"),
    [
        (0.01, 0.05, 0.01, 0.09, "yes"),
        (0.01, -0.05, -0.09, -0.01, "no"),
        (0.20, 0.05, 0.01, 0.09, "undecided"),  # the test decides, where there is one
        (0.20, 0.01, -0.02, 0.04, "no"),  # too small to matter
        (np.nan, 0.05, 0.01, 0.09, "yes"),
        (np.nan, -0.05, -0.09, -0.01, "no"),
        (np.nan, 0.05, -0.01, 0.09, "undecided"),
        (np.nan, np.nan, np.nan, np.nan, "undecided"),
    ],
)
def test_decisions(p, difference, low, high, word):
    row = {"p": p, "difference": difference, "low": low, "high": high}
    assert analysis.decide(row) == word


# --- a plan's comparisons ------------------------------------------------------------------------------

BASE = method([0], 0.4)[0]


def gathered(**methods):
    """What a batch gathers: every row with its arm's outcomes, and the base's again."""
    tables = []
    for arm, runs in methods.items():
        for seed, table in runs.items():
            about = {"row": f"c-{arm}-{seed}", "plan_cell": "c", "arms": arm, "train_seed": seed}
            for name, of in ((arm, table), ("base", BASE)):
                tables.append(of.assign(**about, artifact=f"outcomes_{name}"))
    return pd.concat(tables, ignore_index=True)


def planned(second=None, first="recall", **more):
    comparisons = [
        {"before": "c/base", "after": "c/perception", "primary": first},
        {"before": "c/accuracy_only", "after": "c/perception", "primary": "answers", **(second or {})},
        {"before": "c/base", "after": "c/never_run", "primary": "answers"},
    ]  # fmt: skip
    what = {"comparisons": comparisons, **more}
    return Plan(title="t", notebook="04", cells=[{"name": "c"}], analysis=what)


def test_policies_are_found_in_what_a_batch_gathered():
    table = gathered(perception=method([1, 2], 0.6), accuracy_only=method([1, 2], 0.5))
    found = analysis.policies(table)
    assert {name: sorted(seeds) for name, seeds in found.items()} == {
        "c/base": [1, 2], "c/perception": [1, 2], "c/accuracy_only": [1, 2],
    }  # fmt: skip
    assert all(len(of) == 200 for seeds in found.values() for of in seeds.values())
    assert found["c/perception"][2].right.mean() == pytest.approx(0.6)
    for seeds in (None, table.train_seed.where(table.train_seed != 1)):
        with pytest.raises(InputError, match="give each row of the plan a train_seed"):
            analysis.policies(table.assign(train_seed=seeds))
    again = table.assign(row="other", right=~table.right)
    for part in ("outcomes_perception", "outcomes_base"):  # another batch's cell of this name
        both = pd.concat([table, again[again.artifact == part]])
        with pytest.raises(InputError, match="seed 1, has two outcomes of p0"):
            analysis.policies(both)


def test_a_plans_comparisons_are_answered_and_the_secondary_ones_corrected():
    seeds = range(11, 17)
    table = gathered(perception=method(seeds, 0.6))
    found = analysis.answer(planned(first="answers"), table, None)
    assert set(found.policy_after) == {"c/perception"}  # the others were never run
    primary = found[found.role == "primary"]
    told = primary[["measure", "kind", "decision"]].values.tolist()
    assert told == [["answers", "image-only", "yes"]]
    assert (found.decision[found.role != "primary"] == "").all()
    secondary = found[found.role == "secondary"]
    assert set(secondary.measure) == set(analysis.SECONDARY)
    theirs = multipletests(secondary.p, method="holm")[1]
    assert secondary.p_holm.tolist() == pytest.approx(theirs.tolist())
    assert found.p_holm[found.role != "secondary"].isna().all()
    each = analysis.each_seed(planned(), table)
    assert each.groupby("seed").size().index.tolist() == list(seeds)
    mean = each[each.measure == "answers"].difference.mean()
    assert mean == pytest.approx(primary.difference.iloc[0])


def test_only_the_first_comparison_is_tested_the_others_go_by_their_intervals():
    seeds = range(11, 17)
    table = gathered(perception=method(seeds, 0.53), accuracy_only=method(seeds, 0.5, spread=0.02))
    found = analysis.answer(planned(), table, None)
    second = line(found[found.policy_before == "c/accuracy_only"])
    assert second.role == "planned" and 0 < second.p < 0.05
    assert second.low < 0 and second.decision == "undecided"
    assert (found.role == "primary").sum() == 1 and (found.role == "planned").sum() == 1
    assert set(found.policy_before[found.role == "secondary"]) == {"c/base"}


@pytest.mark.parametrize(("ran", "answered"), [(3, 2), (2, 1)])
def test_a_plan_confines_itself_to_its_seeds_and_answers_only_when_all_were_run(ran, answered):
    others = method(range(11, 11 + ran), 0.5)
    table = gathered(perception=method(range(11, 15), 0.6), accuracy_only=others)
    plan = planned(seeds=[11, 12, 13])
    found = analysis.answer(plan, table, None)
    assert set(found.seeds) == {3} and found.p.isna().all()
    assert found.policy_before.nunique() == answered
    each = analysis.each_seed(plan, table)
    assert set(each.seed) == {11, 12, 13} and each.policy_before.nunique() == 2


# --- training runs -------------------------------------------------------------------------------------


def log(steps=10, **columns):
    table = {"step": range(1, steps + 1), "arm": "perception", "plan_cell": "c", "train_seed": 3,
             "seconds": 2.0, "peak_memory_mb": 1000.0, "accuracy": 0.5, "perception": 0.5,
             "entropy": 0.1, "repeated": 0.0, "left_out": 0, "rollouts": 128}  # fmt: skip
    return pd.DataFrame({**table, **columns})


def test_what_never_acted_is_inert_here():
    table = gathered(perception=method([3], 0.6), accuracy_only=method([3], 0.5))
    plan = planned(second={"acted": "c/perception"})
    for share, word in ((0.04, "inert here"), (0.06, "yes")):
        found = analysis.answer(plan, table, analysis.training(log(repeated=share)))
        assert found.decision[found.role == "planned"].tolist() == [word]
    with pytest.raises(InputError, match="no training log of c/perception"):
        analysis.answer(plan, table, analysis.training(log(arm="accuracy_only")))


def test_training_runs_say_whether_a_mechanism_acted():
    table = log(repeated=[0.2] * 5 + [0.0] * 5, accuracy=[0.0] * 8 + [1.0] * 2)
    (row,) = analysis.training(table).to_dict("records")
    assert (row["policy"], row["seed"]) == ("c/perception", 3)
    assert row["repeated"] == pytest.approx(0.1) and row["accuracy"] == 1.0
    assert (row["seconds"], row["peak_memory_mb"], row["left_out"]) == (20, 1000, 0)
    (row,) = analysis.training(log(left_out=32)).to_dict("records")
    assert row["left_out"] == 0.25
    (row,) = analysis.training(log(left_out=np.nan, rollouts=np.nan)).to_dict("records")
    assert np.isnan(row["left_out"])  # warming up with supervision samples nothing


# --- a study is recorded ---------------------------------------------------------------------------------


def batch_folder(folder, seeds):
    folder.mkdir(exist_ok=True)
    gathered(perception=method(seeds, 0.6)).to_csv(folder / "outcomes.csv", index=False)
    logged = log().assign(row=f"c-perception-{seeds[0]}")
    logged.to_csv(folder / "grpo_log.csv", index=False)
    lines = [
        {"row": f"c-perception-{s}", "status": "ok", "plan_sha256": "abc", "commit": "def", "machine": "m",
         "versions": {"torch": "2"}, "seconds": 10.0, "finished": f"2026-01-0{s}", "parameters": {}}
        for s in seeds
    ]  # fmt: skip
    lines.append({**lines[0], "row": "c-9", "status": "failed"})
    (folder / "results.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    plan = folder / "plan.toml"
    plan.write_text(
        'title = "t"\nnotebook = "04"\n[[cells]]\nname = "c"\n[[analysis.comparisons]]\n'
        'before = "c/base"\nafter = "c/perception"\nprimary = "answers"\n'
    )
    return plan


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "results")
    return tmp_path / "results"


def test_a_batch_is_recorded_with_what_made_it(tmp_path, results, capsys):
    folder = tmp_path / "batch[1]*"
    plan = batch_folder(folder, [1, 2, 3])
    assert main(["study", str(plan), str(folder)]) == 0
    names = ["study_plan", "study_plan_seeds", "study_plan_training"]
    assert capsys.readouterr().out.split() == names
    table = recorded.read("study_plan")
    assert line(table).difference == pytest.approx(0.2) and line(table).seeds == 3
    about = json.loads((results / "study_plan.provenance.json").read_text())
    assert about["inputs (SHA-256)"]["plan/outcomes.csv.gz"]
    (made,) = about["batches"]
    assert made["rows"] == 3 and made["rows that failed"] == ["c-9"]
    assert made["commit"] == ["def"] and made["versions"] == [{"torch": "2"}]
    assert made["seconds of all rows"] == 30


def test_a_plan_is_run_in_parts_and_its_rows_are_kept(tmp_path, results):
    """On two machines, one after the other, of which neither is kept."""
    whole, one, two = (tmp_path / name for name in ("whole", "one", "two"))
    names = analysis.record_study(batch_folder(whole, [1, 2, 3]), whole)
    expected = {name: recorded.read(name) for name in names}
    shutil.rmtree(results)
    analysis.record_study(batch_folder(one, [1, 2]), one)
    assert line(recorded.read("study_plan")).seeds == 2
    shutil.rmtree(one)
    plan = batch_folder(two, [3])
    analysis.record_study(plan, two)
    for name in names[:2]:  # the log of these folders is one and the same
        pd.testing.assert_frame_equal(recorded.read(name), expected[name])
    about = json.loads((results / "study_plan.provenance.json").read_text())
    assert about["batches"][0]["rows"] == 3
    kept = results / "rows" / "plan"
    digests = {file.name: sha256(file) for file in kept.iterdir()}
    analysis.record_study(plan, two)  # again: nothing is counted twice
    analysis.record_study(plan, kept)
    assert {file.name: sha256(file) for file in kept.iterdir()} == digests
    pd.testing.assert_frame_equal(recorded.read("study_plan"), expected["study_plan"])


def test_nothing_to_record_is_one_line(tmp_path, results, capsys):
    plan = batch_folder(tmp_path, [1])
    (tmp_path / "results.jsonl").write_text("")
    for says in ("outcomes.csv and results.jsonl differ", "cannot read the tables of a batch"):
        assert main(["study", str(plan), str(tmp_path)]) == 2
        assert says in capsys.readouterr().err and not results.exists()
        (tmp_path / "outcomes.csv").unlink(missing_ok=True)
    assert main(["study", str(tmp_path / "none.toml"), str(tmp_path)]) == 2
