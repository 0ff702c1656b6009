import json
import random
import re

import pytest
import safetensors.torch
import torch

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.facts import contradicts, same
from perception_r1.reward import learned_judge
from perception_r1.reward.judges import MARKS
from perception_r1.reward.labelled_statements import Statement, statements
from perception_r1.reward.learned_judge import FILE, LearnedJudge, encode, tokens
from perception_r1.world import WorldConfig, make_problems
from tests.judging import AB, marks, verdicts

PROBLEMS = make_problems(60, WorldConfig(seed=101, image_size=96), "train")


@pytest.fixture(scope="module")
def examples() -> list[Statement]:
    return statements(PROBLEMS, seed=1)


@pytest.fixture(scope="module")
def judge(examples) -> LearnedJudge:
    return LearnedJudge.train(examples, steps=160, seed=0, batch_size=32)


def small(examples, **more) -> LearnedJudge:
    return LearnedJudge.train(examples[:400], **{"steps": 3, "seed": 0, "batch_size": 8} | more)


def test_labels_follow_the_facts(examples):
    """Where a sentence says one length or angle, its label is what the facts say."""
    assert examples == statements(PROBLEMS, seed=1) != statements(PROBLEMS, seed=2)
    assert {e.label for e in examples} == set(MARKS)
    plain = re.compile(r"(The (length|measure) of (segment|angle) [A-Z]{2,3} is \d+)\.")
    alone = [e for e in examples if plain.fullmatch(e.sentence)]
    assert len(alone) > len(examples) / 5
    for example in alone:
        annotation, sentence = map(facts.from_sentence, (example.annotation, example.sentence))
        expected = "contradicted" if contradicts(annotation, sentence) else "absent"
        assert example.label == ("stated" if same(annotation, sentence) else expected), example
    more = statements(PROBLEMS[:9], ("symbols",), seed=3)
    assert len(more) > len(statements(PROBLEMS[:9], seed=3))
    foreign = [e.sentence for e in more]
    assert any(re.search("[∠⊥∥]", text) for text in foreign)
    assert not any("$" in text or "\\" in text for text in foreign)  # no other style


def test_names_and_numbers_are_slots():
    def alike(one, other):
        return encode(*one, {"=": 40}) == encode(*other, {"=": 40})

    assert alike(("AB = 5", "BA = 5"), ("QR = 71.5", "RQ = 71.50"))
    assert not alike(("AB = 5", "BA = 5"), ("QR = 7", "QR = 7"))
    assert not alike(("AB = 5", "AB = 5"), ("AB = 5", "AB = 6"))
    assert not alike(("AB = 5", "AB = 5"), ("AB = 90", "AB = 90"))
    assert alike(("AB = 25", "AB = twenty-five"), ("AB = 7", "AB = seven"))
    assert encode("AB = 5", "a word", {})[1] == (3, 1, 1)  # unknown words share an index
    assert tokens(r"$\angle A'BC = 40^\circ$")[:4] == (
        ("word", "angle"), ("name", "A'"), ("name", "B"), ("name", "C")
    )  # fmt: skip
    assert [text for _, text in tokens("twelve forty forty-two 7.0")] == ["12", "40", "42", "7"]
    many = encode(" ".join(f"A{k} {k}" for k in range(50)), "", {})[0]
    assert max(many) < learned_judge._FIRST_WORD
    long = "x" * (learned_judge.MAX_LETTERS - 2)
    assert tokens(learned_judge._cut(f"{long} 52"))[-1][0] == "word"  # 52 is not cut to 5
    assert tokens(learned_judge._cut(f"{long[1:]} 52"))[-1] == ("number", "52")


def test_a_little_training_beats_chance(judge):
    losses, accuracies = zip(*((row["loss"], row["accuracy"]) for row in judge.log), strict=True)
    assert [row["step"] for row in judge.log] == list(range(16, 161, 16))
    assert losses[-1] < losses[0] and accuracies[-1] > 0.75  # the largest class has 0.6
    held = statements(make_problems(20, WorldConfig(seed=111), "dev"), seed=2)
    assert judge.accuracy(held) > 0.75


