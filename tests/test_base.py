import random

import numpy as np
import pytest
import torch

from perception_r1.common.errors import InputError
from perception_r1.evaluation import base_admission, lessons
from perception_r1.evaluation.admission import THINK, admission, admit_base, stated_text
from perception_r1.evaluation.base_admission import miniature_world, train_base
from perception_r1.evaluation.lessons import Pupil
from perception_r1.training.generation import generate
from perception_r1.training.policy import MINIATURE, load_policy, new_miniature, probe_prompt
from perception_r1.world import make_problems

FEW = {"limits": (4, 3, 2, 2), "charts": 40, "problems": 40, "quiet": True}


@pytest.fixture(scope="module")
def problems():
    bare = make_problems(4, miniature_world(seed=100, text_rich=0, slop=0), "dev")
    rich = make_problems(2, miniature_world(seed=101, text_rich=1, slop=0), "dev")
    return bare + rich


# --- admission on canned responses -----------------------------------------------------------------


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
    free = [response(p, misread=first_value(p)) for p in problems[:2]] + [
        response(p) for p in problems[2:]
    ]
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


# --- training --------------------------------------------------------------------------------------


def test_training_repeats_itself(monkeypatch):
    for module in (base_admission, lessons):
        monkeypatch.setattr(module, "HELD_OUT", 8)
    first, _, log = train_base(seed=100, **FEW)
    again, _, _ = train_base(seed=100, **FEW)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, again)]
    assert torch.equal(weights[0], weights[1])
    assert (
        log.lesson.tolist() == ["eyes", "sums", "reading", "answers"]
        and (log.seconds.diff()[1:] > 0).all()
    )


def test_lessons_lower_the_loss_and_end_when_their_target_is_met():
    pupil = Pupil(*new_miniature(100), random.Random(100), quiet=True)
    sums = lessons.sums(pupil, miniature_world(), 40)
    reached = iter([0.0, 0.5, 1.0, 1.0])
    pupil.learn("sums", 100, 2e-3, lambda: sums(4), lambda: {"computing": (next(reached), 0.9)})
    assert [entry["step"] for entry in pupil.log] == [25, 50, 75]
    assert [entry["computing"] for entry in pupil.log] == [0, 0.5, 1]
    assert pupil.log[2]["loss"] < pupil.log[0]["loss"] < 5


def test_a_world_beyond_the_lessons_is_refused():
    for dials in ({"labels": (2, 12)}, {"questions": ("third angle",)}, {"image_size": 336}):
        with pytest.raises(InputError, match="begin from miniature_world"):
            train_base(miniature_world(**dials), **FEW)


# --- the recorded base -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return load_policy("miniature")


def test_the_recorded_base_is_small():
    assert sum(path.stat().st_size for path in MINIATURE.rglob("*")) <= 5 * 2**20
    assert not list(MINIATURE.glob("*.bin"))


def test_the_recorded_base_is_admitted(recorded):
    held_out = make_problems(96, miniature_world(seed=300, text_rich=0.25), "dev")
    found = admit_base(*recorded, held_out, quiet=True)
    assert found.failed == [], found.table.to_string()


def test_the_recorded_base_answers_probes(recorded):
    held_out = make_problems(
        48, miniature_world(seed=301, text_rich=0, questions=("perimeter",)), "dev"
    )
    replies = generate(
        *recorded, held_out, prompts=[probe_prompt("AB")] * 48, max_new_tokens=4, quiet=True
    )
    right = [
        f"{reply}." in stated_text(p).splitlines()[0]
        for reply, p in zip(replies, held_out, strict=True)
    ]
    assert np.mean(right) > 0.5
