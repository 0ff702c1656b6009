"""Real Geometry3K: every logic form said in English and read back; records written by hand for the rest."""

import re

import pytest

from perception_r1 import facts
from perception_r1.problems import geometry3k
from perception_r1.problems.geometry3k import Record

TRIANGLE = Record(
    id="7",
    gold=(
        "Equals(LengthOf(Line(A,B)), 7\\sqrt{2})",
        "Perpendicular(Line(A, B), Line(B, C))",
        "",
        "Parallel(Line(A",
    ),
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
            bare = re.sub(r"\s", "", form)
            exact += re.sub(r"\s", "", geometry3k.from_sentence(sentence)) == bare
        except facts.FactError:
            continue
        assert not re.search(r"[a-z][A-Z]\w*\(|_|\w\(\w", sentence), sentence
        assert sentence.endswith(".")
        sentences.setdefault(sentence, set()).add(bare)
    assert exact / len(forms) >= 0.995
    assert max(len(same) for same in sentences.values()) == 1  # distinct facts, distinct sentences


def test_forms_are_kept_where_they_can_be_read():
    assert geometry3k.usable(TRIANGLE.gold) == (
        "Equals(LengthOf(Line(A, B)), 7\\sqrt{2})",
        "Perpendicular(Line(A, B), Line(B, C))",
    )
