"""Measuring judges: the labels mean what they say, the measures are the textbook's, limits bind."""

import asyncio
import collections
import csv
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from perception_r1 import facts, world
from perception_r1.common.errors import InputError
from perception_r1.reward import calibration, foreign_wording
from perception_r1.reward.calibration import HOWS, Calibration, Pair, admit, calibrate
from perception_r1.reward.judges import ExactJudge, LazyJudge, NoisyJudge, Verdict


@pytest.fixture(scope="module")
def problems():
    return world.make_problems(80, world.WorldConfig(seed=77), "dev")


def table(rows, judge="j"):
    """A calibration with these (id, label, mark, mark_again) rows."""
    frame = pd.DataFrame(rows, columns=["id", "label", "mark", "mark_again"])
    frame = frame.assign(kind="length", how="states", style="own", failure="")
    return Calibration(judge, "by hand", {"judge": judge}, frame)


def values(calibrated, **more):
    return calibrated.summary(**more).set_index("measure")


# --- labelled pairs --------------------------------------------------------------------------------


def test_world_pairs_hold_every_way_and_their_labels(problems):
    pairs = calibration.world_pairs(problems)
    assert {pair.how for pair in pairs} == set(HOWS)
    assert all(pair.label == HOWS[pair.how] for pair in pairs)
    counts = collections.Counter((p.id, p.annotation, p.how) for p in pairs)
    assert max(counts.values()) == 1


def test_world_labels_by_looking_at_words_alone(problems):
    """Stated facts stand in the response as a sentence; omitted, hinted and contradicted ones do not."""
    for pair in calibration.world_pairs(problems):
        stands = pair.annotation in pair.response
        assert stands == (pair.how == "states") or pair.how == "paraphrases"


def test_foreign_pairs_use_the_styles_asked_for(problems):
    pairs = calibration.foreign_pairs(problems, foreign_wording, styles=["latex", "spelled"])
    assert {pair.style for pair in pairs} == {"latex", "spelled"}
    assert {pair.how for pair in pairs} == set(HOWS) - {"states"}


def test_omitted_foreign_facts_leave_no_trace_of_their_value(problems):
    """An omitted length cannot be found by its segment and number together."""
    for pair in calibration.foreign_pairs(problems, foreign_wording, styles=["symbols"]):
        fact = next(f for f in [facts.from_sentence(pair.annotation)])
        if pair.how == "omits" and facts.kind(fact) == "length":
            line, value = "".join(fact.args[0].args[0].args), fact.args[1]
            for name in (line, line[::-1]):
                assert f"{name} = {value}" not in pair.response


def test_pairs_depend_on_the_seed_only(problems):
    assert calibration.world_pairs(problems, 3) == calibration.world_pairs(problems, 3)
    assert calibration.world_pairs(problems, 3) != calibration.world_pairs(problems, 4)
    again = calibration.foreign_pairs(problems, foreign_wording, seed=3)
    assert calibration.foreign_pairs(problems, foreign_wording, seed=3) == again


def test_the_committed_labels_are_whole():
    with calibration.REAL.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    assert all(HOWS[row["relation"]] == row["label"] for row in rows)
    assert len({(row["file"], row["id"]) for row in rows}) == 200  # one sentence a response
    assert all(row["second_label"] == row["label"] for row in rows)
    assert not any(len(row) != 8 or None in row.values() for row in rows)


def test_real_pairs_are_the_sentences_that_were_labelled(shared):
    pairs = calibration.real_pairs(shared / "mathvision" / "outputs")
    assert len(pairs) == 200
    assert collections.Counter(p.label for p in pairs) == {
        "stated": 95, "contradicted": 49, "absent": 56,
    }  # fmt: skip


def test_other_responses_than_those_labelled_are_refused(tmp_path):
    for name in ("Gemini-Pro-CoT", "Qwen-VL-Max-CoT"):
        lines = [f'{{"id": "{k}", "response": "Something else."}}' for k in range(1, 3041)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="is not the one that was labelled"):
        calibration.real_pairs(tmp_path)


def test_missing_responses_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*CoT\.jsonl.*MATH-Vision's repository"):
        calibration.real_pairs(tmp_path)


# --- measures --------------------------------------------------------------------------------------


