"""Benchmarks: real responses with published verdicts, small files of the public schemas, and our rules by hand."""

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from datasets import Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from perception_r1.common.errors import InputError
from perception_r1.evaluation.benchmarks import BENCHMARKS, find, load
from perception_r1.evaluation.our_rules import LETTERS, Item, choose, extract, ours, why_different
from perception_r1.problems.schema import IMAGE_MARK

TEXT = Value("string")
PICTURE = datasets.Image()


def picture(color: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), color).save(buffer, kind)
    return buffer.getvalue()


RED, BLUE, GREEN = (picture(color) for color in ("red", "blue", "green"))


def write_parquet(path: Path, features: dict, *rows: dict) -> None:
    """A file as `datasets` writes one for the hub: images embedded, what a row lacks is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{name: row.get(name) for name in features} for row in rows]
    for row in rows:
        for name, kind in features.items():
            if kind is PICTURE and row[name] is not None:
                row[name] = {"bytes": row[name], "path": None}
    datasets.Dataset.from_list(rows, features=Features(features)).to_parquet(path)


def item(options=(), answer="B", answer_type="text", precision=None) -> Item:
    return Item("1", "What?", tuple(options), answer, (), {}, answer_type, precision)


def right(response: str, *about, **more) -> bool:
    return ours(response, item(*about, **more))[1]


# --- real responses and their published verdicts -----------------------------------------------------


@pytest.fixture(scope="module")
def mathvision(shared):
    return {it.id: it for it in load(BENCHMARKS["mathvision"], shared / "mathvision")}


@pytest.fixture(scope="module")
def mathvista(shared):
    return {it.id: it for it in load(BENCHMARKS["mathvista"], shared / "mathvista")}


@pytest.fixture(scope="module")
def wemath(shared):
    return load(BENCHMARKS["wemath"], shared / "wemath")


@pytest.mark.parametrize(
    "system", ["Gemini-Pro-CoT", "Qwen-VL-Max-CoT", "GPT4-CoT_Text_Only", "LLaVA-v1.5-13B"]
)
def test_mathvisions_official_verdicts_from_raw_responses(shared, mathvision, system):
    agree = Counter()
    for line in (shared / "mathvision/outputs" / f"{system}.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        _, verdict = BENCHMARKS["mathvision"].official(row["response"], mathvision[row["id"]])
        agree[row["correct"], verdict] += 1
    assert agree.total() == len(mathvision) == 3040
    assert agree[True, True] >= 0.97 * (agree[True, True] + agree[True, False])
    assert agree[False, False] >= 0.995 * (agree[False, False] + agree[False, True])
    assert abs(agree[True, False] - agree[False, True]) <= 0.003 * 3040


# Of 1,000 official verdicts, how many the raw responses give by the authors' rules where our extraction stands in for
# their language model's. Theirs is asked in most items, and this is not it: so the agreement is only reported, and
# each floor lies a little below what was measured (939, 960, 869, 906, 891, 835, 912).
RAW = {
    "bard": 935, "chatgpt_2shot_solution": 955, "gpt4": 860, "gpt4_2shot_solution": 900,
    "gpt4_2shot_solution_use_ocr": 885, "instruct_blip2_vicuna_13b": 830, "llava_llama_2_13b": 905,
    "random_guess": 1000,
}  # fmt: skip


@pytest.mark.parametrize("system", RAW)
def test_mathvistas_verdicts_from_raw_responses(shared, mathvista, system):
    """Ours hardly ever takes for right what is officially wrong (measured: 0 to 11 of some 730)."""
    assert len(mathvista) == 1000
    rows = json.loads((shared / f"mathvista/output_{system}.json").read_text(encoding="utf-8"))
    same, wrong, too_kind = 0, 0, 0
    for row in rows.values():
        it, response = mathvista[row["pid"]], row["response"] or ""
        same += BENCHMARKS["mathvista"].official(response, it)[1] == row["true_false"]
        wrong += not row["true_false"]
        too_kind += ours(response, it)[1] and not row["true_false"]
        if system == "random_guess":  # no words around the answers: nothing to extract
            assert ours(response, it)[1] == row["true_false"], row["pid"]
    assert same >= RAW[system]
    assert too_kind <= 0.02 * wrong


def test_every_wemath_item_has_its_gold_option(wemath):
    assert len(wemath) == len({it.id for it in wemath}) == 1740
    for it in wemath:
        assert len(it.options) >= 4
        assert it.answer == it.letter and it.letter in LETTERS[: len(it.options)]
        assert not any(option.endswith(";") for option in it.options)
        assert all(option.strip() for option in it.options) or it.id == "2steps_48/2steps_multi"


def test_a_point_in_a_wemath_option_is_no_option(wemath):
    found = next(it for it in wemath if it.id == "2steps_48/2steps_multi")
    assert len(found.options) == 4 and found.options[3] == "No correct answer"
    assert found.options[1].startswith("First head northwest to B, then west to")


def test_wemaths_images_become_problems(shared, wemath):
    folder = shared / "wemath"
    there = {path.name for path in (folder / "images").iterdir()}
    shown = [it for it in wemath if it.images[0].replace("/", "_") in there]
    assert len(shown) == 198
    for it in shown:
        problem = it.problem(folder)
        assert problem.image.width > 1 and problem.problem == IMAGE_MARK + it.text
        assert all(f"({a}) " in it.text for a in LETTERS[: len(it.options)])
    hidden = next(it for it in wemath if it.images[0].replace("/", "_") not in there)
    with pytest.raises(InputError, match=f"item {hidden.id}: cannot read the image"):
        hidden.problem(folder)


def test_mathvisions_testmini_images_become_problems(shared, mathvision):
    folder = shared / "mathvision"
    there = [it for it in mathvision.values() if (folder / it.images[0]).is_file()]
    assert len(there) == 304
    for it in there[::19]:
        problem = it.problem(folder)
        assert problem.problem.count(IMAGE_MARK) == 1 and "<image1>" not in problem.problem


def test_every_question_can_be_asked(mathvision, mathvista, wemath):
    """MATH-Vision's 528 is an image and no word: it needs some, or `Problem` refuses it."""
    everything = [*mathvision.values(), *mathvista.values(), *wemath]
    assert [it.id for it in everything if not it.text.strip()] == []


