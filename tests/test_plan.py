"""Full scale without a GPU: the profiles `gpu` and `paper`, TRL's, transformers' and accelerate's signatures, dry runs.

Nothing here executes vLLM or a GPU. FSDP itself is executed: on two CPU processes that accelerate takes for GPUs.
"""

import ast
import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import accelerate
import pandas as pd
import peft
import pytest
import torch
import transformers
import trl
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed.fsdp import StateDictType
from trl.generation.vllm_generation import VLLMGeneration

from perception_r1.annotation import pipeline
from perception_r1.common import profiles
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.common.settings import batch_plan, make_settings, steps_of
from perception_r1.evidence import paper
from perception_r1.problems.parquet import write_problems
from perception_r1.reward.llm_judge import read_prompt, write_verdict
from perception_r1.training import dry_run, plan, recipe, sft, train, trainer
from perception_r1.training.policy import load_policy, new_miniature, save_policy
from perception_r1.world import make_problems, miniature_world
from tests.stub_server import StubServer, good

PAPER = profiles.load_profile("paper").train
GPU = profiles.load_profile("gpu").train
A800, SMALL = plan.GPUS["A800 80 GB"], plan.GPUS["RTX 4090 24 GB"]


def built(settings):
    return train.grpo_config(settings, "unused", use_cpu=True)


# --- the paper's numbers ---------------------------------------------------------------------------

# PAPER.md, section 4, written down by hand: item -> value.
TRUTH = {
    "policy": "Qwen/Qwen2.5-VL-7B-Instruct", "trained": "all weights, vision tower included", "sharding": "FSDP",
    "group size G": 8, "temperature": 1.0, "top_p": 1, "tensor parallel of vLLM": 4, "memory of vLLM": 0.7,
    "prompts a step": 128, "responses a step": 1024, "optimiser steps a batch of rollouts": 1,
    "responses in a pass for old probabilities": 16,
    "responses in a backward pass": 8, "backward passes a step": 16, "optimiser": "AdamW", "learning rate": 1e-6,
    "betas": (0.9, 0.999), "weight decay": 1e-3, "warm-up steps": 13, "rate after warm-up": "constant",
    "gradient norm": 1.0, "steps": 275, "responses in all": 281_600, "clip, low": 0.2, "clip, high": 0.3,
    "dual clip": 3.0, "weight of the KL term": 0, "average of the loss": "over all tokens of a backward pass",
    "advantage": "(r - mean) / unbiased std of the group", "prompt tokens": 4096, "response tokens": 4096,
    "pixels at least": 3136, "pixels at most": 1344**2, "validation every": 5, "checkpoint every": 10, "seed": 1,
    "training GPUs": 8, "judge": "Qwen/Qwen2.5-32B-Instruct-AWQ", "weight of format": 0.1,
    "weight of accuracy": 0.9, "weight of perception": 0.7, "weight of repetition": 1,
    "correction for vLLM's rounding": "not known to us",
}  # fmt: skip


def test_the_recipe_holds_every_number_of_the_paper_with_its_source():
    table = recipe.recipe(PAPER)
    assert dict(zip(table["item"], table.paper, strict=True)) == TRUTH
    tags = set(paper.published("sources").tag) | {"none"}
    for source in table.source:
        assert {part.split()[0] for part in source.split(";")} <= tags, source
    assert (table.name != "").all()


def test_the_paper_profile_differs_in_four_rows_and_says_why():
    table = recipe.recipe(PAPER).set_index("item")
    assert set(table.index[~table.same.astype(bool)]) == {
        "dual clip", "validation every", "correction for vLLM's rounding",
        "responses in a pass for old probabilities",
    }  # fmt: skip
    for settings in (PAPER, GPU):
        table = recipe.recipe(settings).set_index("item")
        assert (table.note[~table.same.astype(bool)] != "").all()
    for item, words in (
        ("weight of the KL term", "Eq. 3 has a KL term"), ("average of the loss", "loss_type grpo"),
        ("clip, high", "EasyR1's default"), ("judge", "AWQ"), ("advantage", "1e-6 there, + 1e-4 in TRL"),
    ):  # fmt: skip
        assert words in table.note[item]


