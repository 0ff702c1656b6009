"""Training runs through the command line (contract C7): what they write, and what bad input gets."""

import fcntl
import importlib.util
import json
import os
import re
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from perception_r1.__main__ import main
from perception_r1.common.errors import InputError
from perception_r1.common.settings import TrainSettings
from perception_r1.problems import load_problems, write_problems
from perception_r1.reward.judges import LazyJudge
from perception_r1.reward.rewards import PerceptionReward
from perception_r1.training import arms, data, progress, sft, train
from perception_r1.training.policy import load_policy, new_miniature, with_image
from perception_r1.world import WorldConfig, make_problems, map_world
from tests.runs import TABLE, arguments, lines, run


def settings_of(**changes):
    return TrainSettings(**TABLE | changes | {"model": "x"})


def test_a_run_writes_its_logs_and_a_policy_that_loads(place, uninterrupted):
    log = pd.read_csv(uninterrupted / "grpo_log.csv")
    assert log.step.tolist() == [1, 2, 3, 4]
    total = 0.1 * log.format + 0.9 * log.accuracy + 0.7 * log.perception + log.repetition
    assert log.reward.tolist() == pytest.approx(total.tolist(), abs=1e-5)
    assert (log.seconds > 0).all() and (log.peak_memory_mb > 100).all() and (log.entropy > 0).all()
    assert log.left_out.tolist() == [0] * 4
    assert (log.learning_rate.diff()[1:] < 0).all()
    written = lines(uninterrupted / "completions.jsonl")
    assert [line["step"] for line in written] == [k for k in (1, 2, 3, 4) for _ in range(8)]
    assert [line["place"] for line in written] == list(range(8)) * 4
    assert json.loads((uninterrupted / "judge.json").read_text())["admitted"] is True
    trained, base = (
        load_policy(folder)[0] for folder in (uninterrupted / "policy", place / "model")
    )
    moved = {
        name.split(".")[1]
        for (name, new), old in zip(trained.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert {"visual", "language_model"} <= moved
    asked = [line["id"] for line in lines(uninterrupted / "completions.jsonl")[::4]]
    ids = pd.read_parquet(place / "data.parquet").id.tolist()
    assert asked == [ids[k] for k in data.schedule(5, 2, 4, 7)]


def test_arms_differ_only_in_weights():
    names = set()
    for arm, paid in arms.ARMS.items():
        settings = settings_of(arm=arm, perception_weight=0.1)
        functions, given = arms.reward_functions(settings, arms.make_judge(settings))
        names.add(tuple(getattr(f, "__name__", type(f).__name__) for f in functions))
        expected = paid | ({"perception": 0.1} if "perception" in paid else {})
        assert sorted(w for w in given if w) == sorted(expected.values())
        column = [isinstance(f, PerceptionReward) for f in functions].index(True)
        assert given[column] == (0.1 if "perception" in paid else 0)
        served = settings_of(arm=arm, judge="http://127.0.0.1:9/v1", judge_model="j")
        assert (arms.make_judge(served) is None) == ("perception" not in paid)
    assert len(names) == 1
    for way, worth in (("left_out", None), ("zero", 0.0)):
        functions, _ = arms.reward_functions(settings_of(lost_verdicts=way), LazyJudge())
        assert functions[-1].lost == worth
    assert settings_of().perception_weight == 0.7  # the paper's gamma
    assert arms.ARMS["accuracy_only"] == {"format": 0.1, "accuracy": 0.9}


def test_adapters_are_trained_gone_on_with_and_loaded(place, tmp_path, monkeypatch):
    """Stopped after a step; what was trained in both stands on the untouched base."""
    lora = {
        "lora_rank": 4,
        "max_steps": 2,
        "save_steps": 1,
        "lr_scheduler_type": "constant_with_warmup",
    }
    with monkeypatch.context() as patched:
        patched.setattr(progress.Progress, "_orphaned", lambda self: True)
        assert run(place, tmp_path, **lora) == 143
    assert not (tmp_path / "policy").exists()
    first = load_file(tmp_path / "checkpoint-1" / "adapter_model.safetensors")
    assert run(place, tmp_path, **lora) == 0
    model, _ = load_policy(tmp_path / "policy")
    base = dict(load_policy(place / "model")[0].named_parameters())
    adapters = {name: w for name, w in model.named_parameters() if "lora_" in name}
    second = load_file(tmp_path / "policy" / "adapter_model.safetensors")
    moved = [name for name in first if not torch.equal(first[name], second[name])]
    assert len(adapters) == len(first) == len(second)
    assert {"visual", "language_model"} <= {part for name in moved for part in name.split(".")}
    assert all(
        torch.equal(w, base[name.replace(".base_layer", "")])
        for name, w in model.named_parameters()
        if name not in adapters
    )


def test_judges_of_the_studies():
    for name, changes in {
        "exact": {"judge": "exact"}, "exact, presence only": {"judge": "presence"},
        "lazy, 20% lost": {"judge": "lazy", "judge_lost": 0.2},
        "noisy, 10% flipped, 30% lost": {"judge_flip": 0.1, "judge_lost": 0.3},
    }.items():  # fmt: skip
        assert arms.make_judge(settings_of(**changes)).name == name
    one_by_one = {"judge_ask": "each", "judge_threshold": 0.3, "soft": True}
    served = settings_of(judge="http://127.0.0.1:9/v1", judge_model="j", **one_by_one)
    judge = arms.make_judge(served)
    assert (judge.ask, judge.threshold) == ("each", 0.3)
    assert arms.reward_functions(served, judge)[0][-1].soft


def test_a_judge_that_fails_its_admission_trains_only_if_asked_to(place, tmp_path, capsys):
    noisy = {"judge_flip": 0.2, "max_steps": 1}
    assert run(place, tmp_path / "out", **noisy) == 2
    assert "not admitted to training: precision" in capsys.readouterr().err
    assert main(["train", *arguments(place, tmp_path / "out", **noisy), "--unadmitted"]) == 0
    card = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert card["judge"] == "noisy, 20% flipped" and "admitted" not in card


def test_sft_learns_the_chains_of_thought_by_the_schedule(place, tmp_path):
    assert run(place, tmp_path, arm="sft", max_steps=12, learning_rate=3e-3) == 0
    log = train.checkpoints.read_log(tmp_path / "grpo_log.csv")
    assert log.step.tolist() == list(range(1, 13))
    assert log.loss[9:].mean() < 0.7 * log.loss[:3].mean()
    empty = ["reward", "accuracy", "perception", "format", "repetition", "entropy"]
    assert log[[*empty, "left_out", "zero_variance_groups"]].isna().all(axis=None)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_an_imitation_whose_launcher_was_killed_leaves_no_checkpoint_and_no_policy(
    place, tmp_path, monkeypatch
):
    monkeypatch.setenv(progress.WATCHED, str(os.getppid()))
    log, parent = tmp_path / "grpo_log.csv", os.getppid()
    monkeypatch.setattr(os, "getppid", lambda: -1 if log.exists() else parent)
    assert run(place, tmp_path, arm="sft") == 143
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "policy").exists()


def test_sft_asks_what_grpo_asks_and_learns_the_completion_alone(place, tmp_path):
    problems = load_problems(place / "data.parquet")
    model, processor = load_policy(place / "model")
    rows = sft.examples(problems, processor)
    settings = settings_of(arm="sft")
    imitation = sft.sft_trainer(settings, model, processor, rows, tmp_path)
    batch = imitation.data_collator([rows[0], rows[1]])
    grpo, _ = data.training_rows(problems, settings, processor)
    for k in (0, 1):
        prompt = with_image(grpo[k]["prompt"])
        assert rows[k]["prompt"] == processor.apply_chat_template(
            prompt, add_generation_prompt=True
        )
        learnt = batch["labels"][k][batch["labels"][k] >= 0]
        assert processor.tokenizer.decode(learnt) == problems[k].cot.strip() + "<|im_end|>"
    assert list(imitation._get_train_sampler()) == list(range(len(rows)))
    wrong = problems[0].model_copy(update={"answer": "77"})
    kept = sft.examples([wrong, *problems[1:]], processor)["id"]
    assert list(kept) == [problem.id for problem in problems[1:]]
    bare = [problem.model_copy(update={"cot": ""}) for problem in problems]
    with pytest.raises(InputError, match="none of 5 problems has a chain of thought"):
        sft.examples(bare, processor)


def test_bad_input_gets_one_line(place, tmp_path, capsys):
    bare = tmp_path / "bare.parquet"
    write_problems(make_problems(4, map_world(seed=100), "train"), bare)
    cases = (
        ({"data": bare}, "none of 4 problems is annotated"),
        ({"per_device_train_batch_size": 3}, "do not divide into batches .* 3; 2 would do"),
        ({"prompts_per_step": 50}, "5 problems cannot fill a step of prompts_per_step 50"),
        ({"max_prompt_length": 20}, r"max_prompt_length 20 \(the shortest has \d\d tokens"),
        ({"config": "nowhere.toml"}, "cannot read nowhere.toml"),
        ({"judge": "exactly"}, "is none of exact, presence, lazy, tuned"),
        ({"processes": 2}, "2 processes and 1 were started.*--nproc_per_node 2"),
        ({"judge": "http://127.0.0.1:9/v1", "judge_model": "j"}, "judge 'j' gives no verdict"),
        ({"fsdp": 1}, "1 processes, sharded, and 1 were started"),
    )
    for k, (changes, message) in enumerate(cases):
        assert run(place, tmp_path / str(k), **changes) == 2
        errors = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error:")]
        assert len(errors) == 1 and re.search(message, errors[0]), errors
        assert not (tmp_path / str(k) / "grpo_log.csv").exists()


def test_missing_packages_are_named_before_anything_loads(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    for change, package in (("vllm", "vllm"), ("lora_rank", "peft")):
        assert run(place, tmp_path / "out", **{change: 1}) == 2
        assert f"need {package}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_machine_or_a_start_that_does_not_fit_is_refused(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert run(place, tmp_path / "out") == 2
    assert "set CUDA_VISIBLE_DEVICES=0" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert run(place, tmp_path / "out", processes=2, fsdp=True) == 2
    launcher = r"accelerate.commands.launch --config_file \S*common/profiles/fsdp.yaml"
    assert re.search(launcher, capsys.readouterr().err)


def test_a_run_is_not_gone_on_with_other_settings(place, uninterrupted, monkeypatch, capsys):
    assert run(place, uninterrupted, learning_rate=0.1, arm="accuracy_only") == 2
    assert "other settings (learning_rate, arm)" in capsys.readouterr().err
    # whole checkpoints and sharded ones are files of different kinds
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert run(place, uninterrupted, processes=2, fsdp=True) == 2
    assert "other settings (fsdp)" in capsys.readouterr().err


def test_a_run_is_not_gone_on_with_other_data_or_base_weights(
    place, uninterrupted, tmp_path, capsys
):
    other, model, out = tmp_path / "data.parquet", tmp_path / "model", tmp_path / "out"
    first, *rest = load_problems(place / "data.parquet")
    for change in ({"answer": "77"}, {"images": rest[0].images}, {"visual_key_info": None}):
        assert data.digest([first.model_copy(update=change)]) != data.digest([first])
    write_problems(rest, other)
    assert run(place, uninterrupted, data=other) == 2
    assert "other settings (data)" in capsys.readouterr().err
    shutil.copytree(place / "model", model)
    tensors = load_file(model / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, model / "model.safetensors", {"format": "pt"})
    out.mkdir()
    kept = json.loads((uninterrupted / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps(kept | {"model": str(model)}))
    assert run(place, out, model=model) == 2
    assert "other settings (model_sha256)" in capsys.readouterr().err


def test_a_folder_in_use_or_of_another_program_is_left_alone(place, tmp_path, capsys):
    foreign = tmp_path / "foreign" / "checkpoint-500" / "weights"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    assert run(place, tmp_path / "foreign") == 2
    assert "holds checkpoints of another program" in capsys.readouterr().err
    assert foreign.exists()
    out = tmp_path / "busy"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(place, out) == 2
    assert capsys.readouterr().err.startswith(f"error: another run trains in {out};")
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_schedule_is_shuffled_epochs_without_their_rest():
    order = data.schedule(1442, 128, 275, seed=1)
    assert len(order) == 275 * 128
    for epoch in range(25):
        asked = order[epoch * 1408 : (epoch + 1) * 1408]
        assert len(set(asked)) == 1408 and set(asked) <= set(range(1442))
    assert order[:1408] != order[1408:2816]
    assert data.schedule(1442, 128, 100, seed=2) != order[: 100 * 128]


def test_long_prompts_are_left_out_and_named():
    _, processor = new_miniature(0)
    problems = make_problems(6, map_world(seed=100, shortcut=0.5), "train")
    rows, _ = data.training_rows(problems, settings_of(), processor)
    counts = []
    for row in rows:
        text = processor.apply_chat_template(with_image(row["prompt"]), add_generation_prompt=True)
        counts.append(len(processor(text=[text], images=[row["images"]])["input_ids"][0]))
    limit = sorted(counts)[2]
    rows, long = data.training_rows(problems, settings_of(max_prompt_length=limit), processor)
    assert list(long.values()) == [count for count in counts if count > limit]
    assert len(rows) == sum(count <= limit for count in counts) < 6
    assert min(counts) > 16  # the image's tokens are counted


def test_images_are_resized_once_to_the_limits_of_the_processor():
    _, processor = new_miniature(0)
    big = make_problems(1, WorldConfig(seed=3, image_size=600), "train")
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 200_000}
    rows, _ = data.training_rows(big, settings_of(max_prompt_length=4096), processor)
    image = rows[0]["images"][0]
    assert image.width % 28 == 0 and image.height % 28 == 0
    assert 150_000 < image.width * image.height <= 200_000
    grid = processor.image_processor([image], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert [grid[1] * 14, grid[2] * 14] == [image.height, image.width]  # the processor leaves it so
