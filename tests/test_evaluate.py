"""Contract C8 through its command: outcomes, summaries, comparison, bad input, generation."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from scipy.stats import beta
from statsmodels.stats.contingency_tables import mcnemar

from perception_r1.__main__ import main as command_line
from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.evaluation.benchmarks import BENCHMARKS, load
from perception_r1.evaluation.evaluate import RESULTS
from perception_r1.training.generation import generate
from perception_r1.training.policy import new_miniature, save_policy
from tests.stub_server import StubServer, good, status

ABOUT = {"context": "table", "task": "geometry problem solving"}
OTHER = {"context": "table", "task": "math word problem"}
# As in MathVista's testmini.json: pid, question, choices, precision, answer, answer_type, metadata.
ROWS = [
    ("1", "Which length is AB?", ["5 cm", "7 cm"], None, "7 cm", "text", ABOUT),
    ("2", "How many dots?", None, None, "12", "integer", OTHER),
    ("3", "How long is it?", None, 1, "1.5", "float", ABOUT),
    ("4", "Which years?", None, None, "[1, 2]", "list", OTHER),
    ("5", "Is it so?", ["yes", "no"], None, "no", "text", OTHER),
    ("6", "How large is it?", None, None, "3", "integer", {"context": "table", "task": None}),
]
IDS = [row[0] for row in ROWS]
RESPONSES = ["7 cm", "12", "1.46", "So \\boxed{[1, 2]}.", "", "It is 4."]
# 5: MathVista's rules give an empty answer the shortest option, "no". 6 is wrong by all.
OFFICIAL = [True, True, True, True, True, False]
OURS = [True, True, True, True, False, False]


@pytest.fixture
def data(tmp_path) -> Path:
    """A small benchmark in MathVista's format, with images."""
    folder = tmp_path / "data[1]"
    (folder / "images").mkdir(parents=True)
    names = ("pid", "question", "choices", "precision", "answer", "answer_type", "metadata")
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in ROWS}
    for k, row in enumerate(rows.values()):
        row["image"] = f"images/{row['pid']}.png"
        Image.new("RGB", (112, 112), (40 * k, 0, 0)).save(folder / row["image"])
    (folder / "testmini.json").write_text(json.dumps(rows))
    return folder


