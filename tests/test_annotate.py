"""Annotations: each step on problems written by hand, the model's path against a real local server."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from perception_r1 import facts
from perception_r1.annotation import audit, pipeline
from perception_r1.annotation.pipeline import ExtractedFact, Trajectory
from perception_r1.common.chat import Chat
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.problems.schema import DatasetError, Problem
from perception_r1.reward import foreign_wording
from tests.stub_server import StubServer, good, hang, status

GOLD = (
    "Equals(LengthOf(Line(A, B)), 3)",
    "Equals(LengthOf(Line(B, C)), 4)",
    "Perpendicular(Line(A, B), Line(B, C))",
    "PointLiesOnLine(D, Line(A, C))",
)
COT = """<think>
The length of segment AB is 3.
The length of segment BC is 4.
Line BC is perpendicular to line BA.
The length of segment BA is 3.
So AC is the square root of 3 * 3 + 4 * 4 = 25, which is 5.
What a fine day it is.
</think>
<answer>
The answer is \\boxed{5}.
</answer>"""


def problem(id_: str = "p", **more) -> Problem:
    fields = {
        "problem": "<image>How long is AC?", "images": (Image.new("RGB", (8, 8)),), "answer": "5",
        "cot": COT, "gold_facts": GOLD, "needed_facts": GOLD[:3],
    }  # fmt: skip
    return Problem(id=id_, **(fields | more))


# --- trajectories -----------------------------------------------------------------------------------


def test_only_right_trajectories_are_kept_one_a_problem_and_each_drop_has_a_reason():
    problems = [problem("p"), problem("q"), problem("r")]
    wrong, none = COT.replace("boxed{5}", "boxed{6}"), COT.replace("\\boxed{5}", "5")
    texts = [("p", wrong), ("p", COT), ("p", COT + " "), ("q", wrong), ("r", none)]
    kept, drops = pipeline.keep_right(problems, [Trajectory(*pair) for pair in texts])
    assert [(t.id, t.text) for t in kept] == [("p", COT)]
    assert [(d.id, d.reason) for d in drops] == [
        ("p", "wrong answer"),
        ("p", "another right trajectory is kept"),
        ("q", "wrong answer"),
        ("r", "no answer in \\boxed{}"),
    ]
    with pytest.raises(InputError, match="for problem 'z', which is not in the dataset"):
        pipeline.keep_right(problems, [Trajectory("z", COT)])


def test_trajectories_from_a_file(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "p", "response": "one"}\n\n{"id": "p", "response": "two", "more": 1}\n')
    assert pipeline.read_trajectories(path) == [Trajectory("p", "one"), Trajectory("p", "two")]


@pytest.mark.parametrize(
    "content, message",
    [
        (
            b'{"id": "p", "response": "one"}\n{"id": "p"}\n',
            r"row 1, column response: .*Field required; write one JSON",
        ),
        (b"not json\n", "row 0: .*Invalid JSON"),
        (b'{"id": "p", "response": ""}', "row 0, column response"),
        (b"\xff\xff", "cannot read"),
    ],
)
def test_a_bad_trajectory_file_is_named_by_row_and_column(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        pipeline.read_trajectories(tmp_path / "t.jsonl")
    with pytest.raises(DatasetError, match="cannot read"):
        pipeline.read_trajectories(tmp_path / "missing.jsonl")


# --- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentence, form",
    [
        ("The length of segment AB is 10.", "Equals(LengthOf(Line(A, B)), 10)"),
        ("AB = 5", "Equals(LengthOf(Line(A, B)), 5)"),
        ("AB=x+21.", "Equals(LengthOf(Line(A, B)), x+21)"),
        (r"$AB = 2\sqrt{3}$", r"Equals(LengthOf(Line(A, B)), 2\sqrt{3})"),
        (r"$m\angle ABC = 40^{\circ}$", "Equals(MeasureOf(Angle(A, B, C)), 40)"),
        ("∠ABC = 40°", "Equals(MeasureOf(Angle(A, B, C)), 40)"),
        ("AB = CD", "Equals(LengthOf(Line(A, B)), LengthOf(Line(C, D)))"),
        ("AB ∥ CD", "Parallel(Line(A, B), Line(C, D))"),
        (
            "The measure of angle ABC equals the measure of angle 4.",
            "Equals(MeasureOf(Angle(A, B, C)), MeasureOf(angle 4))",
        ),
        (r"\overline{AB} \perp \overline{CD}", "Perpendicular(Line(A, B), Line(C, D))"),
    ],
)
def test_plain_statements_are_read(sentence, form):
    assert facts.same(facts.read_statement(sentence), facts.parse(form))


@pytest.mark.parametrize(
    "sentence",
    [
        "AB is not 5",
        "AB is short",
        "AB = 5 and CD = 6",
        "x = 5",
        "ABC = 5",
        "",
        "AB is 5 or 6",
        "We have L is a point of segment MN.",
        "I see AB",
        "a" * 10_000,
    ],
)
def test_what_is_not_one_plain_fact_is_not_read(sentence):
    assert facts.read_statement(sentence) is None


@given(st.text(max_size=300))
def test_reading_never_fails(text):
    facts.read_statement(text)
    pipeline.extract_by_reading(Trajectory("p", text))


@given(st.integers(0, 10_000))
def test_denials_and_hints_are_never_read_as_the_fact(seed):
    """Sentences of a renderer that was written without sight of our readers."""
    rng = random.Random(seed)
    form = rng.choice(GOLD)
    for text in (foreign_wording.negate(form, rng), foreign_wording.hint(form, rng)):
        read = facts.read_statement(text)
        assert read is None or not facts.same(read, facts.parse(form)), text


def test_extraction_by_reading():
    found, drops = pipeline.extract_by_reading(Trajectory("p", COT))
    assert [(f.sentence, f.source) for f in found][:2] == [
        ("The length of segment AB is 3.", "figure"),
        ("The length of segment BC is 4.", "figure"),
    ]
    assert [f.source for f in found] == ["figure"] * 4 + ["deduced"]
    assert [(d.reason, d.text) for d in drops] == [("cannot be read", "What a fine day it is.")]


def test_clean_normalises_and_says_why_it_drops():
    statements = [
        ExtractedFact(sentence="AB = 3", source="figure"),
        ExtractedFact(sentence="The length of segment BA is 3.", source="figure"),
        ExtractedFact(sentence="BC = 4", source="figure"),
        ExtractedFact(sentence="The  figure is\na triangle", source="figure"),
        ExtractedFact(sentence="the figure is a Triangle", source="figure"),
        ExtractedFact(sentence="AC = 5", source="deduced"),
        ExtractedFact(sentence="BD = 2", source="question"),
    ]
    annotations, drops = pipeline.clean(problem(text_facts=GOLD[1:2]), statements)
    assert annotations == ["The length of segment AB is 3.", "The figure is a triangle"]
    assert [d.reason for d in drops] == [
        "said before", "stands in the question", "said before", "deduced, not seen", "stands in the question",
    ]  # fmt: skip


def test_a_problem_left_with_no_annotation_is_dropped_with_a_reason():
    statements = {
        "p": [ExtractedFact(sentence="AB = 3", source="figure")],
        "q": [ExtractedFact(sentence="AC = 5", source="deduced")],
    }
    annotated, drops = pipeline.annotate([problem("p"), problem("q"), problem("r")], statements)
    assert [(p.id, p.annotations) for p in annotated] == [("p", ["The length of segment AB is 3."])]
    assert [(d.id, d.reason) for d in drops] == [
        ("q", "deduced, not seen"),
        ("q", "no visual fact left"),
    ]
    table = pipeline.drop_table(drops)
    assert list(table.columns) == ["id", "step", "reason", "text"]
    assert len(pipeline.drop_table([])) == 0


# --- audit --------------------------------------------------------------------------------------------


def test_audit_by_hand():
    said = [
        "The length of segment BA is 3.",  # true, the other way round
        "The length of segment BC is 5.",  # contradicted
        "Line AB is parallel to line BC.",  # unsupported
        "Something else entirely",  # unread
    ]
    found = audit.audit([problem(text_facts=GOLD[3:]).annotated(said)])
    assert list(found.annotations["verdict"]) == ["true", "contradicted", "unsupported", "unread"]
    assert list(found.gold["found"]) == [True, False, False, False]
    assert list(found.gold["needed"]) == [True, True, True, False]
    table = found.summary().set_index("measure")
    assert (table.loc["precision", "right"], table.loc["precision", "of"]) == (1, 3)
    assert (table.loc["recall", "right"], table.loc["recall", "of"]) == (
        1,
        3,
    )  # one stands in the question
    assert (table.loc["unread", "right"], table.loc["unread", "of"]) == (1, 4)
    nothing_needed = (
        audit.audit([problem(needed_facts=()).annotated(said)]).summary().set_index("measure")
    )
    assert nothing_needed.loc["recall of needed facts", "of"] == 0
    with pytest.raises(InputError, match="no problem has gold facts"):
        audit.audit([problem(gold_facts=())])


def planted(rng: random.Random, n: int) -> tuple[list[Problem], dict[str, int]]:
    """Annotations with faults of known number: values swapped, facts left out, false facts added."""
    problems, counts = [], {"swapped": 0, "left out": 0, "added": 0, "facts": 0}
    for k in range(n):
        forms = [
            f"Equals(LengthOf(Line({a}, {b})), {rng.randint(10, 99)})"
            for a, b in ("AB", "BC", "CD", "DE", "EF")
        ]
        said = []
        for form in forms:
            counts["facts"] += 1
            fact = facts.parse(form)
            draw = rng.random()
            if draw < 0.05:
                counts["swapped"] += 1
                fact = facts.parse(
                    form.replace(", " + str(fact.args[1]) + ")", f", {int(fact.args[1]) + 100})")
                )
            elif draw < 0.10:
                counts["left out"] += 1
                continue
            said.append(facts.to_sentence(fact))
            if rng.random() < 0.05:
                counts["added"] += 1
                said.append(f"Line AX is parallel to line B{rng.choice('YZ')}.")
        problems.append(problem(f"p{k}", gold_facts=tuple(forms), needed_facts=()).annotated(said))
    return problems, counts


def test_the_audit_finds_planted_faults_at_the_planted_rates():
    problems, counts = planted(random.Random(1), 400)
    found = audit.audit(problems)
    verdicts = found.annotations["verdict"].value_counts()
    assert verdicts["contradicted"] == counts["swapped"]
    assert verdicts["unsupported"] == counts["added"]
    assert verdicts["true"] == counts["facts"] - counts["swapped"] - counts["left out"]
    recall = found.summary().set_index("measure").loc["recall"]
    assert recall["right"] == verdicts["true"]
    assert recall["low"] < 0.90 < recall["high"]  # 5% swapped and 5% left out were planted


def test_visual_share_counts_what_stands_only_in_the_image():
    table = audit.visual_share(
        [problem("p"), problem("q", text_facts=(GOLD[0], "Equals(LengthOf(Line(X, Y)), 1)"))]
    )
    assert table[["visual", "facts"]].to_numpy().tolist() == [[4, 4], [3, 5]]


# --- the model's path, against a real server -----------------------------------------------------------


def answer_with(sentences: list[str]):
    return good(json.dumps({"facts": [{"sentence": s, "source": "figure"} for s in sentences]}))


def extract(server: StubServer, problems: list[Problem], **settings):
    async def work():
        async with Chat(server.url, "stub", **settings) as chat:
            return await pipeline.extract_by_llm(
                chat, problems, pipeline.own_trajectories(problems)
            ), chat.usage

    return asyncio.run(work())


def test_a_model_extracts_what_it_says_and_tokens_are_counted():
    problems = [problem(f"p{k}", problem=f"<image>How long is AC, version {k}?") for k in range(5)]
    with StubServer(lambda call: answer_with(["AB = 3"])) as server:
        (found, drops), usage = extract(server, problems)
        assert server.count == 5
    assert drops == []
    assert {id_: [f.sentence for f in items] for id_, items in found.items()} == {
        p.id: ["AB = 3"] for p in problems
    }
    assert (usage.prompt_tokens, usage.completion_tokens) == (50, 25)


def test_bad_json_500_and_a_hang_cost_only_their_own_problem():
    faults = {0: good("no JSON here"), 1: status(500), 2: hang()}
    problems = [problem(f"p{k}", problem=f"<image>How long is AC, version {k}?") for k in range(4)]

    def plan(call):
        version = int(call.text.split("version ")[1].split("?")[0])
        return faults.get(version) or answer_with(["AB = 3"])

    with StubServer(plan) as server:
        (found, drops), _ = extract(
            server, problems, timeout=0.5, deadline=3, retries=1, attempts=2
        )
    assert list(found) == ["p3"]
    reasons = {d.id: d.reason for d in drops}
    assert reasons == {
        "p0": "no usable answer: unusable answer",
        "p1": "no usable answer: server error",
        "p2": "no usable answer: timeout",
    }
    assert all("\n" not in d.text for d in drops)


def test_a_killed_extraction_resumes_without_paying_twice(tmp_path):
    script = textwrap.dedent(
        f"""
        import asyncio, sys
        from tests.test_annotate import problem
        from perception_r1.annotation import pipeline
        from perception_r1.common.chat import Chat
        problems = [problem(f"p{{k}}", problem=f"<image>How long is AC, version {{k}}?") for k in range(12)]
        async def work():
            async with Chat(sys.argv[1], "stub", cache={str(tmp_path / "cache.sqlite")!r}, concurrency=1) as chat:
                return await pipeline.extract_by_llm(chat, problems, pipeline.own_trajectories(problems))
        found, drops = asyncio.run(work())
        print(len(found), len(drops))
        """
    )
    with StubServer(lambda call: answer_with(["AB = 3"]).after(0.2)) as server:
        command = [sys.executable, "-c", script, server.url]
        first = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while server.count < 5:
            assert first.poll() is None
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        before = server.count
        second = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
        )
        assert second.stdout.split() == ["12", "0"]
        assert server.count - before <= 12 - before + 1  # only what was in flight is asked again
