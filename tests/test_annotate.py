"""Annotations: each step on problems written by hand, and the command; the model is a real local server."""

import json

import pytest
from PIL import Image

from perception_r1 import __main__
from perception_r1.annotation import audit, pipeline
from perception_r1.annotation.pipeline import ExtractedFact, Trajectory
from perception_r1.common.errors import InputError
from perception_r1.problems import load_problems, write_problems
from perception_r1.problems.schema import Problem
from tests.stub_server import StubServer, good, status

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


def test_only_right_trajectories_are_kept_one_a_problem_and_each_drop_has_a_reason():
    problems = [problem("p"), problem("q"), problem("r")]
    wrong, none = COT.replace("boxed{5}", "boxed{6}"), COT.replace("\\boxed{5}", "5")
    texts = [("p", wrong), ("p", COT), ("p", COT + " "), ("q", wrong), ("r", none)]
    kept, drops = pipeline.keep_right(problems, [Trajectory(*pair) for pair in texts])
    assert [(t.id, t.text) for t in kept] == [("p", COT)]
    assert [(d.id, d.reason) for d in drops] == [
        ("p", "wrong answer"), ("p", "another right trajectory is kept"), ("q", "wrong answer"),
        ("r", "no answer in \\boxed{}"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="for problem 'z', not in the dataset"):
        pipeline.keep_right(problems, [Trajectory("z", COT)])
    assert pipeline.own_trajectories([problem(), problem("bare", cot="")]) == [Trajectory("p", COT)]


def test_trajectories_come_from_a_file_whose_bad_lines_are_named(tmp_path):
    path = tmp_path / "t[1].jsonl"
    path.write_text('{"id": "p", "response": "one"}\n\n{"id": "p", "response": "two", "more": 1}\n')
    assert pipeline.read_trajectories(path) == [Trajectory("p", "one"), Trajectory("p", "two")]
    path.write_text(path.read_text() + '{"id": "p", "response": ""}')
    with pytest.raises(InputError, match=r"row 2: .*t\[1\].jsonl: no text for id or response"):
        pipeline.read_trajectories(path)


def test_clean_normalises_and_says_why_it_drops():
    sentences = {
        "AB = 3": "figure",
        "The length of segment BA is 3.": "figure",
        "BC = 4": "figure",
        "The  figure is\na triangle": "figure",
        "the figure is a Triangle": "figure",
        "AC = 5": "deduced",
        "BD = 2": "question",
    }
    statements = [ExtractedFact(sentence=text, source=of) for text, of in sentences.items()]
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
    table = pipeline.drop_table(drops)
    assert table.to_numpy().tolist() == [
        ["q", "annotation", "deduced, not seen", "AC = 5"],
        ["q", "annotation", "no visual fact left", ""],
    ]
    bare = problem("bare", cot="<think>\nSo it is 5.\n</think>\n<answer>\\boxed{5}</answer>")
    wrong = problem("wrong", answer="6")
    known = pipeline.annotate_by_reading([problem(), bare, wrong])
    assert [(p.id, len(p.annotations)) for p in known] == [("p", 3), ("bare", 0)]


def test_audit_by_hand():
    annotations = [
        "The length of segment BA is 3.",  # true, the other way round
        "The length of segment BC is 5.",  # contradicted
        "Line AB is parallel to line BC.",  # unsupported
        "Something else entirely",  # unread
    ]
    audited = audit.audit([problem(text_facts=GOLD[3:]).annotated(annotations)])
    assert list(audited.annotations["verdict"]) == ["true", "contradicted", "unsupported", "unread"]
    assert list(audited.gold["found"]) == [True, False, False, False]
    assert list(audited.gold["needed"]) == [True, True, True, False]
    table = audited.summary().set_index("measure")
    counts = {measure: (row["right"], row["of"]) for measure, row in table.iterrows()}
    assert counts == {  # one gold fact stands in the question
        "precision": (1, 3), "recall": (1, 3), "recall of needed facts": (1, 3), "unread": (1, 4),
    }  # fmt: skip
    by_kind = audited.summary(by_kind=True).set_index(["measure", "kind"])["share"]
    assert by_kind["precision", "length"] == 0.5 and by_kind["recall", "perpendicular"] == 0
    with pytest.raises(InputError, match="no problem has gold facts"):
        audit.audit([problem(gold_facts=())])


def test_audit_intervals_and_visual_share():
    said = ["The length of segment AB is 3.", "The length of segment BC is 4."]
    many = [problem(f"p{k}").annotated(said[: 1 + k % 2]) for k in range(40)]
    recall = audit.audit(many).summary(seed=1).set_index("measure").loc["recall"]
    assert recall["share"] == 60 / 160 and 0.32 < recall["low"] < 0.375 < recall["high"] < 0.43
    given = problem("q", text_facts=(GOLD[0], "Equals(LengthOf(Line(X, Y)), 1)"))
    table = audit.visual_share([problem("p"), given])
    assert table[["visual", "facts"]].to_numpy().tolist() == [[4, 4], [3, 5]]


def command(*arguments: object) -> int:
    return __main__.main(["annotate", *map(str, arguments)])


def test_the_command_reads_statements_without_a_server(tmp_path, capsys):
    wrong = problem("q", cot=COT.replace("boxed{5}", "boxed{6}"))
    write_problems([problem(), wrong], tmp_path / "in.parquet")
    files = ("--data", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")
    assert command(*files) == 0
    (annotated,) = load_problems(tmp_path / "out.parquet")
    assert (annotated.id, len(annotated.annotations)) == ("p", 3)
    assert "1 of 2 problems" in capsys.readouterr().out
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "q", "response": COT}))
    assert command(*files, "--trajectories", tmp_path / "t.jsonl") == 0
    assert [p.id for p in load_problems(tmp_path / "out.parquet")] == ["q"]
    assert command(*files, "--chat-url", "http://localhost:9/none") == 2
    assert "no model named" in capsys.readouterr().err
    write_problems([problem(cot="")], tmp_path / "bare.parquet")
    assert command("--data", tmp_path / "bare.parquet", "--out", tmp_path / "no.parquet") == 2
    assert "--trajectories" in capsys.readouterr().err and not (tmp_path / "no.parquet").exists()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (r"AB = \frac{1}{2}", r"AB = \frac{1}{2}"), (r"AB = \\frac{1}{2}", r"AB = \frac{1}{2}"),
        (r"a \times b \neq c", r"a \times b \neq c"), (r"\angle A = 30^\circ", r"\angle A = 30^\circ"),
        (r"30\u00b0, \"so\"", '30°, "so"'), (r"one\nTwo", "one\nTwo"),
    ],
)  # fmt: skip
def test_latex_in_a_models_json_is_latex_however_it_is_escaped(written, sentence):
    text = f'{{"facts": [{{"sentence": "{written}", "source": "figure"}}]}}'
    assert [fact.sentence for fact in pipeline.read_extraction(text).facts] == [sentence]


