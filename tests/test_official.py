"""Official rules against official results: real responses of MATH-Vision's and MathVista's repositories."""

import json
from collections import Counter

import pandas as pd
import pytest

from perception_r1 import official
from perception_r1.errors import InputError

MATHVISION = ("Gemini-Pro-CoT", "Qwen-VL-Max-CoT", "GPT4-CoT_Text_Only", "LLaVA-v1.5-13B")
MATHVISTA = (
    "bard", "chatgpt_2shot_solution", "gpt4", "gpt4_2shot_solution", "gpt4_2shot_solution_use_ocr",
    "instruct_blip2_vicuna_13b", "llava_llama_2_13b", "random_guess",
)  # fmt: skip


@pytest.mark.parametrize("system", MATHVISION)
def test_mathvision_from_raw_responses(shared, system):
    """3,040 responses: the authors' answers, verdicts, and every row of their tables within 0.3 points."""
    folder = shared / "mathvision"
    problems = {p["id"]: p for p in map(json.loads, (folder / "test.jsonl").open(encoding="utf-8"))}
    agree, same, groups = Counter(), 0, {}
    for line in (folder / "outputs" / f"{system}.jsonl").open(encoding="utf-8"):
        item = json.loads(line)
        problem = problems[item["id"]]
        answer = official.mathvision_answer(item["response"])
        right = official.mathvision_right(answer, str(problem["answer"]), problem["options"])
        same += answer == item["model_answer"]
        agree[item["correct"], right] += 1
        for group in ("-all", problem["subject"], f"-level{problem['level']}"):
            groups.setdefault(group, []).append(right)
    assert agree.total() == 3040 and same >= 3037
    assert agree[True, True] / (agree[True, True] + agree[True, False]) >= 0.99
    assert agree[False, False] / (agree[False, False] + agree[False, True]) >= 0.999
    theirs = json.loads((folder / "outputs" / f"{system}_result.json").read_text())
    for group, found in groups.items():
        right, total = map(int, theirs[group].split("=")[0].split("/"))
        assert total == len(found)
        assert abs(sum(found) - right) <= (
            0.003 * total if group == "-all" else max(1, 0.003 * total)
        )


@pytest.mark.parametrize("system", MATHVISTA)
def test_mathvista_from_official_extractions(shared, system):
    """Exactly the official verdicts and counts."""
    folder = shared / "mathvista"
    items = json.loads((folder / f"output_{system}.json").read_text(encoding="utf-8"))
    right = 0
    for item in items.values():
        prediction = official.mathvista_prediction(
            item["extraction"], item["question_type"], item["answer_type"], item["choices"],
            item["precision"],
        )  # fmt: skip
        assert (prediction == item["answer"]) is item["true_false"], item["pid"]
        right += prediction == item["answer"]
    scores = json.loads((folder / f"scores_{system}.json").read_text())["average"]
    assert (right, len(items)) == (int(scores["correct"]), int(scores["total"]))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("So it is \\boxed{60}.", "60"),
        ("\\boxed{3} and then \\boxed{4}", "4"),
        ("The answer is (B).", "b"),
        ("A\nbecause", "a"),
        ("x = 3, so the area is 12.", "12"),
        ("Hence, the answer is 7 cm. It fits.", "7cm"),
        ("\\boxed{x = \\frac12}", "\\frac12"),
        ("\\boxed{3/4}", "\\frac{3}{4}"),
        ("\\boxed{60^{\\circ}}", "60"),
        ("\\boxed{\\sqrt3}", "\\sqrt{3}"),
        ("0.5", "\\frac{1}{2}"),
    ],
)
def test_mathvisions_answers_by_hand(response, answer):
    assert official.mathvision_answer(response) == answer


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("a", "A", True),
        ("60.0", "60", True),
        ("\\frac{1}{300}", "\\frac{1}{900}", True),  # their mistake: both are 0.00
        ("2\\sqrt{2}", "$\\sqrt{8}$", True),
        ("8:5", "1.6", True),
        ("5cm", "5", False),
        ("3,5", "3", False),
        ("", "3", False),
        ("1/0", "3", False),
        ("x", "y", False),
    ],
)
def test_mathvisions_equality_by_hand(answer, gold, right):
    assert official.mathvision_right(answer, gold) is right


def test_the_text_of_the_right_option_counts():
    assert official.mathvision_right("10", "B", ["5", "10"])
    assert not official.mathvision_right("5", "B", ["5", "10"])


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (("(B) 7", "multi_choice", "text", ["5", "7"], None), "7"),
        (("B", "multi_choice", "text", ["5", "7"], None), "7"),
        (("sevn", "multi_choice", "text", ["five", "seven"], None), "seven"),
        (("3.9", "free_form", "integer", None, None), None),
        (("39", "free_form", "integer", None, None), "39"),
        (("3.14159", "free_form", "float", None, 2.0), "3.14"),
        (("three", "free_form", "integer", None, None), None),
        (("[1, 2]", "free_form", "list", None, None), "[1, 2]"),
    ],
)
def test_mathvistas_predictions_by_hand(given, found):
    assert official.mathvista_prediction(*given) == found


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Thought: ... Answer: B", "B"),
        ("<Answer>: <C. 12>", "C"),
        ("Answer: 12", None),
        ("A", "A"),
        ("Answer", None),
        ("Answer: the first", None),
    ],
)
def test_wemaths_answers_by_hand(response, letter):
    assert official.wemath_answer(response) == letter


def wemath(*problems):
    """Each problem as its steps and then its whole: "110" is a two-step one, both steps right, the whole wrong."""
    rows = [
        {"ID": f"p{k}", "key": f"{len(text) - 1}steps_{place}", "correct": mark == "1"}
        for k, text in enumerate(problems)
        for mark, place in zip(text, [*range(1, len(text)), "multi"], strict=True)
    ]
    return pd.DataFrame(rows)


def test_wemaths_metrics_by_hand():
    found = official.wemath_metrics(
        wemath("111", "101", "001", "110", "100", "1111", "0110", "0001")
    )
    assert found["IK"] == 2 / 8 and found["IG"] == 1 / 8
    assert found["CM strict"] == 2 / 8 and found["CM loose"] == 3 / 8
    assert found["RM strict"] == 3 / 5 and found["RM loose"] == 2 / 5
    assert found["score strict"] == pytest.approx(1 - (0.5 + 3 + 2) / 8)
    assert found["score loose"] == pytest.approx(1 - (0.5 + 2 + 2) / 8)


def test_a_wemath_problem_that_lacks_a_step_is_refused():
    table = wemath("111", "1111")
    with pytest.raises(InputError, match="p1 has"):
        official.wemath_metrics(table.drop(index=3))


def test_wemaths_problems_are_whole(shared):
    items = pd.DataFrame(
        json.loads((shared / "wemath" / "testmini.json").read_text(encoding="utf-8"))
    )
    assert official.wemath_metrics(items.assign(correct=True)) == {
        "IK": 0, "IG": 0, "CM strict": 1, "CM loose": 1, "RM strict": 0, "score strict": 1, "RM loose": 0,
        "score loose": 1,
    }  # fmt: skip
