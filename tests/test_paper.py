"""The published numbers: every row checked, spot checks against the reference card, errors that name the place."""

import pytest

from perception_r1.evidence import paper

COLUMNS = {
    "sources": "tag kind description",
    "mcnemar": "id before after b c n p_reported note source",
    "scores": "version model data_size benchmark split score note source",
    "ablations": "configuration benchmark score source",
    "reevaluations": "benchmark score source",
    "costs": "model quantity value unit source",
    "constants": "name value unit meaning source",
}
MAY_BE_EMPTY = {"note", "data_size", "score", "unit", "meaning"}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_row_is_whole_in_range_and_has_a_known_source(name):
    rows = paper.published(name)
    assert list(rows.columns) == COLUMNS[name].split() and len(rows)
    for column in set(rows) - MAY_BE_EMPTY:
        assert rows[column].notna().all() and (rows[column].astype(str).str.len() > 0).all(), column
    for column in {"score"} & set(rows):
        assert rows[column].dropna().between(0, 100).all()
    for column in {"b", "c", "n"} & set(rows):
        assert rows[column].dtype == "int64" and (rows[column] >= 0).all()
    if name == "sources":
        assert set(rows["kind"]) <= {"primary", "secondary", "reevaluation", "computed"}
    else:
        tags = set(paper.published("sources")["tag"])
        assert {part.split()[0] for source in rows["source"] for part in source.split(";")} <= tags


def test_spot_checks_against_the_reference():
    rows = paper.published("scores")
    ours = rows[rows["model"] == "Perception-R1-7B"]
    disputed = ours[ours["benchmark"] == "MMMU-Pro"].set_index("version")["score"]
    assert disputed.to_dict() == {"v2": 41.4, "iclr": 42.4}
    second = rows[rows["version"] == "v2"].set_index(["model", "benchmark"])["score"]
    assert second["Vision-R1-7B", "EMMA"] == 28.2  # not best on EMMA, whatever the abstract says
    assert len(second) == 15 * 8 - 17  # seventeen cells are "-"
    assert [paper.constant(name) for name in ("alpha", "beta", "gamma")] == [0.1, 0.9, 0.7]
    steps = int(paper.constant("training_problems")) // int(paper.constant("batch_prompts"))
    assert steps == paper.constant("steps_per_epoch")
    assert steps * paper.constant("epochs") == paper.constant("steps")
    known = paper.published("ablations").groupby("configuration")["score"].count()
    assert known["without perception reward"] == 4  # the other cells were not found


def test_scores_with_binomial_noise():
    rows = paper.scores_with_noise({"MathVista": 1000, "EMMA": 400})
    assert list(dict.fromkeys(rows["benchmark"])) == ["MathVista", "EMMA"]
    vista = rows[rows["benchmark"] == "MathVista"]
    ours = vista["label"].str.startswith("Perception-R1-7B (")
    assert vista.loc[ours, "label"].tolist() == ["Perception-R1-7B (v1)", "Perception-R1-7B (v2)"]
    assert set(vista["group"]) == {"compared", "Perception-R1", "measured by others"}
    share = vista["score"] / 100
    half = 196 * (share * (1 - share) / 1000) ** 0.5
    assert vista["half"].tolist() == pytest.approx(half.tolist())
