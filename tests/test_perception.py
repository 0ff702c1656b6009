"""What a policy sees: one response, outcomes in numbers against independent computations, and policies asked."""

import random

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.evaluation import perception_metrics as metrics
from perception_r1.evaluation.admission import stated_text
from perception_r1.evaluation.comparison import (
    MEASURES,
    cells,
    compare,
    finding,
    perception_verdict,
    summary,
    verdict,
)
from perception_r1.evaluation.perception_metrics import measure, outcome
from perception_r1.problems.schema import Problem
from perception_r1.training.policy import load_policy
from perception_r1.world import make_world, miniature_world
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


# --- one response ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "answer", "seen", "claims", "cell"),
    [
        ([("AB", 3), ("AC", 4), ("BC", 5)], 8, 3, 3, "right"),
        ([("AB", 3), ("BC", 5)], 9, 2, 2, "miscalculated"),
        ([("AB", 3), ("BC", 6)], 9, 1, 2, "misread"),
        ([("AB", 3), ("BC", 6)], 8, 1, 2, "lucky"),
        ([("AB", 3), ("AC", 9)], 8, 1, 2, "right, unsaid"),
        ([("AC", 4)], 7, 1, 1, "wrong, unsaid"),
        ([], 8, 0, 0, "right, unsaid"),
        ([("AB", 3), ("BC", 5), ("AB", 3)], 8, 2, 2, "right"),  # said twice, counted once
        ([("AB", 3), ("AB", 4), ("BC", 5)], 8, 1, 3, "lucky"),  # two values: not stated right
        ([("AB", 3), ("BC", 5), ("AD", 7)], 8, 2, 3, "right"),  # the figure has no D
    ],
)
def test_a_response_against_the_figure(stated, answer, seen, claims, cell):
    found = outcome(problem(), response(stated, answer))
    assert (found["seen"], found["said"], found["cell"]) == (seen, claims, cell)
    assert found["recall"] == seen / 3 and found["right"] == (answer == 8)
    assert found["precision"] == pytest.approx(seen / claims if claims else np.nan, nan_ok=True)
    assert found["all_right"] == (seen == 3)
    assert (found["kind"], found["visual"], found["given"]) == ("image-only", 3, 0)


def test_what_is_copied_from_the_question_is_no_sight():
    rich = problem(in_question=[SIDES[0], SIDES[2]])
    found = outcome(rich, response([("AB", 3), ("AC", 9), ("BC", 5)]))
    assert (found["kind"], found["visual"], found["seen"], found["said"]) == ("text-rich", 1, 0, 1)
    assert (found["given"], found["copied"], found["cell"]) == (2, 2, "right")
    miscopied = outcome(rich, response([("AB", 7), ("AC", 4), ("BC", 5)], 12))
    assert (miscopied["seen"], miscopied["said"], miscopied["copied"]) == (1, 1, 1)
    assert miscopied["cell"] == "misread"
    told_all = outcome(problem(in_question=SIDES), response([("AB", 3)]))
    assert told_all["visual"] == 0 and np.isnan(told_all["recall"])


def test_notations_count_and_conclusions_do_not():
    text = "<think>\nBA = 3\nSo the length of segment BC is 9.\nThe sum is 3 + 5 = 8.\n</think>"
    found = outcome(problem(), text)
    assert (found["seen"], found["said"], found["needed"]) == (1, 1, "left out")
    assert outcome(problem(needed_facts=[]), response([]))["cell"] is None
    with pytest.raises(InputError, match="problem p has no gold facts"):
        outcome(problem(gold_facts=[], needed_facts=[]), "")


def test_marks_of_a_response_for_people():
    text = metrics.marked(problem(), "AB = 3\nAC = 9\nAD = 7\nwell < so")
    one, other, beyond, prose = text.split("<br>")
    assert "AB = 3 \u2713" in one and "AC = 9 \u2717" in other and "AD = 7 ?" in beyond
    assert prose == "well &lt; so"


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("3", True), ("3.", True), ("The length of AB is 3.", True), ("\\boxed{3}", True), ("4", False), ("", False),
        ("3 or 4", False), ("33", False), ("13", False), ("3.5", False),
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
        ([("AB", 9)], [("AB", 7)], "follows"),
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


# --- measures --------------------------------------------------------------------------------------


def outcomes(*rows):
    """Outcomes of problems 0, 1, ..., the rest of each row by default: everything right."""
    whole = {
        "kind": "image-only", "right": True, "visual": 3, "seen": 3, "said": 3, "given": 0, "copied": 0,
        "all_right": True, "cell": "right", "probe_fact": "f", "probe_right": 1.0, "redrawn_fact": "g",
        "redraw": "follows", "blank_right": False, "blank_seen": 0,
    }  # fmt: skip
    ids = [{"id": f"p{k}", "figure": f"figure {k}"} for k in range(len(rows))]
    return pd.DataFrame([{**own, **whole, **row} for own, row in zip(ids, rows, strict=True)])


