"""An experiment of notebook 04: what its parameters mean, what is started, what goes on and what is kept."""

import json

import pytest

from perception_r1.common.errors import InputError
from perception_r1.training import launch
from perception_r1.training.experiment import read_experiment
from perception_r1.world import make_problems, map_world

MADE = make_problems(4, map_world(seed=3), "train")


def test_what_is_given_reaches_the_settings_or_is_refused(tmp_path, monkeypatch):
    made = read_experiment("smoke", " sft , perception", tmp_path, "judge=lazy", 5)
    assert made.arms == ("sft", "perception") and made.settings.seed == 5 and made.miniature
    assert made.settings.judge == "lazy"
    with pytest.raises(InputError, match="no arm accuracy_olny; there are accuracy_only"):
        read_experiment("smoke", "accuracy_olny", tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match=r"on 1 GPU\(s\) and there are 0; .*--dry-run"):
        read_experiment("gpu", "perception", tmp_path)


@pytest.fixture
def started(monkeypatch):
    """What would have been started, group by group; each run writes a log of one step."""
    groups = []

    def pretend(commands, folders, **options):
        groups.append((commands, options))
        for name in commands:
            folders[name].mkdir(parents=True, exist_ok=True)
            (folders[name] / "grpo_log.csv").write_text("step,accuracy\n1,0.5\n")

    monkeypatch.setattr(launch, "run_together", pretend)
    return groups


def test_miniatures_train_side_by_side_by_the_commands_of_a_cluster(tmp_path, started):
    made = read_experiment("smoke", "accuracy_only,perception", tmp_path / "w", "mode=recall", 3)
    logs = made.train("miniature", MADE, unadmitted=True)
    assert logs["arm"].tolist() == ["accuracy_only", "perception"]
    ((commands, options),) = started
    assert options["threads"] == 1 and options["steps"] == made.settings.max_steps
    command = " ".join(commands["perception"])
    for part in ("--arm perception", "--mode recall", "--seed 3", "--model miniature"):
        assert part in command
    assert command.count("--unadmitted") == 1
    assert "--learning_rate" not in command
    made = read_experiment("smoke", "perception", tmp_path / "w", "", 3, {"perception": 0.5})
    made.train("miniature", MADE)
    command = started[-1][0]["perception"]
    assert "--unadmitted" not in command
    assert command[command.index("--learning_rate") + 1] == "0.5"


def test_an_interrupted_experiment_goes_on_and_another_begins_anew(tmp_path, started, capsys):
    made = read_experiment("smoke", "perception", tmp_path)
    made.train("miniature", MADE)
    assert "interrupted" not in capsys.readouterr().out
    made.train("miniature", MADE)
    assert "an interrupted run left 1 steps" in capsys.readouterr().out
    for changed, problems in ((read_experiment("smoke", "perception", tmp_path, seed=1), MADE),
                              (made, MADE[:3])):  # fmt: skip
        mark = changed.folders["perception"] / "mark"
        mark.touch()
        changed.train("miniature", problems)
        assert not mark.exists() and "interrupted" not in capsys.readouterr().out


def test_what_is_kept(tmp_path):
    made = read_experiment("smoke", "perception,sft", tmp_path)
    rows = [{"step": 1, "place": 0, "completion": "ä/b", "verdict": None},
            {"step": 1, "place": 1, "completion": "c", "verdict": "stated"}]  # fmt: skip
    for folder in made.folders.values():
        folder.mkdir(parents=True)
    text = "\n".join(map(json.dumps, rows)) + "\n"
    (made.folders["perception"] / "completions.jsonl").write_text(text)
    made.keep(tmp_path / "all.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert lines == [{"arm": "perception", **row} for row in rows]
    names = made.policies("miniature")
    assert list(names) == ["base", "perception", "sft"] and names["base"] == "miniature"
    assert names["sft"] == made.folders["sft"] / "policy"
