r"""The rewards against independent truth: the paper's regular expression, hand-made tables, TRL, canned judges.

Grading by itself is in `test_answers`; here it is the reward: whole responses, batches, threads, hostile text.
"""

import asyncio
import inspect
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.problems import answers
from perception_r1.problems.answer_values import read_answer
from perception_r1.problems.answers import extract_answer, grade
from perception_r1.problems.schema import DatasetError, read_annotations, tag_annotations
from perception_r1.reward import rewards
from perception_r1.reward.judges import ExactJudge, LazyJudge, NoisyJudge, Verdict
from perception_r1.reward.llm_judge import neutralise
from perception_r1.reward.rewards import (
    PerceptionReward,
    accuracy_reward,
    format_reward,
    format_reward_lenient,
    in_thread,
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


def strict(text: str) -> float:
    return format_reward([text])[0]


def lenient(text: str) -> float:
    return format_reward_lenient([text])[0]


def accuracy(text: object, gold: object) -> float | None:
    return accuracy_reward([text], [gold])[0]


def perception(judge, completions, tagged, mode="recall", **more):
    """The rewards, and the object that gave them."""
    reward = PerceptionReward(judge, mode)
    return asyncio.run(reward(completions, tagged, **more)), reward


# --- format ------------------------------------------------------------------------------------

# (text, strict, lenient, why)
FORMATS = [
    (boxed("5"), 1, 1, "the format"),
    (response("so\n\\boxed{\\frac{26}{3}} cm"), 1, 1, "text around the box, braces in it"),
    (response("\\boxed{5} or \\boxed{6}"), 1, 1, "two boxes"),
    (boxed("5") + "\n", 0, 1, "B15: a final newline"),
    ("\n" + boxed("5"), 0, 1, "and one before"),
    (boxed("5").replace("\n", "\r\n"), 0, 1, "B15: CRLF"),
    (boxed("5").replace("\n", ""), 0, 1, "B15: tags on one line"),
    (boxed("5").replace("</think>\n", "</think>\n\n"), 0, 1, "an empty line between the blocks"),
    (boxed("5").replace("</think>\n", "</think> \n"), 0, 1, "a space at a line's end"),
    (response("\\boxed {5}"), 0, 1, "a space in the command"),
    (response("\\fbox{5}"), 0, 1, "another box"),
    ("<think>\nGE = 10\n</think>\n<answer> 24 </answer>", 0, 0, "B15: the paper's Figure 1"),
    (response("24"), 0, 0, "no box"),
    (response("24", thoughts="so \\boxed{24}"), 0, 0, "a box in the thoughts only"),
    (response("\\boxed{}"), 0, 0, "nothing in the box"),
    (response("\\boxed{} = \\frac{1}{2}"), 1, 0, "nothing in the box, a brace later"),
    (response("\\boxed{\n}"), 1, 0, "B15: a newline in the box"),
    (response("\\boxed{ }"), 1, 0, "a space in the box"),
    (response("\\boxed{5"), 0, 0, "a box that is not closed"),
    (response("\\boxed{5\n}"), 1, 1, "closed in the next line"),
    (response("\\boxed{\\frac{1}{2}"), 1, 0, "closed too early: no whole box"),
    (response("boxed{5}"), 0, 0, "no command"),
    (response("\\boxed{5}", thoughts=""), 1, 0, "B15: no thoughts"),
    (response("\\boxed{5}", thoughts=" \n\t"), 1, 0, "thoughts of white space"),
    (response("\\boxed{5}", thoughts="a\n</think> junk"), 1, 0, "B15: junk after </think>"),
    (boxed("5") + "\n" + boxed("6"), 1, 0, "B15: two of each block"),
    (boxed("5") + boxed("6"), 1, 0, "the same without a newline"),
    (boxed("5") + "\n<answer>\n\\boxed{6}\n</answer>", 1, 0, "two answer blocks"),
    (response("\\boxed{5}", thoughts="I need <answer> tags"), 1, 0, "a tag in the thoughts"),
    ("Sure.\n" + boxed("5"), 0, 0, "text before"),
    (boxed("5") + "\nDone.", 0, 0, "text after"),
    (boxed("5").replace("</think>\n", "</think>\nSo:\n"), 0, 0, "text between"),
    (boxed("5").replace("<think>\n", ""), 0, 0, "no opening tag"),
    (boxed("5").replace("</think>\n", ""), 0, 0, "thoughts that do not end"),
    (boxed("5").replace("\n</answer>", ""), 0, 0, "an answer that does not end, as if cut off"),
    (boxed("5").replace("answer>", "ANSWER>"), 0, 0, "capitals"),
    (boxed("5").replace("<think>", "< think >"), 0, 0, "spaces in a tag"),
    ("<answer>\n\\boxed{5}\n</answer>\n<think>\nso\n</think>", 0, 0, "the wrong way round"),
    ("<think>\n\n</answer>", 0, 0, "blocks that overlap"),
    (
        response("\\boxed{5}", "").replace("\n\n", "\n"),
        0,
        0,
        "one newline for two in empty thoughts",
    ),
    ("<think>\na\n</think>\n<answer>\n</answer>", 0, 0, "one newline for two"),
    ("\\boxed{5}", 0, 0, "the box alone"),
    ("", 0, 0, "nothing"),
]


@pytest.mark.parametrize("text, paper, ours, why", FORMATS, ids=[row[-1] for row in FORMATS])
def test_formats_by_hand(text, paper, ours, why):
    assert bool(PATTERN.fullmatch(text)) == paper, "the table itself"
    assert (strict(text), lenient(text)) == (paper, ours)


PIECES = ["<think>\n", "\n</think>\n<answer>\n", "\\boxed{", "}", "\n</answer>", "x", "\n"]
SMALL = [
    "<think>", "</think>", "<answer>", "</answer>", "{", "\\boxed{}", "\r\n", " ", "\\", "\u2028",
]  # fmt: skip


def test_strict_is_the_papers_pattern_on_every_short_text():
    """All texts of up to six pieces, and all that begin with <think> of seven."""
    texts = ["".join(t) for n in range(7) for t in itertools.product(PIECES, repeat=n)]
    texts += [PIECES[0] + "".join(t) for t in itertools.product(PIECES, repeat=6)]
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
LENIENT = re.compile(rf"\s*<think>{ONE_BLOCK}</think>\s*<answer>{ONE_BLOCK}</answer>\s*", re.DOTALL)


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(near_formats(), st.lists(st.sampled_from(PIECES + SMALL), max_size=12).map("".join))
)
def test_both_formats_on_generated_texts(text):
    assert strict(text) == bool(PATTERN.fullmatch(text))
    found = LENIENT.fullmatch(text)
    has_box = found and extract_answer(found[2]) is not None
    assert lenient(text) == bool(found and found[1].strip() and has_box)