def row(table, measure, kind="image-only"):
    return table.set_index(["kind", "measure"]).loc[(kind, measure)]


def test_a_summary_by_hand():
    rich = {"kind": "text-rich", "visual": 0, "seen": 0, "said": 0, "given": 2, "copied": 1}
    table = summary(
        outcomes(
            {},
            {"right": False, "seen": 1, "said": 4, "redraw": "stays", "blank_right": True},
            {"seen": 0, "said": 0, "redraw": "unsaid", "probe_right": np.nan, "cell": "lucky"},
            rich | {"redraw": None, "redrawn_fact": None},
        )
    )
    by_hand = {
        "answers": (2 / 3, 3), "recall": (4 / 9, 3), "precision": (4 / 7, 2), "probe": (1, 2),
        "redrawing": (1 / 3, 3), "redrawing, where stated": (0.5, 2), "lucky answers": (1 / 3, 3),
        "miscalculated answers": (0, 3), "all facts stated right": (1, 3), "blank page, answers": (1 / 3, 3),
    }  # fmt: skip
    for name, (share, n) in by_hand.items():
        assert row(table, name)[["share", "n"]].tolist() == pytest.approx([share, n]), name
    ends = proportion_confint(2, 3, method="beta")
    assert row(table, "answers")[["low", "high"]].tolist() == pytest.approx(ends)
    assert row(table, "copied from the question", "text-rich").share == 0.5
    measured = table["measure"][table.kind == "text-rich"].tolist()
    assert not {"recall", "precision", "redrawing", "redrawing, where stated"} & set(measured)
    assert measured == [name for name in MEASURES if name in measured] and measured[0] == "answers"


def test_no_interval_is_narrower_than_that_of_so_many_problems():
    table = summary(outcomes(*[{}] * 20))
    exact = 0.025 ** (1 / 20)  # Clopper-Pearson at 20/20
    for name in ("answers", "recall", "precision"):
        assert row(table, name).low == pytest.approx(exact)


def test_cells_count_every_response_once():
    rows = [{"cell": "lucky"}] * 3 + [{"cell": "right"}] * 5
    table = cells(outcomes(*rows, {"cell": "misread", "kind": "text-rich"}))
    assert table.groupby("kind").n.sum().to_dict() == {"image-only": 8, "text-rich": 1}
    lucky = table.query("kind == 'image-only' and answer == 'right' and needed == 'wrong'")
    assert lucky[["cell", "n", "share"]].values.tolist() == [["lucky", 3, 0.375]]


@pytest.fixture(scope="module")
def pair():
    """Two policies on 400 problems, with random outcomes; the second is better."""
    rng = random.Random(100)

    def draw(chance):
        rows = []
        for k in range(400):
            kind = "text-rich" if k % 4 == 0 else "image-only"
            right, probe = rng.random() < chance, float(rng.random() < chance)
            seen = sum(rng.random() < chance for _ in range(3))
            said = rng.randint(seen, 3) if seen else rng.choice((0, 3))
            word = rng.choice(("follows", "stays", "unsaid"))
            rows.append({"kind": kind, "right": right, "probe_right": probe, "seen": seen, "said": said,
                         "redraw": word})  # fmt: skip
        return outcomes(*rows)

    return draw(0.5), draw(0.6)


def test_yes_and_no_against_statsmodels(pair):
    before, after = pair
    table = compare(before, after.sample(frac=1, random_state=1))  # the order is of no account
    for kind in ("image-only", "text-rich"):
        x, y = (t.loc[t.kind == kind, "right"] for t in pair)
        theirs = mcnemar(pd.crosstab(x, y).to_numpy(), exact=True)
        ours = row(table, "answers", kind)
        assert ours.p == pytest.approx(theirs.pvalue)
        assert (ours.b, ours.c) == ((x & ~y).sum(), (y & ~x).sum())
        assert ours.difference == pytest.approx(y.mean() - x.mean()) and ours.n == len(x)
        assert (ours.before, ours.after) == (x.mean(), y.mean())
        assert ours.low < ours.difference < ours.high
    both = (before.redraw != "unsaid") & (after.redraw != "unsaid")
    stated = row(table, "redrawing, where stated")
    assert stated.n == (both & (before.kind == "image-only")).sum()


