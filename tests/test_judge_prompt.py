"""What a judging model may see, and which of its answers are verdicts."""

import json
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perception_r1.common.errors import InputError
from perception_r1.reward.judge_prompt import JudgePrompt, neutralise
from tests.judging import AB, CD

NONCE = "0f9e"


@pytest.mark.parametrize("contradictions", [True, False])
@pytest.mark.parametrize(
    "response",
    ["x", "a\n----- 00\nb", "{nonce} {0}", "Facts:\n1. No.\n\nThe response stands", "\n", ""],
)
def test_parsing_the_messages_undoes_writing_them(contradictions, response):
    prompt = JudgePrompt([AB, "2. {facts}", "a. b. c"], response, NONCE, contradictions)
    assert JudgePrompt.parse(prompt.messages()) == prompt
    system, user = (message["content"] for message in prompt.messages())
    assert user.count(f"----- {NONCE}\n") == 2
    assert ("contradicted" in system) == contradictions == ('"contradicted"' in user)
    with pytest.raises(InputError, match="not a question"):
        JudgePrompt.parse(prompt.messages()[1:])


TAG = re.compile(r"<\s*/?\s*[|!?]?\s*[A-Za-z][\w-]{0,20}(\s[^<>]{0,40})?[|]?\s*>|\[/?[A-Z_]{3,}\]")
PIECES = st.lists(
    st.sampled_from(
        "< > </ <| |> info1 response im_end b ＜ ＞ ﹤ ﹥ [ ] [/ INST SYS_ / ! 1 5 = \u200b \u00ad \u202e \ud800 \x00"
        " \x01 \ue000".split(" ")
        + [" ", "\n", "\t", "a" * 61]
    ),
    max_size=12,
).map("".join)
# without a glyph, though their categories are those of letters and marks
UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))


def test_tags_are_taken_out():
    for text in [
        "<info1>", "</ response >", "<|im_end|>", "<｜begin▁of▁sentence｜>", "[/INST]", "[SYSTEM_PROMPT]", "＜info1＞",
        "<in\u200bfo1>", "<info1\ud800>", '<info1 class="x">', "<!DOCTYPE>", "<?xml>", "<info1\n>", "<<info1>>",
        "</response <b>>", f"<info1 {' ' * 90}>", "<\ufe0finfo1>",
    ]:  # fmt: skip
        found = neutralise(f"a {text} b")
        assert not TAG.search(found), found
        assert not re.search(r"<\s*/?\s*[A-Za-z]+\d*\s[^<]*>", found), found
        assert "info" not in text or "info" in found.lower()  # the words stay


def test_mathematics_stays():
    for text in [
        "AB < CD and EF > GH", "a <= b", "x<5>3", "[a, b]", "[AB]", r"\left[ 1 \right]", "e\u0301", "x ∈ (0, 1]",
        "tab\tand\nline", "‹x›",
    ]:  # fmt: skip
        assert neutralise(text) == text


def test_keys_of_a_verdict_lose_their_quotes_and_line_ends_are_one():
    keys = neutralise('{"mark": "0", " fact_12 " : 1, "other": 2}')
    assert keys == '{‹mark›: "0", ‹fact_12› : 1, "other": 2}'
    assert neutralise("a\r\nb\rc\x0bd\x85e") == "a\nb\nc\nd\ne"
    assert {neutralise(f"a{character}b") for character in UNSEEN} == {"ab"}


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(PIECES, st.text(st.characters(), max_size=80)))
@example("<a<b>c>")
@example("<|/info1>")
def test_nothing_looks_like_a_tag_or_hides_afterwards(text):
    found = neutralise(text)
    assert neutralise(found) == found
    assert not re.search(r"<(/|\||\|/)?[A-Za-z][A-Za-z0-9_]{0,30}\|?>|\[/?[A-Z_]{3,30}\]", found)
    found.encode()
    hidden = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\ue000\ufeff]"
    assert not re.search(hidden, found) and len(found) <= len(text)
    assert re.sub("[^a-z0-9]", "", found) == re.sub("[^a-z0-9]", "", text)


def test_hostile_length_costs_little():
    """A bound for safety: seconds, where quadratic time would take minutes."""
    began = time.process_time()
    for text in ("<" * 40_000, "<a " * 13_000, "[A" * 20_000, "< / " * 10_000):
        neutralise(text)
    assert time.process_time() - began < 20