def test_a_question_that_is_only_an_image(tmp_path):
    (tmp_path / "1.png").write_bytes(RED)
    alone = Item("528", "<image1>", (), "15", ("1.png",), {})
    assert alone.problem(tmp_path).answer == "15"


def test_the_gold_answer_in_a_box_is_right_on_mathvision(mathvision):
    wrong = [it.id for it in mathvision.values() if not ours(f"\\boxed{{{it.answer}}}", it)[1]]
    assert wrong == []


def test_the_gold_letter_in_a_box_is_right_on_wemath(wemath):
    wrong = [it.id for it in wemath if not ours(f"\\boxed{{{it.answer}}}", it)[1]]
    assert wrong == []


def test_the_gold_letter_with_its_text_is_right_on_wemath(wemath):
    texts = [(it, it.options[LETTERS.index(it.letter)]) for it in wemath]
    wrong = [it.id for it, text in texts if not ours(f"\\boxed{{{it.answer}. {text}}}", it)[1]]
    assert wrong == []


def test_the_gold_text_in_a_box_is_right_on_wemath(wemath):
    wrong = [
        it.id
        for it in wemath
        if it.options.count(gold := it.options[LETTERS.index(it.letter)]) == 1
        and len(gold) > 1
        and not ours(f"\\boxed{{{gold}}}", it)[1]
    ]
    assert wrong == []


def test_the_gold_answer_in_a_box_is_right_on_mathvista(mathvista):
    """But for 781, which has 18 twice among its options, so that the text names none."""
    wrong = [it.id for it in mathvista.values() if not ours(f"\\boxed{{{it.answer}}}", it)[1]]
    assert set(wrong) <= {"781"}


# --- files that are only on the hub: small ones of the public schema ------------------------------------


# Hub card AI4Math/MathVista d32e834.
MATHVISTA = {
    "pid": TEXT, "question": TEXT, "image": TEXT, "decoded_image": PICTURE, "choices": List(TEXT), "unit": TEXT,
    "precision": Value("float64"), "answer": TEXT, "question_type": TEXT, "answer_type": TEXT, "query": TEXT,
    "metadata": {
        "category": TEXT, "context": TEXT, "grade": TEXT, "img_height": Value("int64"), "img_width": Value("int64"),
        "language": TEXT, "skills": List(TEXT), "source": TEXT, "split": TEXT, "task": TEXT,
    },
}  # fmt: skip


def mathvista_row(pid, **more) -> dict:
    about = dict.fromkeys(MATHVISTA["metadata"], "") | {"img_height": 7, "img_width": 9}
    about |= {"skills": ["arithmetic"], "task": "math word problem", "context": "table"}
    return {
        "pid": pid, "question": "How many?", "image": f"images/{pid}.jpg", "decoded_image": RED, "answer": "3",
        "question_type": "free_form", "answer_type": "integer", "metadata": about, **more,
    }  # fmt: skip


def test_mathvista_as_parquet(tmp_path):
    choice = {"question_type": "multi_choice", "answer_type": "text", "choices": ["5°", "7°"]}
    write_parquet(
        tmp_path / "data/testmini-00000-of-00001.parquet", MATHVISTA,
        mathvista_row("1", **choice, answer="7°", question="Which angle?"),
        mathvista_row("2", answer="1.2", answer_type="float", precision=1.0),
    )  # fmt: skip
    first, second = load(BENCHMARKS["mathvista"], tmp_path, 2)
    assert (first.id, first.question, first.options) == ("1", "Which angle?", ("5°", "7°"))
    assert (first.answer, first.letter, first.images) == ("7°", "B", (RED,))
    assert first.groups == {"subject": "math word problem", "context": "table"}
    assert first.text == "Which angle?\nChoices:\n(A) 5°\n(B) 7°"
    assert (second.answer_type, second.precision, second.letter) == ("float", 1, None)
    assert second.problem().image.getpixel((0, 0)) == (255, 0, 0)
    official = BENCHMARKS["mathvista"].official
    assert official("7°", first) == ("7°", True)
    assert official("The answer is (A).", first)[1] is False
    assert official("1.24", second) == ("1.24", True)  # rounded to one place
    assert official("1.26", second)[1] is False


