"""Benchmarks: the published files that are at hand, and small files of the public schemas of the others."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.evaluation import agreement
from perception_r1.evaluation.benchmarks import BENCHMARKS, find, load
from perception_r1.evaluation.our_rules import LETTERS, Item, ours
from perception_r1.problems.schema import IMAGE_MARK
from tests.conftest import png

RED, BLUE, GREEN = (png(colour) for colour in ("red", "blue", "green"))


def write_parquet(path: Path, *rows: dict) -> None:
    """A file as it lies on the hub: images embedded, what a row lacks is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(name for row in rows for name in row)
    rows = [{name: row.get(name) for name in names} for row in rows]
    for row in rows:
        row |= {name: {"bytes": v, "path": None} for name, v in row.items() if isinstance(v, bytes)}
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def published(shared):
    """Key -> items by id of the three benchmarks whose files are at hand."""
    names = ("mathvision", "mathvista", "wemath")
    return {k: {it.id: it for it in load(BENCHMARKS[k], shared / k)} for k in names}


def test_published_responses_rescored_give_the_recorded_agreement(shared):
    """Of one system; appendix A2 does so with MATH-Vision."""
    scored = agreement.rescore("mathvista", shared / "mathvista", "bard")
    counts = agreement.counts(scored)
    table = recorded.read("benchmark_agreement").set_index("system")
    recorded_counts = table.loc["Multimodal Bard", list(counts)].to_dict()
    assert counts == pytest.approx(recorded_counts, abs=1e-5)
    reasons = scored["why"].value_counts().drop("")
    table = recorded.read("benchmark_reasons").query("system == 'Multimodal Bard'")
    assert reasons.to_dict() == table.groupby("reason")["items"].sum().to_dict()


def test_every_published_question_is_whole_and_its_gold_answer_right(published):
    """But for MathVista's 781, which has 18 twice among its options, so that the text names none."""
    sizes = {name: len(items) for name, items in published.items()}
    assert sizes == {"mathvision": 3040, "mathvista": 1000, "wemath": 1740}
    everything = [it for items in published.values() for it in items.values()]
    assert all(it.text.strip() for it in everything)  # MATH-Vision's 528 is an image
    wrong = [it.id for it in everything if not ours(f"\\boxed{{{it.answer}}}", it)[1]]
    assert set(wrong) <= {"781"}


def test_every_wemath_item_has_its_gold_option(published):
    for it in published["wemath"].values():
        assert len(it.options) >= 4 and it.answer == it.letter in LETTERS[: len(it.options)]
        assert not any(option.endswith(";") for option in it.options)
    pointed = published["wemath"]["2steps_48/2steps_multi"]  # a point "C" is no option
    assert len(pointed.options) == 4 and pointed.options[3] == "No correct answer"
    assert pointed.options[1].startswith("First head northwest to B, then west to")


def test_published_images_become_problems(shared, published):
    for name, count in (("wemath", 198), ("mathvision", 304)):
        there = {path.name for path in (shared / name / "images").iterdir()}
        items = published[name].values()
        paths = {it.id: it.images[0].removeprefix("images/").replace("/", "_") for it in items}
        shown = [it for it in items if paths[it.id] in there]
        assert len(shown) == count
        for it in shown[::19]:
            problem = it.problem(shared / name)
            assert problem.image.width > 1 and problem.problem == IMAGE_MARK + it.text


# Hub card AI4Math/MathVista d32e834.
def mathvista_row(pid, **more) -> dict:
    about = {"skills": ["arithmetic"], "task": "math word problem", "context": "table"}
    return {
        "pid": pid, "question": "How many?", "image": f"images/{pid}.jpg", "decoded_image": RED, "answer": "3",
        "question_type": "free_form", "answer_type": "integer", "metadata": about, "choices": None,
        "precision": None, **more,
    }  # fmt: skip


def test_mathvista_as_parquet(tmp_path):
    choice = {"question_type": "multi_choice", "answer_type": "text", "choices": ["5°", "7°"]}
    write_parquet(
        tmp_path / "data [v2]*/testmini-00000-of-00001.parquet",
        mathvista_row("1", **choice, answer="7°", question="Which angle?"),
        mathvista_row("2", answer="1.2", answer_type="float", precision=1.0),
    )  # fmt: skip
    write_parquet(tmp_path / "data v/testmini-0.parquet", mathvista_row("3"))
    first, second = load(BENCHMARKS["mathvista"], tmp_path / "data [v2]*", 2)  # no pattern
    assert (first.id, first.question, first.options) == ("1", "Which angle?", ("5°", "7°"))
    assert (first.answer, first.letter, first.images) == ("7°", "B", (RED,))
    assert first.groups == {"subject": "math word problem", "context": "table"}
    assert first.text == "Which angle?\nChoices:\n(A) 5°\n(B) 7°"
    assert (second.answer_type, second.precision, second.letter) == ("float", 1, None)
    assert second.problem().image.getpixel((0, 0)) == (255, 0, 0)
    assert BENCHMARKS["mathvista"].official("1.24", second) == ("1.24", True)  # to one place