def test_training_is_repeatable_and_leaves_the_global_dice_alone(examples):
    torch.manual_seed(5)
    random.seed(5)
    state, dice = torch.get_rng_state(), random.getstate()
    cards = [small(examples, seed=seed).card() for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state()) and dice == random.getstate()
    assert cards[0] == cards[1] and cards[0]["weights"] != cards[2]["weights"]
    assert cards[0]["steps"] == 3 and cards[2]["seed"] == 1 and cards[0]["examples"] < 400


def test_batches_do_not_matter(judge, examples, monkeypatch):
    pairs = [(e.annotation, e.sentence) for e in examples[::40]]
    together = judge.chances(pairs)
    monkeypatch.setattr(learned_judge, "BATCH", 3)
    apart = judge.chances(pairs[::-1])[::-1]
    torch.testing.assert_close(torch.tensor(together), torch.tensor(apart), atol=1e-5, rtol=0)


def test_saved_and_loaded_it_marks_alike(judge, examples, tmp_path):
    small(examples).save(tmp_path / "judge")
    judge.save(tmp_path / "judge")  # in the place of another
    assert [path.name for path in (tmp_path / "judge").iterdir()] == [FILE]
    loaded = LearnedJudge.load(tmp_path / "judge")
    asked = [e.sentence for e in examples[:60]], [[e.annotation] for e in examples[:60]]
    assert verdicts(judge, *asked) == verdicts(loaded, *asked)
    assert loaded.card() == judge.card() and loaded.log == judge.log
    json.dumps(loaded.card())
    presence = LearnedJudge.load(tmp_path / "judge", contradictions=False)
    assert presence.name != loaded.name == "learned" == loaded.card()["judge"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        judge.save(tmp_path / "file")


DAMAGE = {
    "no file": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "another's": lambda path: safetensors.torch.save_file({"x": torch.zeros(2)}, path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_broken_files_are_refused(judge, tmp_path, damage):
    judge.save(tmp_path)
    damage(tmp_path / FILE)
    with pytest.raises(InputError, match="train one and save it again") as caught:
        LearnedJudge.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_judged_fails_as_for_every_judge(judge):
    asked = [["AB = 5."], [], ["AB = 5."], ["AB = 5.", "CD = 6."]]
    found = verdicts(judge, ["", "AB = 5.", "x" * 40_001, "AB = 5."], asked)
    assert [v.marks is None for v in found] == [True, True, True, False]
    assert [v.by_response for v in found] == [True, False, True, False]
    assert len(found[3].marks) == 2
    only_answer = f"<think>\n</think>\n<answer>\n{AB}\n</answer>"
    assert verdicts(judge, [only_answer], [[AB]])[0].marks == ["absent"]


def test_contradictions_come_first_unless_presence_is_all(judge, monkeypatch):
    """Probabilities of stated, absent, contradicted, for each sentence."""
    chances = {"Yes.": [0.9, 0.1, 0.0], "No.": [0.0, 0.2, 0.8], "Half.": [0.5, 0.5, 0.0]}
    monkeypatch.setattr(LearnedJudge, "chances", lambda self, pairs: [chances[s] for _, s in pairs])
    responses = ["Yes.\nNo.\nHalf.", "Half.\nYes.", "Half.", "No.\nHalf."]
    for three, expected in ((True, "contradicted"), (False, "stated")):
        one = LearnedJudge(judge.model, judge.words, judge.training, three)
        found = verdicts(one, responses, [["x", "y"]] * 4)
        last = "contradicted" if three else "absent"
        assert [v.marks for v in found] == [[m] * 2 for m in (expected, "stated", "absent", last)]


def test_a_flood_is_bounded(judge, monkeypatch):
    pairs, shapes, chances, forward = [], [], judge.chances, judge.model.forward

    def watched(annotations, sentences):
        shapes.append((len(sentences), annotations.shape[1], sentences.shape[1]))
        return forward(annotations, sentences)

    monkeypatch.setattr(judge, "chances", lambda asked: pairs.append(len(asked)) or chances(asked))
    monkeypatch.setattr(judge.model, "forward", watched)
    sentences = "".join(f"AB = {k}. " for k in range(4400))
    for flood in (sentences, "AB = 5 and " * 3600, "A" * 40_000):
        marks(judge, flood[:40_000], AB, "CD = 6 " * 5000)
    assert max(pairs) == 2 * learned_judge.MAX_SENTENCES
    most = learned_judge.MAX_TOKENS + 1
    assert all(r <= learned_judge.BATCH and a <= most and t <= most for r, a, t in shapes)
