"""Train a policy with GRPO: settings, a dataset, a judge, and TRL (contract C7). Explained in notebook 04.

    python -m perception_r1 train --config FILE --data FILE [--split train] --out DIR [--key value ...]

plain, under `torchrun`, or under `accelerate launch`. FILE is a profile (its table `[train]`); every field of
`settings.TrainSettings` is a key. The same command again goes on from the last whole checkpoint. DIR gets
`grpo_log.csv` (a row a step), `completions.jsonl`, `judge.json`, `settings.json`,
checkpoints, and at the end `policy/`. Settings that only make a run fit (`RESUMABLE`) may differ then.
"""

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import ProcessorMixin, Trainer

from perception_r1.common import checkpoints
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import alone, read_json, write_json
from perception_r1.common.settings import TrainSettings, read_settings
from perception_r1.problems import Problem, load_problems
from perception_r1.training.arms import ARMS, admission_of, make_judge, reward_functions
from perception_r1.training.configuration import adapter_config, grpo_config
from perception_r1.training.data import digest, schedule, training_rows
from perception_r1.training.policy import load_policy, weights_digest
from perception_r1.training.scale import dry_run, launch_command, require_memory
from perception_r1.training.sft import examples, sft_trainer
from perception_r1.training.trainer import Diverged, JudgeFailed, PerceptionGRPOTrainer

POLICY = "policy"  # the folder of the trained policy in the run's folder
RESUMABLE = {  # settings that a run may go on with changed: they decide where and how it fits, not what is learnt
    "per_device_train_batch_size", "gradient_checkpointing", "vllm_gpu_memory_utilization", "vllm_sleep", "judge",
    "judge_model", "judge_deadline", "max_failure_rate", "processes",
}  # fmt: skip


def train(
    settings: TrainSettings,
    problems: Sequence[Problem],
    out: Path,
    *,
    unadmitted: bool = False,
) -> Path | None:
    """Train, or go on with a run that was stopped; see the module for what `out` gets.

    Args:
        settings: see `settings.TrainSettings`.
        problems: to learn from; of their columns only what training may know is read.
        out: the run's folder.
        unadmitted: train with any judge, to study it; else it is measured first (`arms.admission_of`).

    Returns:
        The folder of the trained policy, or None if a signal stopped training on the way.

    Raises:
        InputError: what was given cannot be used, the disk is full, or memory did not suffice.
        JudgeFailed: the judge died; a checkpoint of the last whole step was saved.
        trainer.Diverged: the gradient is not a number.
    """
    _check_machine(settings)
    annotated = any(problem.visual_key_info for problem in problems)
    if "perception" in ARMS[settings.arm] and not annotated:
        raise InputError(
            f"the arm {settings.arm} pays for perception, and none of {len(problems)} problems is annotated; give "
            "the dataset that notebook 02 writes"
        )
    busy = f"another run trains in {out}; wait for it, stop it, or choose another --out"
    with alone(out, busy) if _first_process() else nullcontext():
        _same_settings(settings, problems, out)
        try:
            if settings.arm == "sft":
                return _run(*_imitating(settings, problems, out), out)
            return _run(*_reinforcing(settings, problems, out, unadmitted), out)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise InputError(
                f"out of memory ({' '.join(str(error).split())[:120]}); the same command with lower "
                "per_device_train_batch_size or vllm_gpu_memory_utilization, with gradient_checkpointing or "
                "vllm_sleep, or with more processes goes on from the last checkpoint; other levers "
                "(max_completion_length, max_pixels, lora_rank) need a new --out"
            ) from error


def _reinforcing(
    settings: TrainSettings, problems: Sequence[Problem], out: Path, unadmitted: bool
) -> tuple[Trainer, ProcessorMixin]:
    """GRPO with the arm's rewards."""
    judge = make_judge(settings, out / "judge.sqlite")
    if "perception" in ARMS[settings.arm]:
        admitted = None if unadmitted else admission_of(judge)
        if admitted:
            admitted.require()
        if _first_process():
            write_json(out / "judge.json", dict(admitted.card if admitted else judge.card()))
    functions, weights = reward_functions(settings, judge)
    # before the weights: transformers then lets the first process alone load them under FSDP
    config = grpo_config(settings, out, reward_weights=weights, disable_tqdm=True)
    model, processor = _load(settings)
    rows, long = training_rows(problems, settings, processor)
    if long and _first_process():
        print(f"left out, longer than {settings.max_prompt_length} tokens: {some(long)}")
    order = schedule(len(rows), settings.prompts_per_step, settings.max_steps, settings.seed)
    trainer = PerceptionGRPOTrainer(
        model=model,
        reward_funcs=functions,
        args=config,
        processing_class=processor,
        train_dataset=rows.select(order),
        peft_config=adapter_config(settings),
        max_failure_rate=settings.max_failure_rate,
        logs=out,
    )
    return trainer, processor


