r"""The rewards against independent truth: the paper's regular expression, hand-made tables, TRL, canned judges.

Grading by itself is in `test_answers`; here it is the reward: whole responses, batches, threads, hostile text.
"""

import asyncio
import itertools
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perception_r1.common.errors import InputError
from perception_r1.problems import extract_answer
from perception_r1.problems.schema import tag_annotations
from perception_r1.reward import rewards
from perception_r1.reward.judges import ExactJudge, Judge, LazyJudge, NoisyJudge, Verdict
from perception_r1.reward.rewards import (
    PerceptionReward,
    accuracy_reward,
    describe,
    format_reward,
    format_reward_lenient,
    repetition_penalty,
    token_repetition_penalty,
)

SURD = r"2 \sqrt { 221 }"  # a gold answer as hiyouga/geometry3k writes it
PATTERN = re.compile(  # the paper's, PAPER.md 3.2, from boxed_math_verify.py:22
    r"^<think>\n.*?\n</think>\n<answer>\n.*?\\boxed{.+?}.*?\n</answer>$", re.DOTALL
)


def response(answer: str, thoughts: str = "Let me look at the figure.") -> str:
    """A response in the paper's format."""
    return f"<think>\n{thoughts}\n</think>\n<answer>\n{answer}\n</answer>"


def boxed(answer: str) -> str:
    return response(f"\\boxed{{{answer}}}")


def formats(text: str) -> tuple[float, float]:
    """By the strict form and by the lenient one."""
    return format_reward([text])[0], format_reward_lenient([text])[0]


def perception(judge, completions, tagged, mode="recall"):
    """The rewards, and the object that gave them."""
    reward = PerceptionReward(judge, mode)
    return asyncio.run(reward(completions, tagged)), reward


# --- format ------------------------------------------------------------------------------------

PIECES = ["<think>\n", "\n</think>\n<answer>\n", "\\boxed{", "}", "\n</answer>", "x", "\n"]
SMALL = ["<think>", "</think>", "<answer>", "</answer>", "{", "\\boxed{}", "\r\n", " ", "\u2028"]


def test_strict_is_the_papers_pattern_on_every_short_text():
    """All texts of up to five pieces, and all of seven that begin with <think> and end with </answer>."""
    texts = ["".join(t) for n in range(6) for t in itertools.product(PIECES, repeat=n)]
    texts += ["".join([PIECES[0], *t, PIECES[4]]) for t in itertools.product(PIECES, repeat=5)]
    expected = [float(bool(PATTERN.fullmatch(text))) for text in texts]
    assert sum(expected) > 50
    assert format_reward(texts) == expected


@st.composite
def near_formats(draw):
    """The format's pieces in order, with noise between them and now and then one left out or repeated."""
    noise = st.lists(st.sampled_from(PIECES + SMALL), max_size=2).map("".join)
    parts = [draw(noise) if draw(st.booleans()) else ""]
    for piece in [*PIECES[:3], "x", "}", PIECES[4]]:
        parts.append(piece * draw(st.sampled_from([1, 1, 1, 1, 1, 0, 2])))
        parts.append(draw(noise) if draw(st.booleans()) else "")
    return "".join(parts)


ONE_BLOCK = r"((?:(?!</?(?:think|answer)>).)*)"
LENIENT = re.compile(
    rf"(?:\s*<think>)?{ONE_BLOCK}</think>\s*<answer>{ONE_BLOCK}</answer>\s*", re.DOTALL
)


@settings(max_examples=400, deadline=None)
@example(boxed("5").replace("\n", "\r\n"))
@example(response("\\boxed{} = \\frac{1}{2}"))  # nothing in the box, a brace later
@example(boxed("5").replace("<answer>", "junk <answer>"))
@example(boxed("5").removeprefix("<think>\n"))  # opened by the chat template
@given(
    st.one_of(near_formats(), st.lists(st.sampled_from(PIECES + SMALL), max_size=12).map("".join))
)
def test_both_formats_on_generated_texts(text):
    blocks = LENIENT.fullmatch(text)
    well_formed = blocks and blocks[1].strip() and extract_answer(blocks[2]) is not None
    assert formats(text) == (bool(PATTERN.fullmatch(text)), bool(well_formed))