@pytest.mark.parametrize("unit", [*PIECES, *SMALL, "<think>\n\n</think>\n<answer>\n", "\\boxed{x}"])
def test_formats_take_linear_time(unit):
    """100 kB on which the pattern itself takes cubic time; the bound is generous."""
    middle = unit * (100_000 // len(unit))
    start = time.perf_counter()
    for text in (middle, PIECES[0] + middle, PIECES[0] + middle + PIECES[4], response(middle)):
        assert strict(text) in (0, 1)
        assert lenient(text) in (0, 1)
    assert time.perf_counter() - start < 3


# --- completions of all shapes -----------------------------------------------------------------

INFO = tag_annotations(["The length of segment AB is 9."])
TEXT = response("\\boxed{9}", "The length of segment AB is 9. " + "la " * 30)


def shapes(text):
    """The same text as TRL, chat templates and other trainers pass it."""
    message = {"role": "assistant", "content": text}
    return {
        "text": text,
        "messages": [message],
        "several messages": [{"role": "assistant", "content": "no"}, {"role": "tool"}, message],
        "a tuple": (message,),
        "one message": message,
        "parts": [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
        "two parts": [{"content": [{"type": "text", "text": text[:9]}, {"text": text[9:]}]}],
        "parts without text": [
            {"content": [{"type": "image"}, None, {"text": None}, {"text": text}]}
        ],
    }


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


def test_equal_rewards_for_all_shapes():
    made = shapes(TEXT)
    for name, values in all_rewards(list(made.values())).items():
        assert len(values) == len(made)
        assert len(set(values)) == 1, (name, dict(zip(made, values, strict=True)))
        assert values[0] != 0  # a shape that is read as empty would be


NOTHING = [
    None, "", [], (), {}, [{}], [None], [{"content": None}], [{"content": []}], [{"content": [None]}], 7, [[]],
]  # fmt: skip


def test_completions_that_hold_no_text_are_empty_responses():
    for name, values in all_rewards(NOTHING).items():
        assert values == [0.0] * len(NOTHING), name


def test_no_completions_no_rewards():
    for values in all_rewards([]).values():
        assert values == []


def test_rewards_take_all_columns_of_the_dataset():
    """Positional completions, everything else by name, as the trainer calls them."""
    more = {"prompts": ["?"], "problem": ["?"], "images": [[]], "visual_key_info": [INFO],
            "answer": ["9"], "trainer_state": None, "log_extra": None, "completion_ids": [[1, 2]]}  # fmt: skip
    plain = [format_reward, format_reward_lenient, accuracy_reward, repetition_penalty]
    for reward in (*plain, token_repetition_penalty):
        assert len(reward(completions=[TEXT], **more)) == 1
    assert asyncio.run(PerceptionReward(ExactJudge())(completions=[TEXT], **more)) == [1.0]


# --- accuracy of whole responses ---------------------------------------------------------------

# (response, gold, reward, why)
ACCURACY = [
    (boxed(r"2\sqrt{221}"), SURD, 1, "B13: a bare surd"),
    (boxed("221"), SURD, 0, "B13: what math-verify reads in it"),
    (boxed(r"\sqrt{884}"), SURD, 1, "another way to write it"),
    (boxed(r"\dfrac{26}{3}"), r"\frac { 26 } { 3 }", 1, "a fraction"),
    (boxed("8.67"), r"\frac { 26 } { 3 }", 0, "rounded"),
    (boxed(r"60\pi"), r"60 \pi", 1, "pi"),
    (boxed(r"60\pi \text{ cm}^2"), r"60 \pi", 1, "pi and a unit"),
    (boxed(r"60^\circ"), "60", 1, "degrees"),
    (response(r"The angle is $\boxed{60}$ degrees."), r"60^\circ", 1, "degrees outside the box"),
    (boxed("(B)"), "B", 1, "an option"),
    (boxed(r"\textbf{(B)}\ 24"), "B", 1, "an option with its text"),
    (boxed("C"), "B", 0, "another option"),
    (response("24"), "24", 0, "no box"),
    (
        response("unknown", r"so \boxed{24}"),
        "24",
        0,
        "B12: a box in the thoughts, none in the block",
    ),
    (response(r"\boxed{25}", r"so \boxed{24}"), "24", 0, "B12: nor against the block"),
    (response(r"\boxed{24}", r"so \boxed{25}"), "24", 1, "the block counts"),
    (boxed("25") + "\n" + boxed("24"), "24", 1, "two blocks: the last"),
    (boxed("24") + "\n" + boxed("25"), "24", 0, "two blocks: the last, again"),
    (response(r"\boxed{24} or \boxed{25}"), "24", 0, "two boxes: the last"),
    (response(r"\boxed{25} or \boxed{24}"), "24", 1, "two boxes: the last, again"),
    (r"So the answer is \boxed{24}.", "24", 1, "no block at all"),
    (boxed("24").replace("\n", "\r\n"), "24", 1, "CRLF"),
    ("", "24", 0, "nothing"),
    (boxed("24"), "N/A", None, "an unusable gold answer"),
    (response("24"), "", None, "that no response brought about"),
    (boxed("24"), None, None, "no gold answer"),
    (boxed("24"), 24, None, "a gold answer that is no text"),
]


def test_accuracy_by_hand():
    found = accuracy_reward([row[0] for row in ACCURACY], [row[1] for row in ACCURACY])
    for (text, gold, expected, why), value in zip(ACCURACY, found, strict=True):
        assert value == expected, (why, text, gold)


def test_as_many_answers_as_completions():
    for completions, gold in ((["a"], ["1", "2"]), (["a", "b"], ["1"]), ([], ["1"])):
        with pytest.raises(ValueError):
            accuracy_reward(completions, gold)


@pytest.mark.parametrize("gold", [["24"], {"value": "24"}])
def test_a_gold_answer_that_is_a_list_is_unusable_too(gold):
    assert accuracy(boxed("24"), gold) is None


# Answers that might equal everything: none may be right for any of these.
WILD = [
    r"\frac{0}{0}", "0/0", r"\infty", r"\infty-\infty", "x", "n", r"\emptyset", r"\mathbb{R}", "x=x", "5=5",
    r"1 \le 2", r"(-\infty,\infty)", "[0,1000]", r"\{1,2,3,24\}", r"50 \pm 50", "any", "True", "None", "NaN",
    r"x \in \mathbb{R}", r"\cdot", "*", ".*", "?", r"\ldots", r"1,2,\ldots,100", "24 60", r"24 \ne 25", "A,B,C,D,E",
    "ABCDE", "(A)(B)(C)(D)(E)", r"\begin{cases}24\\60\end{cases}", r"x \neq 0", r"\$", "%s", "\\boxed{}",
    r"24 \text{ or } 60", "(B) or (C)", r"\arctan(\infty)", r"24 < 60", "0^{-1}", r"\sqrt{-1}^{0/0}",
]  # fmt: skip


@pytest.mark.parametrize("gold", ["24", "A", SURD, r"60 \pi", "(3,-4)", "x + 1"])
def test_no_answer_is_right_for_everything(gold):
    wild = [answer for answer in WILD if not (gold == "A" and answer.startswith("(A)"))]
    found = accuracy_reward([boxed(answer) for answer in wild], [gold] * len(wild))
    assert [answer for answer, value in zip(wild, found, strict=True) if value != 0] == []


SINGULAR = [
    r"\frac{3}{\log_{1-1} 2}", r"1/\log_{2-2} 5", r"\log_{2-2} 5 \cdot \log_{2-2} 5",
    r"\log_{24-24} 1234-24/\log_{24-24} 1234-24",
    r"-\infty^{1-1}", r"\max(\pi,\infty)",
]  # fmt: skip


def test_what_has_no_value_equals_nothing():
    """One string that is right for whatever is asked would be the end of the training."""
    golds = ["24", r"\frac{1}{7}", "-3.5", "120", r"60 \pi", SURD]
    pairs = [(answer, gold) for answer in SINGULAR for gold in golds]
    found = accuracy_reward([boxed(a) for a, _ in pairs], [g for _, g in pairs])
    assert [pair for pair, value in zip(pairs, found, strict=True) if value] == []


@pytest.mark.parametrize("answer", ["(A) or (B)", "A. or B", "(A) (B) (C) (D) (E)"])
def test_hedging_between_options_is_wrong(answer):
    """ "A or B" is refused; in brackets it is read as option A with the text "or (B)"."""
    assert accuracy(boxed(answer), "A") == 0


# --- accuracy: real responses and TRL ------------------------------------------------------------

OPTION = re.compile(r"\(? *([A-E]) *(?:\\ )*(?:\)|\.)")  # "(D) 15 cm", "D.", "D)"
# beside options and full stops, all that differ among the 7,313 responses that have a box
TRL_DIFFERS = {
    ("GPT4-CoT_Text_Only", "1713"): "150 cm^2 for 150: TRL keeps the unit",
    ("GPT4-CoT_Text_Only", "1253"): "150 cm^2 for 150: TRL keeps the unit",
    ("Gemini-Pro-CoT", "2940"): "180 degrees for 180, and a full stop",
    ("Qwen-VL-Max-CoT", "1475"): "four boxes, the last of which is right; TRL makes them a set",
    ("GPT4-CoT_Text_Only", "2830"): "the gold answer holds a form feed: unusable, None",
    ("Gemini-Pro-CoT", "2830"): "the same",
    ("Qwen-VL-Max-CoT", "2830"): "the same",
}


def difference(box: str, gold: str) -> str:
    """Why ours is right and TRL's is not, from the text alone; empty if no reason is known."""
    bare = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\{|\}", "", box)
    option = OPTION.match(bare)
    if gold in "ABCDE" and option and option[1] == gold:
        return "option"
    return "full stop" if box == gold + "." else ""


def test_verdicts_of_trl_on_real_responses(shared):
    r"""Of 300 responses and those known to differ, what TRL calls right is right here; other differences have reasons.

    TRL gets the gold answers between dollars, as it must (B13). The same on all 7,313 responses, once: 7,041
    verdicts equal; 258 name the right option with its text or a bracket or stop, `\textbf{(D)}\ 90^\circ`,
    `D.` (20 of them right officially, too: that grader mostly fails on the text); 7 are numbers with a full
    stop (all right officially); 7 are named above.
    """
    trl = pytest.importorskip("trl.rewards", reason="needs TRL")
    folder = shared / "mathvision"

    def rows(path):
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    gold = {row["id"]: row["answer"] for row in rows(folder / "test.jsonl")}
    with_box = {
        (path.stem, row["id"]): row
        for path in sorted((folder / "outputs").glob("*.jsonl"))
        for row in rows(path)
        if extract_answer(row["response"]) is not None
    }
    assert len(with_box) > 7000
    keys = random.Random(7).sample(sorted(with_box), 300)
    keys += sorted(TRL_DIFFERS.keys() - set(keys))
    texts = [with_box[key]["response"] for key in keys]
    ours = accuracy_reward(texts, [gold[key[1]] for key in keys])
    theirs = trl.accuracy_reward(
        [[{"role": "assistant", "content": text}] for text in texts],
        [f"${gold[key[1]]}$" for key in keys],
    )
    assert 20 < sum(value == 1 for value in theirs) < 100
    differ, unexplained = {}, []
    for key, text, here, there in zip(keys, texts, ours, theirs, strict=True):
        if here == there:
            continue
        box, right = extract_answer(text), gold[key[1]]
        reason = TRL_DIFFERS.get(key) or difference(box, right)
        differ[key] = reason
        official = with_box[key]["correct"]
        if not reason or (here, there) not in ((1.0, 0.0), (None, 0.0)):
            unexplained.append((key, here, there, official, box, right))
    assert not unexplained
    assert differ.keys() >= TRL_DIFFERS.keys()
    assert len(differ) < 40


# --- accuracy: hostile responses -----------------------------------------------------------------

HOSTILE = {
    "tower": "9^{9^{9^{9}}}",
    "tower without braces": "9^9^9^9^9",
    "factorial": r"(10^{10})!",
    "10,000 braces": "{" * 10_000 + "24" + "}" * 10_000,
    "10,000 open braces": "{" * 10_000,
    "100 kB of digits": "7" * 100_000,
    "a decimal of 100 kB": "0." + "3" * 100_000,
    "a file": r"\input{/etc/passwd}",
    "a loop in TeX": r"\def\a{\a\a}\a",
    "300 fractions": r"\frac{1}{" * 300 + "2" + "}" * 300,
    "29 fractions": r"\frac{1}{1+" * 29 + "2" + "}" * 29,
    "300 roots": r"\sqrt{" * 300 + "2" + "}" * 300,
    "binomial": r"\binom{10^{9}}{10^{8}}",
    "sum": r"\sum_{i=1}^{10^{12}} i!",
    "product": r"\prod_{i=1}^{10^{9}} (x+i)",
    "integral": r"\int_0^1 \int_0^1 x^{x^{x}} dx dy",
    "limit": r"\lim_{x \to 0} \frac{x^{x^{x}} - 1}{\sin(\sin(\sin x))^{99}}",
    "power of a matrix": r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{999999999}",
    "big matrix": r"\begin{pmatrix}" + r"\\".join(["x&y&z&t&u&v"] * 40) + r"\end{pmatrix}",
    "polynomial": "(x+y+z+1)^{9999}",
    "nested absolute values": "|" * 400 + "x" + "|" * 400,
    "long sum": "+".join(["\\sqrt{2}"] * 110),
    "long set": r"\{" + ",".join(map(str, range(240))) + r"\}",
    "garbage": "".join(random.Random(1).choices("\\{}^_$&#%()[]xyz019 \n\t\u00e9\u4e2d\U0001f600", k=100_000)),
    "surrogates": "\ud800\udfff" * 300 + "1",
    "zero bytes": "\0" * 500 + "24",
    "line separators": "24\u2028\x85" * 100,
    "code": "__import__('os').system('echo hello')",
    "json": '24", "24", 99]\n["24", "24", 99]',
}  # fmt: skip

TOGETHER = ["tower", "factorial", "10,000 braces", "100 kB of digits", "a file", "garbage"]


def alone(script: str, timeout: float = 120) -> str:
    """Run a script in a new Python; its output."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, encoding="utf-8",
        timeout=timeout, env=env, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_hostile_responses_cost_neither_time_nor_memory_nor_the_others():
    """One after the other, then together with right answers. 5 s is a safety bound; the deadline is 1 s."""
    script = f"""
import json, time
from perception_r1.common.provenance import peak_memory_mb
from perception_r1.reward.rewards import accuracy_reward, format_reward, repetition_penalty
hostile = json.loads({json.dumps(json.dumps(HOSTILE))})
box = "<think>\\nso\\n</think>\\n<answer>\\n\\\\boxed{{%s}}\\n</answer>"
gold = {SURD!r}
def right(k):
    return box % (r"\\sqrt{{%d}}" % (4 * k)), r"2 \\sqrt{{%d}}" % k
text, answer = right(3)
assert accuracy_reward([text], [answer]) == [1.0]  # the start of the workers is not what is measured
before = peak_memory_mb()
seconds, given = {{}}, {{}}
for name, expression in hostile.items():
    start = time.perf_counter()
    given[name] = accuracy_reward([box % expression], [gold])[0]
    format_reward([box % expression]), repetition_penalty([box % expression])
    seconds[name] = time.perf_counter() - start
batch = [(box % hostile[name], r"7 \\sqrt {{ 13 }}") for name in {TOGETHER!r}]
batch = [pair for k, each in enumerate(batch) for pair in (each, right(10 + k))]
start = time.perf_counter()
together = accuracy_reward(*map(list, zip(*batch)))
whole = time.perf_counter() - start
print(json.dumps([seconds, given, together[::2], together[1::2], whole, peak_memory_mb() - before]))
"""
    seconds, found, wrong, right, whole, memory = json.loads(alone(script))
    assert set(found.values()) == {0.0}, found
    assert max(seconds.values()) < 5, seconds
    assert set(wrong) == {0.0} and len(wrong) == len(TOGETHER)
    assert set(right) == {1.0}
    assert whole < 5 * len(TOGETHER)
    assert memory < 500


def test_any_thread_may_grade_and_many_at_once():
    """Sixteen threads with batches of their own; two of them also hold a hostile response."""

    def batch(k):
        texts = [boxed(rf"\sqrt{{{4 * n}}}") for n in (k, k, k + 1)] + [boxed("(10^{10})!")] * (
            k < 102
        )
        return accuracy_reward(texts, [rf"2\sqrt{{{k}}}"] * len(texts))

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(batch, range(100, 116)))
    assert found == [[1.0, 1.0, 0.0, 0.0]] * 2 + [[1.0, 1.0, 0.0]] * 14


def test_in_thread_inside_a_running_loop():
    """Graded side by side, while the loop goes on to serve the judge; names and columns pass through."""
    wrapped = in_thread(accuracy_reward)
    assert inspect.iscoroutinefunction(wrapped)
    assert wrapped.__name__ == "accuracy_reward"  # TRL logs rewards by name

    async def run():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.02)

        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(
            wrapped([boxed("(10^{10})!"), boxed(r"\sqrt{12}")], answer=[r"5\sqrt{7}", r"2\sqrt{3}"], images=[]),
            in_thread(format_reward)([boxed("5")]),
            PerceptionReward(ExactJudge())([TEXT], [INFO]),
        )  # fmt: skip
        ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(run())
    assert found == [[0.0, 1.0], [1.0], [1.0]]
    assert ticks > 5  # at least one deadline of 1 s has passed
    with pytest.raises(ValueError):
        asyncio.run(wrapped([boxed("5")], answer=[]))


def test_a_broken_grader_stops_the_training():
    """A known right answer that is graded wrong is nobody's reward of 0."""
    script = """
from perception_r1.reward import rewards
rewards.grade = lambda answer, gold: False
for _ in range(2):
    try:
        print(rewards.accuracy_reward(["\\\\boxed{5}"], ["5"]))
    except RuntimeError as error:
        print("grader" in str(error))
"""
    assert alone(script) == "True\nTrue\n"


# --- repetition ----------------------------------------------------------------------------------


def words(n: int, seed: str = "w") -> str:
    return " ".join(f"{seed}{k}" for k in range(n))


def independent(tokens) -> float:
    """The definition, counted one window after the other."""
    windows = []
    for start in range(len(tokens)):
        if start + 20 <= len(tokens):
            windows.append(json.dumps(list(tokens[start : start + 20])))
    if not windows:
        return 0.0
    seen = []
    distinct = 0
    for window in windows:
        if window not in seen:
            seen.append(window)
            distinct += 1
    return -2.0 * (1.0 - distinct / len(windows))


# (text, penalty, why): PAPER.md 3.2 and by hand
PENALTIES = [
    (f"{words(40)} {words(40)}", -2 * (1 - 40 / 61), "a sentence of 40 words twice: -0.69"),
    (f"{words(150)} {words(150)}", -2 * (1 - 150 / 281), "a block of 150 twice: -0.93"),
    (" ".join([words(20)] * 20), -2 * (1 - 20 / 381), "a loop of 20 words, 20 times: -1.90"),
    (" ".join(f"{words(19)} n{k}" for k in range(30)), 0, "B18: one word in 20 changes"),
    ("AB=10," * 500, 0, "B18: a loop without spaces"),
    ("边长是十。" * 500, 0, "B18: a script without spaces"),
    (words(19), 0, "19 words have no 20-gram"),
    (words(20), 0, "20 have one"),
    ("la " * 20, 0, "even of one word"),
    ("la " * 21, -1, "two equal ones: half is repeated"),
    ("la " * 4096, -2 * (1 - 1 / 4077), "almost -2"),
    ("La lA\nLA\tla  " * 6, -2 * (1 - 1 / 5), "24 words in any case, between any white space"),
    (f"{words(20)} {words(20, 'v')}", 0, "nothing repeated"),
    ("", 0, "empty"),
    (" \n ", 0, "no word"),
]


@pytest.mark.parametrize("text, penalty, why", PENALTIES, ids=[row[-1] for row in PENALTIES])
def test_penalties_by_hand(text, penalty, why):
    assert repetition_penalty([text]) == pytest.approx([penalty], abs=1e-12)
    if stated := re.search(r"-\d\.\d\d", why):
        assert round(penalty, 2) == float(stated[0])


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


def test_tokens_punish_what_words_miss():
    loops = ["AB=10," * 500, "边长是十。" * 500, "\\frac{1}{2}+" * 200]
    assert repetition_penalty(loops) == [0, 0, 0]
    assert all(-2 <= value < -1.5 for value in token_repetition_penalty(loops))
    assert token_repetition_penalty(["", "AB = 10", words(9)]) == [0, 0, 0]


def test_tokens_of_the_policy_are_used_where_given():
    texts = ["la " * 100, "la " * 100, ""]
    ids = [[7] * 21, list(range(100)), []]
    assert token_repetition_penalty(texts, completion_ids=ids) == [-1, 0, 0]
    assert token_repetition_penalty(texts, completion_ids=None)[0] < -1.9
    assert repetition_penalty(texts, completion_ids=ids)[1] < -1.9  # words look at the text


def test_as_many_token_lists_as_completions():
    with pytest.raises(ValueError):
        token_repetition_penalty(["a", "b"], completion_ids=[[1]])


# --- perception ----------------------------------------------------------------------------------

FACTS = ["The length of segment AB is 9.", "The length of segment BC is 12.", "Angle ABC is 90."]
TAGGED = tag_annotations(FACTS)
S, A, C = "stated", "absent", "contradicted"


class Canned:
    """A judge with canned verdicts, or an exception; remembers what it was asked."""

    name = "canned"

    def __init__(self, *verdicts, contradictions=None):
        self.verdicts, self.asked = verdicts, []
        if contradictions is not None:
            self.contradictions = contradictions

    async def judge(self, responses, annotations):
        self.asked.append((list(responses), [list(a) for a in annotations]))
        for verdict in self.verdicts:
            if isinstance(verdict, BaseException):
                raise verdict
        return list(self.verdicts)


class Reading(Canned):
    """Knows, for facts "X is 9.", which numbers a response gives for X; presence alone, or three marks."""

    async def judge(self, responses, annotations):
        return [Verdict([self.mark(text, fact) for fact in wanted])
                for text, wanted in zip(responses, annotations, strict=True)]  # fmt: skip

    def mark(self, text, fact):
        subject, value = fact.rstrip(".").rsplit(" ", 1)
        given = set(re.findall(re.escape(subject) + r" (\d+)", text))
        if self.contradictions and given - {value}:
            return C
        return S if value in given else A


# (marks, recall, contradiction_aware, why)
MARKS = [
    ([S, S, S], 1, 1, "all"),
    ([S, S, A], 2 / 3, 2 / 3, "what is absent costs its own share"),
    ([A, A, A], 0, 0, "nothing"),
    ([S, S, C], 2 / 3, 1 / 3, "a wrong value costs what a right one pays"),
    ([S, C, A], 1 / 3, 0, "one for one"),
    ([S, C, C], 1 / 3, 0, "never below 0"),
    ([C, C, C], 0, 0, "all wrong"),
]


@pytest.mark.parametrize("marks, recall, aware, why", MARKS, ids=[row[-1] for row in MARKS])
def test_perception_by_hand(marks, recall, aware, why):
    judge = Canned(Verdict(marks))
    assert perception(judge, ["AB is 9."], [TAGGED])[0] == pytest.approx([recall])
    assert perception(judge, ["AB is 9."], [TAGGED], "contradiction_aware")[0] == pytest.approx(
        [aware]
    )
    assert judge.asked == [(["AB is 9."], [FACTS])] * 2


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


def test_listing_values_pays_under_recall_alone():
    """B6. The lister sees nothing; the honest response states two facts."""
    subjects = [fact.rsplit(" ", 1)[0] for fact in FACTS]
    lister = "\n".join(f"{subject} {value}." for subject in subjects for value in range(1, 181))
    honest = "\n".join(FACTS[:2])
    both = [response(r"\boxed{5}", text) for text in (lister, honest)]
    presence, three = Reading(contradictions=False), Reading(contradictions=True)
    assert perception(presence, both, [TAGGED] * 2)[0] == pytest.approx([1, 2 / 3])
    assert perception(three, both, [TAGGED] * 2, "contradiction_aware")[0] == pytest.approx(
        [0, 2 / 3]
    )
    exact = PerceptionReward(ExactJudge(), "contradiction_aware")  # and with a judge of the package
    lengths = tag_annotations(FACTS[:2])
    assert asyncio.run(exact(both, [lengths] * 2)) == pytest.approx([0, 1])


BROKEN = {
    "raises": Canned(ValueError("boom")),
    "raises what no judge should": Canned(KeyError("fact_1")),
    "runs out of time": Canned(TimeoutError()),
    "too few verdicts": Canned(Verdict([S] * 3)),
    "too many verdicts": Canned(*[Verdict([S] * 3)] * 3),
    "none": Canned(),
    "too few marks": Canned(Verdict([S]), Verdict([S])),
    "too many marks": Canned(Verdict([S] * 4), Verdict([S] * 4)),
    "no marks": Canned(Verdict([]), Verdict([])),
    "failed": Canned(Verdict(None, "HTTP 500"), Verdict(None, "HTTP 500")),
}


@pytest.mark.parametrize("mode", ["recall", "contradiction_aware"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_judge_that_breaks_gives_none(what, mode):
    found, reward = perception(BROKEN[what], ["a", "b"], [TAGGED] * 2, mode)
    assert found == [None, None]
    assert reward.failures == 2
    assert all(v.marks is None and v.failure and not v.by_response for v in reward.verdicts)


def test_a_judge_that_returns_nothing_at_all():
    class Silent(Canned):
        async def judge(self, responses, annotations):
            return None

    found, reward = perception(Silent(), ["a"], [TAGGED])
    assert found == [None] and reward.failures == 1


@pytest.mark.parametrize("verdict", [None, "stated", {"marks": [S] * 3}])
def test_what_is_no_verdict_gives_none(verdict):
    found, _ = perception(Canned(verdict), ["a"], [TAGGED])
    assert found == [None]


@pytest.mark.parametrize("marks", [["yes"] * 3, [1, 1, 1], [S, S, None], ["Stated"] * 3])
def test_unknown_marks_are_no_verdict(marks):
    """DESIGN 8: "wrong count, wrong number, non-binary value = no verdict"."""
    found, _ = perception(Canned(Verdict(marks)), ["a"], [TAGGED])
    assert found == [None]


@pytest.mark.parametrize("n", [1, 3])
def test_as_many_annotations_as_completions(n):
    with pytest.raises(ValueError):
        perception(Canned(*[Verdict([S] * 3)] * n), ["a", "b"], [TAGGED] * n)


# visual_key_info that cannot be used: None, and it counts as a failure
MALFORMED = [
    "AB = 9", "<info1>AB = 9", "<info2>AB = 9</info2>", "<info1></info1>", "<info1>a</info1> b", " ",
    "<info1>a</info1><info3>b</info3>", "<info1>a <info2>b</info2></info1>", float("nan"), 7, ["AB = 9"],
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
    metrics, extra = {}, {}
    found, reward = perception(
        judge, texts, columns, log_metric=metrics.__setitem__, log_extra=extra.__setitem__
    )
    bad = len(MALFORMED)
    assert found == [pytest.approx(1 / 3), None, None, *[None] * bad, None, 0.0, 1.0]
    assert judge.asked == [([texts[0], *texts[-3:]], [FACTS] * 4)]  # the others are not asked about
    assert reward.failures == bad + 1
    assert len(reward.verdicts) == len(texts)
    assert reward.verdicts[1] is None and reward.verdicts[2] is None
    assert all("unusable annotations" in v.failure for v in reward.verdicts[3:-3])
    assert (
        reward.verdicts[0] == judge.verdicts[0]
        and tuple(reward.verdicts[-3:]) == judge.verdicts[1:]
    )
    asked = 4 + bad
    assert metrics.keys() == {"judge/failure_rate", "judge/unjudgeable_rate", "judge/seconds"}
    assert metrics["judge/failure_rate"] == pytest.approx((bad + 1) / asked)
    assert metrics["judge/unjudgeable_rate"] == pytest.approx(1 / asked)
    assert 0 <= metrics["judge/seconds"] < 60
    assert extra.keys() == {"verdict"} and len(extra["verdict"]) == len(texts)
    assert extra["verdict"][:2] == ["stated absent absent", "no annotations"]
    assert extra["verdict"][-1] == "stated stated stated"
    assert "HTTP 503" in extra["verdict"][-3] and "too long" in extra["verdict"][-2]


def test_without_annotations_no_judge_is_asked_and_nothing_measured():
    judge, metrics, extra = Canned(ValueError("must not be asked")), {}, {}
    found, reward = perception(
        judge, ["a", "b"], [None, ""], log_metric=metrics.__setitem__, log_extra=extra.__setitem__
    )
    assert found == [None, None] and judge.asked == []
    assert reward.verdicts == [None, None] and reward.failures == 0
    assert metrics == {}  # B17: what was not measured is not logged as 0
    assert extra == {"verdict": ["no annotations"] * 2}


def test_each_call_starts_anew():
    reward = PerceptionReward(Canned(Verdict(None, "HTTP 500")))
    assert reward.verdicts == [] and reward.failures == 0
    for _ in range(2):
        asyncio.run(reward(["a"], [TAGGED]))
        assert reward.failures == 1 and len(reward.verdicts) == 1
    asyncio.run(reward(["a"], [None]))
    assert reward.failures == 0 and reward.verdicts == [None]


def test_modes_and_judges_that_do_not_fit():
    for mode in ("precision", "", None, "Recall"):
        with pytest.raises(InputError, match="mode"):
            PerceptionReward(Canned(), mode)
    presence = [ExactJudge(contradictions=False), Canned(contradictions=False)]
    for judge in presence:
        with pytest.raises(InputError, match="presence"):
            PerceptionReward(judge, "contradiction_aware")
        PerceptionReward(judge)
    for judge in (ExactJudge(), Canned(), Canned(contradictions=True)):  # Canned(): says nothing
        PerceptionReward(judge, "contradiction_aware")


@pytest.mark.parametrize(
    "judge", [LazyJudge(), NoisyJudge(ExactJudge(contradictions=False), 0.2), NoisyJudge(LazyJudge(), 0.2)],
    ids=lambda judge: judge.card()["judge"],
)  # fmt: skip
def test_other_presence_judges_of_the_package_are_refused_too(judge):
    with pytest.raises(InputError, match="presence"):
        PerceptionReward(judge, "contradiction_aware")


# --- what a response brings about never pays ------------------------------------------------------

GOLD, WRONG = SURD, boxed("25")  # well formed, wrong, states nothing


def totals(completions, judge, mode="recall", form=format_reward, penalty=repetition_penalty):
    n = len(completions)
    seen, _ = perception(judge, completions, [TAGGED] * n, mode)
    parts = {
        "format": form(completions), "accuracy": accuracy_reward(completions, [GOLD] * n),
        "perception": seen, "repetition": penalty(completions),
    }  # fmt: skip
    assert not any(None in values for values in parts.values()), parts
    return [
        sum(rewards.WEIGHTS[name] * values[k] for name, values in parts.items()) for k in range(n)
    ]


def test_the_papers_weights():
    assert rewards.WEIGHTS == {
        "format": 0.1, "accuracy": 0.9, "perception": 0.7, "repetition": 1.0
    }  # fmt: skip
    best = response(r"\boxed{2\sqrt{221}}", "\n".join(FACTS[:2]))
    judge = Canned(Verdict([S, S, S]))
    assert totals([best], judge) == pytest.approx([1.7])  # PAPER.md 3.2


FAULTS = {
    "empty": "",
    "no text": None,
    "white space": " \n" * 50,
    "no box": response("I cannot tell."),
    "no block": "I cannot tell.",
    "a box that is not closed": response(r"\boxed{25"),
    "cut off": "<think>\nLet me look at",
    "unreadable": boxed(r"\frac{1}{"),
    "prose": boxed("The answer is the length of the side"),
    "the right answer in a box that is not closed": response(r"\boxed{2\sqrt{221}"),
    "division by zero": boxed("1/0"),
    "control characters": boxed("\frac{1}{2}"),
    "too long to judge": response(r"\boxed{25}", "".join(f"{k} " for k in range(20_000))),
    "too long to read": boxed("x" * 5000),
    "a second block": WRONG + "\n" + WRONG,
    **{f"hostile: {name}": boxed(HOSTILE[name]) for name in TOGETHER},
}


@pytest.mark.parametrize("form", [format_reward, format_reward_lenient])
def test_no_fault_of_a_response_beats_an_ordinary_wrong_one(form):
    """With the package's judges, and with one that blames each of these responses for its failure."""
    texts = [WRONG, *FAULTS.values()]
    known = [tag_annotations(FACTS[:2])] * len(texts)
    blamed = [Verdict(None, "its own fault", by_response=True)] * len(FAULTS)
    for judge in (ExactJudge(), Canned(Verdict([A] * 3), *blamed)):
        if isinstance(judge, Canned):
            found = totals(texts, judge, form=form, penalty=token_repetition_penalty)
        else:
            seen, _ = perception(judge, texts, known, "contradiction_aware")
            assert seen == [0.0] * len(texts)
            found = totals(texts, Canned(*[Verdict([A] * 3)] * len(texts)), form=form)
        ordinary, faulty = found[0], dict(zip(FAULTS, found[1:], strict=True))
        assert ordinary == pytest.approx(0.1)
        assert {name: total for name, total in faulty.items() if total > ordinary + 1e-12} == {}


# --- anything at all: a small version of a longer fuzz ---------------------------------------------

REAL = [
    SURD, r"\frac { 26 } { 3 }", r"60 \pi", "24", "1,234", r"\textbf{(D)}\ 90^{\circ}", "A", "(3,-4)", "x = 5 cm",
    r"15 \mathrm{~cm}^2", r"\frac{\sqrt{2}}{10}", "7:30", r"5\sqrt{3} \approx 8.66", "isosceles", r"\{1, 2, 3\}",
    r"\frac{144 - 7x}{12}", r"m\angle J+m\angle H =180\degree.", r"s^{2}+1-2 s", "y=2x+1", r"50\%", "8 2/3", "−24",
]  # fmt: skip
ATOMS = st.sampled_from([
    *REAL, "0", "1", "-7", "3.5", "10^9", "x", "y", "n", r"\pi", "e", "i", r"\infty", r"\theta", "A", "cm", "°", "√3",
    "½", "²", "，", r"\text{ or }", r"\circ", r"\%", r"\$", "", " ", r"\,", "~", "$", "{", "}", "\\", "&", "%", "^",
    "_", "/", "=", "\n", "\0", "\f", "٣", "５",
])  # fmt: skip
SHAPES = [
    r"\frac{%s}{%s}", r"\sqrt{%s}", r"\sqrt[%s]{%s}", "%s^{%s}", "%s_{%s}", "(%s)", r"\left(%s\right)", "%s+%s",
    "%s-%s", r"%s \times %s", "%s,%s", "%s=%s", "%s!", "|%s|", r"\log_{%s} %s", r"\binom{%s}{%s}",
    r"\sum_{i=%s}^{%s} i", r"\int_{%s}^{%s} x dx", r"\begin{pmatrix}%s&%s\end{pmatrix}",
    r"\begin{cases}%s\\%s\end{cases}", r"\{%s\}", "[%s,%s)", r"%s \le %s", r"\boxed{%s}", r"\text{%s}", "$%s$",
    r"\sin %s^\circ", "%s %s", "%s/%s", "%s:%s", r"\overline{%s}", r"%s \approx %s", r"\lim_{x \to %s} %s",
    "%s%s", r"\frac%s%s", "<answer>%s</answer>", "<info1>%s</info1>",
]  # fmt: skip


@st.composite
def shaped(draw, inner):
    shape = draw(st.sampled_from(SHAPES))
    return re.sub("%s", lambda _: draw(inner), shape)


@st.composite
def mutated(draw):
    """A real answer with pieces cut out, put in, doubled or swapped."""
    text = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(1, 4))):
        a, b = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        new = draw(
            st.sampled_from(["", text[a:b] * 2, text[a:b][::-1]]) | ATOMS | st.text(max_size=2)
        )
        text = (text[:a] + new + text[b:])[:2000]
    return text


LATEX = st.recursive(ATOMS, shaped, max_leaves=8)
ANYTHING = st.one_of(
    LATEX,
    mutated(),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=40),
    st.tuples(LATEX, st.integers(2, 60)).map(lambda pair: pair[0] * pair[1]),
    near_formats(),
)
GOLDS = ["24", "A", SURD, r"60 \pi", "(3,-4)", "isosceles", "x = 5 cm", "y=2x+1", r"\{1, 2\}"]
UNSEEN = {"Cc", "Cf", "Co", "Cn", "Cs"}


def check_reading(text: str) -> None:
    """Everything that needs no worker: right types, known exceptions only."""
    for wrapped in (text, boxed(text), response(text)):
        box = extract_answer(wrapped)
        assert box is None or (isinstance(box, str) and box == box.strip() != "")
        assert strict(wrapped) in (0.0, 1.0) and type(strict(wrapped)) is float
        assert lenient(wrapped) in (0.0, 1.0)
        assert lenient(wrapped) == 0 or box is not None
        for penalty in (repetition_penalty([wrapped]), token_repetition_penalty([wrapped])):
            assert len(penalty) == 1 and -2 <= penalty[0] <= 0
    try:
        assert isinstance(read_answer(text).value, str)
    except InputError as error:
        assert str(error)
    try:
        found = read_annotations(text)
        assert found and all(isinstance(fact, str) and fact for fact in found)
    except DatasetError as error:
        assert str(error)
    clean = neutralise(text)
    clean.encode()
    assert all(c in "\n\t" or unicodedata.category(c) not in UNSEEN for c in clean)
    assert not re.search(r"</?info\d*>|</?response>|<\|\w+\|>|\[/?INST\]", clean)


def check_grading(text: str, gold: str) -> None:
    """The whole way: one number for a usable gold answer, never a crash, the right answer beside it is right."""
    verdict = grade(text, gold)
    assert verdict is True or verdict is False
    found = accuracy_reward([boxed(text), boxed(gold), text], [gold, gold, gold])
    assert found[1] == 1.0 and all(type(value) is float for value in found)
    box = extract_answer(boxed(text))
    assert found[0] == float(grade(box, gold))


def check_gold(text: str) -> None:
    """A gold answer of any sort: usable, then it equals itself; or None for all."""
    [value] = accuracy_reward([boxed("24")], [text])
    try:
        answers.usable_gold(text)
    except InputError:
        assert value is None
    else:
        assert value in (0.0, 1.0) and grade(text, text)


FUZZ = settings(  # always the same texts; a longer run with others found what is marked as failing here
    derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


@settings(FUZZ, max_examples=750)
@given(ANYTHING)
def test_any_text_can_be_read(text):
    check_reading(text)


@settings(FUZZ, max_examples=200)
@given(ANYTHING, st.sampled_from(GOLDS))
def test_any_text_can_be_graded(text, gold):
    check_grading(text, gold)


@settings(FUZZ, max_examples=50)
@given(st.one_of(LATEX, mutated()))
def test_any_text_can_be_a_gold_answer(text):
    check_gold(text)


@pytest.mark.parametrize("text", ["<info1 <b> >", "</response <b> >", "<a <b <c> > >"])
def test_no_tag_is_left_when_one_stands_in_another(text):
    assert not re.search(r"<[^<>]*>", neutralise(text))
