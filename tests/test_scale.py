"""Full scale without a GPU: the profiles `gpu` and `paper`, TRL's, transformers' and accelerate's signatures, dry runs.

Nothing here executes vLLM or a GPU. FSDP itself is executed: on two CPU processes that accelerate takes for GPUs.
"""

import ast
import dataclasses
import inspect
import math
import os
import shlex
import subprocess
import sys
import types

import pandas as pd
import peft
import pytest
import torch
import transformers
import trl
from accelerate.commands.config.config_args import ClusterConfig as AcceleratesFile
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed.fsdp import StateDictType
from yaml import safe_load as load_yaml

from perception_r1.__main__ import main
from perception_r1.common import check, profiles
from perception_r1.common.checkpoints import read_log
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, ROOT
from perception_r1.common.settings import batch_sizes, read_settings
from perception_r1.evidence import paper
from perception_r1.training import arms, configuration, progress, scale, train, trainer
from perception_r1.training.policy import load_policy, new_miniature
from tests.judging import truth
from tests.runs import arguments
from tests.stub_server import StubServer

PAPER = profiles.load_profile("paper").train
GPU = profiles.load_profile("gpu").train


def built(settings):
    return configuration.grpo_config(settings, "unused", use_cpu=True)


def test_the_recipes_values_are_those_of_the_profile():
    """By the key of each row; where paper and ours differ the row says so, and why; all have a source."""
    places = {"GRPOConfig": built(PAPER), "batch_sizes": batch_sizes(PAPER)}
    tags = set(paper.published("sources").tag) | {"none"}
    for row in scale.recipe_table().itertuples():
        assert {part.split()[0] for part in row.source.split(";")} <= tags, row.item
        place, _, name = row.key.rpartition(".")
        if place == "reward_weights":
            value = arms.ARMS[PAPER.arm][name]
        else:
            value = getattr(places.get(place, PAPER), name)
        assert str(getattr(value, "value", value)) == row.ours, row.item
        theirs, ours = pd.to_numeric(pd.Series([row.paper, row.ours]), errors="coerce")
        if not math.isnan(theirs + ours):
            assert (row.same == "yes") == (theirs == ours), row.item
        assert row.same in ("yes", "no") and (row.same == "yes" or row.note), row.item


def test_both_profiles_make_trls_configuration():
    for settings in (PAPER, GPU):
        config = built(settings)
        assert config.use_vllm and config.vllm_mode == "colocate" and config.vllm_enable_sleep_mode
        longest = settings.max_prompt_length + config.max_completion_length
        assert config.vllm_max_model_length == longest
        assert config.shuffle_dataset is False and config.top_k == 0 and config.num_iterations == 1
        assert config.eval_strategy == "no"
    assert built(PAPER).generation_batch_size * PAPER.processes == 1024
    with pytest.raises(ValueError, match="8 completions cannot be shared by 3 processes"):
        batch_sizes(GPU.model_copy(update={"prompts_per_step": 1, "processes": 3}))


FILES = ["--config", "c", "--data", "d", "--out", "o"]


def test_launch_commands():
    given = ["-m", "perception_r1", "train", *FILES]
    assert scale.launch_command(GPU, FILES) == [sys.executable, *given]
    four = scale.launch_command(GPU.model_copy(update={"processes": 4}), FILES)
    assert four[1:3] == ["-m", "torch.distributed.run"]
    assert four[four.index("--nproc_per_node") + 1] == "4" and four[-9:] == given


def parsed_by_accelerate(command):
    """Its own parser's result, and what it reads in the file that the command names."""
    return _validate_launch_command(launch_command_parser().parse_args(command[3:]))[:2]


def environment(parsed):
    """What accelerate sets so that a process shards."""
    sets = prepare_multi_gpu_env(parsed)
    return {k: v for k, v in sets.items() if k.startswith(("FSDP_", "ACCELERATE_USE"))}


def test_accelerate_reads_the_launch_command_as_fsdp_2(monkeypatch):
    """Its own parser, its own reading of the file, and the plugin it makes of the environment."""
    command = scale.launch_command(PAPER, FILES)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    parsed, config = parsed_by_accelerate(command)
    assert parsed.module and parsed.training_script == "perception_r1"
    assert parsed.training_script_args == ["train", *FILES]
    assert parsed.use_fsdp and int(parsed.num_processes) == 8 and parsed.mixed_precision == "bf16"
    assert load_config_from_file(str(scale.FSDP)) == config
    for name, value in environment(parsed).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT  # with others no policy is saved
    assert plugin.cpu_ram_efficient_loading and not plugin.activation_checkpointing
    plugin.set_auto_wrap_policy(new_miniature(0)[0])
    wrapped = {"Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"}
    assert set(plugin.transformer_cls_names_to_wrap) == wrapped


def test_what_is_passed_on_is_in_the_signatures():
    """The configurations refuse unknown names by themselves; these are the calls that no tiny run makes."""
    configuration.sft_config(GPU, "unused")
    assert configuration.adapter_config(PAPER) is None
    with pytest.raises(InputError, match="prompts_per_step 16 is no multiple of .* 3 processes"):
        configuration.sft_config(GPU.model_copy(update={"processes": 3}), "unused")
    assert "peft_config" in inspect.signature(trl.GRPOTrainer.__init__).parameters