# Hub card AI4Math/MathVerse (schemas: index 56118557493); versions and "Vision Only" with an empty question:
# ZrrSkywalker/MathVerse, README.md and output_templates/output_testmini.json.
MATHVERSE = {
    "sample_index": TEXT, "problem_index": TEXT, "problem_version": TEXT, "question": TEXT, "image": PICTURE,
    "answer": TEXT, "question_type": TEXT, "query_wo": TEXT, "query_cot": TEXT, "question_for_eval": TEXT,
    "metadata": {"split": TEXT, "source": TEXT, "subject": TEXT, "subfield": TEXT},
}  # fmt: skip


def mathverse_row(index, version="Text Lite", question="Find x.", **more) -> dict:
    about = {"split": "testmini", "source": "s", "subject": "Plane Geometry", "subfield": "Angle"}
    return {
        "sample_index": index, "problem_index": "1", "problem_version": version, "question": question,
        "image": BLUE, "answer": "14", "question_type": "free-form", "question_for_eval": question,
        "metadata": about, **more,
    }  # fmt: skip


def test_mathverse_as_parquet(tmp_path):
    choices = "Find the angle.\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°"
    multi = {"question_type": "multi-choice", "answer": "C"}
    write_parquet(
        tmp_path / "testmini.parquet", MATHVERSE,
        mathverse_row("1", "Text Dominant", choices, **multi),
        mathverse_row("2", "Vision Only", "", question_for_eval=choices, **multi),
        mathverse_row("3"),
    )  # fmt: skip
    told, seen, free = load(BENCHMARKS["mathverse"], tmp_path, 3)
    assert (told.id, told.question, told.letter) == ("1", "Find the angle.", "C")
    assert told.options == seen.options == ("40°", "60°", "120°", "140°")
    assert told.text == "Find the angle.\nChoices:\n(A) 40°\n(B) 60°\n(C) 120°\n(D) 140°"
    assert told.groups == {"subject": "Plane Geometry", "version": "Text Dominant"}
    assert seen.groups["version"] == "Vision Only" and seen.question == "Find the angle."
    assert "120" not in seen.text and "angle" not in seen.text  # it stands in the image alone
    assert seen.problem().problem == IMAGE_MARK + seen.text
    assert (free.options, free.answer, free.letter, free.images) == ((), "14", None, (BLUE,))
    assert BENCHMARKS["mathverse"].official is None
    assert ours("\\boxed{C}", seen)[1] and ours("It is \\boxed{14}.", free)[1]


def test_mathverse_as_json_names_its_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").write_bytes(BLUE)
    row = mathverse_row("1", image="images/1.png")
    (tmp_path / "testmini.json").write_text(json.dumps([row]))
    (only,) = load(BENCHMARKS["mathverse"], tmp_path, 1)
    assert only.problem(tmp_path).images == (BLUE,)


def test_mathverses_text_only_rows_are_no_part_of_it(tmp_path):
    write_parquet(tmp_path / "testmini.parquet", MATHVERSE, mathverse_row("1"))
    alone = MATHVERSE | {"image": TEXT}
    write_parquet(
        tmp_path / "testmini_text_only.parquet", alone, mathverse_row("2", "Text Only", image="")
    )
    assert [it.id for it in load(BENCHMARKS["mathverse"], tmp_path, 1)] == ["1"]


# Hub card MathLLMs/MathVision, blame b223f3c; placeholders: mathllm/MATH-V, data/test.jsonl.
MATHVISION = {
    "id": TEXT, "question": TEXT, "options": List(TEXT), "image": TEXT, "decoded_image": PICTURE, "answer": TEXT,
    "solution": TEXT, "level": Value("int64"), "subject": TEXT,
}  # fmt: skip


def test_mathvision_as_parquet(tmp_path):
    row = {"question": "Which is <image1>?\n<image2>", "image": "images/1.jpg", "level": 4}
    row |= {"subject": "graph theory", "decoded_image": GREEN}
    write_parquet(
        tmp_path / "data/test-00000-of-00001.parquet", MATHVISION,
        {**row, "id": "7", "options": list("ABCDE"), "answer": "D"},
        {**row, "id": "8", "options": [], "answer": "12"},
    )  # fmt: skip
    write_parquet(tmp_path / "data/testmini-00000-of-00001.parquet", MATHVISION, {**row, "id": "7"})
    first, second = load(BENCHMARKS["mathvision"], tmp_path, 2)
    assert first.groups == {"subject": "graph theory", "level": "4"}
    assert (first.letter, second.letter) == ("D", None)
    assert first.text.startswith("Which is ") and "<image" not in first.text
    assert "Choices" not in first.text  # options that are letters stand in the image
    assert first.problem().images == (GREEN,)
    assert BENCHMARKS["mathvision"].official("\\boxed{D}", first) == ("d", True)
    assert BENCHMARKS["mathvision"].official("The answer is 12.", second) == ("12", True)


# Hub card We-Math/We-Math (schemas: index 56394537295); options: We-Math/We-Math, data/testmini.json.
WEMATH = {
    "ID": TEXT, "split": TEXT, "knowledge concept": TEXT, "question": TEXT, "option": TEXT, "answer": TEXT,
    "image_path": PICTURE, "key": TEXT, "question number": Value("int64"), "knowledge concept description": TEXT,
}  # fmt: skip


