"""What a policy sees: one response, outcomes in numbers against independent computations, and policies asked."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.evaluation import perception_metrics as metrics
from perception_r1.evaluation import results
from perception_r1.evaluation.admission import stated_text
from perception_r1.evaluation.comparison import MEASURES, by_problem, compare, summary
from perception_r1.evaluation.perception_metrics import measure, outcome
from perception_r1.problems.schema import Problem
from perception_r1.training.policy import load_policy
from perception_r1.world import WorldConfig, make_world, map_world
from perception_r1.world.scene import length

SIDES = [str(length("AB", 3)), str(length("AC", 4)), str(length("BC", 5))]


def problem(in_question=(), **changes):
    """AB = 3, AC = 4, BC = 5; what is AB + BC?"""
    known = {
        "id": "p", "split": "test", "problem": "<image>What is AB + BC?", "answer": "8",
        "images": [Image.new("RGB", (28, 28))], "text_facts": in_question,
        "gold_facts": SIDES, "needed_facts": [SIDES[0], SIDES[2]],
    }  # fmt: skip
    return Problem(**{**known, **changes})


def response(stated, answer=8):
    lines = "".join(f"The length of segment {ab} is {value}.\n" for ab, value in stated)
    return f"<think>\n{lines}</think>\n<answer>\nThe answer is \\boxed{{{answer}}}.\n</answer>"


@pytest.mark.parametrize(
    ("stated", "answer", "seen", "claims", "needed"),
    [
        ([("AB", 3), ("BC", 5)], 9, 2, 2, "right"),
        ([("AB", 3), ("BC", 6)], 8, 1, 2, "wrong"),
        ([("AB", 3), ("AC", 9)], 8, 1, 2, "left out"),
        ([], 8, 0, 0, "left out"),
        ([("AB", 3), ("BC", 5), ("AB", 3)], 8, 2, 2, "right"),  # said twice, counted once
        ([("AB", 3), ("AB", 4), ("BC", 5)], 8, 1, 3, "wrong"),  # two values: not stated right
        ([("AB", 3), ("BC", 5), ("AD", 7)], 8, 2, 3, "right"),  # the figure has no D
    ],
)
def test_a_response_against_the_figure(stated, answer, seen, claims, needed):
    found = outcome(problem(), response(stated, answer))
    assert (found["seen"], found["said"], found["needed"]) == (seen, claims, needed)
    assert found["visual"] == 3 and found["recall"] == seen / 3
    assert found["right"] == (answer == 8)
    assert found["precision"] == pytest.approx(seen / claims if claims else np.nan, nan_ok=True)


def test_what_is_copied_from_the_question_is_no_sight():
    rich = problem(in_question=[SIDES[0], SIDES[2]])
    found = outcome(rich, response([("AB", 3), ("AC", 9), ("BC", 5)]))
    assert (found["visual"], found["seen"], found["said"]) == (1, 0, 1)
    assert found["right"] and found["needed"] == "right"
    miscopied = outcome(rich, response([("AB", 7), ("AC", 4), ("BC", 5)], 12))
    assert (miscopied["seen"], miscopied["said"], miscopied["needed"]) == (1, 1, "wrong")
    told_all = outcome(problem(in_question=SIDES), response([("AB", 3)]))
    assert told_all["visual"] == 0 and np.isnan(told_all["recall"])


def test_notations_count_and_conclusions_do_not():
    text = "<think>\nBA = 3\nSo the length of segment BC is 9.\nThe sum is 3 + 5 = 8.\n</think>"
    found = outcome(problem(), text)
    assert (found["seen"], found["said"], found["needed"]) == (1, 1, "left out")
    assert outcome(problem(needed_facts=[]), response([]))["needed"] is None
    with pytest.raises(InputError, match="problem p has no gold facts"):
        outcome(problem(gold_facts=[], needed_facts=[]), "")


def test_what_people_are_shown():
    row = pd.Series({"difference": 0.012, "low": -0.03, "high": 0.05})
    assert results.in_points(row) == "+1.2 (-3.0 to +5.0)"
    shown = results.side_by_side([problem()], pd.DataFrame({"base": ["<b>no</b>"]}, index=["p"]))
    assert "&lt;b&gt;no" in shown and "image" not in shown
    text = metrics.marked(problem(), "AB = 3\nAC = 9\nAD = 7\nwell < so")
    one, other, beyond, prose = text.split("<br>")
    assert "AB = 3 \u2713" in one and "AC = 9 \u2717" in other and "AD = 7 ?" in beyond
    assert prose == "well &lt; so"


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("3.", True), ("The length of AB is 3.", True), ("\\boxed{3}", True), ("", False), ("3 or 4", False),
        ("33", False), ("13", False), ("3.5", False),
        (response([("AB", 3), ("BC", 5)]), True),  # a whole chain of thought says it, too
        (response([("AB", 4)], answer=3), False),
        (response([("AB", 3), ("AB", 4)], answer=3), False),
    ],
)  # fmt: skip
def test_a_reply_to_a_probe(reply, right):
    assert metrics.gives(length("AB", 3), reply) is right


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ([("AB", 3)], [("AB", 7)], "follows"),
        ([], [("AB", 7), ("BC", 5)], "follows"),
        ([("AB", 3)], [("AB", 3)], "stays"),
        ([("AB", 7)], [("AB", 7)], "stays"),  # misread before: nothing has followed
        ([("AB", 3)], [("AB", 8)], "neither"),
        ([("AB", 3)], [("AB", 3), ("AB", 7)], "neither"),
        ([("AB", 3)], [("BC", 5)], "unsaid"),
    ],
)
def test_whether_what_is_stated_follows(before, after, word):
    assert metrics.follows(length("AB", 7), response(before), response(after)) == word


def outcomes(*rows):
    """Outcomes of problems 0, 1, ..., the rest of each row by default: everything right."""
    whole = {
        "right": True, "visual": 4, "seen": 4, "needed": "right", "probe_fact": "f", "probe_right": 1.0,
        "redrawn_fact": "g", "redraw": "follows", "sampled_right": True, "sampled_seen": 4,
    }  # fmt: skip
    return pd.DataFrame([{"id": f"p{k}"} | whole | row for k, row in enumerate(rows)])


def test_measures_of_a_problem_by_hand():
    table = by_problem(outcomes(
        {},
        {"right": False, "seen": 1, "redraw": "stays", "sampled_right": False, "sampled_seen": 2},
        {"needed": "wrong", "seen": 3, "redraw": "neither", "probe_right": 0.0},
        {"needed": "left out", "right": False, "redraw": "unsaid"},
        {"needed": None, "visual": 0, "seen": 0, "sampled_seen": 0, "redraw": None, "probe_right": np.nan},
    ))  # fmt: skip
    no = np.nan
    by_hand = {
        "answers": [1, 0, 1, 0, 1], "facts": [1, 0.25, 0.75, 1, no], "probe": [1, 1, 0, 1, no],
        "redrawing": [1, 0, 0, no, no], "all facts right": [1, 1, 0, 0, no],
        "seen and computed": [1, 0, 0, 0, no], "lucky": [0, 0, 1, 0, no],
        "answers, sampled": [1, 0, 1, 1, 1], "facts, sampled": [1, 0.5, 1, 1, no],
    }  # fmt: skip
    pd.testing.assert_frame_equal(table, pd.DataFrame(by_hand, dtype=float))


def test_a_summary_and_a_comparison():
    """Against scipy and statsmodels; of problem 5 nothing was probed, of 6 what follows was not said."""
    before = outcomes(*[{"right": k < 7, "seen": 1} for k in range(21)])
    before.loc[5, "probe_right"] = np.nan
    after = outcomes(*[{"right": k == 7, "seen": k % 5} for k in range(21)])
    after.loc[6, "redraw"] = "unsaid"
    table = summary(before).set_index("measure")
    assert list(table.index) == list(MEASURES)
    exact = stats.binomtest(7, 21).proportion_ci(method="exact")
    assert table.loc["answers"].tolist() == pytest.approx([1 / 3, *exact, 21])
    shares = after["seen"] / 4
    student = stats.ttest_1samp(shares, 0).confidence_interval()
    found = summary(after).set_index("measure").loc["facts"]
    assert found.tolist() == pytest.approx([shares.mean(), *student, 21])
    table = compare(before, after.sample(frac=1, random_state=1)).set_index("measure")
    # Fagerland et al. 2014: airway hyper-responsiveness of 21 children, b = 7, c = 1, Tango's interval
    row = table.loc["answers"]
    assert row[["b", "c", "n"]].tolist() == [7, 1, 21]
    assert (round(row["low"], 3), round(row["high"], 3)) == (-0.517, -0.026)
    assert row["p"] == pytest.approx(mcnemar([[0, 7], [1, 13]], exact=True).pvalue)
    student = stats.ttest_1samp(shares - 1 / 4, 0).confidence_interval()
    assert table.loc["facts", ["low", "high"]].tolist() == pytest.approx([*student])
    assert table.loc["facts", ["b", "c", "p"]].isna().all()
    assert (table.loc["probe", "n"], table.loc["redrawing", "n"]) == (20, 20)


def test_other_problems_or_seeds_are_refused():
    before = after = outcomes({}, {}, {})
    with pytest.raises(InputError, match="only 'before' has id p1"):
        compare(before, after[after.id != "p1"])
    for column in ("probe_fact", "redrawn_fact"):
        for other in ("h", None):
            changed = after.assign(**{column: after[column].where(after.id != "p1", other)})
            with pytest.raises(InputError, match=f"{column} of p1 .* same seed"):
                compare(before, changed)
    nothing = before.assign(redrawn_fact=None, redraw=None)
    assert "redrawing" not in set(compare(nothing, nothing)["measure"])


def test_each_arm_is_compared_with_the_base_and_the_two_with_each_other():
    one, two, three = (outcomes(*[{"right": k % n == 0} for k in range(20)]) for n in (2, 3, 4))
    compared = results.compare_policies({"base": one, "accuracy_only": two, "perception": three})
    pairs = dict.fromkeys(zip(compared["before_is"], compared["after_is"], strict=True))
    assert list(pairs) == [
        ("base", "accuracy_only"), ("base", "perception"), ("accuracy_only", "perception"),
    ]  # fmt: skip
    last = compared[compared["before_is"] == "accuracy_only"]
    alone = last.drop(columns=["before_is", "after_is"])
    pd.testing.assert_frame_equal(alone, compare(two, three))
    other = results.compare_policies({"base": one, "sft": two, "perception": three})
    assert set(other["before_is"]) == {"base"}


@pytest.fixture(scope="module")
def made():
    return list(make_world(16, map_world(seed=100), "test"))


@pytest.fixture(scope="module")
def text_rich():
    """Problems whose question holds all that the answer takes; those of angles show no length."""
    dials = {"families": ("triangle",), "questions": ("two sides", "third angle")}
    return list(make_world(16, WorldConfig(**dials, text_rich=1, seed=101), "test"))


def test_the_recorded_base_reads_by_every_measure():
    made = list(make_world(64, map_world(seed=100), "test"))
    found = measure(*load_policy("miniature"), made)
    assert found.id.tolist() == [one.problem.id for one in made]
    low = summary(found).set_index("measure").low  # a guess is right once in 8
    assert low["facts"] > 0.5 and low["facts, sampled"] > 0.5
    assert low["probe"] > 1 / 8 and low["redrawing"] > 1 / 8


def blind(model, processor, problems, prompts=None, greedy=True, **_):
    """Responses by heart, the right facts and answer of each problem whatever the image shows; silent when sampled."""
    return [(p.cot if prompts is None else "0") if greedy else "" for p in problems]


@pytest.fixture
def by_heart(monkeypatch):
    monkeypatch.setattr("perception_r1.training.generation.generate", blind)
    return lambda made, seed=0: measure(None, None, made, seed=seed)


def test_what_is_probed_and_redrawn_depends_on_problem_and_seed_alone(by_heart, made, text_rich):
    made = [*made, *text_rich]
    found, third = by_heart(made), by_heart(made, seed=1)
    asked = ["id", "probe_fact", "redrawn_fact"]
    other = by_heart(made[::-1])[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[asked], other[asked])
    changed = third[asked].fillna("") != found[asked].fillna("")
    assert changed.probe_fact.any() and changed.redrawn_fact.any()
    for one, row in zip(made, found.itertuples(), strict=True):
        lengths = [fact for fact in one.problem.gold_facts if "LengthOf" in fact]
        assert row.probe_fact in lengths if lengths else pd.isna(row.probe_right)
        free = set(one.problem.gold_facts) - set(one.problem.text_facts)
        if free:
            new = facts.parse(row.redrawn_fact)
            assert sum(facts.contradicts(new, facts.parse(old)) for old in free) == 1
        else:
            assert pd.isna(row.redrawn_fact) and pd.isna(row.redraw)


def test_who_does_not_look_stays(by_heart, made):
    table = by_heart(made)
    assert table.right.all() and (table.recall == 1).all()  # as good as perfect, by what is stated
    assert set(table.redraw) == {"stays"} and (table.probe_right == 0).all()
    assert not table.sampled_right.any() and (table.sampled_seen == 0).all()
    assert set(table.sampled_needed) == {"left out"}


def test_who_looks_follows(made, monkeypatch):
    def in_words(one, fact, value):
        old = facts.to_sentence(facts.parse(fact))
        return f"redrawn|{old}|{old.rsplit(' ', 1)[0]} {value}.".encode()

    def sharp(model, processor, problems, prompts=None, **_):
        """By the image: a redrawn one says in words what it shows."""
        replies = []
        for k, p in enumerate(problems):
            gold = stated_text(p)
            if p.images[0].startswith(b"redrawn"):
                gold = gold.replace(*p.images[0].decode().split("|")[1:])
            if prompts:
                side = prompts[k][0]["content"][-3:-1]
                gold = next(line for line in gold.splitlines() if f" {side} " in line).split()[-1]
            replies.append(gold)
        return replies

    monkeypatch.setattr("perception_r1.training.generation.generate", sharp)
    monkeypatch.setattr(metrics, "redraw", in_words)
    table = measure(None, None, made)
    assert set(table.redraw) == {"follows"} and (table.probe_right == 1).all()
    assert (table.sampled_seen == 4).all()


def test_a_label_without_room_is_given_another_value_if_there_is_one(by_heart, made, monkeypatch):
    usual, redraw, full = by_heart(made), metrics.redraw, False
    taken = set(usual.redrawn_fact.dropna())

    def crowded(one, fact, value):
        if full or f"{fact.rsplit(', ', 1)[0]}, {value})" in taken:
            raise InputError("no room")
        return redraw(one, fact, value)

    monkeypatch.setattr(metrics, "redraw", crowded)
    other, tested = by_heart(made), usual.redraw.notna()
    assert (other.redrawn_fact[tested] != usual.redrawn_fact[tested]).all()
    full = True
    assert by_heart(made).redraw.isna().all()
