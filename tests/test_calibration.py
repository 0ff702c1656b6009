"""Measuring judges: the labels mean what they say, the measures are the textbook's, limits bind."""

import asyncio
import collections
import hashlib
import random
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from statsmodels.stats.inter_rater import cohens_kappa

from perception_r1 import facts, world
from perception_r1.common.errors import InputError
from perception_r1.reward import foreign_wording, judge_admission
from perception_r1.reward.calibration import Calibration, calibrate, fit_threshold
from perception_r1.reward.judge_admission import admit
from perception_r1.reward.judges import ExactJudge, LazyJudge, LossyJudge, NoisyJudge
from perception_r1.reward.labelled_pairs import HOWS, foreign_pairs, real_pairs, world_pairs

PROBLEMS = world.make_problems(80, world.WorldConfig(seed=77), "dev")


def table(rows, judge="j", score=np.nan):
    """A calibration with these (id, label, mark, mark_again) rows."""
    frame = pd.DataFrame(rows, columns=["id", "label", "mark", "mark_again"])
    frame = frame.assign(kind="length", how="states", style="own", failure="", score=score)
    return Calibration("by hand", {"judge": judge}, frame)


def values(calibrated, **more):
    return calibrated.summary(**more).set_index("measure")


def measured(judge, pairs=None, **more):
    return asyncio.run(calibrate(judge, pairs or world_pairs(PROBLEMS), "own", **more))


def test_world_pairs_hold_every_way_and_their_labels():
    """By words alone: stated facts stand in the response; omitted, hinted and contradicted ones do not."""
    pairs = world_pairs(PROBLEMS, 3)
    assert pairs == world_pairs(PROBLEMS, 3) != world_pairs(PROBLEMS, 4)
    assert {pair.how for pair in pairs} == set(HOWS)
    assert max(collections.Counter((p.id, p.how) for p in pairs).values()) == 1
    answers = {problem.id: problem.answer for problem in PROBLEMS}
    for pair in pairs:
        assert pair.label == HOWS[pair.how]
        assert pair.kind == facts.kind(facts.from_sentence(pair.annotation))
        assert f"\\boxed{{{answers[pair.id]}}}" in pair.response
        if pair.how != "paraphrases":
            assert (pair.annotation in pair.response) == (pair.how == "states")


def test_foreign_pairs_use_the_styles_asked_for_and_leave_no_trace_of_what_they_omit():
    pairs = foreign_pairs(PROBLEMS, ["latex", "spelled"], seed=3)
    assert {pair.style for pair in pairs} == {"latex", "spelled"}
    assert {pair.how for pair in pairs} == set(HOWS) - {"states"}
    lengths = 0
    for pair in foreign_pairs(PROBLEMS, ["symbols"]):
        assert pair.label == HOWS[pair.how]
        fact = facts.from_sentence(pair.annotation)
        if facts.kind(fact) == "length" and str(fact.args[1]).isdigit():
            line, value = "".join(fact.args[0].args[0].args), fact.args[1]
            right = rf"\b({line}|{line[::-1]})\|? ?= ?{value}\b"
            assert bool(re.search(right, pair.response)) == (pair.how == "paraphrases"), pair
            lengths += 1
    assert lengths > 20


def test_real_pairs_are_the_sentences_that_were_labelled(shared):
    pairs = real_pairs(shared / "mathvision" / "outputs")
    assert collections.Counter(p.label for p in pairs) == {
        "stated": 95, "contradicted": 49, "absent": 56,
    }  # fmt: skip


def test_other_responses_than_those_labelled_are_refused(tmp_path):
    for name in ("Gemini-Pro-CoT", "Qwen-VL-Max-CoT"):
        lines = [f'{{"id": "{k}", "response": "Something else."}}' for k in range(1, 3041)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="is not the one that was labelled"):
        real_pairs(tmp_path)


