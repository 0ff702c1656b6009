"""What makes recorded things, beside its data: the miniature and its lessons; and the plans."""

import json
import random

import pytest
import torch

from perception_r1.common.files import DATA
from perception_r1.common.profiles import FOLDER
from perception_r1.common.settings import read_pairs, read_settings
from perception_r1.study.plans import read_plan, rows_of
from perception_r1.training.policy import load_policy, new_miniature
from perception_r1.world import map_world
from tests.conftest import load_script

bases = load_script(DATA / "miniature" / "make.py")
lessons = bases.lessons
PLANS = sorted((DATA / "plans").glob("[1-6]_*.toml"))
MADE = ("bases/eyes-only", "bases/lister", "judges/learned-40", "judges/learned-320")


# --- data/miniature/make.py --------------------------------------------------------------------------


def test_the_same_name_gives_the_same_base_which_is_kept_with_what_made_it(
    tmp_path, capsys, monkeypatch
):
    for module in (bases, lessons):
        monkeypatch.setattr(module, "HELD_OUT", 8)
    first, _, log = bases.train_base(bases.BASES["two"], bases.QUICK, quiet=True)
    assert bases.main(["two", "--quick", "--out", str(tmp_path)]) == 0
    kept, _ = load_policy(tmp_path)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, kept)]
    assert torch.equal(*weights)
    assert log.lesson.tolist() == ["eyes", "eyes, closer", "sums", "reading", "answers"]
    assert log.step.tolist() == [4, 2, 3, 2, 2] and (log.seconds.diff()[1:] > 0).all()
    rows = (tmp_path / "training_log.csv").read_text().splitlines()
    assert rows[0] == "lesson,step,seconds,loss,eyesight,computing,reading" and len(rows) == 6
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert about["base"] == {"sides": 2, "reading": 0.7, "seed": 0}
    assert about["recipe"]["figures"] == 40
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
    pupil = lessons.Pupil(*new_miniature(100, DATA / "miniature/four"), random.Random(100), True)
    sums = lessons.sums(pupil, map_world(), 40)
    reached = iter([0.5, 0.9, 1.0])
    pupil.learn("sums", 100, 2e-3, lambda: sums(4), lambda: {"computing": (next(reached), 0.9)})
    assert [entry["step"] for entry in pupil.log] == [25, 50]
    assert [entry["computing"] for entry in pupil.log] == [0.5, 0.9]
    assert pupil.log[1]["loss"] < pupil.log[0]["loss"] < 5


# --- data/plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_can_be_run_and_says_what_it_compares(path):
    plan, first = read_plan(path), read_plan(PLANS[0])
    policies = {
        f"{row.cell}/{arm}"
        for p in (plan, first)
        for row in rows_of(p)
        for arm in (*str(row.parameters["arms"]).split(","), "base")
    }
    compared = plan.analysis["comparisons"]
    assert compared and {c[side] for c in compared for side in ("before", "after")} <= policies
    assert {"primary", "test", "interval", "decision", "sample_size"} <= set(plan.analysis)
    for row in rows_of(plan):
        changes = read_pairs(row.parameters["changes"])
        places = [row.parameters.get("base", ""), changes.get("judge", "")]
        for place in (place for place in places if place.startswith("..")):
            assert place.removeprefix("../runs/") in MADE
        if changes.get("judge", "").startswith(".."):
            changes["judge"] = str(FOLDER)  # any folder: it is made when the plan is run
        settings = read_settings(FOLDER / "laptop.toml", **changes, arm=row.parameters["arms"])
        assert settings.eval_steps == 0
