"""What the plans need, and the plans themselves."""

import random
import re

import pytest

from perception_r1.common.files import DATA
from perception_r1.common.profiles import FOLDER
from perception_r1.common.settings import read_pairs, read_settings
from perception_r1.evaluation.perception_metrics import outcome
from perception_r1.notebook.batch import read_plan, rows_of
from perception_r1.study import prepare
from perception_r1.world import make_problems, miniature_world

PLANS = sorted((DATA / "plans").glob("*.toml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_says_what_it_compares_and_only_what_it_or_plan_1_runs(path):
    plan = read_plan(path)
    first = read_plan(PLANS[0])
    policies = {
        f"{row.cell}/{arm}" for p in (plan, first) for row in rows_of(p)
        for arm in (*str(row.parameters["arms"]).split(","), "base")
    }  # fmt: skip
    compared = plan.analysis["comparisons"]
    assert compared and {c[side] for c in compared for side in ("before", "after")} <= policies
    assert {"primary", "test", "interval", "decision", "sample_size"} <= set(plan.analysis)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_settings_of_every_row_are_possible(path):
    for row in rows_of(read_plan(path)):
        changes = read_pairs(row.parameters["changes"])
        if changes.get("judge", "").startswith(".."):
            changes["judge"] = str(FOLDER)  # made by `prepare`
        settings = read_settings(FOLDER / "laptop.toml", **changes, arm=row.parameters["arms"])
        assert settings.eval_steps == 0
        wanted = [
            row.parameters.get("base", ""),
            read_pairs(row.parameters["changes"]).get("judge", ""),
        ]
        for place in (name for name in wanted if name.startswith("..")):
            assert place.removeprefix("../runs/") in prepare.MADE


def test_a_lister_names_a_second_value_and_still_answers_right():
    """Read by the outcome of the response, which takes two values for no sight."""
    problems = make_problems(200, miniature_world(slop=0, seed=5), "train")
    rng = random.Random(2)
    seen = said = shown = 0
    for problem in problems:
        cot = prepare.listing(problem.cot, rng, share=0.3)
        found = outcome(problem.model_copy(update={"text_facts": ()}), cot)
        assert found["right"]
        assert problem.cot.splitlines() == [
            x for x in cot.splitlines() if x in problem.cot.splitlines()
        ]
        added = len(cot.splitlines()) - len(problem.cot.splitlines())
        assert found["seen"] == found["visual"] - added and found["said"] == found["visual"] + added
        seen, said, shown = seen + found["seen"], said + found["said"], shown + found["visual"]
    assert 0.6 < seen / shown < 0.8 and 1.2 < said / shown < 1.4


def test_names_that_are_not_there(capsys):
    assert prepare.main(["bases/none"]) == 2
    assert re.search(
        "no bases/none; there are bases/eyes-only, bases/lister", capsys.readouterr().err
    )


def test_what_is_there_is_not_made_again(tmp_path, capsys):
    (tmp_path / "bases" / "lister").mkdir(parents=True)
    assert prepare.main(["bases/lister", "--out", str(tmp_path)]) == 0
    assert "is there" in capsys.readouterr().out


def test_a_judge_is_made_and_loads(tmp_path):
    from perception_r1.reward.learned_judge import LearnedJudge

    prepare.learned(tmp_path / "judge", 2)
    assert LearnedJudge.load(tmp_path / "judge").training["steps"] == 2
