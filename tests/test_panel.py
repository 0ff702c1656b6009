"""The panel: rewards and advantages by hand, what is shown, and what stands still or is missing."""

import builtins

import numpy as np
import pandas as pd
import pytest
from IPython.display import HTML

from perception_r1.annotation.pipeline import annotate_by_reading
from perception_r1.notebook import panel
from perception_r1.reward.judges import ExactJudge, Verdict
from perception_r1.world import make_problems, miniature_world


@pytest.fixture(scope="module")
def problem():
    made = make_problems(4, miniature_world(slop=0, text_rich=0, seed=5), "train")
    return annotate_by_reading(made)[0]


@pytest.fixture
def shown(monkeypatch):
    """What was displayed."""
    found = []
    monkeypatch.setattr(panel, "display", found.append)
    monkeypatch.delenv(panel.HEADLESS, raising=False)
    return found


async def group(problem, judge=None):
    return await panel.grade(problem, panel.four_responses(problem), judge or ExactJudge())


def run(coroutine):
    import asyncio

    return asyncio.run(coroutine)


def test_four_ways_to_answer(problem):
    graded = run(group(problem))
    assert graded["accuracy"].tolist() == [1, 1, 0, 0]
    assert graded["format"].tolist() == [1, 1, 1, 0]
    assert graded.loc["sees, right", "perception"] == graded.loc["sees, wrong", "perception"] == 1
    assert graded.loc["lucky, right", "perception"] == graded.loc["blind, wrong", "perception"] == 0
    assert set(graded.loc["lucky, right", "marks"]) == {"contradicted"}


@pytest.mark.parametrize("gamma", [0, 0.7, 1.5])
def test_rewards_and_advantages_by_hand(problem, gamma):
    found = panel.earned(run(group(problem)), gamma)
    r = np.array([1 + gamma, 1, 0.1 + gamma, 0])
    assert found["r"].tolist() == pytest.approx(r)
    assert found["advantage"].tolist() == pytest.approx((r - r.mean()) / (r.std(ddof=1) + 1e-4))


class Silent:
    async def judge(self, responses, annotations):
        return [Verdict(None, "no answer") for _ in responses]


def test_a_lost_verdict_is_shown_as_such(problem):
    graded = run(group(problem, Silent()))
    assert graded["perception"].isna().all()
    text = panel.view(problem, graded)
    assert text.count("no verdict") == text.count("left out") == 4 and "nan" not in text


def test_the_view_shows_drawing_facts_and_numbers(problem):
    text = panel.view(problem, run(group(problem)), 0.35)
    assert "data:image/png;base64," in text and "gamma = 0.35" in text
    assert all(fact in text for fact in problem.annotations)
    assert "✓" in text and "✗" in text and f"Answer: {problem.answer}" in text


def test_what_a_response_says_is_no_markup(problem):
    responses = {"<b>x": "<script>alert(1)</script>", "other": ""}
    text = panel.view(problem, run(panel.grade(problem, responses, ExactJudge())))
    assert "<script" not in text and "<b>x" not in text


def test_controls_move_the_view(problem, shown):
    widgets = pytest.importorskip("ipywidgets")
    other = problem.model_copy(update={"id": "other", "problem": "<image>Another?"})
    graded = run(group(problem))
    panel.panel([problem, other], {problem.id: graded, "other": graded})
    pick, gamma, content = shown[0].children
    assert isinstance(pick, widgets.Dropdown) and isinstance(gamma, widgets.FloatSlider)
    gamma.value = 0
    assert "gamma = 0.00" in content.value and "Another?" not in content.value
    pick.value = 1
    assert "Another?" in content.value and "gamma = 0.00" in content.value


def test_headless_it_stands_still_and_says_so(problem, shown, monkeypatch):
    monkeypatch.setenv(panel.HEADLESS, "1")
    panel.panel([problem], {problem.id: run(group(problem))})
    assert isinstance(shown[0], HTML) and panel.STILL in shown[0].data


def test_without_ipywidgets_it_stands_still_and_says_how_to_get_them(problem, shown, monkeypatch):
    real = builtins.__import__

    def without(name, *more, **kinds):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *more, **kinds)

    graded = {problem.id: run(group(problem))}
    monkeypatch.setattr(builtins, "__import__", without)
    panel.panel([problem], graded)
    assert "pip install ipywidgets" in shown[0].data and "gamma = 0.70" in shown[0].data


@pytest.mark.parametrize("graded", [{}, {"another": pd.DataFrame()}])
def test_without_data_it_says_what_to_do(problem, shown, graded):
    panel.panel([problem], graded)
    assert "no problem to show: run the cells above" in shown[0].data