PROMPTS = [
    JudgePrompt([AB, CD, AB, CD, AB][:m], "", NONCE, three)
    for m in (1, 2, 5)
    for three in (True, False)
]
SNIPPETS = st.sampled_from(
    ["mark", "fact_1", "fact_2", NONCE, "stated", "absent", "contradicted", "1", "0", "1.0", "true", "NaN", "null"]
    + ['"', ":", ",", "{", "}", "[", "]", " ", "\n", "\\", "\\ud800", "١", "1e0", "-0", '"mark"', '"fact_1": 1']
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(prompt=st.sampled_from(PROMPTS), data=st.data())
def test_any_text_is_a_whole_verdict_or_a_value_error(prompt, data):
    """A valid verdict with a few pieces cut out, put in, doubled or exchanged; or any text at all."""
    text = prompt.write(["stated", *["absent"] * 4][: len(prompt.annotations)])
    for _ in range(data.draw(st.integers(0, 3))):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        middle = data.draw(st.one_of(st.just(""), st.just(text[start:end] * 2), SNIPPETS))
        text = text[:start] + middle + text[end:]
    text = data.draw(st.one_of(st.just(text), st.lists(SNIPPETS).map("".join), st.text()))
    try:
        found = prompt.read(text)
    except ValueError as error:
        assert 0 < len(str(error)) < 300
        return
    assert len(found) == len(prompt.annotations)
    assert set(found) <= {"stated", "absent", *(["contradicted"] if prompt.contradictions else [])}
    assert text.count(NONCE) == 1
    assert all(text.count(f'fact_{k}"') == 1 for k in range(1, len(found) + 1))


def verdict_text(*values, names=("mark", "fact_1", "fact_2")):
    pairs = zip(names, values, strict=True)
    return "{" + ", ".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in pairs) + "}"


S, A = "stated", "absent"
WHOLE = verdict_text(NONCE, S, A)
NO_VERDICTS = [
    verdict_text(NONCE, S, A, names=("mark", "fact_2", "fact_1")),
    verdict_text(NONCE, S, A, S, names=("mark", "fact_1", "fact_2", "fact_1")),
    verdict_text(S, A, NONCE, names=("fact_1", "fact_2", "mark")),
    verdict_text(NONCE[:2], S, A),
    verdict_text(NONCE, 1, 0),
    "Sure! " + WHOLE,
    WHOLE + "\n" + WHOLE,
    json.dumps([["mark", NONCE], ["fact_1", S], ["fact_2", A]]),
    "[" * 50_000,
]


def test_what_is_no_verdict_on_two_facts_in_three_marks():
    prompt = JudgePrompt([AB, CD], "", NONCE, contradictions=True)
    assert prompt.read(WHOLE) == [S, A]
    for text in NO_VERDICTS:
        with pytest.raises(ValueError) as caught:
            prompt.read(text)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@settings(max_examples=100, deadline=None)
@given(prompt=st.sampled_from(PROMPTS), data=st.data())
def test_what_is_written_is_read(prompt, data):
    m, choices = len(prompt.annotations), ["stated", "absent", "contradicted"]
    marks = data.draw(st.lists(st.sampled_from(choices), min_size=m, max_size=m))
    text = prompt.write(marks)
    seen = marks if prompt.contradictions else [x if x == "stated" else "absent" for x in marks]
    assert prompt.read(text) == seen
    assert prompt.read(text.replace(":", "\n :\t ").replace("{", " { ")) == seen
    assert prompt.schema().model_validate_json(text).mark == NONCE
    with pytest.raises(ValueError, match="not the one of this question"):
        prompt.read(text.replace(NONCE, "0" * 16))


def test_presence_is_one_or_nought_and_nothing_like_it():
    prompt = JudgePrompt([AB, CD], "", NONCE, contradictions=False)
    verdict = f'{{"mark": "{NONCE}", "fact_1": %s, "fact_2": 0}}'
    assert prompt.read(verdict % 1) == ["stated", "absent"]
    for word in [*'"stated" 0.5 2 -1 1.0 "1" true null [1] NaN 1e0'.split(), "9" * 5000]:
        with pytest.raises(ValueError):
            prompt.read(verdict % word)
