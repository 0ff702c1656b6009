"""MathVista's published answers: the official counts, and broken files."""

import json

import pandas as pd
import pytest

from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.evidence import mathvista_pairs


def test_counts_equal_the_official_ones_and_the_recorded_ones(shared):
    """Read here in another way: MathVista's own score files, as plain JSON."""
    outcomes = mathvista_pairs.load_mathvista(shared / "mathvista")
    for key, name in mathvista_pairs.MATHVISTA_SYSTEMS.items():
        scores = json.loads((shared / "mathvista" / f"scores_{key}.json").read_text())
        table = outcomes[name]
        assert table["correct"].sum() == scores["average"]["correct"]
        tasks = table.groupby("task")["correct"].sum().to_dict()
        assert tasks == {task: group["correct"] for task, group in scores["task"].items()}
    counted = mathvista_pairs.count_pairs(outcomes)
    pd.testing.assert_frame_equal(counted, recorded.read("mathvista_pairs"))


def test_compare_pairs_adds_intervals_and_tests_only_when_asked():
    pairs = pd.DataFrame({"both": [4], "b": [1], "c": [5], "neither": [2]})
    row = mathvista_pairs.compare_pairs(pairs, test=True).iloc[0]
    assert (row["n"], row["difference"], row["pvalue"]) == (12, 4 / 12, 0.21875)
    assert row["low"] < 4 / 12 < row["high"]
    assert "pvalue" not in mathvista_pairs.compare_pairs(pairs, test=False)


def test_outcomes_without_a_task_are_one_clear_line(tmp_path):
    path = tmp_path / "output.json"
    path.write_text('{"1": {"pid": "1", "true_false": true, "metadata": {}}}')
    with pytest.raises(InputError, match=f"{path}: an item has no 'task'"):
        mathvista_pairs.read_outcomes(path)


def test_where_the_files_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_R1_SHARED", str(tmp_path))
    assert mathvista_pairs.find_mathvista() is None
    assert mathvista_pairs.find_mathvista("none") is None
    (tmp_path / "mathvista").mkdir()
    for given in ("", tmp_path):
        folder = mathvista_pairs.find_mathvista(given)
        with pytest.raises(InputError, match="cannot read .*output_gpt4.*No such file"):
            mathvista_pairs.load_mathvista(folder)