def test_ours_is_read_from_the_configuration_and_not_from_the_settings(monkeypatch):
    make = recipe.grpo_config
    monkeypatch.setattr(recipe, "grpo_config", lambda *a, **k: make(*a, **k, top_p=0.5, beta=0.04))
    table = recipe.recipe(PAPER).set_index("item")
    assert not table.same["top_p"] and table.ours["weight of the KL term"] == 0.04


def test_both_profiles_make_trls_configuration():
    for settings in (PAPER, GPU):
        config = built(settings)
        assert isinstance(config, trl.GRPOConfig)
        assert config.use_vllm and config.vllm_mode == "colocate" and config.vllm_enable_sleep_mode
        assert config.bf16 and config.gradient_checkpointing and config.warmup_steps == 13
        assert config.vllm_max_model_length == settings.max_prompt_length + config.max_completion_length  # fmt: skip
        assert config.shuffle_dataset is False and config.top_k == 0 and config.num_iterations == 1
    assert "warmup_ratio" not in inspect.signature(trl.GRPOConfig).parameters
    assert PAPER.dtype == "float32" and not PAPER.lora_rank and PAPER.fsdp
    assert PAPER.judge == "http://localhost:16657/v1"
    assert GPU.lora_rank and GPU.processes == 1 and "3B" in GPU.model
    for name in ("gpu", "paper"):
        assert profiles.load_profile(name).measured == "never executed"


def test_steps_of_the_learning_rate_vanish_in_bfloat16_weights():
    """Why the paper profile stores float32: a step of AdamW is about the learning rate."""
    weight = torch.full((1000,), 0.02)
    assert (weight - PAPER.learning_rate != weight).all()
    low = weight.bfloat16()
    assert (low - PAPER.learning_rate == low).all()


def test_global_arithmetic():
    batch = batch_plan(PAPER)
    assert batch.rollouts_per_step == 1024 and batch.per_process == 128
    assert batch.gradient_accumulation_steps == 16
    assert (batch.steps, batch.rollouts) == (275, 281_600)
    assert steps_of(1442, 128, 25) == 275 == paper.constant("steps")
    assert int(paper.constant("warmup_ratio") * 275) == PAPER.warmup_steps == 13
    assert batch.steps * PAPER.prompts_per_step == 35_200
    config = built(PAPER)
    assert config.generation_batch_size * PAPER.processes == 1024
    assert config.steps_per_generation == config.gradient_accumulation_steps


def test_what_the_notes_say_of_trl_is_in_its_source():
    source = inspect.getsource(trl.GRPOTrainer)
    assert "(std_rewards + 1e-4)" in source
    bnpo = source[source.index('elif self.loss_type == "bnpo":') :]
    assert "loss = (per_token_loss * mask).sum() / mask.sum()" in bnpo.splitlines()[1]
    assert "coef_1 = torch.clamp(coef_1, max=self.args.delta)" in source  # dual clip


# --- estimates -------------------------------------------------------------------------------------


def test_sizes_are_the_published_ones():
    size = plan.size_of(PAPER)
    assert size.parameters == size.trained == 8_292_166_656
    assert (size.layers, size.hidden, size.vocabulary, size.head) == (28, 3584, 152064, 152064 * 3584)  # fmt: skip
    assert size.cache_per_token == 2 * 28 * 4 * 128 * 2
    small = plan.size_of(GPU)
    assert small.parameters == 3_754_622_976 and small.head == 0
    assert 0.01 < small.trained / small.parameters < 0.04
    with pytest.raises(InputError, match="size of some/model is not known"):
        plan.size_of(PAPER.model_copy(update={"model": "some/model"}))


