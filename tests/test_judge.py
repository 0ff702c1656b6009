"""Judges that need no server, against the labels that the world's own facts give."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perception_r1.common.errors import InputError
from perception_r1.facts.visual_facts import Call
from perception_r1.reward.judges import (
    MAX_CHARACTERS,
    ExactJudge,
    LazyJudge,
    LossyJudge,
    NoisyJudge,
    cannot_judge,
)
from perception_r1.reward.llm_judge import LLMJudge
from tests.judging import AB, ANGLE, PROBLEMS, SAMPLES, gold, judged, marks, stated, verdicts

ALL_JUDGES = [
    ExactJudge(),
    ExactJudge(contradictions=False),
    LazyJudge(),
    NoisyJudge(ExactJudge(), 1.0),
    LLMJudge("http://127.0.0.1:9/v1", "stub"),  # what needs no judge must not reach it
]


@pytest.mark.parametrize("judge", ALL_JUDGES, ids=lambda judge: judge.name)
def test_what_no_judge_can_judge_and_who_is_to_blame(judge):
    cases = [
        (" \n\t", [AB], "the response is empty", True),
        ("x" * (MAX_CHARACTERS + 1), [AB], "more than 40,000 characters", True),
        (AB, [AB, " "], "or an empty one", False),
        (None, [], "no annotation", False),
    ]
    found = verdicts(judge, [case[0] for case in cases], [case[1] for case in cases])
    for verdict, (_, _, words, by_response) in zip(found, cases, strict=True):
        assert verdict.marks is None and verdict.by_response is by_response
        assert words in verdict.failure and "\n" not in verdict.failure
    with pytest.raises(ValueError):
        verdicts(judge, [AB, AB], [[AB]])
    with pytest.raises(InputError, match="annotations of response 1 are one text"):
        verdicts(judge, [AB, AB], [[AB], AB])


def test_one_bad_row_leaves_the_others_and_the_limit_is_still_judged():
    assert cannot_judge(["x" * MAX_CHARACTERS], [[AB]]) == {}
    found = verdicts(ExactJudge(), [None, AB, AB], [[AB], [AB], ["blue\n" * 1000]])
    assert [v.marks for v in found] == [None, ["stated"], None]
    assert not found[2].by_response and len(found[2].failure) < 200 and "\n" not in found[2].failure


PARALLEL = "Line AB is parallel to line CD."


@pytest.mark.parametrize(
    ("judge", "response", "annotation", "mark"),
    [
        (ExactJudge(), "BA = 5", AB, "stated"),
        (ExactJudge(), "The measure of angle BAC is 40.", ANGLE, "absent"),
        (ExactJudge(), "AB = x+22", "The length of segment AB is 21+x.", "contradicted"),
        (ExactJudge(), "AB = 6", "Equals(LengthOf(Line(B, A)), 5)", "contradicted"),
        (ExactJudge(), "AB is 5 or 6.", AB, "absent"),
        (ExactJudge(), f"<answer>\n{AB}\n</answer>", AB, "absent"),
        (ExactJudge(), f"<think>\n{AB}\n</think>\n<answer>\n\\boxed{{6}}\n</answer>", AB, "stated"),
        # numbers first, then names
        (LazyJudge(), "5 6 7", AB, "stated"),
        (LazyJudge(), "It is 15.", AB, "absent"),
        (LazyJudge(), "It is 5.5.", AB, "absent"),
        (LazyJudge(), "It is 5.", "AB is 5 and CD is 7.", "absent"),
        (LazyJudge(), "DC and BA are drawn.", PARALLEL, "stated"),
        (LazyJudge(), "BA is drawn.", PARALLEL, "absent"),
    ],
)
def test_what_local_judges_read(judge, response, annotation, mark):
    assert marks(judge, response, annotation) == [mark]


@settings(max_examples=40, deadline=None)
@given(problem=st.sampled_from(PROBLEMS), data=st.data())
def test_exactly_what_is_stated_is_marked_stated(problem, data):
    sentences = stated(gold(problem))
    chosen = data.draw(st.lists(st.sampled_from(sentences), unique=True))
    glue = data.draw(st.sampled_from(["\n", " ", "\r\n", " So we see more. "]))
    response = glue.join(["Let me look at the figure.", *chosen])
    expected = ["stated" if text in chosen else "absent" for text in sentences]
    for judge in (ExactJudge(), ExactJudge(contradictions=False)):
        assert marks(judge, response, *sentences) == expected
        assert marks(judge, response, *problem.gold_facts) == expected


@settings(max_examples=40, deadline=None)
@given(data=st.data(), by=st.integers(1, 99), right_too=st.booleans())
def test_another_number_is_a_contradiction_unless_presence_alone_counts(data, by, right_too):
    trees = gold(data.draw(st.sampled_from(PROBLEMS)))
    valued = [k for k, tree in enumerate(trees) if str(tree.args[-1]).isdigit()]
    assume(valued)
    place = data.draw(st.sampled_from(valued))
    tree = trees[place]
    wrong = Call(tree.name, (*tree.args[:-1], str(int(tree.args[-1]) + by)))
    response = stated([*trees[:place], wrong, *trees[place + 1 :], *([tree] if right_too else [])])
    expected = ["stated"] * len(trees)
    expected[place] = "contradicted"
    assert marks(ExactJudge(), "\n".join(response), *stated(trees)) == expected
    presence = marks(ExactJudge(contradictions=False), "\n".join(response), *stated(trees))
    assert presence[place] == ("stated" if right_too else "absent")


@settings(max_examples=80, deadline=None)
@given(
    response=st.text(st.characters(), max_size=60) | st.sampled_from(["AB = 5 " * 9, r"\frac{1}{0}", "9^9^9"]),
    annotation=st.text(st.characters(), max_size=60),
)  # fmt: skip
def test_local_judges_never_raise(response, annotation):
    for judge in (ExactJudge(), ExactJudge(False), LazyJudge(), NoisyJudge(LazyJudge(), 0.5)):
        (verdict,) = verdicts(judge, [response], [[AB, annotation, AB]])
        if verdict.marks is not None:
            assert len(verdict.marks) == 3 and verdict.marks[0] == verdict.marks[2]


FLIPPED = {"stated": "absent", "absent": "stated", "contradicted": "stated"}
MANY = [(f"{text}\nTake {k}.", facts) for k in range(10) for text, facts in SAMPLES]


def test_noise_of_none_and_of_all():
    samples = [*SAMPLES, ("AB = 6", [AB])]
    right = judged(ExactJudge(), samples)
    assert judged(NoisyJudge(ExactJudge(), 0), samples) == right
    assert judged(NoisyJudge(ExactJudge(), 1), samples) == [[FLIPPED[m] for m in v] for v in right]
    assert {m for v in right for m in v} == set(FLIPPED)


def test_noise_flips_its_share_by_seed_response_and_annotation_alone():
    judge = NoisyJudge(ExactJudge(), 0.2, seed=4)
    noisy, right = judged(judge, MANY), judged(ExactJudge(), MANY)
    flips = [a != b for v, w in zip(right, noisy, strict=True) for a, b in zip(v, w, strict=True)]
    n = len(flips)
    assert n > 1000 and abs(sum(flips) - 0.2 * n) < 5 * (0.16 * n) ** 0.5
    assert judged(judge, MANY[::-1]) == noisy[::-1]
    backwards = [(text, facts[::-1]) for text, facts in MANY]
    assert judged(judge, backwards) == [v[::-1] for v in noisy]
    assert judged(judge.again(), MANY) == judged(NoisyJudge(ExactJudge(), 0.2, seed=5), MANY)
    assert judged(judge.again(), MANY) != noisy and judge.again().card()["seed"] == 5
    assert judge.card()["flip"] == 0.2 and judge.card()["of"] == ExactJudge().card()


def test_flips_of_a_call_are_thrown_for_each_place():
    judge = NoisyJudge(ExactJudge(), 0.3, seed=4, per_call=True)
    copies = [SAMPLES[0]] * 200
    (right,) = judged(ExactJudge(), copies[:1])
    noisy = judged(judge, copies)
    assert 30 < sum(v[0] != right[0] for v in noisy) < 90
    assert judged(judge, copies) == noisy and judged(judge, copies[:199]) != noisy[:199]
    assert judge.again().per_call


def test_a_lossy_judge_loses_its_share_and_changes_nothing_else():
    right = judged(ExactJudge(), MANY)
    judge = LossyJudge(ExactJudge(), 0.3, seed=4)
    found = judged(judge, MANY)
    n = len(MANY)
    assert abs(found.count(None) - 0.3 * n) < 5 * (0.21 * n) ** 0.5
    assert all(v in (None, own) for v, own in zip(found, right, strict=True))
    assert judged(judge, MANY) == found  # so that a run can be resumed
    assert 30 < judged(judge, [SAMPLES[0]] * 200).count(None) < 90  # no shared fate
    assert judged(LossyJudge(ExactJudge(), 0.3, seed=5), MANY) != found
    (verdict,) = verdicts(LossyJudge(ExactJudge(), 1), [AB], [[AB]])
    assert verdict.failure and not verdict.by_response  # the response must not pay for it