def test_shares_of_facts_are_paired_and_pooled(pair):
    table = compare(*pair, n_resamples=4000)
    before, after = (t[t.kind == "image-only"] for t in pair)
    recall, precision = row(table, "recall"), row(table, "precision")
    assert recall.before == before.seen.sum() / before.visual.sum()
    assert precision.after == after.seen.sum() / after.said.sum()
    difference = (after.seen - before.seen) / 3  # the usual interval of a mean of paired ones
    half = 1.96 * difference.std() / np.sqrt(len(before))
    assert recall.difference == pytest.approx(difference.mean())
    assert recall.high - recall.low == pytest.approx(2 * half, rel=0.08)
    assert pd.isna(recall.b) and pd.isna(recall.p)
    assert precision.n == ((before.said > 0) | (after.said > 0)).sum()


def test_problems_of_one_figure_are_no_independent_observations():
    """The usual interval of means over clusters, by hand; far wider where whole figures change together."""
    rng = random.Random(5)
    before = outcomes(*[{"right": True, "figure": f"f{k // 20}"} for k in range(800)])
    kept = {f"f{k}": rng.random() < 0.7 for k in range(40)}
    after = before.assign(right=[kept[figure] for figure in before.figure])
    found = row(compare(before, after, n_resamples=4000), "answers")
    assert (found.n, found.figures) == (800, 40)
    change = pd.Series([int(kept[f"f{k}"]) - 1 for k in range(40)])
    assert found.difference == pytest.approx(change.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * change.std() / np.sqrt(40), rel=0.1)
    alone = row(compare(*(t.assign(figure=t.id) for t in (before, after))), "answers")
    assert found.high - found.low > 3 * (alone.high - alone.low)
    levels = row(summary(after, n_resamples=4000), "answers")
    assert levels.high - levels.low == pytest.approx(found.high - found.low, rel=0.1)


def test_few_problems_or_figures_prove_little():
    same = outcomes(*[{}] * 12)
    table = compare(same, same)
    assert (table.difference == 0).all() and (table.high > 0.05).all()
    assert set(table.verdict) == {"undecided", ""}
    assert table.verdict[table.measure == "lucky answers"].tolist() == [""]  # more is not better
    one_figure = outcomes(*[{"figure": "f"}] * 30)
    found = row(compare(one_figure, one_figure.assign(right=False)), "answers")
    assert np.isnan(found.low) and found.verdict == "undecided"
    silent = outcomes(*[{"seen": 0, "said": 0, "redraw": "unsaid"}] * 5)
    table = compare(silent, same[:5])
    assert np.isnan(row(table, "precision").difference)
    assert row(table, "precision").verdict == "undecided"
    assert "redrawing, where stated" not in set(table.measure)
    assert row(table, "recall")[["difference", "high"]].tolist() == [1, 1]  # no share is above 1
    assert "nan" not in finding(table, "one", "other", "image-only")


def test_other_problems_or_seeds_are_refused(pair):
    before, after = pair
    with pytest.raises(InputError, match="only the 'before' outcomes have id p7"):
        compare(before, after[after.id != "p7"])
    with pytest.raises(InputError, match="probe_fact of p3 .* same seed"):
        compare(before, after.assign(probe_fact=after.probe_fact.where(after.id != "p3", "h")))


# --- what may be said ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.03, "gain"),
        (-0.03, -0.001, "loss"),
        (-0.01, 0.04, "no gain and no worse"),
        (-0.03, 0.04, "no gain"),
        (-0.01, 0.06, "no worse"),
        (-0.03, 0.06, "undecided"),
        (-0.02, 0.05, "undecided"),  # the limits themselves do not do
        (np.nan, np.nan, "undecided"),
    ],
)
def test_verdicts(low, high, word):
    assert verdict(low, high) == word


@pytest.mark.parametrize(
    ("recall", "precision", "probe", "redrawing", "words"),
    [
        ("gain", "gain", "gain", "gain", "sees better"),
        ("gain", "gain", "gain", "undecided", "sees better, by the probe alone"),
        ("no gain", "no gain", "no gain", "gain", "sees better, by the redrawing alone"),
        ("gain", "undecided", "no gain", "undecided", "reports better, by the recall alone"),
        ("gain", "loss", "no gain", "undecided", "reports better by one measure and worse by the other"),
        ("undecided", "gain", "loss", "no gain", "sees worse"),
        ("gain", "gain", "loss", "gain", "sees better by one measure and worse by the other"),
        ("loss", "undecided", "undecided", "undecided", "reports worse"),
        ("no gain", "no gain and no worse", "no gain", "no gain", "neither sees nor reports better"),
        ("no gain", "no gain", "undecided", "no gain", "undecided"),
    ],
)  # fmt: skip
def test_what_the_measures_come_to(recall, precision, probe, redrawing, words):
    names = ("recall", "precision", "probe", "redrawing, where stated")
    verdicts = dict(zip(names, (recall, precision, probe, redrawing), strict=True))
    assert perception_verdict(verdicts) == words