def test_measures_of_a_table_counted_by_hand():
    rows = (
        [("p1", "stated", "stated", "stated")] * 6
        + [("p2", "stated", "absent", "absent")] * 2
        + [("p3", "absent", "stated", "absent")] * 1
        + [("p4", "absent", "absent", "absent")] * 7
        + [("p5", "contradicted", "contradicted", "contradicted")] * 3
        + [("p6", "contradicted", "stated", "stated")] * 1
        + [("p7", "stated", "", "")] * 5
    )
    found = values(table(rows))["value"]
    assert found["precision"] == pytest.approx(6 / 8)
    assert found["recall"] == pytest.approx(6 / 8)
    assert found["specificity"] == pytest.approx(10 / 12)
    assert found["contradictions found"] == pytest.approx(3 / 4)
    assert found["without verdict"] == pytest.approx(5 / 25)
    assert found["repeatable"] == pytest.approx(19 / 20)
    assert values(table(rows))["of"].to_dict() == {
        "precision": 8, "recall": 8, "specificity": 12, "contradictions found": 4,
        "without verdict": 25, "repeatable": 20, "kappa": 20,
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(lambda c: min(c) > 0))
def test_kappa_is_statsmodels(cells):
    yes, missed, false, no = cells
    rows = [("a", "stated", "stated", "")] * yes + [("b", "stated", "absent", "")] * missed
    rows += [("c", "absent", "stated", "")] * false + [("d", "absent", "absent", "")] * no
    expected = cohens_kappa(np.array([[yes, missed], [false, no]])).kappa
    assert values(table(rows), n_resamples=2)["value"]["kappa"] == pytest.approx(expected)


def test_intervals_are_those_of_the_slow_bootstrap_over_problems():
    rng = np.random.default_rng(5)
    rows = []
    for k in range(40):
        right = rng.random() < 0.7  # problems are right or wrong as a whole
        rows += [(f"p{k}", "stated", "stated" if right else "absent", "")] * int(rng.integers(1, 8))
    fast = values(table(rows), n_resamples=4000).loc["recall"]
    frame = table(rows).rows
    stated = [list(group) for _, group in (frame["mark"] == "stated").groupby(frame["id"])]
    drawn = (rng.integers(len(stated), size=len(stated)) for _ in range(1500))
    slow = np.quantile(
        [np.mean(sum((stated[k] for k in one), [])) for one in drawn], [0.025, 0.975]
    )
    assert fast["value"] == np.mean(sum(stated, []))
    assert [fast["low"], fast["high"]] == pytest.approx(slow, abs=0.03)
    naive = 1.96 * np.sqrt(0.25 / len(frame))
    assert fast["high"] - fast["low"] > 2 * naive * 0.9  # wider than if pairs were independent


def test_without_an_error_the_interval_is_the_exact_one_over_problems():
    """40 problems without an error: 0.025 ** (1/40) is the lowest share that would give this one time in 40."""
    rows = [(f"p{k}", "stated", "stated", "stated") for k in range(40)] * 3
    found = values(table(rows))
    assert found.loc["recall", ["value", "high"]].tolist() == [1, 1]
    assert found.loc["recall", "low"] == pytest.approx(0.025 ** (1 / 40))
    assert found.loc["without verdict", "high"] == pytest.approx(1 - 0.025 ** (1 / 40))


@pytest.mark.parametrize("errors", [0, 1, 2, 5])
def test_fewer_errors_never_give_a_lower_limit(errors):
    def low(wrong, measure):
        rows = [(f"p{k}", "stated", "absent" if k < wrong else "stated", "x") for k in range(30)]
        rows += [(f"q{k}", "absent", "absent", "x") for k in range(30)]
        return values(table(rows)).loc[measure, "low"]

    for measure in ("recall", "kappa"):
        assert low(errors, measure) > low(errors + 1, measure)
    assert low(0, "kappa") < 1


def test_attacks_that_are_paid_keep_a_judge_out(problems):
    found = asyncio.run(calibrate(ExactJudge(), calibration.world_pairs(problems), "own"))
    rates = pd.DataFrame({"attack": ["order", "claim"], "paid": [0.5, 0.05]})
    admission = admit(found, rates)
    assert admission.failed == ("paid in more than 10% of responses: order (50%)",)
    assert admission.card["attacks"] == {"order": 0.5, "claim": 0.05}
    assert admit(found).card["attacks"] == "not attacked"


def test_nothing_to_count_gives_no_value_and_no_error():
    found = values(table([("p1", "absent", "absent", "absent")] * 3))
    assert np.isnan(found.loc["precision", "value"]) and np.isnan(found.loc["recall", "value"])
    assert found.loc["specificity", "value"] == 1 and np.isnan(found.loc["specificity", "low"])


