import numpy as np
import pytest

from perception_r1.common.errors import InputError
from perception_r1.evaluation.admission import THINK, admission, admit_base, stated_text
from perception_r1.training.generation import generate
from perception_r1.training.policy import load_policy, probe_prompt
from perception_r1.world import make_problems, miniature_world


@pytest.fixture(scope="module")
def problems():
    bare = make_problems(4, miniature_world(seed=100, text_rich=0, slop=0), "dev")
    rich = make_problems(2, miniature_world(seed=101, text_rich=1, slop=0), "dev")
    return bare + rich


def response(problem, answer=None, misread=""):
    """The teacher's response, with another answer, or with the first length misread as 1."""
    text = problem.cot
    if misread:
        text = text.replace(f" is {misread}.", " is 1.", 1)
    return text if answer is None else text.replace(f"{{{problem.answer}}}", f"{{{answer}}}")


def first_value(problem):
    return stated_text(problem).split(" is ")[1].split(".")[0]


def figures(found):
    return found.table.set_index("measure")


def test_perfect_sight_leaves_no_room(problems):
    free = [response(p) for p in problems]
    found = admission(problems, free, free[:4])
    table = figures(found)
    assert table.loc["image-only answers, gold facts forced", "value"] == 1
    assert table.loc["image-only, all facts stated right", ["value", "n"]].tolist() == [1, 4]
    assert table.loc["text-rich answers", ["value", "n"]].tolist() == [1, 2]
    # no needed fact is ever stated wrong, so the gap cannot be measured: that is a failure, too
    assert len(found.failed) == 3 and "all facts stated right: 1.00" in found.failed[1]


def test_an_admitted_base(problems):
    free = [response(p) for p in problems]
    free[0] = response(problems[0], answer=99, misread=first_value(problems[0]))
    found = admission(problems, free, [response(p) for p in problems[:4]])
    table = figures(found)
    assert found.failed == []
    assert table.loc["image-only answers", "value"] == 0.75
    assert table.loc["P(right | needed facts right) - P(right | one wrong)", "value"] == 1
    assert table.loc["P(right | one needed fact wrong)", "n"] == 1


def test_answers_without_sight_are_refused(problems):
    free = [response(p, misread=first_value(p)) for p in problems[:2]]
    free += [response(p) for p in problems[2:]]
    found = admission(problems, free, [response(p, answer=99) for p in problems[:4]])
    assert [reason.split(":")[0] for reason in found.failed] == [
        "image-only answers, gold facts forced",
        "P(right | needed facts right) - P(right | one wrong)",
        "image-only answers",
    ]


def test_a_fact_stated_twice_with_two_values_is_not_stated_right(problems):
    free = [response(p) for p in problems]
    both = "The length of segment AB is 1.\n"
    free[0] = free[0].replace(THINK, THINK + both)
    table = figures(admission(problems, free, free[:4]))
    assert table.loc["image-only, all facts stated right", "value"] == 0.75


def test_text_rich_problems_alone_admit_nothing(problems):
    with pytest.raises(InputError, match="text_rich=0"):
        admission(problems[4:], [""] * 2, [])


def test_the_recorded_base_is_admitted_and_answers_probes():
    policy = load_policy("miniature")
    held_out = make_problems(64, miniature_world(seed=300, text_rich=0.25), "dev")
    found = admit_base(*policy, held_out, quiet=True)
    assert found.failed == [], found.table.to_string()
    dials = {"seed": 301, "text_rich": 0, "questions": ("perimeter",)}
    asked = make_problems(32, miniature_world(**dials), "dev")
    prompts = [probe_prompt("AB")] * 32
    replies = generate(*policy, asked, prompts=prompts, max_new_tokens=4, quiet=True)
    truths = [stated_text(p).splitlines()[0] for p in asked]
    assert np.mean([f"{r}." in t for r, t in zip(replies, truths, strict=True)]) > 0.5