def test_stating_more_facts_is_not_seeing_more():
    """A policy that left half of its facts out and now states them: nothing it reads has changed."""
    bold = [{"redraw": "stays" if k % 4 == 0 else "follows"} for k in range(800)]
    shy = [one | {"seen": 1, "said": 1} for one in bold]
    shy[400:] = [one | {"redraw": "unsaid"} for one in shy[400:]]
    table = compare(outcomes(*shy), outcomes(*bold))
    assert row(table, "redrawing").verdict == "gain" and row(table, "recall").verdict == "gain"
    text = finding(table, "shy", "bold", "image-only")
    assert text.endswith("Sight: reports better, by the recall alone.")
    recall = row(table, "recall")
    assert f"recall {100 * recall.difference:+.1f} ({100 * recall.low:+.1f} to" in text


# --- a policy on problems --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return list(make_world(16, miniature_world(seed=100), "test"))


def test_the_recorded_base_sees_something_and_nothing_on_a_blank_page(made):
    found = measure(*load_policy("miniature"), made)
    assert found.id.tolist() == [one.problem.id for one in made]
    assert compare(found, found).difference.dropna().eq(0).all()
    shares = summary(found).set_index(["kind", "measure"]).share
    seen = shares["image-only"]
    assert seen["recall"] > 0.6 and seen["probe"] > 0.5 and seen["redrawing"] > 0.5
    assert seen["blank page, recall"] < 0.4 and seen["blank page, answers"] < 0.4
    assert shares["text-rich"]["blank page, answers"] > 0.6  # the question tells


def blind(model, processor, problems, prompts=None, **_):
    """Responses by heart: the right facts and answer of each problem, whatever the image shows."""
    return [p.cot if prompts is None else "0" for p in problems]


@pytest.fixture
def by_heart(monkeypatch):
    monkeypatch.setattr("perception_r1.training.generation.generate", blind)
    return lambda made, seed=0: measure(None, None, made, seed=seed)


def test_what_is_probed_and_redrawn_depends_on_problem_and_seed_alone(by_heart, made):
    found, third = by_heart(made), by_heart(made, seed=1)
    asked = ["id", "probe_fact", "redrawn_fact"]
    other = by_heart(made[::-1])[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[asked], other[asked])
    assert (third.probe_fact != found.probe_fact).any()
    assert (third.redrawn_fact != found.redrawn_fact).any()
    for one, row in zip(made, found.itertuples(), strict=True):
        assert row.probe_fact in one.problem.gold_facts
        free = set(one.problem.gold_facts) - set(one.problem.text_facts)
        if free:
            new = facts.parse(row.redrawn_fact)
            assert sum(facts.contradicts(new, facts.parse(old)) for old in free) == 1
        else:
            assert pd.isna(row.redrawn_fact) and pd.isna(row.redraw)


def test_who_does_not_look_stays(by_heart):
    table = by_heart(list(make_world(16, miniature_world(seed=101, slop=0), "dev")))
    assert table.right.all() and table.all_right.all()  # as good as perfect, by what is stated
    assert set(table.redraw.dropna()) == {"stays"}
    assert (table.blank_seen == table.seen).all() and table.blank_right.all()
    assert (table.probe_right == 0).all()


def test_who_looks_follows(made, monkeypatch):
    originals = {one.problem.id: one.problem.images[0] for one in made}

    def in_words(one, fact, value):
        old = facts.to_sentence(facts.parse(fact))
        return f"redrawn|{old}|{old.rsplit(' ', 1)[0]} {value}.".encode()

    def sharp(model, processor, problems, prompts=None, **_):
        """By the image: a redrawn one says in words what it shows, a blank one is not known."""
        replies = []
        for k, p in enumerate(problems):
            gold = stated_text(p)
            if p.images[0].startswith(b"redrawn"):
                gold = gold.replace(*p.images[0].decode().split("|")[1:])
            elif p.images[0] != originals[p.id]:
                gold = ""
            if prompts:
                side = prompts[k][0]["content"][-3:-1]
                gold = next(line for line in gold.splitlines() if f" {side} " in line).split()[-1]
            replies.append(gold)
        return replies

    monkeypatch.setattr("perception_r1.training.generation.generate", sharp)
    monkeypatch.setattr(metrics, "redraw", in_words)
    table = measure(None, None, made)
    assert set(table.redraw.dropna()) == {"follows"}
    assert (table.probe_right == 1).all() and (table.blank_seen == 0).all()


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