def test_measures_of_a_table_counted_by_hand():
    rows = (
        [("p1", "stated", "stated", "stated")] * 6
        + [("p2", "stated", "absent", "absent")] * 2
        + [("p3", "absent", "stated", "absent")] * 1
        + [("p4", "absent", "absent", "absent")] * 7
        + [("p5", "contradicted", "contradicted", "contradicted")] * 3
        + [("p6", "contradicted", "stated", "stated"), ("p6", "contradicted", "absent", "")]
        + [("p7", "stated", "", "")] * 5
    )
    found = values(table(rows))
    assert found["value"].drop("kappa").to_dict() == pytest.approx({
        "precision": 6 / 8, "recall": 6 / 8, "specificity": 11 / 13, "contradictions found": 3 / 5,
        "without verdict": 5 / 26, "repeatable": 19 / 20,
    })  # fmt: skip
    assert found["of"].to_dict() == {
        "precision": 8, "recall": 8, "specificity": 13, "contradictions found": 5,
        "without verdict": 26, "repeatable": 20, "kappa": 21,
    }  # fmt: skip
    by_label = table(rows).summary(by="how")
    assert set(by_label["by"]) == {"states"} and len(by_label) == 7


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(lambda c: min(c) > 0))
def test_kappa_is_statsmodels(cells):
    yes, missed, false, no = cells
    rows = [("a", "stated", "stated", "")] * yes + [("b", "stated", "absent", "")] * missed
    rows += [("c", "absent", "stated", "")] * false + [("d", "absent", "contradicted", "")] * no
    expected = cohens_kappa(np.array([[yes, missed], [false, no]])).kappa
    assert values(table(rows), n_resamples=2)["value"]["kappa"] == pytest.approx(expected)


LABELS = ("stated", "absent", "contradicted")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.integers(0, 6)), min_size=2, max_size=30))
def test_auc_is_mann_whitneys_and_no_threshold_beats_the_fitted_one(pairs):
    scores = np.array([score / 6 for _, score in pairs])
    stated = np.array([label == "stated" for label, _ in pairs])
    graded = table([(f"p{k}", label, "x", "") for k, (label, _) in enumerate(pairs)], score=scores)
    found = values(graded, n_resamples=20).loc["auc"]
    assert found["of"] == len(pairs)
    if stated.all() or not stated.any() or len(set(scores)) == 1:
        with pytest.raises(InputError, match="'by hand'.*both labels"):
            fit_threshold(graded)
        return
    u = mannwhitneyu(scores[stated], scores[~stated]).statistic
    assert found["value"] == pytest.approx(u / (stated.sum() * (~stated).sum()))
    assert not found["low"] > found["value"] and not found["high"] < found["value"]

    def balanced(cut):
        return ((scores[stated] >= cut).mean() + (scores[~stated] < cut).mean()) / 2

    best = max(balanced(cut) for cut in np.unique(scores)[1:])  # at the lowest, all is stated
    assert balanced(fit_threshold(graded)) == pytest.approx(best)


def test_ties_go_to_the_middle_and_problems_are_drawn_whole():
    rows = [("p", "absent", "x", "")] * 2 + [("q", "stated", "x", "")] * 2
    assert fit_threshold(table(rows, score=[0.1, 0.2, 0.6, 0.9])) == pytest.approx(0.4)
    rows = [(f"p{k}", "stated" if k % 2 else "absent", "x", "") for k in range(4)]
    assert fit_threshold(table(rows, score=[0.2, 0.1, 0.4, 0.3])) == pytest.approx(0.25)
    rows = [(f"p{k}", LABELS[k % 2], "x", "") for k in range(40)]
    score = [(k * 7 % 40) / 40 for k in range(40)]
    once, ten = (values(table(rows * n, score=score * n)).loc["auc"] for n in (1, 10))
    assert once[["value", "low", "high"]].tolist() == pytest.approx(ten[["value", "low", "high"]])
    alone = values(table([(f"p{k}", LABELS[0], "x", "") for k in range(3)], score=0.5))
    assert np.isnan(alone.loc["auc", "value"]) and "auc" not in values(table(rows)).index


def test_without_an_error_the_interval_is_the_exact_one_over_problems():
    """40 problems without an error: 0.025 ** (1/40) is the lowest share that would give this one time in 40."""
    low = 0.025 ** (1 / 40)
    rows = [(f"p{k}", "stated", "stated", "stated") for k in range(40)] * 3
    found = values(table(rows))
    assert found.loc["recall", ["low", "value", "high"]].tolist() == [pytest.approx(low), 1, 1]
    assert found.loc["without verdict", "high"] == pytest.approx(1 - low)
    rows = [(f"p{k}", *["stated" if k % 2 else "absent"] * 2, "") for k in range(40)]
    assert values(table(rows)).loc["kappa", "low"] == pytest.approx((low - 0.5) / 0.5)


def test_nothing_to_count_gives_no_value_and_one_problem_no_interval():
    found = values(table([("p1", *["absent"] * 3)] * 3 + [("p2", "stated", "", "")]))
    assert np.isnan(found.loc["precision", "value"]) and np.isnan(found.loc["recall", "value"])
    assert found.loc["specificity", "value"] == 1 and np.isnan(found.loc["specificity", "low"])