def test_formats_take_linear_time():
    """100 kB on which the pattern itself takes cubic time; the bound is generous."""
    for unit in [*PIECES, *SMALL, "<think>\n\n</think>\n<answer>\n", "\\boxed{x}"]:
        middle = unit * (100_000 // len(unit))
        start = time.perf_counter()
        for text in (middle, PIECES[0] + middle, PIECES[0] + middle + PIECES[4], response(middle)):
            assert set(formats(text)) <= {0, 1}
        assert time.perf_counter() - start < 3, unit


# --- completions of all shapes -----------------------------------------------------------------

INFO = tag_annotations(["The length of segment AB is 9."])
TEXT = response("\\boxed{9}", "The length of segment AB is 9. " + "la " * 30)


def all_rewards(completions, gold="9", tagged=INFO):
    n = len(completions)
    found, _ = perception(ExactJudge(), completions, [tagged] * n)
    return {
        "format": format_reward(completions),
        "lenient": format_reward_lenient(completions),
        "accuracy": accuracy_reward(completions, [gold] * n),
        "repetition": repetition_penalty(completions),
        "tokens": token_repetition_penalty(completions),
        "perception": found,
    }


MESSAGE = {"role": "assistant", "content": TEXT}
SHAPES = [  # the same text as TRL, chat templates and other trainers pass it
    TEXT, [MESSAGE], [{"role": "assistant", "content": "no"}, {"role": "tool"}, MESSAGE], (MESSAGE,), MESSAGE,
]  # fmt: skip


def test_equal_rewards_for_all_shapes():
    for name, values in all_rewards(SHAPES).items():
        assert len(values) == len(SHAPES) and len(set(values)) == 1, (name, values)
        assert values[0] != 0  # a shape that is read as empty would be


NOTHING = [None, "", [], (), {}, [{}], [None], [{"content": None}], [{"content": [None]}], 7, [[]]]


def test_completions_that_hold_no_text_are_empty_responses():
    for name, values in all_rewards(NOTHING).items():
        assert values == [0.0] * len(NOTHING), name
    for values in all_rewards([]).values():
        assert values == []


# --- accuracy of whole responses ---------------------------------------------------------------

# (response, gold, reward, why)
ACCURACY = [
    (boxed(r"2\sqrt{221}"), SURD, 1, "a bare surd as gold"),
    (response(r"\boxed{24} or \boxed{25}"), "24", 0, "two boxes: the last"),
    (r"So the answer is \boxed{24}.", "24", 1, "no block at all"),
    ("", "24", 0, "nothing"),
    (boxed("24"), "N/A", None, "an unusable gold answer"),
    (response("24"), "", None, "that no response brought about"),
    (boxed("24"), None, None, "no gold answer"),
    (boxed("24"), ["24"], None, "a gold answer that is no text"),
]


def test_accuracy_by_hand():
    found = accuracy_reward([row[0] for row in ACCURACY], [row[1] for row in ACCURACY])
    for (text, gold, expected, why), value in zip(ACCURACY, found, strict=True):
        assert value == expected, (why, text, gold)
    with pytest.raises(ValueError):
        accuracy_reward(["a", "b"], ["1"])


# Answers that might equal everything: none may be right for any of these. The last five have no value.
WILD = [
    r"\frac{0}{0}", r"\infty-\infty", "x", r"\emptyset", r"\mathbb{R}", "x=x", "5=5", r"1 \le 2", r"(-\infty,\infty)",
    r"\{1,2,3,24\}", r"50 \pm 50", "any", "NaN", r"x \in \mathbb{R}", r"\cdot", ".*", r"1,2,\ldots,100", "24 60",
    r"24 \ne 25", "A,B,C,D,E", "(A)(B)(C)(D)(E)", r"x \neq 0", "\\boxed{}", r"24 \text{ or } 60", r"24 < 60",
    r"\sqrt{-1}^{0/0}", r"\frac{3}{\log_{1-1} 2}", r"\log_{2-2} 5 \cdot \log_{2-2} 5",
    r"\log_{24-24} 1234-24/\log_{24-24} 1234-24", r"-\infty^{1-1}", r"\max(\pi,\infty)",
]  # fmt: skip


def test_no_answer_is_right_for_everything():
    """One string that is right for whatever is asked would be the end of the training."""
    pairs = [(answer, gold) for answer in WILD for gold in ("24", SURD)]
    found = accuracy_reward([boxed(a) for a, _ in pairs], [g for _, g in pairs])
    assert [pair for pair, value in zip(pairs, found, strict=True) if value] == []


def test_a_broken_grader_stops_the_training(monkeypatch):
    """A known right answer that is graded wrong is nobody's reward of 0; nor is a known wrong one graded right."""
    for verdict in (False, True):
        rewards._check_grader.cache_clear()
        monkeypatch.setattr(rewards, "grade", lambda answer, gold, verdict=verdict: verdict)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="grader"):
                accuracy_reward([boxed("5")], ["5"])
    rewards._check_grader.cache_clear()


