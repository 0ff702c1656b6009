"""Full scale without a GPU: the profiles `gpu` and `paper`, TRL's, transformers' and accelerate's signatures, dry runs.

Nothing here executes vLLM or a GPU. FSDP itself is executed: on two CPU processes that accelerate takes for GPUs.
"""

import ast
import contextlib
import inspect
import json
import os
import subprocess
import sys
from types import SimpleNamespace

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
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig
from trl.generation.vllm_generation import VLLMGeneration

from perception_r1.__main__ import main
from perception_r1.common import profiles
from perception_r1.common.checkpoints import read_log
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.common.settings import batch_sizes
from perception_r1.evidence import paper
from perception_r1.reward.judge_prompt import JudgePrompt
from perception_r1.training import arms, configuration, progress, scale, trainer
from perception_r1.training.policy import load_policy, new_miniature
from tests.runs import arguments
from tests.stub_server import StubServer, good

PAPER = profiles.load_profile("paper").train
GPU = profiles.load_profile("gpu").train
A800, SMALL = scale.GPUS["A800 80 GB"], scale.GPUS["RTX 4090 24 GB"]


def built(settings):
    return configuration.grpo_config(settings, "unused", use_cpu=True)


# --- the paper's numbers ---------------------------------------------------------------------------

# PAPER.md, section 4, written down by hand: item -> value.
TRUTH = {
    "policy": "Qwen/Qwen2.5-VL-7B-Instruct", "trained": "all weights, vision tower included", "sharding": "FSDP",
    "group size G": 8, "temperature": 1, "top_p": 1, "tensor parallel of vLLM": 4, "memory of vLLM": 0.7,
    "prompts a step": 128, "responses a step": 1024, "optimiser steps a batch of rollouts": 1,
    "responses in a pass for old probabilities": 16, "responses in a backward pass": 8, "backward passes a step": 16,
    "optimiser": "AdamW", "learning rate": 1e-6, "first beta of AdamW": 0.9, "second beta of AdamW": 0.999,
    "weight decay": 1e-3, "warm-up steps": 13, "rate after warm-up": "constant", "gradient norm": 1, "steps": 275,
    "responses in all": 281_600, "clip, low": 0.2, "clip, high": 0.3, "dual clip": 3, "weight of the KL term": 0,
    "average of the loss": "over all tokens of a backward pass", "advantage": "(r - mean) / unbiased std of the group",
    "prompt tokens": 4096, "response tokens": 4096, "pixels at least": 3136, "pixels at most": 1344**2,
    "validation every": 5, "checkpoint every": 10, "seed": 1, "training GPUs": 8,
    "judge": "Qwen/Qwen2.5-32B-Instruct-AWQ", "weight of format": 0.1, "weight of accuracy": 0.9,
    "weight of perception": 0.7, "weight of repetition": 1, "correction for vLLM's rounding": "not known to us",
}  # fmt: skip


def plain(text: str) -> object:
    """A cell as the number, the truth value or the text that it is."""
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def test_the_recipe_holds_every_number_of_the_paper_with_its_source():
    table = scale.recipe_table()
    assert dict(zip(table["item"], map(plain, table["paper"]), strict=True)) == TRUTH
    tags = set(paper.published("sources").tag) | {"none"}
    for source in table.source:
        assert {part.split()[0] for part in source.split(";")} <= tags, source


def test_the_recipes_values_are_those_of_the_profile():
    """By the key of each row; and where paper and ours differ the row says so, and why."""
    places = {"GRPOConfig": built(PAPER), "batch_sizes": batch_sizes(PAPER)}
    for row in scale.recipe_table().itertuples():
        place, _, name = row.key.rpartition(".")
        if place == "reward_weights":
            value = arms.ARMS[PAPER.arm][name]
        else:
            value = getattr(places.get(place, PAPER), name)
        assert str(getattr(value, "value", value)) == row.ours, row.item
        numbers = [isinstance(plain(cell), int | float) for cell in (row.paper, row.ours)]
        if all(numbers):
            assert (row.same == "yes") == (float(row.paper) == float(row.ours)), row.item
        assert row.same in ("yes", "no") and (row.same == "yes" or row.note), row.item
    different = scale.recipe_table().query("same == 'no'")["item"]
    assert set(different) == {
        "dual clip", "validation every", "correction for vLLM's rounding",
        "responses in a pass for old probabilities",
    }  # fmt: skip


