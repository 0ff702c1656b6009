"""Exercises: right and wrong answers by hand, answers of the wrong kind, and the cells in the notebooks."""

import re

import nbformat
import numpy as np
import pytest

from perception_r1.common.files import NOTEBOOKS
from perception_r1.notebook.exercises import check

ANSWERS = {  # right ones, wrong ones
    "01.1": ([(False, False), [False, False]], [(True, False), (False, True)]),
    "01.2": ([(0, 6), (0, 7)], [(1, 5), (0, 5), (1, 7), (0, 12), (2, 4)]),
    "01.3": ([215, 213.0], [150, 431]),
    "02.1": (
        ["<info1>GE = 10</info1>\n<info2>DE = EF</info2>", "<info1>GE = 10.</info1> <info2>DE = EF</info2>"],
        ["GE = 10, DE = EF", "<info1>GE = 10</info1>", "<info1>DE = EF</info1>\n<info2>GE = 10</info2>", ""],
    ),
    "02.3": ([(1, "precision"), (1.0, "Precision ")], [(0.5, "precision"), (1, "recall")]),
    "03.1": ([0.45, np.float64(0.45)], [0.35, 0.1]),
    "03.2": ([0.9, 0.91], [0.7, 1]),
    "03.3": ([(0.8, 0.2)], [(0.2, 0.8), (1, 0)]),
    "04.1": ([0.55, 0.8], [1, 0.1]),
    "04.2": ([0, 0.0], [1, 0.9]),
    "04.3": (["accuracy-only", "Accuracy only ", "accuracy_only"], ["base", "perception"]),
    "05.2": ([0.24, 0.2401], [0.4, 0.1]),
    "05.3": ([3.86, 3.9], [1.1, 2.7]),
    "05.1": (["k3-low"], ["k2", "s1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_right_answers_and_wrong_ones_which_get_a_hint(name):
    right, wrong = ANSWERS[name]
    for answer in right:
        checked = check(name, answer)
        assert checked.right is True and checked._repr_markdown_().startswith("**Right.** ")
    for answer in wrong:
        checked = check(name, answer)
        assert checked.right is False and checked.message.startswith("Hint: ")


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_another_kind_gets_a_sentence(name):
    assert "in place of the dots" in check(name).message
    for answer in (None, "seven", [1, 2, 3], {}, object(), True, (1, None)):
        checked = check(name, answer)
        assert not checked.right
        assert checked.right is False or f"Exercise {name} takes " in checked.message


def test_every_exercise_that_checks_itself_has_its_cell_and_its_solution():
    checked, solved = set(), set()
    for path in NOTEBOOKS.glob("0*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if match := re.search(r'answer = \.\.\..*\ncheck\("([\d.]+)", answer\)', cell.source):
                checked.add(match[1])
                assert match[1].startswith(path.name[:2])
    for path in (NOTEBOOKS / "solutions").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            solved |= set(re.findall(r'check\("([\d.]+)"', cell.source))
    assert checked == solved == set(ANSWERS)
