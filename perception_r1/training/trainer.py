"""GRPO with TRL's trainer, which here also says what it does. Explained in notebooks 03 and 04.

What is added to TRL's `GRPOTrainer`, and nothing else:

- A row that misses a reward for a fault that the response did not cause loses its other rewards, too. TRL
  books a single missing reward as 0, which punishes a response for its judge's failure; it leaves out exactly
  the rows in which all rewards are missing. (With the losses "dapo" and "bnpo" the tokens of such a row
  still count in the denominator.)
- Training stops when the judge fails too often. (That it is admitted `train` sees to.)
- Logs (`progress`): one row a step, and some completions of each step.
- A gradient that is not a number stops training before the weights take it.
- Whole checkpoints only (`checkpoints`).
"""

import json
import math
from collections import deque
from pathlib import Path

import torch
from accelerate.utils import gather
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PrinterCallback
from trl import GRPOTrainer

from perception_r1.common import checkpoints
from perception_r1.reward.rewards import PerceptionReward, completion_text, describe
from perception_r1.training.progress import COMPLETIONS, Progress

FAILURE_WINDOW = 5  # steps over which the judge's failures are counted
COMPLETIONS_PER_STEP = 8  # that are written, the first ones of the first process


class JudgeFailed(RuntimeError):
    """Too many verdicts failed for training to go on."""


class Diverged(RuntimeError):
    """The loss or its gradient is not a number."""


class PerceptionGRPOTrainer(GRPOTrainer):
    """TRL's trainer, which leaves out responses whose judge failed.

    Args:
        max_failure_rate: of verdicts, over the last `FAILURE_WINDOW` training steps, above which training stops.
        logs: folder for `LOG` (a row a step) and `COMPLETIONS`; None for neither.
        more: everything else is `GRPOTrainer`'s. Its `reward_funcs` must hold at most one `PerceptionReward`.

    Raises:
        JudgeFailed: (while training) the judge fails too often; the message says how and what to do.
        Diverged: (while training) the gradient is not a number; the weights are those of the step before.
    """

    def __init__(
        self,
        *args: object,
        max_failure_rate: float = 0.2,
        logs: Path | None = None,
        **more: object,
    ):
        super().__init__(*args, **more)
        if (
            self.args.device.type == "cpu"
        ):  # under torchrun "cpu:0", to which torch loads no optimiser
            self.args.__dict__["_setup_devices"] = torch.device("cpu")
        fsdp = getattr(self.accelerator.state, "fsdp_plugin", None)
        if fsdp is not None and self.args.bf16:
            # accelerate would round log-probabilities to bfloat16, and sum gradients over GPUs in it
            fsdp.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None
            )
        self._perception: PerceptionReward | None = None
        self._paid: int | None = None  # its column among the rewards, if it has a weight
        for k, function in enumerate(self.reward_funcs):
            if isinstance(function, PerceptionReward):
                self._perception = function
                self._paid = k if self.reward_weights[k] != 0 else None
        self._max_failure_rate = max_failure_rate
        self._recent: deque[tuple[int, int]] = deque(maxlen=FAILURE_WINDOW)
        self._log_folder = logs
        self.progress = Progress(logs, self.reward_func_names)
        self.add_callback(self.progress)
        self.remove_callback(PrinterCallback)  # `progress` says it in one line

    # --- rewards -----------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Rewards of all processes, shape (responses, functions); faulty rows are nan throughout."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        missing = torch.isnan(rewards)
        missing[:, self.reward_weights == 0] = False  # what has no weight takes nothing away
        if self._paid is not None:
            bare = [not row.get("visual_key_info") for row in inputs]
            bare = gather(torch.tensor(bare, device=rewards.device))
            missing[bare, self._paid] = False  # a group without annotations trains on the rest
            self._stop_if_judge_fails(missing[~bare, self._paid])
        faulty = missing.any(dim=1)
        self._write_responses(inputs, completions, rewards.tolist(), faulty.tolist())
        rewards[faulty] = torch.nan
        self.progress.measured = {"left_out": int(faulty.sum())}
        return rewards

    def _stop_if_judge_fails(self, failed: torch.Tensor) -> None:
        """Count on gathered rewards, so that every process comes to the same decision."""
        self._recent.append((int(failed.sum()), failed.numel()))
        failures, verdicts = (sum(column) for column in zip(*self._recent, strict=True))
        if verdicts and failures / verdicts > self._max_failure_rate:
            last = [v for v in self._perception.verdicts if v and v.failure and not v.by_response]
            reason = f": {last[0].failure}" if last else ""
            raise JudgeFailed(
                f"{failures} of the last {verdicts} verdicts failed, more than {self._max_failure_rate:.0%}"
                f"{reason}; mend the judge, then go on from the last checkpoint"
            )

    def _write_responses(
        self, inputs: list[dict], completions: list, rewards: list[list[float]], faulty: list[bool]
    ) -> None:
        """The first completions of the step that they will make."""
        if self._log_folder is None or not self.accelerator.is_main_process:
            return
        verdicts = (self._perception and self._perception.verdicts) or [None] * len(inputs)
        lines = []
        for k in range(min(COMPLETIONS_PER_STEP, len(inputs))):
            values = [None if math.isnan(v) else round(v, 6) for v in rewards[k]]
            line = {"step": self.state.global_step + 1, "place": k, "id": inputs[k].get("id")}
            line["completion"] = completion_text(completions[k])
            line["rewards"] = dict(zip(self.reward_func_names, values, strict=True))
            line |= {"verdict": describe(verdicts[k]), "left_out": faulty[k]}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        checkpoints.append(self._log_folder / COMPLETIONS, "".join(lines))

    # --- safety ------------------------------------------------------------------------------------

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm of the gradient, which is the same on every process; not a number: stop."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(float(norm)):
            raise Diverged(
                f"the gradient of step {self.state.global_step + 1} is not a number; the last checkpoint is unharmed: "
                f"lower learning_rate, or use dtype float32, and look at this step's rows of {COMPLETIONS}"
            )
        return norm

    def _save_checkpoint(self, model, trial):
        """transformers' checkpoint, marked when every process has written its part."""
        out, step = Path(self.args.output_dir), self.state.global_step
        with checkpoints.saving(out / f"checkpoint-{step}"):
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
        out, step = Path(self.args.output_dir), self.state.global_step
        last = checkpoints.last_complete(out)
        if step and (last is None or last[0] < step):
            self.progress.restore_random_states()
            self.model.zero_grad()
            self._save_checkpoint(self.model, trial=None)