def write_responses(path: Path, responses=RESPONSES, ids=IDS) -> Path:
    rows = [{"id": i, "response": r} for i, r in zip(ids, responses, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(data: Path, out: Path, *more, benchmark="MathVista", items=6) -> list[str]:
    first = ["evaluate", "--benchmark", benchmark, "--data", data, "--out", out, "--items", items]
    return [str(part) for part in (*first, *more)]


@pytest.fixture
def scored(data, tmp_path):
    """Return a function that evaluates responses and gives the outcomes, the summary, and the folder."""

    def run(name="out", *more, responses=RESPONSES):
        path, out = write_responses(tmp_path / f"{name}*.jsonl", responses), tmp_path / name
        assert command_line(command(data, out, "--responses", path, *more)) == 0
        return pd.read_csv(out / "outcomes.csv", dtype={"id": str}), summary_of(out), out

    return run


def summary_of(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)


def refused(arguments, capsys, says: str, out: Path | None = None) -> None:
    """The command ends with 2, its last line says why, and it leaves no results."""
    capsys.readouterr()
    assert command_line(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and re.search(says, last), last
    assert out is None or not [name for name in RESULTS if (out / name).exists()]


def test_outcomes_and_summary(scored):
    outcomes, summary, _ = scored()
    assert list(outcomes["id"]) == IDS and list(outcomes["correct"]) == OFFICIAL
    assert set(outcomes["method"]) == {summary["method"]} == {"official"}
    assert list(outcomes["extracted"].fillna(""))[1:] == ["12", "1.46", "[1, 2]", "", "4"]
    assert (summary["n"], summary["correct"], summary["accuracy"]) == (6, 5, 5 / 6)
    assert summary["ci_low"] == pytest.approx(beta.ppf(0.025, 5, 2))
    assert summary["ci_high"] == pytest.approx(beta.ppf(0.975, 6, 1))
    assert summary["empty"] == 1 and summary["whole benchmark"] is False
    subjects = {name: (part["n"], part["correct"]) for name, part in summary["by_subject"].items()}
    assert subjects == {
        "geometry problem solving": (2, 2), "math word problem": (3, 3), "None": (1, 0),
    }  # fmt: skip


def test_ours_and_where_it_differs(scored):
    outcomes, summary, out = scored("out", "--method", "ours")
    assert list(outcomes["correct"]) == OURS and set(outcomes["method"]) == {"ours"}
    assert summary["correct"] == 4 and summary["scores"]["official"]["correct"] == 5
    differences = pd.read_csv(out / "differences.csv", dtype=str)
    assert list(differences["id"]) == ["5"] and differences["why"][0] == "ours finds no answer"
    assert summary["official and ours differ"] == {"ours finds no answer": 1}


def test_responses_in_other_forms(data, tmp_path):
    """Ids as numbers, a byte-order mark, and U+2028 in a text, which ends no line; or the benchmark's own rows."""
    texts = [*RESPONSES[:5], "It is\u2028 4."]
    lines = [{"id": int(i), "response": r} for i, r in zip(IDS, texts, strict=True)][::-1]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in lines)
    own = json.loads((data / "testmini.json").read_text())
    own = {k: row | {"response": RESPONSES[int(k) - 1]} for k, row in own.items()}
    for name, text in (("r.jsonl", "\ufeff" + lines), ("output_m.json", json.dumps(own))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        out = tmp_path / "out"
        assert command_line(command(data, out, "--responses", tmp_path / name)) == 0
        assert summary_of(out)["correct"] == 5
        assert list(pd.read_csv(out / "outcomes.csv", dtype=str)["id"]) == IDS  # in its order


def test_null_blank_and_half_characters(scored):
    """JSON may hold "\\ud83d" alone: what a model cut off in the middle of a pair leaves."""
    outcomes, summary, _ = scored(responses=["7 cm", None, "", "  ", "no", "so 4 \ud83d"])
    assert (summary["empty"], summary["n"]) == (3, 6)
    assert list(outcomes["correct"]) == [True, False, False, False, True, False]


def test_paired_by_hand(scored, data, tmp_path, capsys):
    """Before: 1 right, 6 wrong and 2 to 5 wrong; after: all but 6. Both 1, b 0, c 4, neither 1."""
    _, _, before = scored("before", responses=["7 cm", "1", "2", "3", "yes", "4"])
    _, _, out = scored("after", "--against", before / "outcomes.csv")
    paired = json.loads((out / "paired.json").read_text())
    assert [paired[key] for key in ("n", "both", "b", "c", "neither")] == [6, 1, 0, 4, 1]
    assert paired["pvalue"] == pytest.approx(mcnemar([[1, 0], [4, 1]], exact=True).pvalue)
    assert paired["difference"] == pytest.approx(4 / 6) and paired["odds_ratio"] is None
    assert paired["ci_low"] < 4 / 6 < paired["ci_high"]
    other = ("--responses", tmp_path / "after*.jsonl", "--against", out / "outcomes.csv")
    arguments = command(data, tmp_path / "out", *other, "--method", "ours")
    refused(arguments, capsys, "was scored by official, this by ours", tmp_path / "out")


def test_responses_that_cannot_be_used(scored, data, tmp_path, capsys):
    """And nothing stays of an earlier evaluation."""
    lines = [json.dumps({"id": i, "response": r}) for i, r in zip(IDS, RESPONSES, strict=True)]
    path = tmp_path / "bad.jsonl"
    for bad, says in (
        (lines[:-2], r"2 ids \(5, 6\) have no response"),
        ([*lines, lines[0].replace('"1"', '"99"')], r"1 ids \(99\) are not MathVista's"),
        ([*lines, lines[0]], r"1 ids \(1\) come more than once"),
        ([*lines[:5], '{"id": "6"}'], r"row 5 \(id 6\): no response"),
        ([*lines[:5], lines[5][:-4]], "bad.jsonl is not JSON"),
    ):
        _, _, out = scored("out")
        assert (out / "outcomes.csv").exists() and (out / "differences.csv").exists()
        (out / "paired.json").touch()
        path.write_text("\n".join(bad))
        refused(command(data, out, "--responses", path), capsys, says, out)


def test_wrong_names_and_folders(data, tmp_path, capsys):
    path, out = write_responses(tmp_path / "r.jsonl"), tmp_path / "out"
    take, missing = ("--responses", path), tmp_path / "none"
    for arguments, says in (
        (command(data, out, *take, benchmark="MathVisit"), "no benchmark 'MathVisit'; there are"),
        (command(data, out, *take, items=7), "has 6 questions and MathVista 7.*--items 6"),
        (command(data, out, "--responses", missing), "cannot read .*none: No such file"),
        (command(data, path, *take), "cannot write"),
        (command(data, out, *take, "--against", out / "outcomes.csv"), "--against lies in --out"),
        (command(data, out, "--server", "nonsense", "--served-model", "m"), "URL"),
        (command(data, out, "--model", missing), "no folder .*none; give"),
    ):
        refused(arguments, capsys, says, out)
    with pytest.raises(SystemExit):  # one source of responses
        command_line(command(data, tmp_path, *take, "--model", "b"))


def test_where_the_authors_rules_are_not_known_ours_decide(tmp_path, capsys):
    row = {
        "sample_index": "1", "question": "How many?", "question_for_eval": "How many?", "answer": "3",
        "question_type": "free-form", "problem_version": "Text Lite", "metadata": {"subject": "Functions"},
    }  # fmt: skip
    (tmp_path / "testmini.json").write_text(json.dumps([row]))
    path, out = write_responses(tmp_path / "r.jsonl", ["\\boxed{3}"], ["1"]), tmp_path / "out"
    take = {"benchmark": "MathVerse", "items": 1}
    arguments = command(tmp_path, out, "--responses", path, **take)
    assert command_line([*arguments, "--method", "ours"]) == 0
    assert summary_of(out)["correct"] == 1 and list(summary_of(out)["scores"]) == ["ours"]
    assert summary_of(out)["method"] == "ours"
    refused(
        [*arguments, "--method", "official"], capsys, "MathVerse has no rules.*--method ours", out
    )


def answers(call):
    """What a good model says, as in RESPONSES, but never nothing."""
    (said,) = (text for row, text in zip(ROWS, RESPONSES, strict=True) if row[1] in call.text)
    return good(said or "no")


def serve(server, *more):
    return ("--server", server.url, "--served-model", "stub", "--batch-size", "2", *more)


def asked(server) -> list[str]:
    return sorted(row[0] for call in server.calls for row in ROWS if row[1] in call.text)


def test_a_server_is_asked_once_for_each_item(data, tmp_path, capsys):
    out = tmp_path / "out"
    with StubServer(answers) as server:
        arguments = command(data, out, *serve(server), "--max-new-tokens", "99")
        assert command_line(arguments) == 0
        assert asked(server) == IDS
        body = next(call for call in server.calls if ROWS[0][1] in call.text).body
        assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 99, "stub")
        picture, text = body["messages"][-1]["content"]
        assert text["text"] == f"Which length is AB?\nChoices:\n(A) 5 cm\n(B) 7 cm {INSTRUCTION}"
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")
        path = out / "responses.jsonl"
        whole = path.read_bytes()
        assert [json.loads(line)["id"] for line in whole.splitlines()] == IDS
        assert command_line(arguments) == 0 and server.count == 6  # all there: only scored again
        for more in (("--served-model", "other"), ("--max-new-tokens", "7")):
            refused([*arguments, *more], capsys, "made in another way.*another folder", out)
        path.write_bytes(whole[:-9])  # a line that a kill tore is asked again
        server.calls = []
        assert command_line(arguments) == 0
        assert asked(server) == ["6"] and path.read_bytes() == whole
        questions = data / "testmini.json"
        questions.write_text(questions.read_text().replace("Which years?", "Which two years?"))
        refused(arguments, capsys, "made in another way", out)


def test_a_server_that_dies_half_way(data, tmp_path, capsys):
    out = tmp_path / "out"

    def dying(call):
        fine = any(row[1] in call.text for row in ROWS[:3])
        return answers(call) if fine else status(503, retry_after_ms="1")

    with StubServer(dying) as server:
        arguments = command(data, out, *serve(server))
        refused(arguments, capsys, "3 of 6 items have .*; 4, 5, 6 failed: .*HTTP 503", out)
        kept = (out / "responses.jsonl").read_text()
        server.answer, server.calls = answers, []
        assert command_line(arguments) == 0
        assert asked(server) == ["4", "5", "6"]
    assert (out / "responses.jsonl").read_text().startswith(kept)
    assert summary_of(out)["correct"] == 5
    with StubServer(lambda call: status(503, retry_after_ms="1")) as server:  # not asked for all
        arguments = command(data, tmp_path / "none", *serve(server))
        refused(arguments, capsys, "0 of 6 items have responses")
        assert set(asked(server)) == {"1", "2", "3", "4"}


def test_a_local_policy_answers(data, tmp_path, capsys):
    folder, out, policy = tmp_path / "policy", tmp_path / "out", new_miniature(3)
    save_policy(*policy, folder)
    size = ("--max-new-tokens", "3", "--batch-size", "3", "--method", "ours")
    arguments = command(data, out, "--model", folder, *size)
    assert command_line(arguments) == 0
    problems = [item.problem(data) for item in load(BENCHMARKS["mathvista"], data, 6)]
    short = {"batch_size": 3, "max_new_tokens": 3, "quiet": True}
    wanted = [text for k in (0, 3) for text in generate(*policy, problems[k : k + 3], **short)]
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    assert [row["response"] for row in rows] == wanted and summary_of(out)["n"] == 6
    save_policy(*new_miniature(4), folder)
    refused(arguments, capsys, "made in another way")
