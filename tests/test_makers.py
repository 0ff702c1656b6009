"""What makes the recorded bases, beside its data: the lessons of a miniature."""

import json
import random

import pytest
import torch

from perception_r1.common.files import DATA
from perception_r1.training.policy import load_policy, new_miniature
from tests.conftest import load_script

bases = load_script(DATA / "miniature" / "make.py")
lessons = bases.lessons


def test_the_same_name_gives_the_same_base_which_is_kept_with_what_made_it(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bases, "HELD_OUT", 8)
    quick = bases.RECIPE | {"limits": (4, 3, 2, 2, 2), "figures": 40}  # it only has to run
    monkeypatch.setattr(bases, "RECIPE", quick)
    first, _, log = bases.train_base(bases.BASES["two"])
    assert bases.main(["two", "--out", str(tmp_path)]) == 0
    kept, _ = load_policy(tmp_path)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, kept)]
    assert torch.equal(*weights)
    assert log.lesson.tolist() == ["eyes", "sums", "answers", "reading", "reading, sampled"]
    assert tuple(log.step) == quick["limits"] and (log.seconds.diff()[1:] > 0).all()
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert about["base"] == {"sides": 2, "reading": 0.7, "seed": 0}
    assert about["failed"][0] in capsys.readouterr().out  # it has learnt nothing in so few steps


@pytest.mark.parametrize("name", bases.BASES)
def test_a_recorded_base_was_made_by_this_recipe_and_admitted(name):
    folder = DATA / "miniature" / name
    if not (folder / "provenance.json").exists():
        pytest.skip(f"base {name} has not been made")
    about = json.loads((folder / "provenance.json").read_text())
    assert about["recipe"] == json.loads(json.dumps(bases.RECIPE))
    assert about["base"] == bases.BASES[name]._asdict() and about["failed"] == []
    assert (folder / "model.safetensors").stat().st_size < 5e6


def test_lessons_lower_the_loss_and_end_when_their_target_is_met():
    pupil = lessons.Pupil(*new_miniature(100), random.Random(100))
    reached = iter([0.5, 0.9, 1.0])
    pupil.learn(
        "sums", 100, 2e-3, 25, lambda: pupil.loss([lessons.additions(pupil) for _ in range(4)]),
        lambda: {"computing": (next(reached), 0.9)},
    )  # fmt: skip
    assert [entry["step"] for entry in pupil.log] == [25, 50]
    assert [entry["computing"] for entry in pupil.log] == [0.5, 0.9]
    assert pupil.log[1]["loss"] < pupil.log[0]["loss"] < 5