def test_wemath_as_parquet(tmp_path):
    row = {"ID": "2steps_1", "knowledge concept": "Area", "question": "How large?", "answer": "B"}
    row |= {"option": "A. 3, 5;B. 4 cm; C. Mr. Smith.; D. No correct answer", "image_path": GREEN}
    keys = ("2steps_1", "2steps_2", "2steps_multi")
    write_parquet(
        tmp_path / "data/testmini-0.parquet", WEMATH, *({**row, "key": key} for key in keys)
    )
    items = load(BENCHMARKS["wemath"], tmp_path, 3)
    assert [it.id for it in items] == [f"2steps_1/{key}" for key in keys]
    assert items[0].options[:2] == ("3, 5", "4 cm") and items[0].options[-1] == "No correct answer"
    assert items[2].groups == {"subject": "Area", "problem": "2steps_1", "key": "2steps_multi"}
    assert (items[0].letter, items[0].images) == ("B", (GREEN,))
    official = BENCHMARKS["wemath"].official
    assert official("<Thought process>: <<...>> <Answer>: <<B>>", items[0]) == ("B", True)
    assert official("\\boxed{B}", items[0]) == (None, False)


# Hub card MMMU/MMMU (schemas: index 56467542330); a list as answer: index 68473228985.
MMMU = {
    "id": TEXT, "question": TEXT, "options": TEXT, "explanation": TEXT,
    **{f"image_{k}": PICTURE for k in range(1, 8)},
    "img_type": TEXT, "answer": TEXT, "topic_difficulty": TEXT, "question_type": TEXT, "subfield": TEXT,
}  # fmt: skip


def mmmu_folder(folder: Path) -> Path:
    choice = {
        "id": "validation_Art_Theory_3", "question": "Compare <image 1> and <image 2>.", "answer": "B",
        "options": "['the first', \"the second's\", '<image 3>']", "question_type": "multiple-choice",
        "image_1": RED, "image_2": BLUE, "image_3": GREEN,
    }  # fmt: skip
    listed = {
        "id": "validation_Geography_4", "question": "Which place is this? <image 1>", "options": "[]",
        "answer": "['Tampa', 'Florida']", "question_type": "open", "image_1": RED,
    }  # fmt: skip
    write_parquet(folder / "Art_Theory/validation-00000-of-00001.parquet", MMMU, choice)
    write_parquet(folder / "Geography/validation-00000-of-00001.parquet", MMMU, listed)
    write_parquet(folder / "Geography/dev-00000-of-00001.parquet", MMMU, listed)
    return folder


def test_mmmu_as_parquet(tmp_path):
    choice, listed = load(BENCHMARKS["mmmu"], mmmu_folder(tmp_path), 2)
    assert choice.groups == {"subject": "Art_Theory", "type": "multiple-choice"}
    assert choice.options == ("the first", "the second's", "<image 3>")
    assert choice.images == (RED, BLUE, GREEN) and choice.letter == "B"
    problem = choice.problem()
    assert problem.problem.startswith(IMAGE_MARK * 3 + "Compare ")
    assert "\nChoices:\n(A) the first\n(B) the second's\n(C) " in problem.problem
    assert [p.getpixel((0, 0))[0] for p in problem.open_images()] == [255, 0, 0]
    assert (listed.groups["subject"], listed.letter) == ("Geography", None)
    official = BENCHMARKS["mmmu"].official
    assert official("It is (A), no, (B)", choice) == ("B", True)
    assert official("I take B here", choice) == ("B", True)
    assert official("I think that it must be the first", choice) == ("A", False)
    assert official("This city is Tampa.", listed)[1]
    assert official("It must be in Florida", listed)[1]
    assert not official("Miami", listed)[1]


def test_one_of_mmmus_listed_answers_is_right_by_ours(tmp_path):
    _, listed = load(BENCHMARKS["mmmu"], mmmu_folder(tmp_path), 2)
    assert ours("\\boxed{Florida}", listed)[1]


def test_a_model_is_asked_without_marks_for_images(tmp_path):
    choice, _ = load(BENCHMARKS["mmmu"], mmmu_folder(tmp_path), 2)
    assert "<image" not in choice.text


# Hub card MMMU/MMMU_Pro (schemas: index 51877294401).
MMMU_PRO = {
    "id": TEXT, "question": TEXT, "options": TEXT, "explanation": TEXT,
    **{f"image_{k}": PICTURE for k in range(1, 8)},
    "img_type": TEXT, "answer": TEXT, "topic_difficulty": TEXT, "subject": TEXT,
}  # fmt: skip
MMMU_PRO_VISION = {
    "id": TEXT, "image": PICTURE, "options": TEXT, "answer": TEXT, "subject": TEXT,
}  # fmt: skip


def mmmu_pro_folder(folder: Path) -> Path:
    options = str(
        [
            f"{word} green pears"
            for word in "no one two three four five six seven eight nine".split()
        ]
    )
    row = {"id": "test_Art_1", "options": options, "answer": "J", "subject": "Art"}
    standard = {**row, "question": "What is in <image 1>?", "image_1": RED, "image_2": BLUE}
    write_parquet(folder / "standard (10 options)/test-00000-of-00001.parquet", MMMU_PRO, standard)
    write_parquet(folder / "standard (4 options)/test-00000-of-00001.parquet", MMMU_PRO, standard)
    write_parquet(
        folder / "vision/test-00000-of-00001.parquet", MMMU_PRO_VISION, {**row, "image": GREEN}
    )
    return folder