def passed_on(monkeypatch) -> dict[str, set[str]]:
    """Package -> what we pass to it by name: to TRL's configurations, peft's, accelerate's file, vLLM's command."""
    given: set[str] = set()

    def note(**values):
        given.update(values)
        return types.SimpleNamespace()

    monkeypatch.setattr(configuration, "GRPOConfig", note)
    built(PAPER)
    grpo, given = given, set()
    monkeypatch.setattr(configuration, "SFTConfig", note)
    configuration.sft_config(GPU, "unused")
    sharding = load_yaml(scale.FSDP.read_text())
    words = shlex.split(scale.judge_commands(PAPER)[0])
    flags = {word[2:] for word in words if word.startswith("--")}
    return {
        "trl": grpo | given,
        "accelerate": {*sharding, *sharding["fsdp_config"]},
        "vllm": flags,
    }


def test_every_keyword_passed_on_has_its_versions(monkeypatch):
    """In `data/keywords.csv`, which `check` reads; each is in the pinned packages, and means there what it says."""
    table = pd.read_csv(DATA / "keywords.csv")
    listed = {name: set(rows.keyword) for name, rows in table.groupby("package")}
    fields = {f.name for kind in (trl.GRPOConfig, trl.SFTConfig) for f in dataclasses.fields(kind)}
    lora = {f.name for f in dataclasses.fields(peft.LoraConfig)}
    config = inspect.signature(AcceleratesFile.__init__).parameters
    passed = passed_on(monkeypatch)
    assert passed["trl"] <= listed["trl"] | listed["transformers"]
    assert passed["accelerate"] <= listed["accelerate"] and passed["vllm"] == listed["vllm"]
    ours = {word.split(".")[-1] for word in listed["trl"] | listed["transformers"]}
    assert ours - {"dtype", "use_safetensors"} <= fields and listed["peft"] <= lora
    launcher = {action.dest for action in launch_command_parser()._actions} | set(config)
    assert listed["accelerate"] - {"fsdp_config"} <= launcher
    for name, rows in table.groupby("package"):
        (version,) = check.pins()[name]
        assert check.moved(name, version) == []
        assert all(rows.source.str.len() > 0)
    assert "vllm_max_model_length (since 0.29.0)" in check.moved("trl", "0.25.1")
    assert check.moved("transformers", "6.0.1") == ["gradient_checkpointing (until 6.0.0)"]


def test_overridden_methods_have_their_arguments():
    ours = {
        name: value for name, value in vars(trainer.PerceptionGRPOTrainer).items()
        if inspect.isfunction(value) and hasattr(trl.GRPOTrainer, name) and name != "__init__"
    }  # fmt: skip
    assert set(ours) == {
        "_calculate_rewards", "_get_grad_norm", "_save_checkpoint", "_load_from_checkpoint",
        "create_model_card",
    }  # fmt: skip
    for name in set(ours) - {"create_model_card"}:
        mine = inspect.signature(ours[name]).parameters
        theirs = inspect.signature(getattr(trl.GRPOTrainer, name)).parameters
        assert list(mine) == list(theirs), name
        for key, parameter in theirs.items():  # a default more does no harm
            assert parameter.default in (inspect.Parameter.empty, mine[key].default), (name, key)
    for name in vars(progress.Progress):
        if name.startswith("on_"):
            assert hasattr(transformers.TrainerCallback, name)


def test_transformers_trainer_reads_no_pickle_that_could_run_code():
    """Every `torch.load` of a checkpoint, sharded ones included, has weights_only=True."""
    for module in (transformers.trainer, fsdp_utils):
        calls = [
            node for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        ]  # fmt: skip
        assert calls
        for call in calls:
            given = {k.arg: k.value for k in call.keywords}
            assert ast.unparse(given["weights_only"]) == "True", ast.unparse(call)


def test_adapters_lie_on_vision_and_language_and_only_they_are_trained():
    model, _ = new_miniature(0)
    adapter = configuration.adapter_config(GPU.model_copy(update={"lora_rank": 4}))
    model = peft.get_peft_model(model.bfloat16(), adapter)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for part in ("visual.blocks", "merger", "language_model"):
        assert any(part in name for name in trained)
    for name, weight in model.named_parameters():
        assert weight.requires_grad == ("lora_" in name), name
        assert weight.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        assert "lm_head" not in name  # TRL multiplies by it directly: none would be trained


def dry(place, capsys, *more, **changes):
    folder = place / "nothing"
    status = main(["train", *arguments(place, folder, **changes), "--dry-run", *more])
    assert not folder.exists()
    return status, capsys.readouterr().out


