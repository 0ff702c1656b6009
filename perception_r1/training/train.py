"""Train a policy with GRPO: settings, a dataset, a judge, and TRL (contract C7). Explained in notebook 04.

    python -m perception_r1.training.train --config FILE --data FILE --out DIR [--held-out FILE] [--key value ...]

plain, under `torchrun`, or under `accelerate launch`. FILE is a profile (its table `[train]`); every field of
`settings.TrainSettings` is a key. The same command again goes on from the last whole checkpoint. DIR gets
`grpo_log.csv` (a row a step), `completions.jsonl`, `held_out.jsonl`, `judge.json`, `settings.json`,
checkpoints, and at the end `policy/`. Settings that only make a run fit (`RESUMABLE`) may differ then.

The dataset is read down to what training may know: question, images, answer, annotations. Gold facts, which the
embedded world has and real data have not, never reach the trainer.
"""

import argparse
import asyncio
import atexit
import gc
import hashlib
import importlib.util
import json
import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import datasets
import pandas as pd
import torch
from transformers import PreTrainedModel, ProcessorMixin, Trainer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from trl import GRPOConfig

from perception_r1.common import checkpoints
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import alone, read_json, sha256, write_json
from perception_r1.common.settings import (
    LOCAL_JUDGES,
    Arm,
    TrainSettings,
    batch_plan,
    read_settings,
)
from perception_r1.problems.parquet import load_problems
from perception_r1.problems.schema import Problem
from perception_r1.reward.calibration import Admission, admit, calibrate, world_pairs
from perception_r1.reward.judges import ExactJudge, Judge, LazyJudge, LossyJudge, NoisyJudge
from perception_r1.reward.learned_judge import LearnedJudge
from perception_r1.reward.llm_judge import LLMJudge
from perception_r1.reward.rewards import (
    WEIGHTS,
    PerceptionReward,
    accuracy_reward,
    format_reward,
    in_thread,
    repetition_penalty,
    token_repetition_penalty,
)
from perception_r1.training.plan import FSDP
from perception_r1.training.policy import MINIATURE, load_policy, prompt_of, with_image
from perception_r1.training.sft import examples, sft_trainer
from perception_r1.training.trainer import (
    COMPLETIONS,
    HELD_OUT,
    LOG,
    Diverged,
    JudgeFailed,
    PerceptionGRPOTrainer,
    saving,
)
from perception_r1.world import WorldConfig, make_problems

POLICY = "policy"  # the folder of the trained policy in the run's folder
JUDGE_PROBLEMS = 80  # of the world, to measure a judge that brings no admission
RESUMABLE = {  # settings that a run may go on with changed: they decide where and how it fits, not what is learnt
    "per_device_train_batch_size", "gradient_checkpointing", "vllm_gpu_memory_utilization", "vllm_sleep", "judge",
    "judge_model", "max_failure_rate", "processes", "fsdp", "save_steps",
}  # fmt: skip

# What the arms of the experiment pay for; they differ in nothing else.
_ALWAYS = {"format": WEIGHTS["format"], "accuracy": WEIGHTS["accuracy"]}
_SIGHT, _LOOPS = (
    {"perception": WEIGHTS["perception"]},
    {"repetition": WEIGHTS["repetition"]},
)
ARMS: dict[Arm, dict[str, float]] = {  # "sft" pays for nothing: it imitates (`sft`)
    "accuracy_only": _ALWAYS,
    "perception": _ALWAYS | _SIGHT | _LOOPS,
    "perception_no_repetition": _ALWAYS | _SIGHT,
    "repetition_only": _ALWAYS | _LOOPS,
    "sft": {},
}


# --- data ------------------------------------------------------------------------------------------