def test_mmmu_pro_as_parquet(tmp_path):
    standard, vision = load(BENCHMARKS["mmmupro"], mmmu_pro_folder(tmp_path), 2)
    assert (standard.id, vision.id) == ("standard/test_Art_1", "vision/test_Art_1")
    assert standard.images == (RED, BLUE) and vision.images == (GREEN,)
    assert standard.groups == {"subject": "Art", "setting": "standard, 10 options"}
    assert vision.groups == {"subject": "Art", "setting": "vision"}
    assert len(standard.options) == 10 and standard.letter == vision.letter == "J"
    assert standard.text.endswith("(J) nine green pears") and standard.text.startswith(
        "What is in "
    )
    assert "pears" not in vision.text
    official = BENCHMARKS["mmmupro"].official
    assert official("First (A). Answer: J", standard) == ("J", True)
    assert official("Answer: J, but A is as good", vision) == ("A", False)  # two letters: the last
    assert official("one may count nine green pears in it", vision) == ("J", True)


def test_mmmu_pro_needs_both_settings(tmp_path):
    (mmmu_pro_folder(tmp_path) / "vision/test-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match="vision"):
        load(BENCHMARKS["mmmupro"], tmp_path, 1)


# Hub card Lin-Chen/MMStar (schemas: index 69599662318); how options stand in the question: index 27481821114.
MMSTAR = {
    "index": Value("int64"), "question": TEXT, "image": PICTURE, "answer": TEXT, "category": TEXT,
    "l2_category": TEXT, "meta_info": {"source": TEXT, "split": TEXT, "image_path": TEXT},
}  # fmt: skip


def test_mmstar_as_parquet(tmp_path):
    row = {"image": picture("red", "JPEG"), "category": "math", "l2_category": "geometry"}
    row |= {"meta_info": {"source": "s", "split": "val", "image_path": "i.jpg"}, "answer": "C"}
    question = "Where is it?\nOptions: A: On the table, B: Under it, C: Beside it, D: Nowhere"
    write_parquet(
        tmp_path / "mmstar.parquet", MMSTAR,
        {**row, "index": 0, "question": question}, {**row, "index": 1, "question": "Hint: ... (C) 7"},
    )  # fmt: skip
    first, other = load(BENCHMARKS["mmstar"], tmp_path, 2)
    assert (first.id, first.question, first.letter) == ("0", "Where is it?", "C")
    assert first.options == ("On the table", "Under it", "Beside it", "Nowhere")
    assert first.groups == {"subject": "math", "ability": "geometry"}
    assert first.text.splitlines()[-1] == "(D) Nowhere"
    assert other.options == tuple("ABCD") and other.text == "Hint: ... (C) 7"
    assert first.problem().image.format == "JPEG"
    official = BENCHMARKS["mmstar"].official
    assert official("C", first) == ("C", True)
    assert official("(c) beside it", first) == ("C", True)
    assert official("It is C", first) == (None, False)
    assert official("A cup is beside it: C", first) == (
        "A",
        False,
    )  # an article, taken for a letter


# Columns: cards of mm-reasoning/EMMA 8f9158e and luckychao/EMMA-mini 92ec8e8; types: EMMA-Bench/EMMA README 62a84e8.
EMMA = {
    "pid": TEXT, "question": TEXT, "options": List(TEXT), "answer": TEXT,
    **{f"image_{k}": PICTURE for k in range(1, 6)},
    "solution": TEXT, "subject": TEXT, "task": TEXT, "category": TEXT, "source": TEXT, "type": TEXT, "context": TEXT,
}  # fmt: skip


def test_emma_as_parquet(tmp_path):
    row = {"subject": "Math", "image_1": RED}
    write_parquet(
        tmp_path / "Math/test-00000-of-00001.parquet", EMMA,
        {**row, "pid": "math_1", "question": "Which follows <image_1>?", "options": ["10", "12"],
         "answer": "B", "type": "Multiple Choice", "image_3": BLUE, "context": "Look."},
        {**row, "pid": "math_2", "question": "How many?", "options": [], "answer": "3", "type": "Open-ended"},
    )  # fmt: skip
    choice, free = load(BENCHMARKS["emma"], tmp_path, 2)
    assert choice.text.startswith("Look.\nWhich follows ") and "<image" not in choice.text
    assert choice.text.endswith("?\nChoices:\n(A) 10\n(B) 12")
    assert choice.images == (RED, BLUE) and choice.letter == "B"
    assert choice.groups == {"subject": "Math", "type": "Multiple Choice"}
    assert (free.text, free.options, free.letter) == ("How many?", (), None)
    official = BENCHMARKS["emma"].official
    assert official("So \\boxed{\\text{B}}", choice) == ("B", True)
    assert official("So \\boxed{12.0}", choice) == ("12.0", True)  # the option's text
    assert official("The answer is A.", choice) == ("a", False)
    assert official("\\boxed{4} or \\boxed{3}", free) == ("3", True)
    assert official("I count three", free) == ("", False)


def test_the_hubs_client_gives_a_folder_or_is_named(tmp_path, monkeypatch):
    write_parquet(
        tmp_path / "mmstar.parquet", MMSTAR,
        {"index": 1, "question": "Q?", "image": RED, "answer": "A", "category": "m", "l2_category": "x"},
    )  # fmt: skip

    def download(name, repo_type):
        if (name, repo_type) != ("Lin-Chen/MMStar", "dataset"):
            raise ConnectionError("no route\nto it")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load(BENCHMARKS["mmstar"], None, 1) == load(BENCHMARKS["mmstar"], tmp_path, 1)
    named = r"AI4Math/MathVista \(ConnectionError: no route\); .*--data"
    with pytest.raises(InputError, match=named):
        load(BENCHMARKS["mathvista"])


def test_all_eight_are_there_with_their_sizes():
    sizes = {b.name: b.items for b in BENCHMARKS.values()}
    assert sizes == {
        "MathVista": 1000, "MathVerse": 3940, "MathVision": 3040, "We-Math": 1740, "MMMU": 900, "MMMU-Pro": 3460,
        "MMStar": 1500, "EMMA": 2788,
    }  # fmt: skip
    assert find("MATH-Vision") is find("math_vision") is BENCHMARKS["mathvision"]
    assert find("MMMU-Pro") is BENCHMARKS["mmmupro"] and find("We-Math") is BENCHMARKS["wemath"]
    with pytest.raises(InputError, match="no benchmark 'MathVisit'; there are: mathvista, "):
        find("MathVisit")


# --- files that cannot be used --------------------------------------------------------------------------


def test_a_folder_that_is_no_benchmark(tmp_path):
    with pytest.raises(InputError, match="no folder .*give one with the files of MathVista"):
        load(BENCHMARKS["mathvista"], tmp_path / "none")
    with pytest.raises(InputError, match="has none of testmini.json.*published as AI4Math"):
        load(BENCHMARKS["mathvista"], tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "holds no rows"),
        ('"text"', "holds no rows"),
        ("{broken", "is no JSON"),
        ("\x00\udcff", "is no JSON"),
        ('[{"pid": "1"}]', "row 0: not a row of MathVista .*its public format is that of AI4Math"),
    ],
)
def test_a_file_in_another_format(tmp_path, text, says):
    (tmp_path / "testmini.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=says):
        load(BENCHMARKS["mathvista"], tmp_path)


def test_too_few_items_and_repeated_ones(tmp_path):
    rows = [dict.fromkeys(MATHVISTA) | mathvista_row(pid, decoded_image=None) for pid in "12"]
    (tmp_path / "testmini.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="has 2 questions and MathVista 1000.*--items 2"):
        load(BENCHMARKS["mathvista"], tmp_path)
    (tmp_path / "testmini.json").write_text(json.dumps([rows[0], rows[0]]))
    with pytest.raises(InputError, match="row 1: the id 1 was there before"):
        load(BENCHMARKS["mathvista"], tmp_path, 2)


def test_parquet_that_is_none_or_another(tmp_path):
    (tmp_path / "validation.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="is no Parquet"):
        load(BENCHMARKS["mmmu"], tmp_path)
    write_parquet(tmp_path / "validation.parquet", EMMA, {"pid": "1"})
    with pytest.raises(InputError, match="row 0: not a row of MMMU"):
        load(BENCHMARKS["mmmu"], tmp_path)


def test_options_that_are_no_list(tmp_path):
    write_parquet(
        tmp_path / "validation.parquet", MMMU, {"id": "validation_Art_1", "options": "['a', 'b'"}
    )
    with pytest.raises(InputError, match="not a row of MMMU"):
        load(BENCHMARKS["mmmu"], tmp_path, 1)


def test_images_that_are_missing_or_broken(tmp_path):
    (tmp_path / "half.png").write_bytes(RED[:45])
    named = Item("9", "Q?", (), "1", ("none.png",), {})
    with pytest.raises(InputError, match=r"item 9: cannot read the image .*none.png: No such file"):
        named.problem(tmp_path)
    with pytest.raises(InputError, match=r"item 9 .*half.png.* not a readable image"):
        dataclasses.replace(named, images=("half.png",)).problem(tmp_path)
    with pytest.raises(InputError, match="item 9 .*in the file.* not a readable image"):
        dataclasses.replace(named, images=(b"no image",)).problem()
    with pytest.raises(InputError, match="item 9 .*no image"):
        dataclasses.replace(named, images=()).problem()


# --- our rules by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("so \\boxed{B}.", "B"),
        ("\\boxed{A}, no: \\boxed{B}", "B"),
        ("\\boxed{\\text{(D)}\\ \\frac{7}{9}}", "\\text{(D)}\\ \\frac{7}{9}"),
        ("<think>\\boxed{A}</think><answer>\\boxed{C}</answer>", "C"),
        ("<think>A?</think> <answer> C </answer>", "C"),
        ("<answer>the answer is C</answer>", "C"),
        ("The answer is B.", "B"),
        ("The answer is A.\nWait. The answer is B.", "B"),
        ("Final answer: **C**", "C"),
        ("The correct option is (D) 7 cm. It fits.", "(D) 7 cm"),
        ("Answer: 3.5 cm.", "3.5 cm"),
        ("Thinking.\nThe best choice would be B", "B"),
        ("", None),
        ("  \n ", None),
        ("I cannot see any image.\nPlease send it to me again, since I would need it.", None),
    ],
)
def test_what_ours_extracts(response, found):
    assert extract(response) == found


@pytest.mark.parametrize(
    "response",
    [
        "The answer is A. Wait. The answer is B.",
        "One answer is 3, but the correct answer is B",
        "If the answer is A, it is too long. So the answer is B.",
    ],
)
def test_the_last_said_answer_counts(response):
    assert extract(response) == "B"


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("B", "B"),
        ("B. because it is", "B"),
        ("We compare the four.\nSo it must be (C)", "C"),
        ("First we count them all.\nTherefore it must be the red one.", "A"),
        (
            "It might be the red one or the blue one.\nThis can not be told from the image at all.",
            None,
        ),
    ],
)
def test_what_ours_extracts_where_there_are_options(response, found):
    assert extract(response, ("the red one", "the blue one", "the last")) == found


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("We count them one by one, and then there are 12 dots in all.", "12 dots in all"),
        ("Counting row by row gives 4, 4 and 5; in the picture one sees 13 dots.", "13"),
        ("1,250", "1,250"),
        ("None can be seen here, whatever one may try, and nothing can be said.", None),
    ],
)
def test_what_ours_extracts_where_a_number_is_wanted(response, found):
    assert extract(response, number=True) == found


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{B}", "\\boxed{b}", "\\boxed{(B)}", "\\boxed{(B) 12 cm}", "\\boxed{B. 12 cm}", "\\boxed{12 cm}",
        "\\boxed{\\text{B}}", "\\boxed{\\textbf{(B)}}", "\\boxed{12}", "\\boxed{12\\text{ cm}}", "The answer is B.",
        "The answer is (B) 12 cm.", "<answer>B</answer>", "**Answer:** B", "\\boxed{A} \\boxed{B}", "B", "(B)", "12 cm",
        "The correct choice is 12 cm.",
    ],
)  # fmt: skip
def test_right_option_in_many_forms(response):
    assert right(response, ["7 cm", "12 cm", "\\frac{7}{9}", "25 cm"])


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{A}", "\\boxed{E}", "\\boxed{A or B}", "\\boxed{B or A}", "\\boxed{(B) or (A)}", "\\boxed{B and C}",
        "\\boxed{(B), (C)}", "The answer is A or B.", "The answer is not B.", "\\boxed{B} \\boxed{A}", "\\boxed{7 cm}",
        "\\boxed{13 cm}", "", "I'm sorry, I cannot help with that.", "\\boxed{}", "\\boxed{none of these}",
        "I cannot determine the answer from the image.", "Both 7 cm and 12 cm are possible.",
    ],
)  # fmt: skip
def test_wrong_hedged_and_refused(response):
    assert not right(response, ["7 cm", "12 cm", "\\frac{7}{9}", "25 cm"])