def test_both_profiles_make_trls_configuration():
    for settings in (PAPER, GPU):
        config = built(settings)
        assert config.use_vllm and config.vllm_mode == "colocate" and config.vllm_enable_sleep_mode
        assert config.bf16 and config.gradient_checkpointing and config.warmup_steps == 13
        longest = settings.max_prompt_length + config.max_completion_length
        assert config.vllm_max_model_length == longest
        assert config.shuffle_dataset is False and config.top_k == 0 and config.num_iterations == 1
        assert config.eval_strategy == "no"
    watched = built(PAPER.model_copy(update={"eval_steps": 3, "vllm": False}))
    assert watched.eval_strategy == "steps" and watched.eval_steps == 3 and not watched.use_vllm
    assert PAPER.dtype == "float32" and not PAPER.lora_rank and PAPER.fsdp
    assert built(PAPER).generation_batch_size * PAPER.processes == 1024
    assert batch_sizes(PAPER).per_process == 128 and 1442 // 128 * 25 == PAPER.max_steps
    with pytest.raises(ValueError, match="8 completions cannot be shared by 3 processes"):
        batch_sizes(GPU.model_copy(update={"prompts_per_step": 1, "processes": 3}))
    # why the paper profile stores float32: a step of AdamW, about the learning rate, vanishes in bfloat16
    weight = torch.full((10,), 0.02)
    assert (weight - PAPER.learning_rate != weight).all()
    assert (weight.bfloat16() - PAPER.learning_rate == weight.bfloat16()).all()


# --- estimates -------------------------------------------------------------------------------------

