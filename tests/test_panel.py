"""The panel: rewards and advantages by hand, what is shown, and what stands still or is missing."""

import asyncio

import numpy as np
import pandas as pd
import pytest

from perception_r1.annotation.pipeline import annotate_by_reading
from perception_r1.notebook import panel
from perception_r1.reward.judges import ExactJudge, LossyJudge
from perception_r1.world import make_problems, map_world


@pytest.fixture(scope="module")
def problem():
    made = make_problems(4, map_world(seed=5), "train")
    return annotate_by_reading(made)[0]


@pytest.fixture
def shown(monkeypatch):
    """What was displayed."""
    displayed = []
    monkeypatch.setattr(panel, "display", lambda *things: displayed.extend(things))
    monkeypatch.delenv(panel.HEADLESS, raising=False)
    return displayed


def grade(problem, judge=None, responses=None) -> pd.DataFrame:
    responses = responses or panel.four_responses(problem)
    return asyncio.run(panel.grade(problem, responses, judge or ExactJudge()))


def test_four_ways_to_answer_and_what_they_earn_by_hand(problem):
    graded = grade(problem)
    assert graded["accuracy"].tolist() == [1, 1, 0, 0]
    assert graded["format"].tolist() == [1, 1, 1, 0]
    assert graded["perception"].tolist() == [1, 0, 1, 0]
    assert set(graded.loc["lucky, right", "marks"]) == {"contradicted"}
    earned = panel.earned(graded, 0.7)
    r = np.array([1.7, 1, 0.8, 0])
    assert earned["r"].tolist() == pytest.approx(r)
    assert earned["advantage"].tolist() == pytest.approx((r - r.mean()) / (r.std(ddof=1) + 1e-4))
    assert panel.told_truly(problem)
    misread = problem.model_copy(update={"cot": panel.four_responses(problem)["lucky, right"]})
    assert not panel.told_truly(misread)


def test_a_lost_verdict_is_shown_as_such(problem):
    text = panel.view(problem, grade(problem, LossyJudge(ExactJudge(), 1)))
    assert text.count("no verdict") == text.count("left out") == 4
    assert "nan" not in text and "perception" not in text


def test_the_view_shows_drawing_facts_and_numbers_and_no_mark_up_of_a_response(problem):
    text = panel.view(problem, grade(problem), 0.35)
    assert "data:image/png;base64," in text and "gamma = 0.35" in text
    assert all(fact in text for fact in problem.annotations)
    assert "✓" in text and "✗" in text and f"Answer: {problem.answer}" in text
    responses = {"<b>x": "<script>alert(1)</script>", "other": ""}
    text = panel.view(problem, grade(problem, responses=responses))
    assert "<script" not in text and "<b>x" not in text


def test_controls_move_the_view(problem, shown):
    other = problem.model_copy(update={"id": "other", "problem": "<image>Another?"})
    graded = grade(problem)
    panel.panel([problem, other], {problem.id: graded, "other": graded})
    pick, gamma, content = shown[0].children
    assert "gamma = 0.70" in content.value and "Another?" not in content.value
    gamma.value = 0
    assert "gamma = 0.00" in content.value and "Another?" not in content.value
    pick.value = "other"
    assert "Another?" in content.value and "gamma = 0.00" in content.value


def test_it_stands_still_where_nobody_is(problem, shown, monkeypatch):
    monkeypatch.setenv(panel.HEADLESS, "1")
    panel.panel([problem], {problem.id: grade(problem)})
    places = shown[0].data.split("<details")
    assert 'type="range" max="4" value="2"' in places[0]
    assert [place.startswith(" open") for place in places[1:]] == [False, False, True, False, False]
    assert places[3].count("gamma = 0.70") == 5 and places[1].count("gamma = 0.00") == 5