@pytest.mark.parametrize(
    "hedge", ["B, C", "B, C, D", "(B) & (C)", "(B)/(C)", "(B) (C)", "(B) or maybe (C)"]
)
def test_hedges_without_or_are_wrong_too(hedge):
    assert not right(f"\\boxed{{{hedge}}}", ["7 cm", "12 cm", "\\frac{7}{9}", "25 cm"])


def test_an_option_by_its_letter_and_its_text():
    assert choose("\\text{(D)}\\ \\frac{7}{9}", ["1", "2", "3", "\\frac{7}{9}"]) == "D"
    assert choose("\\frac{14}{18}", ["1", "2", "3", "\\frac{7}{9}"]) == "D"
    assert choose("No, there are none", ["Yes", "No"]) == "B"
    assert choose("yes", ["Yes", "No"]) == "A"
    assert choose("maybe", ["Yes", "No"]) is None
    assert choose("18", ["9", "18", "18"]) is None  # not clear which


@pytest.mark.parametrize(
    ("answer", "options", "letter"),
    [
        ("f(2) = 5", ["3", "5", "7"], "B"),
        ("a(1) = 5", ["3", "5", "7"], "B"),
    ],
)
def test_a_name_is_no_letter_of_an_option(answer, options, letter):
    assert choose(answer, options) == letter


