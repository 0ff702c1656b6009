"""The speed of a training step, as a ratio measured side by side in one run; by hand:  python -m tests.benchmark

No test: a busy machine makes it slow, and nobody should have to guess by how much. It prints what was measured, the
ratio, and the bound that the project set itself.
"""

import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from transformers import TrainerCallback
from trl import GRPOTrainer

from perception_r1.annotation.pipeline import annotate_by_reading
from perception_r1.common.profiles import FOLDER
from perception_r1.common.settings import read_settings
from perception_r1.training.configuration import grpo_config
from perception_r1.training.data import schedule, training_rows
from perception_r1.training.policy import load_policy
from perception_r1.training.progress import LOG
from perception_r1.training.train import train
from perception_r1.world import make_problems, map_world

BOUND = 1.05


def alone(measure, *arguments) -> object:
    """What `measure` gives in a fresh and silent process with one thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_one_thread) as pool:
        return pool.submit(measure, *arguments).result()


def _one_thread() -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")


def laptop(steps: int):
    """The laptop profile's settings for a few steps, and problems to train on."""
    values = {"arm": "perception", "max_steps": steps, "warmup_steps": 1}
    settings = read_settings(FOLDER / "laptop.toml", **values, save_steps=steps, seed=11)
    made = make_problems(256, map_world(shortcut=0.5), "train")
    return settings, annotate_by_reading(made)


def our_step(steps: int) -> float:
    """Seconds of a step of our trainer, without the first ones, which warm up."""
    settings, problems = laptop(steps)
    with tempfile.TemporaryDirectory() as folder:
        train(settings, problems, Path(folder), unadmitted=True)
        return pd.read_csv(Path(folder) / LOG)["seconds"][2:].median()


class Steps(TrainerCallback):
    """When each step ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


def bare_trl(steps: int) -> float:
    """Seconds of a step of TRL's trainer with a reward that costs nothing, on the same questions."""
    settings, problems = laptop(steps)
    model, processor = load_policy("miniature")
    rows = training_rows(problems, settings, processor)[0]
    order = schedule(len(rows), settings.prompts_per_step, steps, settings.seed)
    clock = Steps()
    with tempfile.TemporaryDirectory() as folder:
        # reward 1 for every other completion: a group without spread would have no gradient
        GRPOTrainer(
            model=model, args=grpo_config(settings, Path(folder), save_strategy="no"),
            reward_funcs=lambda completions, **_: [float(k % 2) for k in range(len(completions))],
            train_dataset=rows.select(order), processing_class=processor, callbacks=[clock],
        ).train()  # fmt: skip
    return statistics.median(end - start for start, end in itertools.pairwise(clock.ends[1:]))


def grpo_step() -> None:
    """A step of the laptop profile, one core: against TRL's own trainer with a reward that costs nothing, in turn."""
    print(grpo_step.__doc__, flush=True)
    turns = [(alone(our_step, 8), alone(bare_trl, 8)) for _ in range(3)]
    ours, theirs = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    verdict = "ok" if ours / theirs <= BOUND else "MISSED"
    print(f"{ours:.2f} s / {theirs:.2f} s = {ours / theirs:.2f} (at most {BOUND}) {verdict}")


if __name__ == "__main__":
    grpo_step()