def test_the_command_asks_a_model_and_goes_on_from_its_cache(tmp_path):
    texts = [f"<image>How long is AC, version {k}?" for k in range(5)]
    problems = [problem(f"p{k}", problem=text) for k, text in enumerate(texts)]
    write_problems(problems, tmp_path / "in.parquet")
    faults = {1: good("no JSON here"), 2: status(400)}
    facts = good(json.dumps({"facts": [{"sentence": "AB = 3", "source": "figure"}]}))

    def answer(call):
        assert "image_url" not in json.dumps(call.body)  # the extracting model sees no image
        return faults.get(int(call.text.split("version ")[1][0]), facts)

    with StubServer(answer) as server:
        files = ("--data", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")
        arguments = (*files, "--chat-url", server.url, "--chat-model", "stub")
        assert command(*arguments) == 1
        assert [p.id for p in load_problems(tmp_path / "out.parquet")] == ["p0", "p3", "p4"]
        before = server.count
        faults.clear()
        # what the model answered is kept, unusable answers too; only the refused request is made again
        assert command(*arguments) == 1 and server.count == before + 1
    annotated = {p.id: p.annotations for p in load_problems(tmp_path / "out.parquet")}
    assert annotated == dict.fromkeys(["p0", "p2", "p3", "p4"], ["The length of segment AB is 3."])