def test_a_point_is_no_letter_of_another_option():
    assert choose("B(3, 4)", ["(3, 4)", "(1, 2)"]) in ("A", None)


@pytest.mark.parametrize(
    "response",
    [
        "(A) is too short.\n(B) fits.\nSo it must be (B).",
        "A. is too short.\nB. fits.\nSo it can only be B.",
    ],
)
def test_options_that_are_gone_through(response):
    assert extract(response, ["5", "7"]) == "B"


@pytest.mark.parametrize(
    ("theirs", "found", "why"),
    [
        ("B", None, "ours finds no answer"),
        ("", "B", "theirs finds no answer"),
        ("A", "B", "taken from different places"),
        ("(b)12cm", "(B) 12 cm", "an option's letter beside its text"),
        ("12cm", "12 \\text{ cm}", "units, LaTeX or an option's text"),
    ],
)
def test_why_the_two_methods_differ(theirs, found, why):
    assert why_different(item(["7 cm", "12 cm"]), theirs, found).startswith(why)
    assert why_different(item((), "1.5"), "1.46", "1.46") == "rounding"


def test_a_gold_text_of_letters_that_stand_side_by_side():
    segment = item(["AB", "BC", "CD", "AD"], "BC")
    assert segment.letter == "B"
    assert ours("\\boxed{BC}", segment)[1] and ours("\\boxed{B}", segment)[1]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("15", "1.5"),
        ("314", "3.14"),
        ("\\frac{1}{23}", "\\frac{12}{3}"),
        ("\\sqrt{2}3", "\\sqrt{23}"),
        ("2^{1}0", "2^{10}"),
        ("1 2", "12"),
    ],
)
def test_other_values_are_wrong(answer, gold):
    assert not right(f"\\boxed{{{answer}}}", answer=gold)


