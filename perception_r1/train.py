"""GRPO with TRL, and what its trainer must do with a reward that could not be given. Explained in notebooks 03 and 04.

TRL books a single missing reward as 0, which punishes a response for its judge's failure; it leaves out exactly
the rows in which all rewards are missing. So the one thing added here: a row that misses a reward for a fault
that the response did not cause loses its other rewards, too. (With the losses "dapo" and "bnpo" the tokens of
such a row still count in the denominator.)
"""

import json
import math
from collections import deque
from pathlib import Path

import torch
from accelerate.utils import gather
from trl import GRPOTrainer

from perception_r1.calibration import Admission
from perception_r1.errors import InputError
from perception_r1.files import cannot_write, write_json
from perception_r1.judge import Judge
from perception_r1.problems import DatasetError, read_annotations
from perception_r1.rewards import PerceptionReward, completion_text, describe

FAILURE_WINDOW = 5  # steps over which the judge's failures are counted


class JudgeFailed(RuntimeError):
    """Too many verdicts failed for training to go on."""


class PerceptionGRPOTrainer(GRPOTrainer):
    """TRL's trainer, with an admitted judge, which leaves out responses whose judge failed.

    Args:
        admission: of the perception reward's judge (`calibration.admit`).
        unadmitted: train with a judge that is not admitted, to study what it does.
        max_failure_rate: of verdicts, over the last `FAILURE_WINDOW` training steps, above which training stops.
        completions_path: JSON lines of completions with their rewards and verdict; the judge's card is
            written beside it as `judge.json`. None for neither.
        completions_per_step: how many of each step's are written, the first ones of the first process.
        more: everything else is `GRPOTrainer`'s. Its `reward_funcs` must hold at most one `PerceptionReward`.

    Raises:
        InputError: no admission, or of another judge; two perception rewards; malformed annotations.
        JudgeFailed: (while training) the judge fails too often; the message says how and what to do.
    """

    def __init__(
        self, *args: object, admission: Admission | None = None, unadmitted: bool = False,
        max_failure_rate: float = 0.2, completions_path: Path | None = None,
        completions_per_step: int = 8, **more: object,
    ):  # fmt: skip
        super().__init__(*args, **more)
        found = [k for k, f in enumerate(self.reward_funcs) if isinstance(f, PerceptionReward)]
        if len(found) > 1:
            raise InputError("two perception rewards; give one, with one judge")
        self._perception = found[0] if found and self.reward_weights[found[0]] != 0 else None
        self._max_failure_rate = max_failure_rate
        self._recent: deque[tuple[int, int]] = deque(maxlen=FAILURE_WINDOW)
        self._completions_path, self._completions_per_step = completions_path, completions_per_step
        if self._perception is not None:
            self._check_annotations()
            if not unadmitted:
                self._check_admission(admission)
            if completions_path:
                card = admission.card if admission else self._judge.card()
                write_json(completions_path.with_name("judge.json"), dict(card))

    @property
    def _judge(self) -> Judge:
        return self.reward_funcs[self._perception].judge

    def _check_admission(self, admission: Admission | None) -> None:
        if admission is None or admission.judge != self._judge.name:
            whose = f"that of {admission.judge!r}" if admission else "none"
            raise InputError(
                f"training with the judge {self._judge.name!r} needs its admission, and {whose} was given; measure "
                "it (calibration.calibrate, calibration.admit), or say unadmitted=True to study it all the same"
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

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Rewards of all processes, shape (responses, functions); faulty rows are nan throughout."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        missing = torch.isnan(rewards)
        missing[:, self.reward_weights == 0] = False  # what has no weight takes nothing away
        if self._perception is not None:
            bare = [not row.get("visual_key_info") for row in inputs]
            bare = gather(torch.tensor(bare, device=rewards.device))
            missing[bare, self._perception] = (
                False  # its whole group has no annotations: train on the rest
            )
            if self.model.training:
                self._stop_if_judge_fails(missing[~bare, self._perception])
        faulty = missing.any(dim=1)
        if self.model.training and self._completions_path and self.accelerator.is_main_process:
            self._write_completions(inputs, completions, rewards.tolist(), faulty.tolist())
        rewards[faulty] = torch.nan
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

    def _write_completions(
        self, inputs: list[dict], completions: list, rewards: list[list[float]], faulty: list[bool]
    ) -> None:
        """Append the first completions of this step; the main process's rows are the first of all."""
        verdicts: list = [None] * len(inputs)
        for function in self.reward_funcs:
            if isinstance(function, PerceptionReward):
                verdicts = function.verdicts
        lines = []
        for k in range(min(self._completions_per_step, len(inputs))):
            values = [None if math.isnan(value) else round(value, 6) for value in rewards[k]]
            line = {
                "step": self.state.global_step, "id": inputs[k].get("id"),
                "completion": completion_text(completions[k]),
                "rewards": dict(zip(self.reward_func_names, values, strict=True)),
                "verdict": describe(verdicts[k]), "left_out": faulty[k],
            }  # fmt: skip
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        try:
            with self._completions_path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise InputError(cannot_write(self._completions_path, error)) from error