def _imitating(
    settings: TrainSettings, problems: Sequence[Problem], out: Path
) -> tuple[Trainer, ProcessorMixin]:
    """Supervised fine-tuning instead of rewards, on the same problems in the same order."""
    model, processor = _load(settings)
    rows = examples(problems, processor)
    order = schedule(len(rows), settings.prompts_per_step, settings.max_steps, settings.seed)
    return sft_trainer(settings, model, processor, rows.select(order), out), processor


def _run(trainer: Trainer, processor: ProcessorMixin, out: Path) -> Path | None:
    """Train from the last whole checkpoint, if there is one, to the end; None if a signal came before it."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and not trainer.is_fsdp_enabled:
        raise InputError(
            "accelerate shards over GPUs alone, and on CPUs starts whole copies without a word; give --fsdp false, and "
            "start them with torchrun"
        )
    last = checkpoints.last_complete(out)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        checkpoints.remove_incomplete(out)
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        print(f"trains {trained:,} of {trainer.model.num_parameters():,} parameters")
        print(f"going on from step {last[0]}" if last else "from the beginning", flush=True)
    trainer.accelerator.wait_for_everyone()
    try:
        with trainer.progress.stop_on_signals():
            trainer.train(resume_from_checkpoint=str(last[1]) if last else None)
    except JudgeFailed:
        trainer.save_now()
        raise
    return None if trainer.progress.stopped else _save_policy(trainer, processor, out)


def _load(settings: TrainSettings):
    return load_policy(
        settings.model,
        dtype=settings.dtype,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )


def _first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _check_machine(settings: TrainSettings) -> None:
    """Refuse what this machine or this way to start cannot do, before anything is loaded."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    unsharded = settings.fsdp and os.environ.get("ACCELERATE_USE_FSDP") != "true"
    if started != settings.processes or unsharded:
        how = f"{settings.processes} processes{', sharded,' if settings.fsdp else ''}"
        raise InputError(
            f"the settings say {how} and {started} were started; start them with: "
            f"{shlex.join(launch_command(settings, ['...']))} (accelerate launch --cpu starts a single one)"
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
    if _first_process():
        require_memory(settings)


def _save_policy(trainer: Trainer, processor: ProcessorMixin, out: Path) -> Path:
    """The trained policy as one folder, whole or not at all; every process has a share in it."""
    folder = out / POLICY
    if not trainer.accelerator.is_main_process:
        trainer.save_model(str(folder))  # gives its part to the main process, and writes nothing
    else:
        with checkpoints.whole_folder(folder) as part:
            trainer.save_model(str(part))
            processor.save_pretrained(part)
            (part / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to a reader
    trainer.accelerator.wait_for_everyone()
    return folder


def _same_settings(settings: TrainSettings, problems: Sequence[Problem], out: Path) -> None:
    """Keep settings, data and base weights beside the run; refuse to go on with others (but see `RESUMABLE`)."""
    if not _first_process():
        return
    path = out / "settings.json"
    now = settings.model_dump(mode="json")
    now |= {"data": digest(problems), "model_sha256": weights_digest(settings.model)}
    if not path.exists() and any(out.glob("checkpoint-*")):
        raise InputError(f"{out} holds checkpoints of another program; choose another --out")
    before = read_json(path) if path.exists() else now
    changed = {key for key in now if before.get(key) != now[key]}
    # another server may serve the same judge, another name is another judge
    served = all(str(judge).startswith("http") for judge in (before.get("judge"), now["judge"]))
    free = RESUMABLE if served else RESUMABLE - {"judge"}
    if refused := [key for key in now if key in changed - free]:
        raise InputError(
            f"{out} holds a run with other settings ({', '.join(refused)}); choose another --out, or remove it"
        )
    if changed or not path.exists():
        write_json(path, now)


def main(arguments: list[str]) -> int:
    """Train as asked; 0: done, 1: a dry run found something missing, 3: the judge or the gradient failed, 143: stopped.

    Raises:
        InputError: see `train`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m perception_r1 train", allow_abbrev=False, description=__doc__
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a profile")
    parser.add_argument("--data", required=True, help="Parquet file, folder or hub name")
    parser.add_argument("--split", help="of the data, to learn from; else all of it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--unadmitted", action="store_true", help="any judge will do: to study it")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what a run would lack, and stop"
    )
    for name, field in TrainSettings.model_fields.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=field.description)
    given = parser.parse_args(arguments)
    changes = {
        k: v for k, v in vars(given).items() if k in TrainSettings.model_fields and v is not None
    }
    settings = read_settings(given.config, **changes)
    if given.dry_run:
        again = [argument for argument in arguments if argument != "--dry-run"]
        return dry_run(settings, again, given.data, given.split)
    problems = load_problems(given.data, given.split, unusable="drop")
    try:
        done = train(settings, problems, given.out, unadmitted=given.unadmitted)
    except (JudgeFailed, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    if done is None:
        print(f"stopped after a whole step; give the same command again to go on ({given.out})")
        return 143
    print(f"done: {done}")
    return 0
