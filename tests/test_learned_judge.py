import asyncio
import hashlib
import json
import random

import pytest
import torch

from perception_r1.common.errors import InputError
from perception_r1.reward import foreign_wording, learned_judge
from perception_r1.reward.labelled_statements import Statement, statements
from perception_r1.reward.learned_judge import LearnedJudge, encode, tokens
from perception_r1.world import WorldConfig, make_problems


@pytest.fixture(scope="module")
def examples() -> list[Statement]:
    return statements(make_problems(60, WorldConfig(seed=101), "train"), seed=1)


@pytest.fixture(scope="module")
def judge(examples) -> LearnedJudge:
    return LearnedJudge.train(examples, steps=160, seed=0, batch_size=32)


def judged(judge, responses, annotations):
    return asyncio.run(judge.judge(responses, annotations))


def small(examples, **more) -> LearnedJudge:
    return LearnedJudge.train(examples[:400], **{"steps": 3, "seed": 0, "batch_size": 8} | more)


def test_examples_cover_all_labels_and_are_repeatable():
    problems = make_problems(5, WorldConfig(seed=101), "train")
    own = statements(problems, seed=3)
    assert own == statements(problems, seed=3) != statements(problems, seed=4)
    assert {e.label for e in own} == {"stated", "absent", "contradicted"}
    more = statements(problems, foreign_wording, ("symbols",), seed=3)
    assert len(more) > len(own)
    assert any("∠" in e.sentence or "⊥" in e.sentence or "∥" in e.sentence for e in more)
    assert not any("$" in e.sentence or "\\" in e.sentence for e in more)  # no other style


def test_labels_follow_the_facts(examples):
    alone = [e for e in examples if e.annotation == e.sentence]
    assert alone and {e.label for e in alone} == {"stated"}


def test_names_and_numbers_are_slots():
    def same(one, other):
        return encode(*one, {"=": 40}) == encode(*other, {"=": 40})

    assert same(("AB = 5", "BA = 5"), ("QR = 71.5", "RQ = 71.50"))
    assert not same(("AB = 5", "BA = 5"), ("QR = 7", "QR = 7"))
    assert not same(("AB = 5", "AB = 5"), ("AB = 5", "AB = 6"))
    assert not same(("AB = 5", "AB = 5"), ("AB = 90", "AB = 90"))
    assert same(("AB = 25", "AB = twenty-five"), ("AB = 7", "AB = seven"))
    assert encode("AB = 5", "a word", {})[1] == (3, 1, 1)  # unknown words share an index
    assert tokens(r"$\angle A'BC = 40^\circ$")[:4] == (
        ("word", "angle"), ("name", "A'"), ("name", "B"), ("name", "C")
    )  # fmt: skip
    many = encode(" ".join(f"A{k} {k}" for k in range(50)), "", {})[0]
    assert max(many) < learned_judge._FIRST_WORD


def test_a_little_training_beats_chance(judge):
    losses, accuracies = zip(*((row["loss"], row["accuracy"]) for row in judge.log), strict=True)
    assert [row["step"] for row in judge.log] == list(range(16, 161, 16))
    assert losses[-1] < losses[0] and accuracies[-1] > 0.75  # the largest class has 0.6
    held = statements(make_problems(20, WorldConfig(seed=111), "dev"), seed=2)
    chances = judge._chances(held)
    best = [learned_judge.MARKS[chance.index(max(chance))] for chance in chances]
    assert sum(mark == e.label for mark, e in zip(best, held, strict=True)) > 0.75 * len(held)


def test_training_is_repeatable_and_leaves_the_global_dice_alone(examples):
    torch.manual_seed(5)
    random.seed(5)
    state, dice = torch.get_rng_state(), random.getstate()
    cards = [small(examples, seed=seed).card() for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state()) and dice == random.getstate()
    assert cards[0] == cards[1] and cards[0]["weights"] != cards[2]["weights"]
    assert cards[0]["steps"] == 3 and cards[2]["seed"] == 1 and cards[0]["examples"] < 400


def test_no_bar_without_a_label(examples, capsys):
    small(examples)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("more", [{"steps": 0}, {"batch_size": 0}])
def test_nothing_to_train(examples, more):
    with pytest.raises(InputError, match="train on two problems or more"):
        small(examples, **more)


def test_one_problem_is_too_few(examples):
    with pytest.raises(InputError, match="1 problems"):
        small([e for e in examples if e.id == examples[0].id])


def test_batches_do_not_matter(judge, examples, monkeypatch):
    pairs = examples[::40]
    together = judge._chances(pairs)
    monkeypatch.setattr(learned_judge, "BATCH", 3)
    apart = judge._chances(pairs[::-1])[::-1]
    torch.testing.assert_close(torch.tensor(together), torch.tensor(apart), atol=1e-5, rtol=0)