def test_memory_by_hand():
    parts = plan.estimate(PAPER, A800).set_index("part").gib
    whole = 8_292_166_656 / 2**30
    assert parts["weights"] == pytest.approx(whole * 4 / 8, abs=1e-3)
    assert parts["gradients"] == parts["weights"]
    assert parts["optimiser"] == pytest.approx(whole, abs=1e-3)
    assert parts["activations"] == pytest.approx(8 * 8192 * 3584 * (2 * 28 + 34) / 2**30, abs=1e-3)
    assert parts["vLLM"] == pytest.approx(0.7 * 79)
    both = parts["weights"] + parts["optimiser"] + parts["overhead"]
    update = both + parts["gradients"] + parts["copies"] + parts["activations"]
    table = plan.estimate(PAPER, A800)
    assert plan.needed(table) == pytest.approx(max(both + parts["vLLM"], update))
    awake = PAPER.model_copy(update={"vllm_sleep": False})
    assert plan.needed(plan.estimate(awake, A800)) == pytest.approx(update + parts["vLLM"])
    adapters = plan.estimate(GPU, SMALL).set_index("part").gib
    assert adapters["optimiser"] == pytest.approx(2 * adapters["gradients"], abs=2e-3)
    assert adapters["weights"] == pytest.approx(3_754_622_976 * 2 / 2**30, abs=1e-3)


def test_the_paper_profile_fits_only_because_vllm_sleeps():
    assert plan.fits(PAPER, A800)
    assert not plan.fits(PAPER.model_copy(update={"vllm_sleep": False}), A800)
    assert not plan.fits(PAPER, plan.GPUS["A100 40 GB"])
    assert plan.fits(GPU, SMALL)
    assert not plan.fits(GPU.model_copy(update={"vllm_gpu_memory_utilization": 0.3}), SMALL)


def test_time_starts_from_the_authors_measurement():
    assert plan.seconds_per_step(PAPER, A800) == pytest.approx(209)
    assert 275 * 209 / 3600 == pytest.approx(16, abs=0.05)
    fewer = PAPER.model_copy(update={"prompts_per_step": 64})
    assert plan.seconds_per_step(fewer, A800) == pytest.approx(209 / 2)
    faster = plan.Gpu(80, 2 * A800.teraflops)
    assert plan.seconds_per_step(PAPER, faster) == pytest.approx(209 / 2)


def test_disk_and_main_memory():
    whole = 8_292_166_656 * 4 / 2**30
    assert plan.disk_gib(PAPER) == pytest.approx(3 * (2 * whole + 2 * whole) + whole)
    assert plan.host_gib(PAPER) == pytest.approx(8 * whole)
    assert plan.disk_gib(GPU) < 5


def test_every_cell_of_the_planning_table_says_how_it_is_known():
    table = plan.planning_table({"A800 80 GB": 2.0})
    assert set(table.profile) == set(profiles.names())
    known = re.compile(r"\((measured|computed, never executed)|measured by the authors")
    for row in table.itertuples():
        assert known.search(row.fits)
        assert row.time == "-" or known.search(row.time)
    mine = table[(table.profile == "paper") & table.machine.str.contains("A800")].iloc[0]
    assert mine.time.startswith("16.0 h (measured by the authors, with their own code")
    assert "never executed by us" in mine.time
    cost = float(mine.cost.split()[0])
    assert cost == pytest.approx(16 * 275 * 209 / 3600 * 2.0, abs=0.01)
    assert set(plan.planning_table().cost) == {"none", "-", "no price given"}
    assert table[table.profile == "paper"].fits.str.startswith("no").sum() == 3


# --- commands --------------------------------------------------------------------------------------


def test_launch_commands():
    given = ["--config", "c", "--data", "d", "--out", "o"]
    plain = plan.launch_command(GPU, "c", "d", "o", "--seed", "2")
    assert plain == [sys.executable, "-m", "perception_r1.training.train", *given, "--seed", "2"]
    four = GPU.model_copy(update={"processes": 4})
    command = plan.launch_command(four, "c", "d", "o")
    assert command[1:3] == ["-m", "torch.distributed.run"]
    assert command[command.index("--nproc_per_node") + 1] == "4" and command[-6:] == given