# --- repetition ----------------------------------------------------------------------------------


def words(n: int, seed: str = "w") -> str:
    return " ".join(f"{seed}{k}" for k in range(n))


def independent(tokens) -> float:
    """The definition, counted one window after the other."""
    windows = [list(tokens[k : k + 20]) for k in range(len(tokens) - 19)]
    distinct = [w for k, w in enumerate(windows) if w not in windows[:k]]
    return -2.0 * (1.0 - len(distinct) / len(windows)) if windows else 0.0


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "B", "b", "ab", "10,"]), max_size=60), st.integers(1, 4))
def test_penalties_against_another_implementation(tokens, times):
    tokens = tokens * times
    [penalty] = repetition_penalty(["  ".join(tokens)])
    assert penalty == pytest.approx(independent([t.lower() for t in tokens]), abs=1e-12)
    assert -2 <= penalty <= 0
    ids = [sum(map(ord, t)) for t in tokens]
    [penalty] = token_repetition_penalty(["ignored"], completion_ids=[ids])
    assert penalty == pytest.approx(independent(ids), abs=1e-12)
    assert -2 <= penalty <= 0


def test_tokens_punish_what_words_miss_and_are_the_policys_where_given():
    loops = ["AB=10," * 500, "边长是十。" * 500]
    assert repetition_penalty(loops) == [0, 0]
    assert all(-2 <= value < -1.5 for value in token_repetition_penalty(loops))
    texts, ids = ["la " * 100, "la " * 100, ""], [[7] * 21, list(range(100)), []]
    assert token_repetition_penalty(texts, completion_ids=ids) == [-1, 0, 0]
    assert repetition_penalty(texts, completion_ids=ids)[1] < -1.9  # words look at the text


# --- perception ----------------------------------------------------------------------------------

FACTS = ["The length of segment AB is 9.", "The length of segment BC is 12.", "Angle ABC is 90."]
TAGGED = tag_annotations(FACTS)
S, A, C = "stated", "absent", "contradicted"


class Canned(Judge):
    """A judge with canned verdicts, or an exception; remembers what it was asked."""

    name, graded = "canned", True

    def __init__(self, *verdicts):
        self.verdicts, self.asked = verdicts, []

    async def judge(self, responses, annotations):
        self.asked.append((list(responses), [list(a) for a in annotations]))
        if isinstance(self.verdicts[0], BaseException):
            raise self.verdicts[0]
        return list(self.verdicts)