def test_calibrate_asks_twice_the_second_time_anew(problems):
    pairs = calibration.world_pairs(problems)
    steady = asyncio.run(calibrate(ExactJudge(), pairs, "own"))
    noisy = asyncio.run(calibrate(NoisyJudge(ExactJudge(), 0.2), pairs, "own"))
    assert values(steady)["value"]["repeatable"] == 1
    repeatable = values(noisy).loc["repeatable"]
    assert repeatable["low"] < 0.8**2 + 0.2**2 < repeatable["high"]


def test_a_judge_without_verdicts_is_measured_as_such():
    class Dead:
        name = "dead"

        async def judge(self, responses, annotations):
            return [Verdict(None, "the server is down")] * len(responses)

        def card(self):
            return {"judge": "dead"}

        def again(self):
            return self

    pairs = [Pair(f"p{k}", "A.", "B.", "stated", "states", "length") for k in range(4)]
    found = asyncio.run(calibrate(Dead(), pairs))
    assert values(found)["value"]["without verdict"] == 1
    assert found.rows["failure"].unique() == ["the server is down"]
    assert "without verdict 1.00" in "; ".join(admit(found).failed)


def test_no_pairs_are_refused():
    with pytest.raises(InputError, match="no labelled pairs"):
        asyncio.run(calibrate(ExactJudge(), []))


# --- admission -------------------------------------------------------------------------------------


def test_the_exact_judge_is_admitted_for_its_own_language_and_not_for_others(problems):
    """A unit test of the exact judge on its own grammar; and the finding that it reads little else."""
    own = asyncio.run(calibrate(ExactJudge(), calibration.world_pairs(problems), "own"))
    other = asyncio.run(
        calibrate(ExactJudge(), calibration.foreign_pairs(problems, foreign_wording), "foreign")
    )
    assert (own.rows["mark"] == own.rows["label"]).all()
    assert admit(own).admitted
    assert not admit(other).admitted


@pytest.mark.parametrize("judge", [NoisyJudge(ExactJudge(), 0.2), LazyJudge()])
def test_poor_judges_stay_out_and_the_limit_is_named(problems, judge):
    found = asyncio.run(calibrate(judge, calibration.world_pairs(problems), "own"))
    admission = admit(found)
    assert not admission.admitted
    with pytest.raises(InputError, match=r"not admitted to training: precision 0\.\d+ \(0\.\d+ to"):
        admission.require()


def test_the_card_says_what_was_measured_and_required(problems):
    found = asyncio.run(calibrate(ExactJudge(), calibration.world_pairs(problems), "own"))
    admission = admit(found)
    admission.require()
    card = admission.card
    assert card["calibrated on"] == "own" and card["pairs"] == len(found.rows)
    assert card["measures"]["recall"] == [1.0, round(0.025 ** (1 / 80), 4), 1.0]
    assert card["minimum"] == calibration.MINIMUM and card["admitted"] is True


def test_limits_are_held_against_the_unfavourable_end():
    rows = [(f"p{k}", "stated", "stated" if k % 10 else "absent", "x") for k in range(20)]
    rows += [(f"q{k}", "absent", "absent", "absent") for k in range(20)]
    found = table(rows)
    recall = values(found).loc["recall"]
    assert recall["value"] == 0.9 > recall["low"]
    middle = (recall["value"] + recall["low"]) / 2
    assert admit(found, None, {"recall": middle}, {}).failed
    assert not admit(found, None, {"recall": recall["low"] - 0.01}, {}).failed


def test_what_cannot_be_measured_is_not_admitted():
    failed = admit(table([("p", "absent", "absent", "absent")]), None, {"recall": 0.1}, {}).failed
    assert failed == ("recall cannot be measured here",)


def test_a_limit_on_an_unknown_measure_is_refused():
    with pytest.raises(InputError, match="no measure accuracy; there are: precision"):
        admit(table([("p", "absent", "absent", "")]), None, {"accuracy": 0.5}, {})


def test_renderers_need_only_the_documented_functions(problems):
    """Anybody's phrasings can be used: a module-like object with these names."""
    renderer = types.SimpleNamespace(
        STYLES=("mine",), render=foreign_wording.render, negate=foreign_wording.negate, hint=foreign_wording.hint,
        render_solution=foreign_wording.render_solution,
    )  # fmt: skip
    assert calibration.foreign_pairs(problems[:2], renderer, styles=["latex"])