# Hub card AI4Math/MathVerse; "Vision Only" with an empty question: ZrrSkywalker/MathVerse, README.md.
def mathverse_row(index, version="Text Lite", question="Find x.", **more) -> dict:
    return {
        "sample_index": index, "problem_version": version, "question": question, "image": BLUE,
        "answer": "14", "question_type": "free-form", "question_for_eval": question,
        "metadata": {"subject": "Plane Geometry"}, **more,
    }  # fmt: skip


def test_mathverse(tmp_path):
    choices = "Find the angle.\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°"
    multi = {"question_type": "multi-choice", "answer": "C"}
    rows = [
        mathverse_row("1", "Text Dominant", choices, **multi),
        mathverse_row("2", "Vision Only", "", question_for_eval=choices, **multi),
        mathverse_row("3"),
    ]
    write_parquet(tmp_path / "testmini.parquet", *rows)
    alone = mathverse_row("4", "Text Only", image="")  # no part of the benchmark
    write_parquet(tmp_path / "testmini_text_only.parquet", alone)
    told, seen, free = load(BENCHMARKS["mathverse"], tmp_path, 3)
    assert (told.id, told.question, told.letter) == ("1", "Find the angle.", "C")
    assert told.options == seen.options == ("40°", "60°", "120°", "140°")
    assert told.groups == {"subject": "Plane Geometry", "version": "Text Dominant"}
    assert seen.groups["version"] == "Vision Only" and seen.question == "Find the angle."
    assert "120" not in seen.text and "angle" not in seen.text  # it stands in the image alone
    assert (free.options, free.answer, free.letter, free.images) == ((), "14", None, (BLUE,))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").write_bytes(GREEN)
    row = mathverse_row("1", image="images/1.png", **multi)  # JSON names its images
    (tmp_path / "testmini.json").write_text(json.dumps([row]))
    (only,) = load(BENCHMARKS["mathverse"], tmp_path, 1)
    assert only.problem(tmp_path).images == (GREEN,) and only.options == tuple("ABCD")


# Hub cards MMMU/MMMU and MMMU/MMMU_Pro; a list as answer: index 68473228985.
def test_mmmu_as_parquet(tmp_path):
    choice = {
        "id": "validation_Art_Theory_3", "question": "Compare <image 1> and <image 2>.", "answer": "B",
        "options": "['the first', \"the second's\", '<image 3>']", "question_type": "multiple-choice",
        "image_1": RED, "image_2": BLUE, "image_3": GREEN,
    }  # fmt: skip
    listed = {
        "id": "validation_Geography_4", "question": "Which place is this? <image 1>", "options": "[]",
        "answer": "['Tampa', 'Florida']", "question_type": "open", "image_1": RED,
    }  # fmt: skip
    write_parquet(tmp_path / "Art_Theory/validation-00000-of-00001.parquet", choice)
    write_parquet(tmp_path / "Geography/validation-00000-of-00001.parquet", listed)
    write_parquet(tmp_path / "Geography/dev-00000-of-00001.parquet", listed)
    choice, listed = load(BENCHMARKS["mmmu"], tmp_path, 2)
    assert choice.groups == {"subject": "Art_Theory", "type": "multiple-choice"}
    assert choice.options == ("the first", "the second's", "<image 3>")
    assert choice.images == (RED, BLUE, GREEN) and choice.letter == "B"
    problem = choice.problem()
    assert problem.problem.startswith(IMAGE_MARK * 3 + "Compare image 1 and image 2.")
    assert "\nChoices:\n(A) the first\n(B) the second's\n(C) " in problem.problem
    assert (listed.groups["subject"], listed.letter) == ("Geography", None)
    broken = {"id": "validation_Art_1", "question": "?", "answer": "A", "options": "['a', 'b'"}
    write_parquet(tmp_path / "Art/validation-0.parquet", broken)
    with pytest.raises(InputError, match="not a row of MMMU"):
        load(BENCHMARKS["mmmu"], tmp_path, 3)


def test_mmmu_pro_as_parquet(tmp_path):
    options = [f"text {k}" for k in range(10)]
    row = {"id": "test_Art_1", "options": str(options), "answer": "J", "subject": "Art"}
    standard = {**row, "question": "What is in <image 1>?", "image_1": RED, "image_2": BLUE}
    file = "test-00000-of-00001.parquet"
    write_parquet(tmp_path / "standard (10 options)" / file, standard)
    write_parquet(tmp_path / "standard (4 options)" / file, standard)
    with pytest.raises(InputError, match="vision"):  # both settings are needed
        load(BENCHMARKS["mmmupro"], tmp_path, 1)
    write_parquet(tmp_path / "vision" / file, {**row, "image": GREEN})
    standard, vision = load(BENCHMARKS["mmmupro"], tmp_path, 2)
    assert (standard.id, vision.id) == ("standard/test_Art_1", "vision/test_Art_1")
    assert standard.images == (RED, BLUE) and vision.images == (GREEN,)
    assert vision.groups == {"subject": "Art", "setting": "vision"}
    assert len(standard.options) == 10 and standard.letter == vision.letter == "J"
    assert standard.text.startswith("What is in ") and standard.text.endswith("(J) text 9")
    assert vision.text and "text 9" not in vision.text