@settings(deadline=None)
@given(st.lists(st.sampled_from([S, A, C]), min_size=1, max_size=12))
def test_perception_against_the_definition(marks):
    tagged = tag_annotations(f"Fact {k}." for k in range(len(marks)))
    judge, m = Canned(Verdict(marks)), len(marks)
    right, wrong = marks.count(S), marks.count(C)
    [recall], _ = perception(judge, ["x"], [tagged])
    [aware], _ = perception(judge, ["x"], [tagged], "contradiction_aware")
    assert recall == pytest.approx(right / m)
    assert aware == pytest.approx(max(0, right - wrong) / m)
    assert 0 <= aware <= recall <= 1


def test_sight_can_be_paid_on_top_of_a_right_answer_alone():
    reward = PerceptionReward(
        Canned(Verdict([S, A]), Verdict([S, S]), Verdict(None, "lost")), "if_right"
    )
    texts, tagged = [boxed("7"), boxed("8"), boxed("7")], [tag_annotations(["One.", "Two."])] * 3
    assert asyncio.run(reward(texts, tagged, answer=["7"] * 3)) == [0.5, 0.0, None]


def test_a_soft_reward_is_the_mean_of_the_scores_and_needs_some():
    judge = Canned(
        Verdict([S, A], scores=[0.9, 0.2]),
        Verdict(None, "of the text", by_response=True),
        Verdict(None, "HTTP 500"),
    )
    tagged = tag_annotations(["One.", "Two."])
    for lost in (None, 0.0):
        soft = PerceptionReward(judge, lost=lost, soft=True)
        assert asyncio.run(soft(["x"] * 3, [tagged] * 3)) == [pytest.approx(0.55), 0.0, lost]
    for scores in (None, [0.9]):
        soft = PerceptionReward(Canned(Verdict([S, A], scores=scores)), soft=True)
        assert asyncio.run(soft(["x"], [tagged])) == [None]
    with pytest.raises(InputError, match="'exact' gives no scores"):
        PerceptionReward(ExactJudge(), soft=True)


BROKEN = {
    "raises": Canned(ValueError("boom")),
    "runs out of time": Canned(TimeoutError()),
    "too few verdicts": Canned(Verdict([S] * 3)),
    "too many verdicts": Canned(*[Verdict([S] * 3)] * 3),
    "too few marks": Canned(Verdict([S]), Verdict([S])),
    "too many marks": Canned(Verdict([S] * 4), Verdict([S] * 4)),
    "failed": Canned(Verdict(None, "HTTP 500"), Verdict(None, "HTTP 500")),
    **{
        f"marks {m}": Canned(Verdict(m), Verdict([S] * 3))
        for m in (["yes"] * 3, [1] * 3, [S, S, None])
    },
    **{str(none): Canned(none, none) for none in (None, "stated", {"marks": [S] * 3})},
}


def test_a_judge_that_breaks_or_gives_no_verdicts_gives_none():
    for name, judge in BROKEN.items():
        found, reward = perception(judge, ["a", "b"], [TAGGED] * 2)
        assert found == [None, None], name
        assert all(v.marks is None and v.failure and not v.by_response for v in reward.verdicts)
    with pytest.raises(ValueError):
        perception(Canned(Verdict([S] * 3)), ["a", "b"], [TAGGED])


# visual_key_info that cannot be used: None, and it counts as a failure
MALFORMED = [
    "AB = 9", "<info1>AB = 9", "<info2>AB = 9</info2>", "<info1></info1>", "<info1>a</info1> b", " ",
    "<info1>a</info1><info3>b</info3>", float("nan"), 7, ["AB = 9"],
]  # fmt: skip


