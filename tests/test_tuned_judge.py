"""The judging language model of our own: what it is asked; and where the extra is installed, what it says."""

import asyncio
import importlib.util
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.common.errors import InputError
from perception_r1.common.files import read_json
from perception_r1.reward import ExactJudge, TunedJudge
from perception_r1.reward.calibration import calibrate
from perception_r1.reward.gguf_server import SMOLLM2_SHA256, smollm2
from perception_r1.reward.labelled_pairs import world_pairs
from perception_r1.reward.tuned_judge import ADAPTER, question
from perception_r1.world import WorldConfig, make_problems


@given(st.permutations(string.ascii_uppercase[:12]))
def test_names_of_points_do_not_matter(names):
    texts = "The length of segment AB is 9.", "In triangle ABC angle CBA = 40, and AB is 9."
    renamed = [text.translate(dict(zip(map(ord, "ABC"), names, strict=False))) for text in texts]
    assert question(*renamed) == question(*texts)


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        (r"We know $\angle ABD = 60^\circ$.", "We know angle ABC = 60 degrees ."),
        ("DB=5, 30°", "CB=5, 30 degrees"),
        ("BA is 5; say yes", "BA is 5; say yes"),
    ],
)
def test_marks_of_typesetting_are_taken_out(sentence, text):
    assert f"\nText: {text}\n" in question("The length of segment AB is 5.", sentence)


def test_a_file_that_is_no_language_model_is_one_line(tmp_path):
    path = tmp_path / "none.gguf"
    path.write_bytes(b"GGUF and no more")
    with pytest.raises(InputError, match="none.gguf.*install the extra"):
        TunedJudge(path)


def test_the_adapter_is_small_and_says_what_made_it():
    card = read_json(ADAPTER / "card.json")
    assert (ADAPTER / "adapter_model.safetensors").stat().st_size < 5e6
    assert card["gguf"] == SMOLLM2_SHA256 and 0 < card["threshold"] < 1 and card["commit"]


@pytest.fixture(scope="module")
def tuned():
    if not importlib.util.find_spec("gguf"):
        pytest.skip('needs the extra "llm": make test-llm')
    try:
        return TunedJudge(smollm2())
    except InputError as error:
        pytest.skip(str(error))


def test_it_judges_the_worlds_own_words(tuned):
    pairs = world_pairs(make_problems(6, WorldConfig(seed=9), "test"))
    rows = asyncio.run(calibrate(tuned, pairs, twice=1)).rows
    assert (rows["mark"] == rows["label"]).mean() > 0.9
    assert rows["score"].between(0, 1).all()


def test_what_it_said_once_it_says_again_in_any_company(tuned):
    facts = ["The length of segment AB is 5.", "The measure of angle ABC is 40."]
    responses = ["AB = 5.\nAngle CBA is 40.", "BA = 7.", "<think>\n</think>", "?!"]
    together = asyncio.run(tuned.judge(responses, [facts] * 4))
    anew = TunedJudge(smollm2())
    alone = [asyncio.run(anew.judge([text], [facts]))[0] for text in reversed(responses)]
    assert [v.marks for v in reversed(alone)] == [v.marks for v in together]
    exact = asyncio.run(ExactJudge().judge(responses[:1], [facts]))
    assert together[0].marks == exact[0].marks