def test_saved_and_loaded_it_marks_alike(judge, examples, tmp_path):
    small(examples).save(tmp_path / "judge")
    judge.save(tmp_path / "judge")  # in the place of another
    names = sorted(path.name for path in (tmp_path / "judge").iterdir())
    assert len(names) == 2 and names[0] == "judge.json" and names[1].endswith(".safetensors")
    loaded = LearnedJudge.load(tmp_path / "judge")
    responses = [e.sentence for e in examples[:60]]
    annotations = [[e.annotation] for e in examples[:60]]
    assert judged(judge, responses, annotations) == judged(loaded, responses, annotations)
    assert loaded.card() == judge.card() and loaded.log == judge.log
    json.dumps(loaded.card())
    presence = LearnedJudge.load(tmp_path / "judge", contradictions=False)
    assert presence.name != loaded.name == "learned"


def damage(what):
    def edit(folder, **changes):
        record = json.loads((folder / "judge.json").read_text())
        (folder / "judge.json").write_text(json.dumps(record | changes))

    def weights(folder):
        return next(folder.glob("*.safetensors"))

    return {
        "no folder": lambda f: [path.unlink() for path in f.iterdir()],
        "no weights": lambda f: weights(f).unlink(),
        "not JSON": lambda f: (f / "judge.json").write_text("{"),
        "not UTF-8": lambda f: (f / "judge.json").write_bytes(b"\xff"),
        "a list": lambda f: (f / "judge.json").write_text("[]"),
        "another's": lambda f: (f / "judge.json").write_text('{"model_type": "bert"}'),
        "cut weights": lambda f: weights(f).write_bytes(weights(f).read_bytes()[:100]),
        "fewer words": lambda f: edit(f, words=["only"]),
        "other sizes": lambda f: edit(f, sizes={"width": 10**9}),
        "elsewhere": lambda f: edit(f, weights="../../x"),
        "no safetensors": lambda f: _foreign_weights(f, edit),
    }[what]


def _foreign_weights(folder, edit):
    digest = hashlib.sha256(b"something").hexdigest()
    (folder / f"weights-{digest[:16]}.safetensors").write_bytes(b"something")
    edit(folder, weights=digest)


@pytest.mark.parametrize(
    "what",
    ["no folder", "no weights", "not JSON", "not UTF-8", "a list", "another's", "cut weights",
     "fewer words", "other sizes", "elsewhere", "no safetensors"],
)  # fmt: skip
def test_broken_folders_are_refused(judge, tmp_path, what):
    judge.save(tmp_path)
    damage(what)(tmp_path)
    with pytest.raises(InputError, match="train one and save it again") as caught:
        LearnedJudge.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(judge, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        judge.save(tmp_path / "file")


def test_what_cannot_be_judged_fails_as_for_every_judge(judge):
    verdicts = judged(
        judge,
        ["", None, "AB = 5.", "AB = 5.", "x" * 40_001, "AB = 5."],
        [["AB = 5."], ["AB = 5."], [], [" "], ["AB = 5."], ["AB = 5.", "CD = 6."]],
    )
    assert [v.marks is None for v in verdicts] == [True] * 5 + [False]
    assert [v.by_response for v in verdicts] == [True, True, False, False, True, False]
    assert len(verdicts[5].marks) == 2 and judged(judge, [], []) == []
    with pytest.raises(InputError):
        judged(judge, ["AB = 5."], [])


def test_only_tags_or_an_answer_state_nothing(judge):
    response = "<think>\n</think>\n<answer>\nThe length of segment AB is 5.\n</answer>"
    assert judged(judge, [response], [["The length of segment AB is 5."]])[0].marks == ["absent"]


def test_contradictions_come_first_unless_presence_is_all(judge, monkeypatch):
    both = [[0.9, 0.1, 0.0], [0.0, 0.2, 0.8], [0.5, 0.5, 0.0]]
    assert judge._mark(both) == "contradicted"
    assert judge._mark(both[2:]) == "absent" and judge._mark([]) == "absent"
    monkeypatch.setattr(judge, "contradictions", False)
    assert judge._mark(both) == "stated" and judge._mark(both[1:]) == "absent"
    assert judge.again().name == judge.card()["judge"] == "learned, presence only"


@pytest.mark.parametrize(
    "flood",
    [
        "".join(f"AB = {k}. " for k in range(4400)),
        "AB = 5 and " * 3600,
        "A" * 40_000,
        "1 " * 20_000,
        "\n".join(str(k) for k in range(6500)),
    ],
    ids=["sentences", "one sentence", "one word", "numbers", "lines"],
)
def test_a_flood_is_bounded(judge, monkeypatch, flood):
    shapes = []
    model = judge.model

    class Watched:
        def __call__(self, annotations, told):
            shapes.append((len(told), annotations.shape[1], told.shape[1]))
            return model(annotations, told)

    monkeypatch.setattr(judge, "model", Watched())
    wanted = ["The length of segment AB is 5.", "CD = 6 " * 5000]
    (verdict,) = judged(judge, [flood[:40_000]], [wanted])
    assert len(verdict.marks) == 2
    assert sum(rows for rows, _, _ in shapes) <= 2 * learned_judge.MAX_SENTENCES
    most = learned_judge.MAX_TOKENS + 1
    assert all(r <= learned_judge.BATCH and a <= most and t <= most for r, a, t in shapes)


def test_a_number_is_not_cut_in_two():
    text = "x" * (learned_judge.MAX_LETTERS - 2) + " 52"
    assert not learned_judge._cut(text).endswith("5")
    assert learned_judge._cut(text[1:]).endswith("52")
