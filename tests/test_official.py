"""The authors' rules: against published verdicts of MathVista, and by hand from the authors' code."""

import json

import pytest

from perception_r1.evaluation import official_rules
from perception_r1.evaluation.benchmarks import BENCHMARKS, load
from tests.test_our_rules import item

MATHVISTA = (
    "bard", "chatgpt_2shot_solution", "gpt4", "gpt4_2shot_solution", "gpt4_2shot_solution_use_ocr",
    "instruct_blip2_vicuna_13b", "llava_llama_2_13b", "random_guess",
)  # fmt: skip


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
        ("0.34", "1/3", (), False),
        ("1/0", "3", (), False),
        ("three", "3", (), False),  # EMMA's reads it; here it is left out, and said so
        ("10", "B", ("5", "10"), True),  # the text of the right option
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
        ("7.0", (), "integer", None),
        ("7", (), "float", "7.0"),
        ('The answer is "B".', ("5", "7"), "text", "B"),  # their --quick_extract
    ],
)
def test_mathvistas_extraction(response, options, answer_type, extraction):
    it = item(options, answer_type=answer_type)
    assert official_rules.mathvista_extraction(response, it) == extraction


@pytest.mark.parametrize(
    ("extraction", "options", "answer_type", "precision", "prediction"),
    [
        ("(B) 7", ("5", "7"), "text", None, "7"),
        ("C", ("5", "Cat"), "text", None, "5"),  # no letter of an option: the nearest text
        ("sevn", ("five", "seven"), "text", None, "seven"),
        ("3.9", (), "integer", None, None),
        ("39", (), "integer", None, "39"),
        ("3.14159", (), "float", None, None),
        ("[1, 2]", (), "list", None, "[1, 2]"),
    ],
)
def test_mathvistas_predictions(extraction, options, answer_type, precision, prediction):
    it = item(options, "x", answer_type, precision)
    assert official_rules.mathvista_prediction(extraction, it) == prediction


# --- We-Math ---------------------------------------------------------------------------------------


def test_wemaths_answers():
    for response, letter in (("<Answer>: <C. 12>", "C"), ("Answer: the first", None)):
        assert official_rules.wemath(response, item()) == (letter, letter == "B")


# --- MATH-Vision, MMMU, MMMU-Pro, MMStar, EMMA: worked out by hand from the authors' code ------------------

THREE = ("three", "five", "seven")
TEN = tuple(f"text {k}" for k in range(10))


@pytest.mark.parametrize(
    ("rule", "response", "options", "extracted"),
    [
        ("mathvision", "\\boxed{3} and then \\boxed{4}", (), "4"),
        ("mathvision", "A\nbecause", (), "a"),
        ("mathvision", "x = 3, so the area is 12.", (), "12"),
        ("mathvision", "Hence, the answer is 7 cm. It fits.", (), "7cm"),
        ("mathvision", "\\boxed{x = \\frac12}", (), "\\frac12"),
        ("mathvision", "\\boxed{\\sqrt3}", (), "\\sqrt{3}"),
        ("mathvision", "0.5", (), "\\frac{1}{2}"),
        ("mathvision", ".25", (), "0.25"),
        ("mmmu", "The answer is B.", THREE, "B"),  # the point at the end is taken off
        ("mmmu", "A or B, or A again", THREE, "A"),  # the last one
        ("mmmu", "The value must be Five units of length", THREE, "B"),
        ("mmmupro", "Answer: A.\nAnswer: C", TEN, "C"),
        ("mmmupro", "Answer: Beta", TEN, "B"),  # their mistake: any such letter in it
        ("mmmupro", "Answer: B because A is wrong", TEN, "A"),  # two letters: as in MMMU, the last one
        ("mmmupro", "xB.", TEN, "B"),
        ("mmstar", "\n(C) x", (), "C"),
        ("mmstar", "The answer is (A)", (), None),
        ("mmstar", "A chart shows two of them", (), "A"),  # their mistakes: any word that begins so
        ("mmstar", "Because it is C", (), "B"),
        ("mmstar", "", (), None),
        ("emma", "D. because", (), "D"),
        ("emma", " 3.50 ", (), "3.50"),
        ("emma", "so \\boxed{\\text{B}}", (), "B"),
        ("emma", "\\boxed{1}, then \\boxed{\\frac{1}{2}}", (), "\\frac{1}{2}"),
        ("emma", "\\boxed{B", (), ""),
        ("emma", "The final answer is: 42 cm. Done", (), ": 42 cm"),
        ("emma", "The answer is 2.5", (), "2"),  # their mistake: cut at the first point
        ("emma", "Answer: C\nbecause", (), "c"),
    ],
)  # fmt: skip
def test_what_the_authors_rules_extract(rule, response, options, extracted):
    assert official_rules.OFFICIAL[rule](response, item(options))[0] == extracted


@pytest.mark.parametrize("response", ["", "five", "A: it is"])
def test_where_mmmus_rules_find_none_they_guess(response):
    """Five words or fewer are not looked through for an option's text, nor is a letter beside a colon one."""
    guesses = [official_rules.mmmu(response, item(THREE, name=str(k)))[0] for k in range(60)]
    assert set(guesses) == set("ABC")
    again = [official_rules.mmmu(response, item(THREE, name=str(k)))[0] for k in range(60)]
    assert guesses == again


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("x = 6.254", "6.25", True),  # after rounding
        ("about 1,250 people", "1250", True),
        ("It is in Florida", "['Tampa', 'Florida']", True),
        ("It is not Tampa", "Tampa", True),  # their mistake
        ("six is 6", "six", False),  # the shortest tail is a number, not a text
        ("It is blue", "b", False),  # one letter counts only beside a space
        ("is blue\nx = red", "red", True),
        ("x = red\nis blue", "red", False),  # "=" counts on the last line alone
        # "is " leaves nothing, so theirs takes what "final " leaves, and then the shorter "is" after "answer "
        ("The final answer is \nsix feet", "six", False),
    ],
)
def test_mmmus_open_answers(response, gold, right):
    assert official_rules.mmmu(response, item((), gold)) == (response, right)