def test_a_dry_run_that_finds_everything(place, capsys):
    with StubServer(truth) as server:
        judge = {"judge": server.url, "judge_model": "stub"}
        status, out = dry(place, capsys, "--unadmitted", **judge)
        assert server.count == 1
    assert status == 0 and out.endswith("nothing is missing\n")
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("OK")}
    assert "5 problems, 5 of them annotated" in lines["data"]
    assert "5 of at most 128 tokens" in lines["prompts"]
    assert "8 responses a step" in lines["GRPOConfig"] and "32 in all" in lines["GRPOConfig"]
    command = next(line for line in out.splitlines() if "-m perception_r1 train" in line)
    assert f"--judge {server.url} --judge_model stub --unadmitted" in command
    assert "--dry-run" not in command and "vllm serve" not in out
    assert main(["train", *arguments(place, place, data="no/such.parquet"), "--dry-run"]) == 2


def test_what_cannot_be_held_is_refused_before_it_is_loaded(place, tmp_path, capsys, monkeypatch):
    """By the files' sizes: 16 bytes a parameter for float32 and AdamW, 2 for frozen weights in bfloat16."""
    parameters = load_policy(place / "model")[0].num_parameters()
    settings = read_settings(place / "config.toml")
    for changes, bytes_each in (
        ({}, 16), ({"dtype": "bfloat16"}, 8), ({"lora_rank": 4, "dtype": "bfloat16"}, 2),
        ({"processes": 2}, 32), ({"processes": 2, "fsdp": True}, 16),
    ):  # fmt: skip
        need = scale.memory_needed(settings.model_copy(update=changes)) * 2**30
        assert need == pytest.approx(bytes_each * parameters, rel=0.02)
    assert scale.memory_needed(PAPER.model_copy(update={"model": "no/where"})) == 0
    little = types.SimpleNamespace(available=2**20)
    monkeypatch.setattr(scale.psutil, "virtual_memory", lambda: little)
    monkeypatch.setattr(train, "load_policy", lambda *_, **__: pytest.fail("loaded"))
    assert main(["train", *arguments(place, tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "AdamW take 0.0 GiB, of which 0.0 are free" in said and "set lora_rank" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_the_paper_profile_names_what_is_missing_here(place, capsys, monkeypatch):
    monkeypatch.setattr(scale, "try_to_load_from_cache", lambda *_: None)
    judge = {"judge": "http://127.0.0.1:9/v1"}
    status, out = dry(place, capsys, config=profiles.FOLDER / "paper.toml", **judge)
    assert status == 1
    missing = out.splitlines()[-1].removeprefix("missing: ").split(", ")
    assert missing == ["data", "model", "judge"]
    assert "a step takes 128" in out  # of 5 problems
    assert "1,024 responses a step on 8 processes, 16 backward passes each" in out
    assert "accelerate.commands.launch" in out


# accelerate shards on GPUs only; told that two CPU processes are GPUs, it goes all of its way, over gloo.
PRETEND = """
import os, sys
if "LOCAL_RANK" in os.environ and "perception_r1" in sys.orig_argv:
    import accelerate.state
    make = accelerate.state.PartialState.__init__
    def pretend(self, cpu=False, **more):
        new = not accelerate.state.PartialState._shared_state
        make(self, cpu=cpu, **more)
        if new:
            self.distributed_type = accelerate.state.DistributedType.MULTI_GPU
    accelerate.state.PartialState.__init__ = pretend
"""


def test_fsdp_trains_and_saves_a_whole_policy(place, tmp_path):
    """With the environment that the launch command of the paper profile sets, but for vLLM and GPUs."""
    sharded = environment(parsed_by_accelerate(scale.launch_command(PAPER, FILES))[0])
    (tmp_path / "sitecustomize.py").write_text(PRETEND)
    changes = {
        "processes": 2, "fsdp": True, "bf16": True, "max_steps": 1, "save_steps": 1, "loss_type": "bnpo",
        "gradient_checkpointing": True,
    }  # fmt: skip
    out, path = tmp_path / "out", os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "perception_r1", "train", *arguments(place, out, **changes), "--unadmitted"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **sharded, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "checkpoint-1" / "pytorch_model_fsdp.bin").is_file()  # so it was FSDP
    assert len(read_log(out / "grpo_log.csv")) == 1
    base = load_file(place / "model" / "model.safetensors")
    saved = load_file(out / "policy" / "model.safetensors")
    assert set(saved) == set(base) | {"lm_head.weight"}  # tied, and written all the same
    assert all(weight.dtype == torch.float32 for weight in saved.values())
    assert any(not torch.equal(saved[name], base[name]) for name in base if "visual" in name)
    load_policy(out / "policy")


def test_sharding_that_does_not_happen_is_said(place, tmp_path):
    """The launch command of the documentation on CPUs: accelerate takes note of FSDP, and goes on without it."""
    changes = {"processes": 2, "fsdp": True, "max_steps": 1}
    settings = PAPER.model_copy(update={"processes": 2})
    done = subprocess.run(
        [*scale.launch_command(settings, arguments(place, tmp_path / "out", **changes)), "--unadmitted"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode != 0
    assert "error: accelerate shards over GPUs alone" in done.stderr
    assert not (tmp_path / "out" / "policy").exists()
