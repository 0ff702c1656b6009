"""GRPO with TRL's trainer, which here also says what it does. Explained in notebooks 03 and 04.

What is added to TRL's `GRPOTrainer`, and nothing else:

- A row that misses a reward for a fault that the response did not cause loses its other rewards, too. TRL
  books a single missing reward as 0, which punishes a response for its judge's failure; it leaves out exactly
  the rows in which all rewards are missing. (With the losses "dapo" and "bnpo" the tokens of such a row
  still count in the denominator.)
- The judge must be admitted, and training stops when it fails too often.
- Logs: one row a step, some completions of each step, and the responses to held-out problems.
- Images and prompts that a batch holds more than once are decoded and computed once (`once`).
- A gradient that is not a number stops training before the weights take it.
- Whole checkpoints only (`checkpoints`), and a stop on SIGTERM between two steps.
"""

import csv
import functools
import io
import json
import math
import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from datasets import Image
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import (
    PrinterCallback,
    Qwen2_5_VLForConditionalGeneration,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import nanstd

from perception_r1.common import checkpoints, provenance
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import cannot_write, write_json
from perception_r1.problems.schema import DatasetError, read_annotations
from perception_r1.reward.judge_admission import JudgeAdmission
from perception_r1.reward.judges import Judge
from perception_r1.reward.rewards import PerceptionReward, completion_text, describe
from perception_r1.training.shared_prompts import ReadEachPromptOnce, see_each_image_once

FAILURE_WINDOW = 5  # steps over which the judge's failures are counted
WATCHED = (
    "PERCEPTION_R1_WATCHED"  # in the environment: the process without which this one shall end
)
LOG, COMPLETIONS, HELD_OUT = "grpo_log.csv", "completions.jsonl", "held_out.jsonl"


class JudgeFailed(RuntimeError):
    """Too many verdicts failed for training to go on."""


class Diverged(RuntimeError):
    """The loss or its gradient is not a number."""


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Whatever goes wrong while weights are written is one error."""
    try:
        yield
    except Exception as error:  # OSError, or what torch and safetensors make of one
        what = error if isinstance(error, OSError) else OSError(str(error))
        raise InputError(
            f"{cannot_write(folder, what)} (free space, or another --out); the last whole checkpoint is unharmed"
        ) from error


class PerceptionGRPOTrainer(GRPOTrainer):
    """TRL's trainer, with an admitted judge, which leaves out responses whose judge failed.

    Args:
        admission: of the perception reward's judge (`judge_admission.admit`).
        unadmitted: train with a judge that is not admitted, to study what it does.
        max_failure_rate: of verdicts, over the last `FAILURE_WINDOW` training steps, above which training stops.
        logs: folder for `LOG` (a row a step), `COMPLETIONS`, `HELD_OUT` and the judge's card `judge.json`;
            None for none of them.
        completions_per_step: how many of each step's are written, the first ones of the first process.
        more: everything else is `GRPOTrainer`'s. Its `reward_funcs` must hold at most one `PerceptionReward`.

    Raises:
        InputError: no admission, or of another judge; two perception rewards; malformed annotations.
        JudgeFailed: (while training) the judge fails too often; the message says how and what to do.
        Diverged: (while training) the gradient is not a number; the weights are those of the step before.
    """

    def __init__(
        self, *args: object, admission: JudgeAdmission | None = None, unadmitted: bool = False,
        max_failure_rate: float = 0.2, logs: Path | None = None, completions_per_step: int = 8,
        **more: object,
    ):  # fmt: skip
        super().__init__(*args, **more)
        self._full_precision_under_fsdp()
        policy = getattr(self.model, "get_base_model", lambda: self.model)()  # without its adapter
        see_each_image_once(policy)
        self._prompts = None
        if self._keeps_states and isinstance(policy, Qwen2_5_VLForConditionalGeneration):
            self._prompts = ReadEachPromptOnce(policy)
        found = [k for k, f in enumerate(self.reward_funcs) if isinstance(f, PerceptionReward)]
        if len(found) > 1:
            raise InputError("two perception rewards; give one, with one judge")
        self._perception = found[0] if found and self.reward_weights[found[0]] != 0 else None
        self._max_failure_rate = max_failure_rate
        self._recent: deque[tuple[int, int]] = deque(maxlen=FAILURE_WINDOW)
        self._log_folder, self._completions_per_step = logs, completions_per_step
        self._answered: Counter[tuple[int, str]] = Counter()
        self._clock = _Clock(self)
        self.add_callback(self._clock)
        self.remove_callback(PrinterCallback)  # `log` says it in one line
        if self._perception is not None:
            self._check_annotations()
            if not unadmitted:
                self._check_admission(admission)
            if logs and self.accelerator.is_main_process:
                card = admission.card if admission else self._judge.card()
                write_json(logs / "judge.json", dict(card))

    def _full_precision_under_fsdp(self) -> None:
        """accelerate would round log-probabilities to bfloat16, and sum gradients over GPUs in it."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and self.args.bf16:
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None
            )

    @property
    def _keeps_states(self) -> bool:
        """Whether the states of a forward pass stay whole and on this device until the backward pass."""
        fsdp = getattr(self.accelerator.state, "fsdp_plugin", None)
        return fsdp is None and not self.args.gradient_checkpointing

    @property
    def _judge(self) -> Judge:
        return self.reward_funcs[self._perception].judge

    def _check_admission(self, admission: JudgeAdmission | None) -> None:
        if admission is None or admission.judge != self._judge.name:
            whose = f"that of {admission.judge!r}" if admission else "none"
            raise InputError(
                f"training with the judge {self._judge.name!r} needs its admission, and {whose} was given; measure "
                "it (calibration.calibrate, judge_admission.admit), or say unadmitted=True to study it all the same"
            )
        admission.require()

    def _check_annotations(self) -> None:
        rows = self.train_dataset
        if "visual_key_info" not in rows.column_names:
            raise InputError("the dataset has no column visual_key_info; annotate it (notebook 02)")
        for row, tagged in enumerate(rows["visual_key_info"]):
            try:
                read_annotations(tagged) if tagged else []
            except DatasetError as error:
                raise DatasetError(error.what, error.remedy, row, "visual_key_info") from error

    # --- rewards -----------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Rewards of all processes, shape (responses, functions); faulty rows are nan throughout."""
        with self._clock.measure("rewards"):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            missing = torch.isnan(rewards)
            missing[:, self.reward_weights == 0] = False  # what has no weight takes nothing away
            if self._perception is not None:
                bare = [not row.get("visual_key_info") for row in inputs]
                bare = gather(torch.tensor(bare, device=rewards.device))
                # a group without annotations trains on the rest
                missing[bare, self._perception] = False
                if self.model.training:
                    self._stop_if_judge_fails(missing[~bare, self._perception])
            faulty = missing.any(dim=1)
            self._write_responses(inputs, completions, rewards.tolist(), faulty.tolist())
            rewards[faulty] = torch.nan
            if self.model.training:
                self._note_rewards(inputs, rewards, faulty)
        return rewards

    def _stop_if_judge_fails(self, failed: torch.Tensor) -> None:
        """Count on gathered rewards, so that every process comes to the same decision."""
        self._recent.append((int(failed.sum()), failed.numel()))
        failures, asked = (sum(column) for column in zip(*self._recent, strict=True))
        if asked and failures / asked > self._max_failure_rate:
            verdicts = self.reward_funcs[self._perception].verdicts
            reason = next(
                (v.failure for v in verdicts if v and v.failure and not v.by_response), ""
            )
            raise JudgeFailed(
                f"{failures} of the last {asked} verdicts failed, more than {self._max_failure_rate:.0%}"
                f"{': ' + reason if reason else ''}; mend the judge, then go on from the last checkpoint"
            )

    def _note_rewards(
        self, inputs: list[dict], rewards: torch.Tensor, faulty: torch.Tensor
    ) -> None:
        """Keep what the step's row says beside TRL's own figures."""
        self._batch_ids = [row.get("id") for row in inputs[:: self.num_generations]]
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        total[faulty] = torch.nan
        self._noted = {
            "group_std": nanstd(total.view(-1, self.num_generations), dim=1).nanmean().item(),
            "left_out": int(faulty.sum()),
            "rollouts": len(rewards),
        }
        for k, name in enumerate(self.reward_func_names):
            if "repetition" in name:
                self._noted["repeated"] = (rewards[:, k] < 0).float().mean().item()

    def _write_responses(
        self, inputs: list[dict], completions: list, rewards: list[list[float]], faulty: list[bool]
    ) -> None:
        """While training the first completions of a step, while evaluating all responses."""
        if self._log_folder is None:
            return
        training = self.model.training
        verdicts: list = [None] * len(inputs)
        for function in self.reward_funcs:
            if isinstance(function, PerceptionReward) and function.verdicts:
                verdicts = function.verdicts
        step = self.state.global_step + training  # the step that these completions will make
        shown = min(self._completions_per_step, len(inputs)) if training else len(inputs)
        first = 0 if training else self.accelerator.process_index * len(inputs)
        lines = []
        for k in range(shown):
            values = [None if math.isnan(v) else round(v, 6) for v in rewards[first + k]]
            lines.append({
                "step": step, "id": inputs[k].get("id"),
                "completion": completion_text(completions[k]),
                "rewards": dict(zip(self.reward_func_names, values, strict=True)),
                "verdict": describe(verdicts[k]), "left_out": faulty[first + k],
            })  # fmt: skip
        if not training:
            lines = self._first_answers(gather_object(lines))
        if self.accelerator.is_main_process:
            path = self._log_folder / (COMPLETIONS if training else HELD_OUT)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            checkpoints.append(path, text)

    def _first_answers(self, lines: list[dict]) -> list[dict]:
        """Without the repetitions by which accelerate fills the last batch when several processes share it."""
        first = []
        for line in lines:
            asked = line["step"], line["id"]
            self._answered[asked] += 1
            if self._answered[asked] <= self.num_generations_eval:
                first.append(line)
        return first

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """TRL's, which samples; here without a trace in the random state, so that looking on changes nothing."""
        states = _random_states()
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            _set_random_states(states)

    def _compute_loss(self, model, inputs):
        """TRL's, with the backbone told where completions begin."""
        begin = inputs["prompt_ids"].shape[1]
        with self._prompts.up_to(begin) if self._prompts else nullcontext():
            return super()._compute_loss(model, inputs)

    # --- the log -----------------------------------------------------------------------------------

    def _generate(self, prompts):
        """TRL's rollouts, timed."""
        with self._clock.measure("generation"):
            return super()._generate(prompts)

    def _generate_and_score_completions(self, inputs):
        """TRL's, with each image decoded once, however many rows show it (see `train.without_decoding`)."""

        @functools.cache
        def decode(data: bytes | None, path: str | None):
            return Image().decode_example({"bytes": data, "path": path})

        rows = [dict(row) for row in inputs]
        for row in rows:
            if isinstance((row.get("images") or [None])[0], dict):  # not decoded yet
                row["images"] = [decode(image["bytes"], image["path"]) for image in row["images"]]
        return super()._generate_and_score_completions(rows)

    def _prepare_inputs(self, generation_batch):
        """TRL's rollouts, rewards and advantages, timed."""
        with self._clock.measure("prepare"):
            return super()._prepare_inputs(generation_batch)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """TRL's step, timed."""
        with self._clock.measure("training_step"):
            return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log, and one row of `LOG` for each training step."""
        step = "grad_norm" in logs
        super().log(logs, start_time)
        if step and self._log_folder is not None and self.accelerator.is_main_process:
            row = self._row(logs)
            path, text = self._log_folder / LOG, io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
            if not path.exists() or not path.stat().st_size:
                writer.writeheader()
            writer.writerow(row)
            checkpoints.append(path, text.getvalue())
            shown = ("reward", "format", "accuracy", "perception", "length", "seconds")
            said = "  ".join(f"{n} {row[n]:.3g}" for n in shown if row.get(n) is not None)
            print(f"step {row['step']}/{self.state.max_steps}  {said}", flush=True)
        self._clock.restart()

    def _row(self, logs: dict[str, float]) -> dict[str, object]:
        """One step: rewards, groups, text, optimiser, time, memory."""
        row = {
            "step": self.state.global_step,
            "reward": logs["reward"],
            "reward_std": logs["reward_std"],
        }
        for name in self.reward_func_names:
            short = "perception" if name == PerceptionReward.__name__ else name.split("_")[0]
            if name == "token_repetition_penalty":
                short = "repetition"
            row[short] = logs[f"rewards/{name}/mean"]
            row[f"{short}_std"] = logs[f"rewards/{name}/std"]
        row |= {
            "group_std": self._noted["group_std"],
            "zero_variance_groups": logs["frac_reward_zero_std"],
            "repeated": self._noted.get("repeated", math.nan),
            "left_out": self._noted["left_out"], "rollouts": self._noted["rollouts"],
            "entropy": logs["entropy"],
            "clipped_ratio": logs["completions/clipped_ratio"],
            "length": logs["completions/mean_length"],
            "loss": logs["loss"], "grad_norm": float(logs["grad_norm"]),
            "learning_rate": logs["learning_rate"],
        }  # fmt: skip
        row = {k: round(v, 8) if isinstance(v, float) else v for k, v in row.items()}
        return (
            row
            | {k: round(v, 4) for k, v in self._clock.seconds().items()}
            | {"peak_memory_mb": _peak_memory_mb()}
        )

    # --- safety ------------------------------------------------------------------------------------

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm of the gradient, which is the same on every process; not a number: stop."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(float(norm)):
            asked = set(gather_object(self._batch_ids))  # every process comes here
            raise Diverged(
                f"the gradient of step {self.state.global_step + 1} is not a number (problems "
                f"{some(asked, 8)}); the last checkpoint is unharmed: lower learning_rate, or use "
                "dtype float32, and look at these problems' completions"
            )
        return norm

    def _save_checkpoint(self, model, trial):
        """transformers' checkpoint, marked when every process has written its part."""
        out, step = Path(self.args.output_dir), self.state.global_step
        with saving(checkpoints.folder_of(out, step)):
            if self.accelerator.is_main_process:
                checkpoints.unmark(out, step)
        self.accelerator.wait_for_everyone()
        with saving(checkpoints.folder_of(out, step)):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            checkpoints.mark_complete(out, step)

    def create_model_card(self, *args: object, **more: object) -> None:
        """None: TRL would look up the base model's licence on the hub at every save."""

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """The weights of a checkpoint, by the loader that knows their names.

        transformers saves Qwen2.5-VL under the hub's names, and here would read them under the model's own: it finds
        none, warns, and trains on from the base (huggingface/transformers#43701, open for 5.17).
        """
        model = model or self.model
        if self.is_fsdp_enabled or getattr(model, "peft_config", None):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = type(model).from_pretrained(
            resume_from_checkpoint, dtype=model.dtype, use_safetensors=True
        )
        model.load_state_dict(saved.state_dict())  # strict: every weight, or an error

    def save_now(self) -> None:
        """Save a checkpoint as of the end of the last whole step, after a step that failed on the way."""
        if checkpoints.is_complete(Path(self.args.output_dir), self.state.global_step):
            return  # saved at the end of that step; writing it again could only harm it
        self._clock.rewind()
        self.model.zero_grad()
        self._save_checkpoint(self.model, trial=None)

    @contextmanager
    def stops_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end training after the step that is under way, with a checkpoint."""
        wanted = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._clock.request_stop) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def stopped(self) -> bool:
        """Whether a signal ended training."""
        return self._clock.stop


class _Clock(TrainerCallback):
    """Seconds by phase; the random state at the start of each step; whether a signal asked to stop.

    "generation" holds templates, image processing and sampling; "update" forward, backward and optimiser;
    "other" is what is left of a step: padding, processing images again for the update, logs.
    """

    def __init__(self, trainer: PerceptionGRPOTrainer):
        self.trainer, self.stop, self._asked = trainer, False, False
        self._parent = os.getppid()
        self._spent: dict[str, float] = {}
        self._begin = time.perf_counter()
        self._states: tuple | None = None

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[phase] = self._spent.get(phase, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        spent = self._spent
        update = spent.get("training_step", 0) - spent.get("prepare", 0) + spent.get("optimiser", 0)
        parts = {
            "seconds_generation": spent.get("generation", 0.0),
            "seconds_rewards": spent.get("rewards", 0.0), "seconds_update": update,
        }  # fmt: skip
        whole = spent.get("step", 0.0)
        return {"seconds": whole, **parts, "seconds_other": whole - sum(parts.values())}

    def _orphaned(self) -> bool:
        """Whether a kill -9 took the launcher, which then cannot pass a signal on."""
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun's worker
            return os.getppid() != self._parent
        return WATCHED in os.environ and os.getppid() != int(os.environ[WATCHED])

    def request_stop(self, *_: object) -> None:
        self._asked = True

    def rewind(self) -> None:
        """Put back the random states of the start of the step."""
        _set_random_states(self._states)

    def restart(self) -> None:
        """The next step begins now."""
        self._spent, self._begin = {}, time.perf_counter()

    def on_train_begin(
        self, args: GRPOConfig, state: TrainerState, *_: object, **__: object
    ) -> None:
        state.save_steps = args.save_steps  # a checkpoint brings the ones it was saved with
        self.restart()

    def on_step_begin(self, *_: object, **__: object) -> None:
        self._states = _random_states()

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        self._optimiser = time.perf_counter()

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        self._spent["optimiser"] = time.perf_counter() - self._optimiser

    def on_step_end(
        self, args: object, state: object, control: TrainerControl, **_: object
    ) -> None:
        self._spent["step"] = time.perf_counter() - self._begin
        asked = torch.tensor(
            self._asked or self._orphaned(), device=self.trainer.accelerator.device
        )
        if gather(asked).any():  # on any process: all must stop at the same step
            self.stop = control.should_save = control.should_training_stop = True

    def on_evaluate(self, *_: object, **__: object) -> None:
        self.restart()

    def on_save(self, *_: object, **__: object) -> None:
        self.restart()


def _random_states() -> tuple:
    """Of all sources of randomness that a step uses."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_states(states: tuple) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def _peak_memory_mb() -> float:
    """Of the device that trains: the GPU's if there is one, else the process's."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return provenance.peak_memory_mb()
