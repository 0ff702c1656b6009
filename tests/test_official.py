"""The authors' rules: against published verdicts of MathVista, and by hand from the authors' code."""

import json

import pytest

from perception_r1.evaluation import official_rules
from perception_r1.evaluation.benchmarks import BENCHMARKS, load
from perception_r1.evaluation.our_rules import Item

MATHVISTA = (
    "bard", "chatgpt_2shot_solution", "gpt4", "gpt4_2shot_solution", "gpt4_2shot_solution_use_ocr",
    "instruct_blip2_vicuna_13b", "llava_llama_2_13b", "random_guess",
)  # fmt: skip


def item(options=(), answer="B", answer_type="text", precision=None, name="1") -> Item:
    return Item(name, "What?", tuple(options), answer, (), {}, answer_type, precision)


@pytest.mark.parametrize("system", MATHVISTA)
def test_mathvista_from_official_extractions(shared, system):
    """Exactly the official verdicts and counts."""
    folder = shared / "mathvista"
    items = {it.id: it for it in load(BENCHMARKS["mathvista"], folder)}
    rows = json.loads((folder / f"output_{system}.json").read_text(encoding="utf-8"))
    right = 0
    for row in rows.values():
        it = items[row["pid"]]
        prediction = official_rules.mathvista_prediction(row["extraction"], it)
        assert (prediction == it.answer) is row["true_false"], row["pid"]
        right += prediction == it.answer
    scores = json.loads((folder / f"scores_{system}.json").read_text())["average"]
    assert (right, len(rows)) == (int(scores["correct"]), int(scores["total"]))


# --- MATH-Vision: equality; what it extracts stands below -------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "options", "right"),
    [
        ("a", "A", (), True),
        ("\\frac{1}{300}", "\\frac{1}{900}", (), True),  # their mistake: both are 0.00
        ("2\\sqrt{2}", "$\\sqrt{8}$", (), True),
        ("8:5", "1.6", (), True),
        ("0.333", "1/3", (), True),
        ("0.34", "1/3", (), False),
        ("5cm", "5", (), False),
        ("1/0", "3", (), False),
        ("three", "3", (), False),
        ("10", "B", ("5", "10"), True),  # the text of the right option
        ("5", "B", ("5", "10"), False),
        ("", "B", ("5", "10"), False),
    ],
)
def test_equality_by_value(answer, gold, options, right):
    assert official_rules.equal_by_value(answer, item(options, gold)) is right


# --- MathVista -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "options", "answer_type", "extraction"),
    [
        ("", ("5", "7"), "text", ""),
        ("5 cm", ("5 cm", "7 cm"), "text", "5 cm"),
        (" 5 cm", ("5 cm", "7 cm"), "text", None),  # as it is, spaces and all
        (" 7 ", (), "integer", "7"),
        ("7.0", (), "integer", None),
        ("7", (), "float", "7.0"),
        ('The answer is "B".', ("5", "7"), "text", "B"),  # their --quick_extract
        ("So it is 7", (), "integer", None),
    ],
)
def test_mathvistas_extraction(response, options, answer_type, extraction):
    it = item(options, answer_type=answer_type)
    assert official_rules.mathvista_extraction(response, it) == extraction


@pytest.mark.parametrize(
    ("extraction", "options", "answer_type", "precision", "prediction"),
    [
        ("(B) 7", ("5", "7"), "text", None, "7"),
        ("B", ("5", "7"), "text", None, "7"),
        ("C", ("5", "Cat"), "text", None, "5"),  # no letter of an option: the nearest text
        ("sevn", ("five", "seven"), "text", None, "seven"),
        ("3.9", (), "integer", None, None),
        ("39", (), "integer", None, "39"),
        ("3.14159", (), "float", 2, "3.14"),
        ("3.14159", (), "float", None, None),
        ("[1, 2]", (), "list", None, "[1, 2]"),
    ],
)
def test_mathvistas_predictions(extraction, options, answer_type, precision, prediction):
    it = item(options, "x", answer_type, precision)
    assert official_rules.mathvista_prediction(extraction, it) == prediction


# --- We-Math ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Thought: ... Answer: B", "B"),
        ("<Answer>: <C. 12>", "C"),
        ("Answer: 12", None),
        ("Answer: the first", None),
    ],
)
def test_wemaths_answers(response, letter):
    assert official_rules.wemath(response, item()) == (letter, letter == "B")


# --- MATH-Vision: worked out by hand from the authors' code ------------------------------------------


@pytest.mark.parametrize(
    ("response", "extracted"),
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
        (".25", "0.25"),
    ],
)  # fmt: skip
def test_what_the_authors_rules_extract(response, extracted):
    assert official_rules.mathvision(response, item())[0] == extracted
