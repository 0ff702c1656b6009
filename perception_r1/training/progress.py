"""What is seen of a training run while it goes, and how it is stopped: TRL calls this at each step. Notebook 04."""

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from perception_r1.common import checkpoints, provenance

LOG, COMPLETIONS = "grpo_log.csv", "completions.jsonl"
# Set in the environment of a run that shall end when the process that started it is gone (see `launch`).
WATCHED = "PERCEPTION_R1_WATCHED"
# Our name of a reward's column in the log, where it is not the reward's first word.
SHORT = {"PerceptionReward": "perception", "token_repetition_penalty": "repetition"}
REWARDS = ("format_reward", "accuracy_reward", "repetition_penalty", "PerceptionReward")
SHOWN = ("reward", "format", "accuracy", "perception", "length", "seconds")


def append_row(path: Path, row: dict[str, object]) -> None:
    """Append a row to a CSV log; the first row brings the header."""
    fresh = not path.exists() or not path.stat().st_size
    checkpoints.append(path, pd.DataFrame([row]).to_csv(index=False, header=fresh))


class Progress(TrainerCallback):
    """Writes one row of `LOG` a step, with its seconds; ends training between two steps; keeps the random states.

    Args:
        folder: of the log; None: no log.
        rewards: names of the reward functions, in their order.
    """

    def __init__(self, folder: Path | None, rewards: Sequence[str]):
        self.stopped = False  # by a signal, or since nobody watches any more
        self.measured: dict[str, float] = {}  # of the step's rewards; the trainer fills it
        self._folder, self._rewards = folder, rewards
        self._asked, self._parent = False, os.getppid()

    # --- stopping, and going on --------------------------------------------------------------------

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end training after the step that is under way, with a checkpoint."""

        def ask(*_: object) -> None:
            self._asked = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _orphaned(self) -> bool:
        """Whether a kill -9 took the process that started this one, which then cannot pass a signal on."""
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun's worker
            return os.getppid() != self._parent
        return WATCHED in os.environ and os.getppid() != int(os.environ[WATCHED])

    def restore_random_states(self) -> None:
        """Put back the random states of the end of the last whole step."""
        python, numpy, cpu, gpus = self._states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(gpus)

    # --- what TRL calls ----------------------------------------------------------------------------

    def on_step_begin(self, *_, **__) -> None:
        """What comes before, saving, belongs to no step."""
        self._begin = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, _: object, control: TrainerControl, **__
    ) -> None:
        """The weights are updated: stop here if any process has to."""
        self._seconds = time.perf_counter() - self._begin
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._states = random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus
        stop = torch.tensor(self._asked or self._orphaned(), device=args.device)
        if gather(stop).any():  # all must stop at the same step
            self.stopped = control.should_training_stop = True
            control.should_save = args.save_strategy != "no"

    def on_log(self, args: object, state: TrainerState, control: object, logs: dict, **_) -> None:
        """Write the step's row."""
        if "grad_norm" in logs and self._folder is not None and state.is_world_process_zero:
            row = self._row(state.global_step, logs)
            append_row(self._folder / LOG, row)
            shown = "  ".join(f"{n} {row[n]:.3g}" for n in SHOWN if row.get(n) is not None)
            print(f"step {row['step']}/{state.max_steps}  {shown}", flush=True)

    def _row(self, step: int, logs: dict[str, float]) -> dict[str, object]:
        """Rewards, groups, text, optimiser, time, memory; what a trainer has no such thing of stays empty."""
        row = {"step": step, "reward": logs.get("reward"), "reward_std": logs.get("reward_std")}
        for name in self._rewards:
            short = SHORT.get(name, name.split("_")[0])
            row[short] = logs.get(f"rewards/{name}/mean")
            row[f"{short}_std"] = logs.get(f"rewards/{name}/std")
        row |= {
            "zero_variance_groups": logs.get("frac_reward_zero_std"),
            "left_out": self.measured.get("left_out"),
            "entropy": logs.get("entropy") if self.measured else None,  # of sampled tokens alone
            "clipped_ratio": logs.get("completions/clipped_ratio"),
            "length": logs.get("completions/mean_length"),
            "loss": float(logs["loss"]),
            "grad_norm": float(logs["grad_norm"]),
            "learning_rate": logs["learning_rate"],
        }
        row = {key: value if value is None else round(value, 8) for key, value in row.items()}
        return row | {"seconds": round(self._seconds, 4), "peak_memory_mb": peak_device_memory_mb()}


def peak_device_memory_mb() -> float:
    """Of the device that trains: the GPU's if there is one, else the process's."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return provenance.peak_memory_mb()
