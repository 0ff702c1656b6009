"""Policies of one experiment, compared and shown."""

import numpy as np
import pandas as pd
import pytest

from perception_r1.evaluation import comparison, results


@pytest.fixture(scope="module")
def outcomes():
    names, rng = ("base", "accuracy_only", "perception"), np.random.default_rng(0)
    same = {"needed": "right", "visual": 4, "redraw": "stays", "sampled_seen": 3}
    same |= {"probe_fact": "f", "redrawn_fact": "g", "probe_right": 1.0, "sampled_right": True}
    return {
        name: pd.DataFrame({"id": range(20), "right": rng.random(20) < 0.5, "seen": 2, **same})
        for name in names
    }


def test_each_arm_is_compared_with_the_base_and_the_two_with_each_other(outcomes):
    compared = results.compare_policies(outcomes)
    pairs = list(dict.fromkeys(zip(compared["before_is"], compared["after_is"], strict=True)))
    assert pairs == [("base", "accuracy_only"), ("base", "perception"),
                     ("accuracy_only", "perception")]  # fmt: skip
    last = compared[compared["before_is"] == "accuracy_only"]
    alone = comparison.compare(outcomes["accuracy_only"], outcomes["perception"])
    pd.testing.assert_frame_equal(last.drop(columns=["before_is", "after_is"]), alone)
    other = {"base": outcomes["base"], "sft": outcomes["base"], "perception": outcomes["base"]}
    assert set(results.compare_policies(other)["before_is"]) == {"base"}