def test_accelerate_reads_the_launch_command_as_fsdp_2(monkeypatch):
    """Its own parser, its own reading of the file, and the plugin it makes of the environment."""
    command = plan.launch_command(PAPER, "c", "d", "o")
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    arguments = launch_command_parser().parse_args(command[3:])
    arguments, config, _ = _validate_launch_command(arguments)
    assert arguments.module and arguments.training_script == "perception_r1.training.train"
    assert arguments.training_script_args == ["--config", "c", "--data", "d", "--out", "o"]
    assert arguments.use_fsdp and int(arguments.num_processes) == 8
    assert arguments.mixed_precision == "bf16"
    assert load_config_from_file(str(plan.FSDP)) == config
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert plugin.cpu_ram_efficient_loading and not plugin.activation_checkpointing
    model, _ = new_miniature(0)
    plugin.set_auto_wrap_policy(model)
    assert set(plugin.transformer_cls_names_to_wrap) == {
        "Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"
    }  # fmt: skip
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16


def test_without_full_state_dicts_transformers_writes_no_policy():
    """Why the file asks for them: `save_model` has no branch for sharded ones."""
    source = inspect.getsource(transformers.Trainer.save_model)
    begin = source.index("elif self.is_fsdp_enabled:")
    branch = source[begin : source.index("elif self.is_deepspeed_enabled:")]
    assert branch.count("_save(") == 1 and 'if "FULL_STATE_DICT" in' in branch


def test_judge_commands():
    serve, ask = plan.judge_commands(PAPER)
    assert serve == (
        "vllm serve Qwen/Qwen2.5-32B-Instruct-AWQ --port 16657 --tensor-parallel-size 8 "
        "--enable-prefix-caching --gpu-memory-utilization 0.9 --max-model-len 8192"
    )
    assert ask == "curl --fail --silent http://localhost:16657/v1/models"
    assert "--tensor-parallel-size 2 " in plan.judge_commands(GPU, gpus=2)[0]
    with pytest.raises(InputError, match="exact judge needs no server"):
        plan.judge_commands(profiles.load_profile("laptop").train)


# --- drift: what is passed to other people's functions ----------------------------------------------