def training_rows(
    problems: Sequence[Problem], settings: TrainSettings, processor: ProcessorMixin
) -> tuple[datasets.Dataset, pd.DataFrame]:
    """Problems as TRL takes them, and those whose prompts are too long.

    Returns:
        Rows with the columns id, prompt (a raw conversation), images (resized once to the processor's limits, so
        that nobody resizes them again), answer, visual_key_info; and a table id, tokens of what was left out.

    Raises:
        InputError: no prompt is short enough.
    """
    rows, long, of_images = [], [], {}
    for problem in problems:
        images = [_resized(image, processor) for image in problem.open_images()]
        prompt = prompt_of(problem)
        tokens = _prompt_tokens(prompt, images, processor, of_images)
        if tokens > settings.max_prompt_length:
            long.append({"id": problem.id, "tokens": tokens})
            continue
        rows.append(
            {
                "id": problem.id,
                "prompt": prompt,
                "images": images,
                "answer": problem.answer,
                "visual_key_info": problem.visual_key_info,
            }  # fmt: skip
        )
    if not rows:
        least = min(row["tokens"] for row in long)
        raise InputError(
            f"every prompt is longer than max_prompt_length {settings.max_prompt_length} (the shortest has {least} "
            "tokens, its images included); raise it, or lower max_pixels"
        )
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "prompt": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "images": datasets.List(datasets.Image()), "answer": datasets.Value("string"),
            "visual_key_info": datasets.Value("string"),
        }
    )  # fmt: skip
    return datasets.Dataset.from_list(rows, features), pd.DataFrame(long, columns=["id", "tokens"])


