"""Real Geometry3K: every logic form said in English and read back; records written by hand for the rest."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from perception_r1 import facts
from perception_r1.annotation import audit
from perception_r1.common.errors import InputError
from perception_r1.problems import geometry3k
from perception_r1.problems.geometry3k import Record
from perception_r1.problems.schema import DatasetError

TRIANGLE = Record(
    id="7",
    gold=(
        "Equals(LengthOf(Line(A,B)), 7\\sqrt{2})",
        "Perpendicular(Line(A, B), Line(B, C))",
        "",
        "Parallel(Line(A",
    ),
    text=("Equals(MeasureOf(Angle(A,B,C)), 90)", "Find(LengthOf(Line(A,C)))"),
    points={"A": (0.0, 100.0), "B": (0.0, 0.0), "C": (80.0, 0.0)},
    lines=(("A", "B"), ("B", "C"), ("A", "C")),
    circles=(),
    question="Find AC.",
    answer="2",
)


@pytest.fixture(scope="module")
def records(shared):
    return geometry3k.load_local(shared / "geometry3k")


def test_every_real_form_survives_the_way_through_english(records):
    """The independent truth is the form itself, but for spaces, compared as text."""
    forms = [form for record in records for form in record.gold if form.strip()]
    assert len(forms) > 20_000
    exact, sentences = 0, {}
    for form in forms:
        try:
            sentence = geometry3k.to_sentence(form)
            exact += re.sub(r"\s", "", geometry3k.from_sentence(sentence)) == re.sub(
                r"\s", "", form
            )
        except facts.FactError:
            continue
        assert not re.search(r"[a-z][A-Z]\w*\(|_|\w\(\w", sentence), sentence
        assert sentence.endswith(".")
        sentences.setdefault(sentence, set()).add(re.sub(r"\s", "", form))
    print(f"exact: {exact} of {len(forms)} = {exact / len(forms):.4%}")
    assert exact / len(forms) >= 0.995
    assert max(len(same) for same in sentences.values()) == 1  # distinct facts, distinct sentences


def test_faults_are_listed(records):
    found = geometry3k.faults(records)
    assert set(found["why"]) == {"empty", "malformed"}
    empty = sum(not form.strip() for record in records for form in (*record.gold, *record.text))
    assert (found["why"] == "empty").sum() == empty
    assert geometry3k.faults([TRIANGLE]).to_numpy().tolist() == [
        ["7", "", "empty"],
        ["7", "Parallel(Line(A", "malformed"],
    ]


def test_the_ten_whole_examples(records):
    whole = [record for record in records if record.image]
    assert [record.id for record in whole] == [str(k) for k in range(11, 21)]
    problems = [geometry3k.to_problem(record) for record in whole]
    assert all(problem.gold_facts for problem in problems)
    said = [p.annotated(geometry3k.to_sentence(form) for form in p.gold_facts) for p in problems]
    table = audit.audit(said).summary().set_index("measure")
    assert table.loc["precision", "of"] > 50


def ink(record: Record, size: int = 300) -> np.ndarray:
    return np.asarray(geometry3k.draw(record, size)) < 128


def test_a_drawing_shows_its_lines_where_the_points_are():
    page = ink(TRIANGLE)
    # B is the upper left corner on the page, since y goes down as in the originals
    rows, columns = np.where(page)
    assert abs(columns.min() - 30) < 25 and abs(rows.min() - 30) < 35
    assert page[:, 150].sum() >= 2  # BC above, AC below
    assert page[30, 60:240].mean() > 0.9  # BC, from B to C


def test_what_the_forms_say_is_drawn(records):
    """Each form adds ink: a right angle's mark, a length, an angle, a circle through its points."""
    points = {"A": (0.0, 100.0), "B": (0.0, 0.0), "C": (100.0, 0.0)}
    bare = Record("1", (), (), points, (("A", "B"), ("B", "C")), ("A",))
    for form, least in {
        "Perpendicular(Line(A, B), Line(B, C))": 10,
        "Equals(LengthOf(Line(A, B)), 7)": 20,
        "Equals(MeasureOf(Angle(A, B, C)), 90)": 20,
        "PointLiesOnCircle(B, Circle(A, radius_1_0))": 300,
    }.items():
        assert ink(replace(bare, gold=(form,))).sum() - ink(bare).sum() > least, form
    for form in (
        "Perpendicular(Line(A, A), Line(B, A))",
        "Equals(LengthOf(Line(A, X)), 7)",
    ):  # as annotated
        assert (ink(replace(bare, gold=(form,))) == ink(bare)).all()
    for record in records[:30]:
        assert 0.001 < ink(record, 160).mean() < 0.5


def test_kinds_are_counted_once_a_problem():
    twice = Record(
        "1",
        TRIANGLE.gold + ("Equals(LengthOf(Line(B, A)), 7\\sqrt{2})",),
        TRIANGLE.text,
        {},
        (),
        (),
    )
    table = geometry3k.count_kinds([twice]).set_index("kind")
    assert table.loc["length", "diagram"] == 1
    assert table.loc["perpendicular", "diagram"] == 1
    assert table.loc["angle", "question"] == 1
    assert "question" not in table.index


def test_a_problem_keeps_what_can_be_used():
    problem = geometry3k.to_problem(TRIANGLE)
    assert problem.gold_facts == (
        "Equals(LengthOf(Line(A, B)), 7\\sqrt{2})",
        "Perpendicular(Line(A, B), Line(B, C))",
    )
    assert problem.text_facts == ("Equals(MeasureOf(Angle(A, B, C)), 90)",)
    with pytest.raises(InputError, match="problem 7 has no question or answer here"):
        geometry3k.to_problem(Record("7", (), (), {}, (), ()))


@pytest.mark.parametrize(
    "diagram, message",
    [
        ("{", "is not JSON"),
        ("[]", "must be objects"),
        (json.dumps({"3": {"line_instances": []}}), "problem 3 .* no usable 'point_positions'"),
    ],
)
def test_broken_annotation_files_are_named(tmp_path, diagram, message):
    (tmp_path / "diagram_logic_forms_annot.json").write_text(diagram)
    (tmp_path / "text_logic_forms_annot.json").write_text('{"3": {"text_logic_forms": []}}')
    with pytest.raises((InputError, DatasetError), match=message):
        geometry3k.load_local(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        geometry3k.load_local(tmp_path / "nowhere")