def keywords(function, callee: str) -> set[str]:
    """Keywords with which a function of ours calls `callee`, and the keys of its literal dictionaries."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(callee):
            found |= {keyword.arg for keyword in node.keywords if keyword.arg}
        if isinstance(node, ast.Dict):
            found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    assert found, f"{function} calls {callee} no more"
    return found


@pytest.mark.parametrize(
    "function, callee, theirs",
    [
        (train.grpo_config, "GRPOConfig", trl.GRPOConfig),
        (sft.sft_config, "SFTConfig", trl.SFTConfig),
        (sft.sft_trainer, "SFTTrainer", trl.SFTTrainer),
        (train.adapter_config, "LoraConfig", peft.LoraConfig),
        (load_policy, "AutoModelForImageTextToText.from_pretrained",
         transformers.PreTrainedModel.from_pretrained),
    ],
)  # fmt: skip
def test_every_keyword_is_in_the_signature(function, callee, theirs):
    parameters = set(inspect.signature(theirs).parameters)
    popped = set()
    if function is load_policy:  # read from the keywords by name
        popped = set(re.findall(r'kwargs\.pop\("(\w+)"', inspect.getsource(theirs)))
    assert keywords(function, callee) <= parameters | popped


def test_the_trainers_keywords_are_in_the_signature():
    ours = set(inspect.signature(trainer.PerceptionGRPOTrainer.__init__).parameters)
    passed = keywords(train.train, "PerceptionGRPOTrainer") - {"reward_weights"}
    theirs = set(inspect.signature(trl.GRPOTrainer.__init__).parameters)
    calls = ast.walk(ast.parse(inspect.getsource(train.train)))
    made = next(
        node for node in calls
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "PerceptionGRPOTrainer"
    )  # fmt: skip
    assert {keyword.arg for keyword in made.keywords} <= theirs | ours
    assert passed


def overridden():
    return [
        name for name, value in vars(trainer.PerceptionGRPOTrainer).items()
        if inspect.isfunction(value) and hasattr(trl.GRPOTrainer, name)
        and name not in ("__init__", "create_model_card")
    ]  # fmt: skip


def test_overridden_methods_have_their_arguments():
    assert set(overridden()) >= {
        "_calculate_rewards", "_generate", "_prepare_inputs", "_get_grad_norm", "_save_checkpoint",
        "log", "training_step",
    }  # fmt: skip
    for name in overridden():
        mine = inspect.signature(getattr(trainer.PerceptionGRPOTrainer, name)).parameters
        theirs = inspect.signature(getattr(trl.GRPOTrainer, name)).parameters
        assert list(mine) == list(theirs), name
        for key, parameter in theirs.items():  # a default more does no harm
            assert parameter.default in (inspect.Parameter.empty, mine[key].default), (name, key)


def in_order(source: str, *parts: str) -> None:
    places = [source.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), dict(zip(parts, places, strict=True))


def test_methods_are_called_where_we_count_on_it():
    """Their order in a step: rollouts, rewards, gradient, its norm, weights, log, evaluation, checkpoint."""
    in_order(
        inspect.getsource(trl.GRPOTrainer._generate_and_score_completions),
        "self._generate(", "self._calculate_rewards(", "torch.isnan(rewards_per_func).all(dim=1)",
    )  # fmt: skip
    assert "self._generate_and_score_completions(" in inspect.getsource(trl.GRPOTrainer._prepare_inputs)  # fmt: skip
    assert "self._prepare_inputs(" in inspect.getsource(transformers.Trainer.training_step)
    in_order(
        inspect.getsource(transformers.Trainer._run_epoch),
        "on_step_begin(", "self.training_step(", "self._get_grad_norm(", "on_pre_optimizer_step(",
        "self.optimizer.step()", "on_optimizer_step(", "self.state.global_step += 1", "on_step_end(",
        "self._maybe_log_save_evaluate(",
    )  # fmt: skip
    in_order(
        inspect.getsource(transformers.Trainer._maybe_log_save_evaluate),
        "self.log(logs, start_time)", "self._evaluate(", "self._save_checkpoint(",
    )  # fmt: skip
    for name in vars(trainer._Clock):
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


def test_what_is_used_of_accelerate_is_there():
    for name in ("wait_for_everyone", "is_main_process", "process_index", "device"):
        assert hasattr(accelerate.Accelerator, name)
    assert list(inspect.signature(accelerate.utils.gather).parameters) == ["tensor"]
    assert list(inspect.signature(accelerate.utils.gather_object).parameters) == ["object"]
    assert {"config_file", "num_processes", "module"} <= set(
        vars(launch_command_parser().parse_args(["x"]))
    )


# --- LoRA ------------------------------------------------------------------------------------------


def test_adapters_lie_on_vision_and_language_and_only_they_are_trained():
    settings = GPU.model_copy(update={"lora_rank": 4})
    model, _ = new_miniature(0)
    base = {name for name, _ in model.named_parameters()}
    model = peft.get_peft_model(model.bfloat16(), train.adapter_config(settings))
    blocks = train.parameters_by_block(model).set_index("block")
    assert (blocks.trained > 0).all() and (blocks.trained < blocks.parameters).all()
    for name, weight in model.named_parameters():
        assert weight.requires_grad == ("lora_" in name), name
        assert weight.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        assert (
            "lm_head" not in name
        )  # TRL multiplies by it directly: an adapter would never be trained
    # What TRL copies to vLLM: every weight of the base under its own name, adapters merged in.
    synced = VLLMGeneration.__new__(VLLMGeneration)
    synced.model = model
    synced._dist = SimpleNamespace(
        is_fsdp=False, gather_params=lambda parameters: contextlib.nullcontext()
    )
    assert {name for name, _ in synced._iter_named_params()} == base


def test_adapters_are_counted_as_peft_makes_them(place):
    settings = make_settings({**place.table, "lora_rank": 4}, "test")
    model, _ = new_miniature(0)
    peft_model = peft.get_peft_model(model, train.adapter_config(settings))
    assert plan.size_of(settings).trained == peft_model.get_nb_trainable_parameters()[0]


# --- dry runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny Qwen2.5-VL on disk, six annotated problems, and a configuration."""
    folder = tmp_path_factory.mktemp("plan")
    save_policy(*new_miniature(0), folder / "model")
    made = make_problems(6, miniature_world(seed=100, text_rich=0), "train")
    said = {t.id: pipeline.extract_by_reading(t)[0] for t in pipeline.own_trajectories(made)}
    write_problems(pipeline.annotate(made, said)[0], folder / "data.parquet")
    table = {
        "model": str(folder / "model"), "dtype": "float32", "prompts_per_step": 2, "num_generations": 4,
        "max_prompt_length": 128, "max_completion_length": 16, "max_steps": 2, "save_steps": 2,
        "per_device_train_batch_size": 4, "learning_rate": 1e-3, "lr_scheduler_type": "linear", "seed": 7,
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    (folder / "config.toml").write_text("\n".join(["[train]", *lines]) + "\n")
    return SimpleNamespace(folder=folder, table=table)


def arguments(place, **changes):
    given = {
        "config": place.folder / "config.toml", "data": place.folder / "data.parquet",
        "out": place.folder / "nothing",
    } | changes  # fmt: skip
    return [*(text for key, value in given.items() for text in (f"--{key}", str(value)))]


def dry(place, capsys, **changes):
    status = train.main([*arguments(place, **changes), "--dry-run"])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert not (place.folder / "nothing").exists()
    return status, out


def answer(call):
    question = read_prompt(call.body["messages"])
    marks = ["stated"] * len(question.annotations)
    return good(write_verdict(marks, question.nonce, question.contradictions, question.output))


def test_a_dry_run_that_finds_everything(place):
    """As a user starts it: a process of its own, a judge behind a URL, a checkpoint on disk."""
    with StubServer(answer) as server:
        judge = {"judge": server.url, "judge_model": "stub"}
        done = subprocess.run(
            [sys.executable, "-m", "perception_r1.training.train", *arguments(place, **judge), "--dry-run"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert server.count == 1
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing is missing\n")
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("OK")}
    assert "6 problems, 6 of them annotated" in lines["data"]
    assert "6 of at most 128 tokens" in lines["prompts"]
    assert re.search(r"a response that states all: stated( stated)*$", lines["judge"])
    assert " 1.0 (weight 0.1)" in lines["format_reward"]
    assert " 1.0 (weight 0.9)" in lines["accuracy_reward"]
    assert "8 responses a step" in lines["configuration"] and "16 responses" in lines["configuration"]  # fmt: skip
    assert f"--judge {server.url} --judge_model stub" in done.stdout  # the command to train


def test_a_dead_judge_is_one_line(place, capsys):
    dead = {"judge": "http://127.0.0.1:9/v1", "judge_model": "stub"}
    status, out = dry(place, capsys, **dead)
    assert status == 1 and out.endswith("\nmissing: judge\n")
    line = next(line for line in out.splitlines() if "judge " in line)
    assert line.startswith("FAIL") and "127.0.0.1:9" in line and "start the server" in line


def test_the_exact_judge_and_an_arm_without_one(place, capsys):
    assert dry(place, capsys)[0] == 0
    unpaid = {"judge": "http://127.0.0.1:9/v1", "judge_model": "x", "arm": "accuracy_only"}
    status, out = dry(place, capsys, **unpaid)
    assert status == 0 and "pays nothing for perception" in out


def test_a_dry_run_of_the_paper_profile_names_what_is_missing_here(place, capsys, monkeypatch):
    monkeypatch.setattr(dry_run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(dry_run.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(dry_run, "try_to_load_from_cache", lambda *_: None)
    judge = {"judge": "http://127.0.0.1:9/v1"}
    status, out = dry(place, capsys, config=profiles.FOLDER / "paper.toml", **judge)
    assert status == 1
    missing = out.splitlines()[-1].removeprefix("missing: ").split(", ")
    assert {"data", "model", "judge", "vllm", "torchvision", "GPU"} <= set(missing)
    assert "a step takes 128" in out  # of 6 problems
    assert "GRPOConfig: 1,024 responses a step on 8 processes, 16 backward passes each" in out
    assert "281,600 responses" in out and "accelerate.commands.launch" in out
    assert "vllm serve Qwen/Qwen2.5-32B-Instruct-AWQ" in out


@pytest.mark.parametrize(
    "changes, name, says",
    [
        ({"data": "no/such.parquet"}, "data", "no/such.parquet"),
        ({"max_prompt_length": 5}, "model", "every prompt is longer"),
        ({"eval_steps": 1}, "held-out", "give --held-out"),
        ({"vllm": "true"}, "vllm", "not installed"),
    ],
)
def test_what_is_broken_is_named_and_the_rest_looked_at(place, capsys, monkeypatch, changes, name, says):  # fmt: skip
    if name == "vllm":
        monkeypatch.setattr(dry_run.importlib.util, "find_spec", lambda name: None)
    status, out = dry(place, capsys, **changes)
    assert status == 1 and name in out.splitlines()[-1]
    assert any(line.startswith(f"FAIL  {name}") and says in line for line in out.splitlines())
    assert "OK    configuration" in out


def test_the_command_to_train_keeps_what_was_given(place, capsys):
    more = ["--admission", "some file", "--held-out", str(place.folder / "data.parquet"), "--unadmitted"]  # fmt: skip
    assert train.main([*arguments(place), *more, "--dry-run"]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "-m perception_r1.training.train" in line)
    for words in (
        "--admission 'some file'",
        f"--held-out {place.folder / 'data.parquet'}",
        "--unadmitted",
    ):
        assert words in line
    assert "time: no rule without vLLM" in out


def test_an_impossible_batch_is_bad_input(place, capsys):
    assert train.main([*arguments(place, per_device_train_batch_size=3), "--dry-run"]) == 2
    assert "do not divide" in capsys.readouterr().err


# --- FSDP on CPU processes -------------------------------------------------------------------------

# accelerate shards on GPUs only; told that two CPU processes are GPUs, it goes all of its way, over gloo.
PRETEND = """
import sys
import accelerate.state
make = accelerate.state.PartialState.__init__
def pretend(self, cpu=False, **more):
    new = not accelerate.state.PartialState._shared_state
    make(self, cpu=cpu, **more)
    if new:
        self.distributed_type = accelerate.state.DistributedType.MULTI_GPU
accelerate.state.PartialState.__init__ = pretend
from perception_r1.training import train
sys.exit(train.main(sys.argv[1:]))
"""


def test_fsdp_trains_and_saves_a_whole_policy(place, tmp_path):
    """With the environment that the launch command of the paper profile sets, but for vLLM and GPUs."""
    parsed = launch_command_parser().parse_args(plan.launch_command(PAPER, "c", "d", "o")[3:])
    sets = prepare_multi_gpu_env(_validate_launch_command(parsed)[0])
    sharded = {k: v for k, v in sets.items() if k.startswith(("FSDP_", "ACCELERATE_USE"))}
    (tmp_path / "pretend.py").write_text(PRETEND)
    out = tmp_path / "out"
    changes = {"out": out, "processes": 2, "fsdp": True, "bf16": True, "max_steps": 1, "save_steps": 1,
               "gradient_checkpointing": True, "loss_type": "bnpo", "max_completion_length": 24}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(tmp_path / "pretend.py"), *arguments(place, **changes)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **sharded, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "checkpoint-1" / "complete.json").is_file()
    assert (out / "checkpoint-1" / "pytorch_model_fsdp.bin").is_file()  # so it was FSDP
    assert len(pd.read_csv(out / "grpo_log.csv")) == 1
    base = load_file(place.folder / "model" / "model.safetensors")
    saved = load_file(out / "policy" / "model.safetensors")
    assert set(saved) == set(base) | {"lm_head.weight"}  # tied, and written all the same
    assert all(weight.dtype == torch.float32 for weight in saved.values())
    assert all(saved[name].shape == base[name].shape for name in base)
    assert any(not torch.equal(saved[name], base[name]) for name in base if "visual" in name)
    load_policy(out / "policy")