# Hub card Lin-Chen/MMStar; how options stand in the question: index 27481821114.
MMSTAR_ROW = {"index": 0, "category": "math", "l2_category": "geometry", "answer": " C\n"}


def test_mmstar_as_parquet(tmp_path):
    row = {**MMSTAR_ROW, "image": png(kind="JPEG")}
    question = "Where is it?\nOptions: A: On the table, B: Under it, C: Beside it, D: Nowhere"
    rows = [{**row, "question": question}, {**row, "index": 1, "question": "Hint: ... (C) 7"}]
    write_parquet(tmp_path / "mmstar.parquet", *rows)
    first, other = load(BENCHMARKS["mmstar"], tmp_path, 2)
    assert (first.id, first.question, first.letter) == ("0", "Where is it?", "C")
    assert first.options == ("On the table", "Under it", "Beside it", "Nowhere")
    assert first.groups == {"subject": "math", "ability": "geometry"}
    assert other.options == tuple("ABCD") and other.text == "Hint: ... (C) 7"
    assert first.problem().image.size == (9, 7)


# Columns: cards of mm-reasoning/EMMA 8f9158e and luckychao/EMMA-mini 92ec8e8; types: EMMA-Bench/EMMA README 62a84e8.
def test_emma_as_parquet(tmp_path):
    row = {"subject": "Math", "image_1": RED}
    write_parquet(
        tmp_path / "Math/test-00000-of-00001.parquet",
        {**row, "pid": "math_1", "question": "Which follows <image_1>?", "options": ["10", "12"],
         "answer": "B", "type": "Multiple Choice", "image_3": BLUE, "context": "Look."},
        {**row, "pid": "math_2", "question": "How many?", "options": [], "answer": "3",
         "type": "Open-ended", "context": "None"},
    )  # fmt: skip
    choice, free = load(BENCHMARKS["emma"], tmp_path, 2)
    assert choice.text == "Look.\nWhich follows image 1?\nChoices:\n(A) 10\n(B) 12"
    assert choice.images == (RED, BLUE) and choice.letter == "B"
    assert choice.groups == {"subject": "Math", "type": "Multiple Choice"}
    assert (free.text, free.options, free.letter) == ("How many?", (), None)


def test_all_eight_are_there_with_their_sizes():
    assert {b.name: b.items for b in BENCHMARKS.values()} == {
        "MathVista": 1000, "MathVerse": 3940, "MathVision": 3040, "We-Math": 1740, "MMMU": 900, "MMMU-Pro": 3460,
        "MMStar": 1500, "EMMA": 2788,
    }  # fmt: skip
    assert find("MATH-Vision") is find("math_vision") is BENCHMARKS["mathvision"]


def test_files_that_cannot_be_used(tmp_path):
    for file, content, says in (
        ("other.json", b"[]", "has none of testmini.json.*hf download AI4Math/MathVista"),
        ("testmini-0.parquet", b"PAR1 no", "cannot read .*parquet: "),
        ("testmini.json", b'[{"pid": "1"}]', "row 0: not a row of MathVista .*that of AI4Math"),
    ):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(InputError, match=says):
            load(BENCHMARKS["mathvista"], tmp_path)
        (tmp_path / file).unlink()


def test_a_part_of_a_benchmark_is_taken_only_if_it_is_said_to_be_one(tmp_path):
    rows = [mathvista_row(pid, decoded_image=None) for pid in "121"]  # one comes twice
    (tmp_path / "testmini.json").write_text(json.dumps(rows))
    (tmp_path / "z").mkdir()  # a JSON file is whole: another one is no part of it
    (tmp_path / "z/testmini.json").write_text(json.dumps([mathvista_row("9", decoded_image=None)]))
    assert [it.id for it in load(BENCHMARKS["mathvista"], tmp_path, 2)] == ["1", "2"]
    for items, wanted in ((None, 1000), (3, 3), (1, 1)):
        with pytest.raises(InputError, match=f"2 questions and MathVista {wanted}: .*--items 2"):
            load(BENCHMARKS["mathvista"], tmp_path, items)


def test_images_that_are_missing_or_broken(tmp_path):
    (tmp_path / "half.png").write_bytes(RED[:45])
    named = Item("9", "Q?", (), "1", ("none.png",), {})
    for images, says in (
        (("none.png",), r"item 9: cannot read the image .*none.png: No such file"),
        (("half.png",), r"item 9 .*half.png.* not a readable image"),
        ((b"no image",), r"item 9 .*in the file.* not a readable image"),
    ):
        with pytest.raises(InputError, match=says):
            dataclasses.replace(named, images=images).problem(tmp_path)