# hidden, inner, layers, heads, groups, words, tied: the public config.json of each checkpoint
SHAPES = {
    "Qwen2.5-VL-3B-Instruct": (2048, 11008, 36, 16, 2, 151936, True),
    "Qwen2.5-VL-7B-Instruct": (3584, 18944, 28, 28, 4, 152064, False),
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_those_of_the_published_shapes(name):
    hidden, inner, layers, heads, groups, words, tied = SHAPES[name]
    text = {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": words,
        "num_attention_heads": heads, "num_key_value_heads": groups, "tie_word_embeddings": tied,
    }  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config={**vision, "out_hidden_size": hidden}, tie_word_embeddings=tied
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    size, head = scale.SIZES[name], model.get_output_embeddings()
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    assert (size.layers, size.hidden, size.vocabulary) == (layers, hidden, words)
    assert size.head == (0 if tied else head.weight.numel())
    assert size.cache_per_token == 2 * layers * groups * hidden // heads * 2
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    assert size.adapter_per_rank == sum(m.in_features + m.out_features for m in linear)


def test_memory_by_hand():
    whole = 8_292_166_656 / 2**30
    embeddings, layer = 152064 * 3584, (8_292_166_656 - 2 * 152064 * 3584) / 28
    copies = 2 * (2 * embeddings + 2 * layer) + 4 * embeddings
    activations = 8 * 8192 * 3584 * (2 * 28 + 34)
    always = whole * 4 / 8 + whole + scale.OVERHEAD_GIB  # weights, optimiser
    update = whole * 4 / 8 + (copies + activations) / 2**30
    vllm = 0.7 * 79
    assert scale.needed(PAPER, A800) == pytest.approx(always + max(vllm, update))
    awake = PAPER.model_copy(update={"vllm_sleep": False})
    assert scale.needed(awake, A800) == pytest.approx(always + update + vllm)
    alone = GPU.model_copy(update={"vllm": False})
    weights, adapter = 3_754_622_976 * 2, 32 * 2_585_216 * 4
    cache, batch = 128 * 4096 * 36_864, GPU.per_device_train_batch_size * 4096 * 2048
    always = weights + 2 * adapter + scale.OVERHEAD_GIB * 2**30
    update = adapter + batch * (2 * 36 + 34)
    assert scale.needed(alone, SMALL) * 2**30 == pytest.approx(always + max(cache, update))
    kept = alone.model_copy(update={"gradient_checkpointing": False})
    update = adapter + batch * (34 * 36 + 34)
    assert scale.needed(kept, SMALL) * 2**30 == pytest.approx(always + max(cache, update))


def test_what_fits_and_how_long_a_step_takes():
    assert scale.fits(PAPER, A800)
    assert not scale.fits(PAPER.model_copy(update={"vllm_sleep": False}), A800)
    assert not scale.fits(PAPER, scale.GPUS["A100 40 GB"]) and scale.fits(GPU, SMALL)
    assert not scale.fits(GPU.model_copy(update={"vllm_gpu_memory_utilization": 0.3}), SMALL)
    assert scale.seconds_per_step(PAPER, A800) == pytest.approx(209)  # measured by the authors
    fewer = PAPER.model_copy(update={"prompts_per_step": 64})
    assert scale.seconds_per_step(fewer, A800) == pytest.approx(209 / 2)
    faster = scale.Gpu(80, 2 * A800.teraflops)
    assert scale.seconds_per_step(PAPER, faster) == pytest.approx(209 / 2)
    named = PAPER.model_copy(update={"model": "/a/Qwen2.5-VL-7B-Instruct"})
    assert scale.size_of(named).layers == 28


def test_every_estimate_says_how_it_is_known():
    table = scale.gpu_estimates()
    assert set(table.profile) == set(profiles.names())
    known = r"\((?:measured|computed, never executed)|measured by the authors"
    assert table.fits.str.contains(known).all()
    assert (table.time.str.contains(known) | (table.time == "-")).all()
    mine = table[(table.profile == "paper") & table.machine.str.contains("A800")].iloc[0]
    assert mine.time.startswith("16.0 h (measured by the authors") and "by us" in mine.time
    assert float(mine.gpu_hours.split()[0]) == pytest.approx(16 * 275 * 209 / 3600, abs=1)
    small = table[(table.profile == "gpu") & table.machine.str.contains("RTX")].iloc[0]
    assert small.fits.startswith("yes") and small.time.endswith("(computed, never executed)")
    assert table[table.profile == "paper"].fits.str.startswith("no").sum() == 3


# --- commands --------------------------------------------------------------------------------------


def test_launch_commands():
    given = ["-m", "perception_r1", "train", "--config", "c", "--data", "d", "--out", "o"]
    plain_ = scale.launch_command(GPU, "c", "d", "o", "--seed", "2")
    assert plain_ == [sys.executable, *given, "--seed", "2"]
    four = scale.launch_command(GPU.model_copy(update={"processes": 4}), "c", "d", "o")
    assert four[1:3] == ["-m", "torch.distributed.run"]
    assert four[four.index("--nproc_per_node") + 1] == "4" and four[-9:] == given


def test_accelerate_reads_the_launch_command_as_fsdp_2(monkeypatch):
    """Its own parser, its own reading of the file, and the plugin it makes of the environment."""
    command = scale.launch_command(PAPER, "c", "d", "o")
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    parsed, config, _ = _validate_launch_command(launch_command_parser().parse_args(command[3:]))
    assert parsed.module and parsed.training_script == "perception_r1"
    files = ["--config", "c", "--data", "d", "--out", "o"]
    assert parsed.training_script_args == ["train", *files]
    assert parsed.use_fsdp and int(parsed.num_processes) == 8 and parsed.mixed_precision == "bf16"
    assert load_config_from_file(str(scale.FSDP)) == config
    for name, value in prepare_multi_gpu_env(parsed).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT  # with others no policy is saved
    assert plugin.cpu_ram_efficient_loading and not plugin.activation_checkpointing
    plugin.set_auto_wrap_policy(new_miniature(0)[0])
    wrapped = {"Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"}
    assert set(plugin.transformer_cls_names_to_wrap) == wrapped


def test_judge_commands():
    serve, ask = scale.judge_commands(PAPER)
    assert serve == (
        "vllm serve Qwen/Qwen2.5-32B-Instruct-AWQ --port 16657 --tensor-parallel-size 8 "
        "--enable-prefix-caching --gpu-memory-utilization 0.9 --max-model-len 8192"
    )
    assert ask == "curl --fail --silent http://localhost:16657/v1/models"
    assert "--tensor-parallel-size 1 " in scale.judge_commands(GPU)[0]


# --- drift: what is passed to other people's functions ----------------------------------------------


def test_what_is_passed_on_is_in_the_signatures(monkeypatch):
    """The configurations refuse unknown names by themselves; these are the calls that no tiny run makes."""
    settings = GPU.model_copy(update={"eval_steps": 1})
    assert isinstance(built(settings), trl.GRPOConfig)
    assert isinstance(configuration.sft_config(settings, "unused"), trl.SFTConfig)
    assert isinstance(configuration.adapter_config(settings), peft.LoraConfig)
    assert configuration.adapter_config(PAPER) is None
    with pytest.raises(
        InputError, match="prompts_per_step 16 is no multiple of .* 2 x 3 processes"
    ):
        configuration.sft_config(settings.model_copy(update={"processes": 3}), "unused")
    assert "peft_config" in inspect.signature(trl.GRPOTrainer.__init__).parameters


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
    base = {name for name, _ in model.named_parameters()}
    adapter = configuration.adapter_config(GPU.model_copy(update={"lora_rank": 4}))
    model = peft.get_peft_model(model.bfloat16(), adapter)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("visual.blocks" in n for n in trained) and any("merger" in n for n in trained)
    assert any("language_model" in name for name in trained)
    for name, weight in model.named_parameters():
        assert weight.requires_grad == ("lora_" in name), name
        assert weight.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        assert (
            "lm_head" not in name
        )  # TRL multiplies by it directly: an adapter would not be trained
    # What TRL copies to vLLM: every weight of the base under its own name, adapters merged in.
    synced = VLLMGeneration.__new__(VLLMGeneration)
    synced.model = model
    synced._dist = SimpleNamespace(is_fsdp=False, gather_params=lambda _: contextlib.nullcontext())
    assert {name for name, _ in synced._iter_named_params()} == base


# --- dry runs --------------------------------------------------------------------------------------


def dry(place, capsys, *more, **changes):
    folder = place / "nothing"
    status = main(["train", *arguments(place, folder, **changes), "--dry-run", *more])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and not folder.exists()
    return status, out


def answer(call):
    question = JudgePrompt.parse(call.body["messages"])
    marks = ["stated"] * len(question.annotations)
    return good(question.write(marks))


def test_a_dry_run_that_finds_everything(place, capsys):
    with StubServer(answer) as server:
        judge = {"judge": server.url, "judge_model": "stub"}
        status, out = dry(place, capsys, "--unadmitted", "--admission", "some file", **judge)
        assert server.count == 1
    assert status == 0 and out.endswith("nothing is missing\n")
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("OK")}
    assert "5 problems, 5 of them annotated" in lines["data"]
    assert "5 of at most 128 tokens" in lines["prompts"]
    assert lines["judge"].endswith("stated") and "absent" not in lines["judge"]
    assert " 1.0 (weight 0.1)" in lines["format_reward"]
    assert " 1.0 (weight 0.9)" in lines["accuracy_reward"]
    assert "8 responses a step" in lines["GRPOConfig"] and "32 in all" in lines["GRPOConfig"]
    command = next(line for line in out.splitlines() if "-m perception_r1 train" in line)
    assert (
        f"--judge {server.url} --judge_model stub --unadmitted --admission 'some file'" in command
    )
    assert "--dry-run" not in command and "vllm serve stub" in out