def test_each_response_has_its_own_reason():
    """One batch with everything: right, no annotations, malformed, judge failed, the response's own failure."""
    judge = Canned(
        Verdict([S, A, A]),
        Verdict(None, "HTTP 503"),
        Verdict(None, "the response is too long to judge", by_response=True),
        Verdict([S, S, S]),
    )
    columns = [TAGGED, None, "", *MALFORMED, TAGGED, TAGGED, TAGGED]
    texts = [f"text {k}" for k in range(len(columns))]
    found, reward = perception(judge, texts, columns)
    bad = len(MALFORMED)
    assert found == [pytest.approx(1 / 3), None, None, *[None] * bad, None, 0.0, 1.0]
    assert judge.asked == [([texts[0], *texts[-3:]], [FACTS] * 4)]  # the others are not asked about
    assert reward.verdicts[:3] == [judge.verdicts[0], None, None]
    assert all("unusable annotations" in v.failure for v in reward.verdicts[3:-3])
    assert tuple(reward.verdicts[-3:]) == judge.verdicts[1:]
    lines = list(map(describe, reward.verdicts))
    assert lines[:2] == ["stated absent absent", "no annotations"] and len(lines) == len(texts)
    assert "HTTP 503" in lines[-3] and "too long" in lines[-2] and lines[-1] == "stated " * 2 + S


def test_each_call_starts_anew():
    reward = PerceptionReward(judge := Canned(Verdict(None, "HTTP 500")))
    assert asyncio.run(reward(["a"], [TAGGED])) == [None] and reward.verdicts[0].failure
    assert asyncio.run(reward(["a", "b"], [None, ""])) == reward.verdicts == [None, None]
    assert len(judge.asked) == 1  # where nothing is annotated, none


def test_a_judge_of_presence_cannot_punish_contradictions():
    presence = ExactJudge(contradictions=False)
    for judge in (presence, LazyJudge(), NoisyJudge(presence, 0.2)):
        with pytest.raises(InputError, match="presence"):
            PerceptionReward(judge, "contradiction_aware")
        PerceptionReward(judge)
    PerceptionReward(ExactJudge(), "contradiction_aware")
    with pytest.raises(InputError, match="mode"):
        PerceptionReward(ExactJudge(), "Recall")


# --- what a response brings about never pays ------------------------------------------------------

GOLD, WRONG = SURD, boxed("25")  # well formed, wrong, states nothing


def totals(completions, judge, form=format_reward, penalty=repetition_penalty):
    n = len(completions)
    parts = {
        "format": form(completions), "accuracy": accuracy_reward(completions, [GOLD] * n),
        "perception": perception(judge, completions, [TAGGED] * n)[0], "repetition": penalty(completions),
    }  # fmt: skip
    assert not any(None in values for values in parts.values()), parts
    return [sum(rewards.WEIGHTS[p] * values[k] for p, values in parts.items()) for k in range(n)]


FAULTS = {
    "empty": "",
    "no text": None,
    "no block": "I cannot tell.",
    "cut off": "<think>\nLet me look at",
    "unreadable": boxed(r"\frac{1}{"),
    "the right answer in a box that is not closed": response(r"\boxed{2\sqrt{221}"),
    "too long to judge": response(r"\boxed{25}", "".join(f"{k} " for k in range(20_000))),
    "too long to read": boxed("x" * 5000),
    "a tower of powers": boxed("9^{9^{9^{9}}}"),
}


def test_no_fault_of_a_response_beats_an_ordinary_wrong_one():
    """With the exact judge, and with one that blames each of these responses for its failure."""
    texts = [WRONG, *FAULTS.values()]
    lengths = [tag_annotations(FACTS[:2])] * len(texts)
    seen, _ = perception(ExactJudge(), texts, lengths, "contradiction_aware")
    assert seen == [0.0] * len(texts)
    blamed = [Verdict(None, "its own fault", by_response=True)] * len(FAULTS)
    judge = Canned(Verdict([A] * 3), *blamed)
    for form, penalty in (
        (format_reward, repetition_penalty), (format_reward_lenient, token_repetition_penalty),
    ):  # fmt: skip
        ordinary, *faulty = totals(texts, judge, form, penalty)
        assert ordinary == pytest.approx(0.1)
        better = {name: t for name, t in zip(FAULTS, faulty, strict=True) if t > ordinary + 1e-12}
        assert better == {}
