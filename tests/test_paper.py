"""The published numbers: spot checks against the reference card, and what broken tables get."""

import shutil

import pytest

from perception_r1.common.errors import InputError
from perception_r1.evidence import paper


def test_every_table_loads_and_every_row_has_a_source():
    for name in paper.TABLES:
        rows = paper.published(name)
        assert len(rows)
        if name != "sources":
            assert rows["source"].str.len().min() > 0


def test_discordant_counts():
    rows = paper.published("mcnemar").set_index("id")
    assert rows[["b", "c", "p_reported"]].to_numpy().tolist() == [
        [1, 5, 0.22],
        [2, 4, 0.69],
        [2, 10, 0.04],
    ]
    assert (rows["n"] == 50).all()


def test_table_1_has_both_versions_and_the_disputed_cell():
    rows = paper.published("scores")
    ours = rows[rows["model"] == "Perception-R1-7B"]
    disputed = ours[ours["benchmark"] == "MMMU-Pro"].set_index("version")["score"]
    assert disputed.to_dict() == {"v2": 41.4, "iclr": 42.4}
    second = rows[rows["version"] == "v2"].set_index(["model", "benchmark"])["score"]
    assert second["Perception-R1-7B", "MathVerse"] == 54.3
    assert second["Qwen2.5-VL-7B-IT", "EMMA"] == 24.9
    assert second["Vision-R1-7B", "EMMA"] == 28.2  # not best on EMMA, whatever the abstract says
    first = rows[(rows["version"] == "v1") & (rows["model"] == "R1-OneVision-7B")]
    assert first.set_index("benchmark")["score"]["MathVision"] == 29.9
    assert len(rows[rows["version"] == "v2"]) == 15 * 8 - 17  # seventeen cells are "-"


def test_left_out_cells_have_a_note_and_no_score():
    rows = paper.published("scores")
    empty = rows[rows["score"].isna()]
    assert set(empty["model"]) == {"R1-VL-7B", "Vision-R1-7B"}
    assert empty["note"].str.contains("trained on this benchmark").all()


def test_constants_and_ablations():
    assert [paper.constant(name) for name in ("alpha", "beta", "gamma")] == [0.1, 0.9, 0.7]
    steps = int(paper.constant("training_problems")) // int(paper.constant("batch_prompts"))
    assert steps == paper.constant("steps_per_epoch")
    assert steps * paper.constant("epochs") == paper.constant("steps")
    known = paper.published("ablations").groupby("configuration")["score"].count()
    assert known["without perception reward"] == 4  # the other cells were not found
    with pytest.raises(InputError, match="no constant 'delta'; there are: alpha"):
        paper.constant("delta")


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        (
            "mcnemar",
            "1,5,50",
            "1,-5,50",
            "mcnemar.csv line 2, column c: .*greater than or equal to 0",
        ),
        ("mcnemar", "1,5,50", "1,five,50", "line 2, column c: .*valid integer"),
        ("mcnemar", "before,after", "first,after", "line 2, column before: Field required"),
        ("scores", "63.8", "638", "line 2, column score: .*less than or equal to 100"),
        ("costs", "S2", "S9", "costs.csv line 2: source S9 is not in sources.csv"),
        ("costs", "tokens,S2", "tokens,", "line 2, column source"),
        ("costs", "tokens,S2", "tokens,S2,more", "line 2, column a cell too many"),
    ],
)
def test_a_broken_table_is_named_by_line_and_column(tmp_path, name, old, new, message):
    folder = shutil.copytree(paper.FOLDER, tmp_path / "paper")
    path = folder / f"{name}.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        paper.published(name, folder)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(
        InputError, match="no table 'prices' of published numbers; there are: sources"
    ):
        paper.published("prices")
    with pytest.raises(InputError, match=r"cannot read .*mcnemar.csv"):
        paper.published("mcnemar", tmp_path)
