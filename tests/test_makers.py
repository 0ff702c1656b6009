"""The old world's plans: each can be run, and says what it compares."""

import pytest

from perception_r1.common.files import DATA
from perception_r1.common.profiles import FOLDER
from perception_r1.common.settings import read_pairs, read_settings
from perception_r1.study.plans import read_plan, rows_of

PLANS = sorted((DATA / "plans").glob("[1-6]_*.toml"))
MADE = ("bases/eyes-only", "bases/lister", "judges/learned-40", "judges/learned-320")


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