def without_decoding(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows of `training_rows` with images that stay bytes when read: the trainer decodes what a step shows."""
    features = {**rows.features, "images": datasets.List(datasets.Image(decode=False))}
    # A view. `cast_column` would copy each row, and of a selection each image as often as it is selected.
    return datasets.Dataset(rows.data, datasets.DatasetInfo(features=datasets.Features(features)))


def _resized(image, processor: ProcessorMixin):
    """The image at the size to which Qwen's processor would bring it."""
    wanted = processor.image_processor
    if not hasattr(wanted, "merge_size"):
        return image
    height, width = smart_resize(
        image.height, image.width, factor=wanted.patch_size * wanted.merge_size,
        min_pixels=wanted.size["shortest_edge"], max_pixels=wanted.size["longest_edge"],
    )  # fmt: skip
    if image.size == (width, height):
        return image
    # Grey stays grey: the same pixels for a third of the work, here and whenever a step reads them.
    grey = image.mode == "L"
    return (image if grey else image.convert("RGB")).resize((width, height))


def _prompt_tokens(
    prompt: list[dict], images: list, processor: ProcessorMixin, of_images: dict[tuple, int]
) -> int:
    """Tokens of a prompt as the model sees it; those of its images go by their sizes, kept in `of_images`."""
    text = processor.apply_chat_template(
        with_image(prompt, len(images)), add_generation_prompt=True
    )
    tokens = len(processor.tokenizer(text)["input_ids"])
    sizes = tuple(image.size for image in images)
    if sizes not in of_images:  # processing an image takes longer than all the rest
        of_images[sizes] = len(processor(text=[text], images=images)["input_ids"][0]) - tokens
    return tokens + of_images[sizes]


def schedule(problems: int, prompts_per_step: int, steps: int, seed: int) -> list[int]:
    """Which problems each step asks, one after the other: shuffled epochs, the rest of each dropped.

    A function of its arguments alone, so that a resumed run asks what it would have asked.
    """
    if problems < prompts_per_step:
        raise InputError(
            f"{problems} problems cannot fill a step of prompts_per_step {prompts_per_step}; lower it, or give "
            "more data"
        )
    order: list[int] = []
    epoch = 0
    while len(order) < steps * prompts_per_step:
        shuffled = list(range(problems))
        random.Random(f"{seed}/{epoch}").shuffle(shuffled)
        order += shuffled[: problems // prompts_per_step * prompts_per_step]
        epoch += 1
    return order[: steps * prompts_per_step]


# --- policy ----------------------------------------------------------------------------------------


def parameters_by_block(model: PreTrainedModel) -> pd.DataFrame:
    """Parameters of vision tower, merger and language model: all, and those that are trained."""
    rows = {block: [0, 0] for block in ("vision", "merger", "language")}
    for name, weight in model.named_parameters():
        vision = any(part in name for part in ("visual", "vision"))
        merger = any(part in name for part in ("merger", "projector", "connector"))
        counts = rows["merger" if merger else "vision" if vision else "language"]
        counts[0] += weight.numel()
        counts[1] += weight.numel() * weight.requires_grad
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["parameters", "trained"])
    return table.rename_axis("block").reset_index()


@torch.no_grad()
def check_batching(
    model: PreTrainedModel, processor: ProcessorMixin, rows: datasets.Dataset
) -> float:
    """The largest difference between log-probabilities of one prompt alone and beside a longer one.

    A processor that pads on the wrong side hides images, without any error.

    Raises:
        InputError: it is more than rounding can explain.
    """
    few = list(rows.select(range(min(16, len(rows)))))
    row = min(few, key=lambda row: len(row["prompt"][0]["content"]))
    first, *rest = row["prompt"]
    twice = [{**first, "content": f"{first['content']} {first['content']}"}, *rest]
    images = row["images"]
    texts = [
        processor.apply_chat_template(with_image(prompt, len(images)), add_generation_prompt=True)
        for prompt in (row["prompt"], twice)
    ]

    def last(texts: list[str]) -> torch.Tensor:
        inputs = processor(
            text=texts, images=[images] * len(texts), padding=True, return_tensors="pt"
        ).to(model.device)
        # nothing to see unless the shorter one is padded
        assert len(texts) == 1 or not inputs["attention_mask"][0].all()
        return model(**inputs).logits[0, -1].float().log_softmax(-1)

    was_training = model.training
    model.eval()
    gap = (last(texts[:1]) - last(texts)).abs().max().item()
    model.train(was_training)
    limit = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.5
    if not gap <= limit:
        raise InputError(
            f"one prompt has other log-probabilities in a batch than alone (by {gap:.3g}, more than {limit:g}); "
            'the processor must pad on the left: set padding_side to "left" in its tokenizer'
        )
    return gap


# --- rewards ---------------------------------------------------------------------------------------


def reward_functions(settings: TrainSettings, judge: Judge | None) -> tuple[list, list[float]]:
    """The rewards of an arm with their weights. What an arm does not pay for is logged where it costs nothing."""
    weights = dict(ARMS[settings.arm])
    if "perception" in weights:
        weights["perception"] = settings.perception_weight
    repetition = token_repetition_penalty if settings.repetition == "tokens" else repetition_penalty
    functions = {
        "format": in_thread(format_reward), "accuracy": in_thread(accuracy_reward),
        "repetition": in_thread(repetition),
    }  # fmt: skip
    if judge is not None:
        lost = 0.0 if settings.lost_verdicts == "zero" else None
        functions["perception"] = PerceptionReward(judge, settings.mode, lost)
    return list(functions.values()), [weights.get(name, 0.0) for name in functions]


def make_judge(settings: TrainSettings, cache: Path | None = None) -> Judge | None:
    """The judge of the settings; None where it would cost calls and nothing is paid for it."""
    if "perception" not in ARMS[settings.arm] and settings.judge not in LOCAL_JUDGES:
        return None
    contradictions = settings.mode == "contradiction_aware"
    if settings.judge == "lazy":
        judge = LazyJudge()
    elif settings.judge in LOCAL_JUDGES:
        judge = ExactJudge(contradictions=settings.judge == "exact")
    elif Path(settings.judge).is_dir():
        judge = LearnedJudge.load(Path(settings.judge), contradictions)
    else:
        judge = LLMJudge(
            settings.judge, settings.judge_model, cache=cache, contradictions=contradictions
        )
    if settings.judge_flip:
        judge = NoisyJudge(judge, settings.judge_flip, settings.seed, per_call=True)
    return LossyJudge(judge, settings.judge_lost, settings.seed) if settings.judge_lost else judge


def admission_of(judge: Judge, recorded: Path | None = None) -> Admission:
    """A judge's admission: from notebook 03's `admissions.json`, or measured now on the world's own sentences.

    Raises:
        InputError: the file does not know this judge, or the judge gives no verdict.
    """
    if recorded is None:
        pairs = world_pairs(make_problems(JUDGE_PROBLEMS, WorldConfig(seed=1), "dev"))
        verdict = asyncio.run(judge.judge([pairs[0].response], [[pairs[0].annotation]]))[0]
        if verdict.marks is None:
            raise InputError(
                f"the judge {judge.name!r} gives no verdict ({verdict.failure}); is it up?"
            )
        return admit(asyncio.run(calibrate(judge, pairs, "own")))
    cards = read_json(recorded)
    mine = [
        card
        for card in (cards if isinstance(cards, list) else [])
        if isinstance(card, dict)
        and card.get("judge") == judge.name
        and card.get("calibrated on") == "own"
    ]
    if not mine:
        raise InputError(
            f"{recorded} has no admission of the judge {judge.name!r} on the world's own sentences; measure it in "
            "notebook 03, or leave the file out to measure it now"
        )
    return Admission(judge.name, mine[0], tuple(mine[0]["failed"]))


# --- training --------------------------------------------------------------------------------------


def grpo_config(settings: TrainSettings, out: Path, **more: object) -> GRPOConfig:
    """The settings as TRL's configuration; `more` overrides (tests pass `use_cpu=True`)."""
    plan = batch_plan(settings)
    values = {
        "output_dir": str(out), "seed": settings.seed, "max_steps": settings.max_steps,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "num_generations": settings.num_generations,
        "max_completion_length": settings.max_completion_length,
        "temperature": settings.temperature, "top_p": 1.0, "top_k": 0,
        "shuffle_dataset": False,  # `schedule` has done it
        "learning_rate": settings.learning_rate, "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps, "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm, "bf16": settings.bf16,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "loss_type": settings.loss_type, "epsilon": settings.epsilon,
        "epsilon_high": settings.epsilon_high, "beta": settings.beta, "scale_rewards": "group",
        "eval_strategy": "steps" if settings.eval_steps else "no",
        "eval_steps": settings.eval_steps or None, "num_generations_eval": 1,
        "per_device_eval_batch_size": settings.per_device_train_batch_size,
        "save_steps": settings.save_steps, "logging_steps": 1, "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    if settings.vllm:
        values |= {
            "use_vllm": True, "vllm_mode": "colocate",
            "vllm_tensor_parallel_size": settings.vllm_tensor_parallel_size,
            "vllm_gpu_memory_utilization": settings.vllm_gpu_memory_utilization,
            "vllm_max_model_length": settings.max_prompt_length + settings.max_completion_length,
            "vllm_enable_sleep_mode": settings.vllm_sleep,
        }  # fmt: skip
    return GRPOConfig(**values | more)


def adapter_config(settings: TrainSettings):
    """The LoRA adapter on all linear layers, vision tower included; None if all weights are trained."""
    if not settings.lora_rank:
        return None
    from peft import LoraConfig  # a laptop does without

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear"
    )


def train(
    settings: TrainSettings,
    problems: Sequence[Problem],
    out: Path,
    *,
    held_out: Sequence[Problem] = (),
    admission: Path | None = None,
    unadmitted: bool = False,
) -> Path | None:
    """Train, or go on with a run that was stopped; see the module for what `out` gets.

    Args:
        settings: see `settings.TrainSettings`.
        problems: to learn from; of their columns only what training may know is read.
        out: the run's folder.
        held_out: problems whose responses are written every `eval_steps` steps.
        admission: notebook 03's `admissions.json`; None: the judge is measured first.
        unadmitted: train with a judge that fails its admission, to study it.

    Returns:
        The folder of the trained policy, or None if a signal stopped training on the way.

    Raises:
        InputError: what was given cannot be used, the disk is full, or memory did not suffice.
        JudgeFailed: the judge died; a checkpoint of the last whole step was saved.
        trainer.Diverged: the gradient is not a number.
    """
    _check_machine(settings)
    paid = "perception" in ARMS[settings.arm]
    if paid and not any(problem.visual_key_info for problem in problems):
        raise InputError(
            f"the arm {settings.arm} pays for perception, and none of {len(problems)} problems is annotated; give "
            "the dataset that notebook 02 writes"
        )
    busy = f"another run trains in {out}; wait for it, stop it, or choose another --out"
    first = int(os.environ.get("RANK", 0)) == 0
    with alone(out, busy) if first else nullcontext():
        _same_settings(settings, problems, out)
        if settings.arm == "sft":
            return _imitate(settings, problems, out)
        judge = make_judge(settings, out / "judge.sqlite")
        admitted = admission_of(judge, admission) if paid and not unadmitted else None
        if admitted is not None:
            admitted.require()
        functions, weights = reward_functions(settings, judge)
        # before the weights: transformers then lets the first process alone load them under FSDP
        config = grpo_config(settings, out, reward_weights=weights, disable_tqdm=True)
        quiet = config.process_index != 0
        model, processor = load_policy(
            settings.model, dtype=settings.dtype, min_pixels=settings.min_pixels,
            max_pixels=settings.max_pixels,
        )  # fmt: skip
        rows, long = training_rows(problems, settings, processor)
        order = schedule(len(rows), settings.prompts_per_step, settings.max_steps, settings.seed)
        if settings.eval_steps and not held_out:
            raise InputError(
                "eval_steps is set and there are no held-out problems; give some, or set it to 0"
            )
        if not quiet:
            gap = check_batching(model, processor, rows)
            print(f"one prompt alone and in a batch: log-probabilities differ by {gap:.1e} at most")
            if len(long):
                print(
                    f"left out, longer than {settings.max_prompt_length} tokens: {some(long['id'])}"
                )
        asked = training_rows(held_out, settings, processor)[0] if held_out else None
        with _memory_levers():
            trainer = PerceptionGRPOTrainer(
                model=model, reward_funcs=functions, args=config, processing_class=processor,
                train_dataset=without_decoding(rows).select(order), peft_config=adapter_config(settings),
                eval_dataset=without_decoding(asked) if asked else None,
                admission=admitted, unadmitted=unadmitted, max_failure_rate=settings.max_failure_rate,
                logs=out,
            )  # fmt: skip
            if not quiet:
                print(parameters_by_block(trainer.model).to_string(index=False))
            last = checkpoints.last_complete(out)
            trainer.accelerator.wait_for_everyone()
            if not quiet:
                checkpoints.remove_incomplete(out)
                for log in (LOG, COMPLETIONS, HELD_OUT):
                    checkpoints.cut_log(out / log, last[0] if last else 0)
                print(f"going on from step {last[0]}" if last else "from the beginning", flush=True)
            trainer.accelerator.wait_for_everyone()
            try:
                with trainer.stops_on_signals():
                    trainer.train(resume_from_checkpoint=str(last[1]) if last else None)
            except JudgeFailed:
                trainer.save_now()
                raise
        if trainer.stopped:
            return None
        return _save_policy(trainer, processor, out)


def _imitate(settings: TrainSettings, problems: Sequence[Problem], out: Path) -> Path:
    """Supervised fine-tuning instead of rewards, on the same problems in the same order."""
    model, processor = load_policy(
        settings.model, dtype=settings.dtype, min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )  # fmt: skip
    rows = examples(problems, processor)
    order = schedule(len(rows), settings.prompts_per_step, settings.max_steps, settings.seed)
    with _memory_levers():
        trainer = sft_trainer(
            settings,
            model,
            processor,
            rows.select(order),
            out,
            peft_config=adapter_config(settings),
        )
        trainer.train()
    return _save_policy(trainer, processor, out)


def _check_machine(settings: TrainSettings) -> None:
    """Refuse what this machine or this way to start cannot do, before anything is loaded."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != settings.processes:
        raise InputError(
            f"the settings say {settings.processes} processes and {started} were started; on one machine: "
            f"torchrun --nproc_per_node {settings.processes} -m perception_r1.training.train ... (accelerate launch "
            "--cpu starts a single one)"
        )
    for needed, package in ((settings.vllm, "vllm"), (settings.lora_rank, "peft")):
        if needed and importlib.util.find_spec(package) is None:
            raise InputError(
                f"the settings need {package}, which is not installed: pip install -c constraints.txt -e '.[gpu]'"
            )
    if started == 1 and torch.cuda.device_count() > 1:
        raise InputError(
            f"one process and {torch.cuda.device_count()} GPUs, which it would all use; set "
            "CUDA_VISIBLE_DEVICES=0 (the judge may have the other)"
        )
    if settings.fsdp and os.environ.get("ACCELERATE_USE_FSDP") != "true":
        raise InputError(
            "fsdp is set and the processes were not started for it; start them with accelerate launch "
            f"--config_file {os.path.relpath(FSDP)} --num_processes {settings.processes} "
            "-m perception_r1.training.train ... "
            "(--dry-run shows the whole command)"
        )


def _save_policy(trainer: Trainer, processor: ProcessorMixin, out: Path) -> Path:
    """The trained policy as one folder, whole or not at all."""
    folder, part = out / POLICY, out / f".{POLICY}.part"
    try:
        with saving(folder):
            trainer.save_model(str(part))  # every process has a share in it
            if trainer.accelerator.is_main_process:
                processor.save_pretrained(part)
                # a pickle, of no use to a reader
                (part / "training_args.bin").unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)  # of an earlier run of the same settings
                part.rename(folder)
    except InputError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    trainer.accelerator.wait_for_everyone()
    return folder


def _same_settings(settings: TrainSettings, problems: Sequence[Problem], out: Path) -> None:
    """Keep settings, data and base weights beside the run; refuse to go on with others (but see `RESUMABLE`)."""
    if int(os.environ.get("RANK", 0)) != 0:
        return
    path = out / "settings.json"
    model = MINIATURE if settings.model == "miniature" else Path(settings.model)
    now = settings.model_dump(mode="json") | {
        "data": _digest(problems), "model_sha256": sha256(model) or settings.model,
    }  # fmt: skip
    if not path.exists():
        if any(out.glob("checkpoint-*")):
            raise InputError(f"{out} holds checkpoints of another program; choose another --out")
        write_json(path, now)
        return
    before = read_json(path)
    before = before if isinstance(before, dict) else {}
    changed = [key for key in now if before.get(key) != now[key]]
    # sharded checkpoints and whole ones are files of different kinds
    fixed = {"fsdp"} if checkpoints.last_complete(out) else set()
    if not all(str(judge).startswith("http") for judge in (before.get("judge"), now["judge"])):
        fixed |= {"judge"}  # another server may serve the same judge, another name is another judge
    if refused := [key for key in changed if key not in RESUMABLE - fixed]:
        raise InputError(
            f"{out} holds a run with other settings ({', '.join(refused)}); choose another --out, or remove it"
        )
    if changed:
        write_json(path, now)


def _digest(problems: Sequence[Problem]) -> str:
    """Of all that training reads of the problems, in their order."""
    digest = hashlib.sha256()
    for problem in problems:
        images = [hashlib.sha256(image).hexdigest() for image in problem.images]
        read = [problem.id, problem.problem, problem.answer, problem.visual_key_info, images]
        digest.update(json.dumps(read).encode())
    return digest.hexdigest()


@contextmanager
def _memory_levers() -> Iterator[None]:
    """An out-of-memory as one error that names what can be lowered."""
    try:
        yield
    except (JudgeFailed, Diverged):
        raise  # whatever their texts say: a judge's server may be what ran out of memory
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            if "allocate memory" not in str(error) and "out of memory" not in str(error).lower():
                raise
        raise InputError(
            f"out of memory ({' '.join(str(error).split())[:120]}); the same command with lower "
            "per_device_train_batch_size or vllm_gpu_memory_utilization, with gradient_checkpointing or vllm_sleep, "
            "or with more processes goes on from the last checkpoint; other levers (max_completion_length, "
            "max_pixels, lora_rank) need a new --out"
        ) from error


# --- command line ----------------------------------------------------------------------------------


def main(arguments: Iterable[str] | None = None) -> int:
    """Train as asked; 0: done, 2: bad input, 3: the judge or the gradient failed, 143: stopped by a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m perception_r1.training.train", allow_abbrev=False,
        description="Train a policy with GRPO and the rewards of the paper; see the module's text.",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a profile")
    parser.add_argument("--data", required=True, help="Parquet file, folder or hub name")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--held-out", default="", help="problems to answer every eval_steps")
    parser.add_argument("--admission", type=Path, metavar="FILE", help="of the judge (notebook 03)")
    parser.add_argument("--unadmitted", action="store_true", help="any judge will do: to study it")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what a run would lack, and stop"
    )
    for name, field in TrainSettings.model_fields.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=field.description)
    given = vars(parser.parse_args(None if arguments is None else list(arguments)))
    changes = {k: given[k] for k in TrainSettings.model_fields if given[k] is not None}
    try:
        settings = read_settings(given["config"], **changes)
        if given["dry_run"]:
            from perception_r1.training.dry_run import dry_run  # which imports this module

            more = [text for k, v in changes.items() for text in (f"--{k}", v)]
            more += ["--held-out", given["held_out"]] if given["held_out"] else []
            more += ["--admission", str(given["admission"])] if given["admission"] else []
            more += ["--unadmitted"] if given["unadmitted"] else []
            return dry_run(
                settings, given["config"], given["data"], given["out"], *more,
                held_out=given["held_out"],
            )  # fmt: skip
        held_out = load_problems(given["held_out"]) if given["held_out"] else ()
        done = train(
            settings, load_problems(given["data"]), given["out"], held_out=held_out,
            admission=given["admission"], unadmitted=given["unadmitted"],
        )  # fmt: skip
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (JudgeFailed, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    if done is None:
        print(f"stopped after a whole step; the same command goes on from there ({given['out']})")
        return 143
    print(f"done: {done}")
    return 0


if __name__ == "__main__":
    # As the process ends, a million objects of torch and transformers need not be looked through: it takes a second.
    atexit.register(gc.freeze)
    sys.exit(main())