def test_calibrate_asks_twice_the_second_time_anew():
    assert values(measured(ExactJudge()))["value"]["repeatable"] == 1
    noisy = measured(NoisyJudge(ExactJudge(), 0.2))
    repeatable = values(noisy).loc["repeatable"]
    assert repeatable["low"] < 0.8**2 + 0.2**2 < repeatable["high"]
    some = measured(ExactJudge(), twice=7).rows["mark_again"]
    assert (some != "").sum() == 7 and some.iloc[0] and some.iloc[-1]  # spread evenly


def test_a_judge_without_verdicts_is_measured_as_such():
    found = measured(LossyJudge(ExactJudge(), 1))
    assert values(found)["value"]["without verdict"] == 1
    assert set(found.rows["failure"]) == {"the verdict got lost"}
    assert "without verdict 1.00" in "; ".join(admit(found).failed)
    assert "recall cannot be measured here" in admit(found).failed


def test_the_exact_judge_is_admitted_for_its_own_language_and_not_for_others():
    """A unit test of the exact judge on its own grammar; and the finding that it reads little else."""
    own = measured(ExactJudge())
    assert (own.rows["mark"] == own.rows["label"]).all()
    admission = admit(own)
    admission.require()
    card = admission.card
    assert card["admitted"] is True and card["judge"] == "exact"
    assert card["calibrated on"] == "own" and card["pairs"] == len(own.rows)
    assert card["measures"]["recall"] == [1.0, round(0.025 ** (1 / 80), 4), 1.0]
    assert card["minimum"] == judge_admission.MINIMUM and card["attacks"] == "not attacked"
    assert admit(measured(ExactJudge(), foreign_pairs(PROBLEMS))).failed
    assert admit(measured(LazyJudge())).failed


def test_attacks_that_are_paid_keep_a_judge_out():
    rates = pd.DataFrame({"attack": ["order", "list", "claim"], "paid": [0.5, 0.11, 0.1]})
    admission = admit(measured(ExactJudge()), rates)
    assert admission.failed == ["paid in more than 10% of responses: order (50%), list (11%)"]
    assert admission.card["attacks"] == {"order": 0.5, "list": 0.11, "claim": 0.1}


def test_limits_are_held_against_the_unfavourable_end(monkeypatch):
    rows = [(f"p{k}", "stated", "stated" if k % 10 else "absent", "x") for k in range(20)]
    rows += [(f"q{k}", "absent", "absent" if k else "", "absent") for k in range(20)]
    found = values(table(rows))
    recall, lost = found.loc["recall"], found.loc["without verdict"]
    assert recall["value"] == 0.9 > recall["low"] and lost["value"] < lost["high"]
    for minimum, maximum, misses in [
        ({"recall": recall["low"] + 0.01}, {}, 1),
        ({"recall": recall["low"]}, {}, 0),
        ({}, {"without verdict": lost["high"] - 0.01}, 1),
        ({}, {"without verdict": lost["high"]}, 0),
    ]:
        monkeypatch.setattr(judge_admission, "MINIMUM", minimum)
        monkeypatch.setattr(judge_admission, "MAXIMUM", maximum)
        assert len(admit(table(rows)).failed) == misses


def test_foreign_wording_yields_the_same_for_a_seed():
    """What notebook 03 recorded rests on it; primes, expressions, and every kind of fact."""
    forms = [
        "Equals(LengthOf(Line(A', B)), 20)", "Equals(MeasureOf(Angle(A, B, C')), x+5)",
        "Equals(LengthOf(Line(A, B)), LengthOf(Line(C, D)))", "Perpendicular(Line(A, B), Line(C, D))",
        "Equals(MeasureOf(Angle(A, B, C)), MeasureOf(Angle(D, E, F)))", "Parallel(Line(A, B), Line(C, D))",
        "PointLiesOnLine(P, Line(A, B))", "PointLiesOnCircle(P, Circle(O))",
        "IsMidpointOf(M, Line(A, B))", "Equals(MeasureOf(Angle(A, B, C)), 90)",
    ]  # fmt: skip
    rng, texts = random.Random(1), []
    for style in foreign_wording.STYLES * 5:
        texts += [foreign_wording.render(form, style, rng) for form in forms]
        texts.append(foreign_wording.render_solution(forms, style, rng, "7"))
        for form in forms:
            texts += [foreign_wording.negate(form, rng), foreign_wording.hint(form, rng)]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert digest[:16] == "0d75ede9d1fa4c47"
