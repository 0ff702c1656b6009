"""Claims and their verdicts: rules by hand, published arithmetic against figures computed elsewhere, the map."""

import json
import math

import pandas as pd
import pytest
from pydantic import ValidationError
from statsmodels.stats.contingency_tables import mcnemar

from perception_r1.common import recorded
from perception_r1.common.files import DATA
from perception_r1.evaluation.comparison import MEASURES
from perception_r1.evidence import paper
from perception_r1.study import claims
from perception_r1.study.map import ROWS
from perception_r1.study.plans import read_plan, rows_of


@pytest.fixture(scope="module")
def audit():
    table = pd.DataFrame([("precision", "all", 96, 100, 0.96, 0.92, 0.99)],
                         columns=["measure", "kind", "right", "of", "share", "low", "high"])  # fmt: skip
    return table, "this run"


@pytest.fixture(scope="module")
def judged(audit):
    return claims.judge_claims(claims.read_claims(), *audit).set_index("id")


def claim(**fields) -> claims.Claim:
    return claims.Claim(id="a", claim="", paper_value="", source="S1", **fields)


@pytest.mark.parametrize(
    ("rule", "size", "interval", "word"),
    [
        ("gain", 0.02, (0.01, 0.10), "yes"),
        ("gain", 0.02, (-0.02, 0.01), "no"),  # the paper's size is ruled out
        ("gain", 0.02, (-0.02, 0.06), "undecided"),
        ("gain", 0, (-0.02, -0.01), "no"),
        ("gain", 0, (math.nan, math.nan), "undecided"),
        ("loss", 0.05, (-0.10, -0.01), "yes"),
        ("no gain", 0.05, (0.01, 0.04), "no"),
        ("no gain", 0.05, (-0.02, 0.04), "yes"),
        ("similar", 0.05, (0.01, 0.04), "yes"),
        ("similar", 0.05, (-0.06, -0.01), "no"),
        ("above", 0.5, (0.6, 0.9), "yes"),
        ("above", 0.5, (0.1, 0.4), "no"),
    ],
)
def test_rules_by_hand(rule, size, interval, word):
    number = claims.Number(ci_low=interval[0], ci_high=interval[1])
    assert claims.agrees(claim(rule=rule, computed="x", size=size), number) == word


def test_every_claim_has_a_known_source_and_evidence_that_a_plan_announces(audit):
    known, computed = set(paper.published("sources")["tag"]), claims.compute(*audit)
    announced = {
        (row.cell, row.parameters.get("label") or row.parameters["arm"])
        for name in ("map", "map_arms", "map_bases")
        for row in rows_of(read_plan(DATA / "plans" / f"{name}.toml"))
    }
    read = claims.read_claims()
    assert len({one.id for one in read}) == len(read)
    for one in read:
        assert {part.split()[0] for part in one.source.split(";")} <= known, one.id
        if one.cell:
            assert {(one.cell, one.before), (one.cell, one.after)} <= announced, one.id
            assert one.measure in MEASURES and not one.computed
        assert not one.computed or one.computed in computed


def test_published_arithmetic_against_figures_of_the_reference(judged):
    """Figures of the reference on the paper, computed there by hand; McNemar's against statsmodels."""
    assert judged.loc["t-test-mm-eureka", "our_value"] == pytest.approx(0.0214, abs=0.0001)
    assert judged.loc["t-test-vision-r1", "pvalue"] == pytest.approx(0.052, abs=0.001)
    exact = [mcnemar([[0, b], [c, 0]], exact=True).pvalue for b, c in ((1, 5), (2, 4), (2, 10))]
    assert ", ".join(f"{p:.4f}" for p in exact) in judged.loc["p-values", "meaning"]
    assert judged.loc["cost", "our_value"] == pytest.approx(3392 / 167.4)
    best = judged.loc["best-on-all"]
    assert (best["agrees"], best["our_value"], best["status"]) == ("no", 7, "recomputed")


def test_the_perception_rewards_own_gain_with_noise_by_hand(judged):
    row = judged.loc["visual-reward-adds"]
    gaps = {"MathVista": (74.2, 73.6, 1000), "MathVerse": (54.3, 53.0, 3940), "We-Math": (72.0, 70.4, 1740),
            "MMMU-Pro": (42.4, 40.1, 3460)}  # fmt: skip
    variance = sum((a * (100 - a) + b * (100 - b)) / n for a, b, n in gaps.values()) / 16
    assert row["our_value"] == pytest.approx(sum(a - b for a, b, _ in gaps.values()) / 400)
    assert row["ci_low"] == pytest.approx(row["our_value"] - 0.0196 * variance**0.5)
    assert row["agrees"] == "undecided"


def test_evidence_of_runs_speaks_and_the_map_through_its_rows(judged):
    rows = pd.read_parquet(ROWS).query("cell == 's0' and arm == 'base'")
    wrong = rows.loc[~rows["right"], "needed"]
    row = judged.loc["errors-perceptual"]
    assert row["our_value"] == (wrong == "wrong").mean() and row["status"] == "planted"
    row = judged.loc["annotation-accuracy"]
    assert (row["our_value"], row["agrees"]) == (0.96, "yes") and "this run" in row["meaning"]
    assert claims.as_text(row.to_dict()).startswith("96.0% (92.0 to 99.0)")
    table, found = recorded.read("map"), judged.loc["main-effect-s1"]
    row = table[table["cell"].eq("s1") & table["measure"].eq("answers")].iloc[0]
    for ours, theirs in (("our_value", "difference"), ("ci_low", "low"), ("pvalue", "pvalue")):
        assert found[ours] == pytest.approx(row[theirs])
    assert f"{row['seeds']} seeds" in found["meaning"] and found["status"] == "planted"


def test_what_has_not_been_run_is_cited(audit):
    missing = claim(rule="gain", cell="s1", before="base", after="nobody", measure="answers")
    (row,) = claims.judge_claims([missing], *audit).to_dict("records")
    assert (row["status"], row["agrees"]) == ("cited", "") and math.isnan(row["our_value"])
    assert row["note"] == "not run: base or nobody in s1"


def test_claims_json_has_the_promised_fields_and_null_for_what_is_missing(judged):
    rows = json.loads(json.dumps(claims.to_json(judged.reset_index())))
    wanted = "id claim paper_value source status our_value ci_low ci_high pvalue agrees".split()
    assert len(rows) >= 12 and all(set(wanted) <= set(row) for row in rows)
    for row in rows:
        assert (row["agrees"] == "") == (row["status"] == "cited") == (row["our_value"] is None)
        assert row["agrees"] in ("", "yes", "no", "undecided")
        assert row["text"] or row["status"] == "cited"


def test_a_rule_takes_evidence_and_evidence_a_rule():
    for fields in ({"rule": "gain"}, {"computed": "best_of_table1"}):
        with pytest.raises(ValidationError, match="evidence takes a rule"):
            claim(**fields)