def test_options_that_differ_by_their_points():
    assert choose("31.4", ["31.4", "3.14", "314"]) == "A"
    assert choose("3.14 cm", ["31.4", "3.14", "314"]) == "B"


@pytest.mark.parametrize(
    ("answer", "options", "letter"),
    [("$31.4$", ["31.4", "3.14", "314"], "A"), ("12", ["1.2", "3", "4"], None)],
)
def test_options_are_compared_with_their_points(answer, options, letter):
    assert choose(answer, options) == letter


@pytest.mark.parametrize(
    ("answer", "gold", "kind", "precision", "verdict"),
    [
        ("12", "12", "integer", None, True),
        ("12 cm", "12", "integer", None, True),
        ("3 bars", "3", "integer", None, True),
        ("\\$1,200", "1200", "integer", None, True),
        ("12.0", "12", "integer", None, True),
        ("13", "12", "integer", None, False),
        ("12 or 13", "12", "integer", None, False),
        ("-5", "5", "integer", None, False),
        ("1.46", "1.5", "float", 1, True),
        ("1.44", "1.5", "float", 1, False),
        ("3/4", "0.75", "float", 2, True),
        ("0.754 m", "0.75", "float", 2, True),
        ("twelve", "12", "integer", None, False),
        ("[1, 2]", "[1, 2]", "list", None, True),
        ("[1.0, 2.0]", "[1, 2]", "list", None, True),
        ("[2, 1]", "[1, 2]", "list", None, False),
        ("1, 2", "[1, 2]", "list", None, True),
        ("one and two", "[1, 2]", "list", None, False),
        ("60^\\circ", "60", "text", None, True),
        ("5\\text{ cm}", "5", "text", None, True),
        ("0.5", "\\frac{1}{2}", "text", None, True),
        ("8.67", "\\frac{26}{3}", "text", None, False),
        ("x = 3", "3", "text", None, True),
        ("5 cm", "5 m", "text", None, False),
    ],
)
def test_values_by_ours(answer, gold, kind, precision, verdict):
    assert right(f"\\boxed{{{answer}}}", (), gold, kind, precision) is verdict


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("2\\pi", "2", False),
        ("\\sqrt{2}", "2", False),
        ("\\sqrt{4}", "2", True),
        ("\u22125", "5", False),  # a real minus sign
        ("\u22125", "-5", True),
    ],
)
def test_a_number_is_graded_with_what_belongs_to_it(answer, gold, verdict):
    assert right(f"\\boxed{{{answer}}}", (), gold, "integer") is verdict


# --- anything at all ----------------------------------------------------------------------------------------

FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
WORDS = st.sampled_from(
    "A B (C) \\boxed{ } { <answer> </answer> answer is: 1,2 3/0 -0.5 [1, ] = \\frac{1} ** .".split(" ")
    + ["\n", "or", "\\text{", "e9", "²", "٣"]
)  # fmt: skip
ANY = st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=12).map(" ".join))
KINDS = [
    item(["7 cm", "12 cm", "x", "Yes"]), item(list("ABCDE"), "D"), item(["C", "A", "B"], "A"), item((), "12"),
    item((), "12", "integer"), item((), "1.5", "float", 1), item((), "[1, 2]", "list"), item((), "a red cat"),
]  # fmt: skip


@FEW
@given(ANY, st.sampled_from(KINDS))
def test_no_response_breaks_ours(response, it):
    found, verdict = ours(response, it)
    assert (found is None or isinstance(found, str)) and isinstance(verdict, bool)
    assert found is not None or not verdict
    assert isinstance(why_different(it, response, found), str)


@FEW
@given(ANY)
def test_no_response_breaks_the_authors_rules(response):
    for it in KINDS[:2]:
        for name in ("mathvision", "mathvista", "wemath", "mmmu", "mmmupro", "mmstar", "emma"):
            found, verdict = BENCHMARKS[name].official(
                response, dataclasses.replace(it, answer="B")
            )
            assert (found is None or isinstance(found, str)) and isinstance(verdict, bool)
    for name in ("mathvision", "mmmu", "emma"):
        assert isinstance(BENCHMARKS[name].official(response, KINDS[3])[1], bool)
    for it in KINDS[4:7]:
        assert isinstance(BENCHMARKS["mathvista"].official(response, it)[1], bool)


def test_a_number_too_large_for_a_float_is_wrong():
    assert not right(f"\\boxed{{[{'9' * 400}]}}", (), "[1, 2]", "list")


@pytest.mark.parametrize(
    "text", ["9" * 5000, "(" * 3000, "\\boxed{" * 2000, "is " * 2000 + "=", "answer is" + " :" * 2000]
)  # fmt: skip
def test_long_and_deep_responses_are_read(text):
    for it in KINDS:
        assert ours(text, it)[1] is False