def test_a_dry_run_of_the_paper_profile_names_what_is_missing_here(place, capsys, monkeypatch):
    monkeypatch.setattr(scale.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(scale.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(scale, "try_to_load_from_cache", lambda *_: None)
    judge = {"judge": "http://127.0.0.1:9/v1"}
    status, out = dry(place, capsys, config=profiles.FOLDER / "paper.toml", **judge)
    assert status == 1
    missing = out.splitlines()[-1].removeprefix("missing: ").split(", ")
    assert missing == ["data", "model", "judge", "vllm", "torchvision", "GPU"]
    assert "a step takes 128" in out  # of 5 problems
    judge_line = next(line for line in out.splitlines() if line.startswith("FAIL  judge"))
    assert "127.0.0.1:9" in judge_line and "start the server" in judge_line
    assert "1,024 responses a step on 8 processes, 16 backward passes each" in out
    assert "281,600 in all" in out and "accelerate.commands.launch" in out
    assert "vllm serve Qwen/Qwen2.5-32B-Instruct-AWQ" in out


def test_a_dry_run_of_what_cannot_be_read_is_one_error(place, capsys):
    assert main(["train", *arguments(place, place, data="no/such.parquet"), "--dry-run"]) == 2
    assert "no/such.parquet" in capsys.readouterr().err
    status, out = dry(place, capsys, eval_steps=1)
    assert status == 1 and out.endswith("missing: held-out\n") and "give --held-out" in out


# --- FSDP on CPU processes -------------------------------------------------------------------------

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
    command = scale.launch_command(PAPER, "c", "d", "o")[3:]
    sets = prepare_multi_gpu_env(
        _validate_launch_command(launch_command_parser().parse_args(command))[0]
    )
    sharded = {k: v for k, v in sets.items() if k.startswith(("FSDP_", "ACCELERATE_USE"))}
    (tmp_path / "sitecustomize.py").write_text(PRETEND)
    changes = {
        "processes": 2, "fsdp": True, "bf16": True, "max_steps": 1, "save_steps": 1, "loss_type": "bnpo",
        "gradient_checkpointing": True,
    }  # fmt: skip
    out, path = tmp_path / "out", os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "perception_r1", "train", *arguments(place, out, **changes)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **sharded, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "checkpoint-1" / "complete.json").is_file()
    assert (out / "checkpoint-1" / "pytorch_model_fsdp.bin").is_file()  # so it was FSDP
    assert len(read_log(out / "grpo_log.csv")) == 1
    assert json.loads((out / "settings.json").read_text())["fsdp"] is True
    base = load_file(place / "model" / "model.safetensors")
    saved = load_file(out / "policy" / "model.safetensors")
    assert set(saved) == set(base) | {"lm_head.weight"}  # tied, and written all the same
    assert all(weight.dtype == torch.float32 for weight in saved.values())
    assert all(saved[name].shape == base[name].shape for name in base)
    assert any(not torch.equal(saved[name], base[name]) for name in base if "visual" in name)
    load_policy(out / "policy")
