"""What the arms of the experiment pay for, and who judges: rewards, weights and judges from settings. Notebook 04."""

import asyncio
from pathlib import Path

from perception_r1.common.errors import InputError
from perception_r1.common.settings import LOCAL_JUDGES, Arm, TrainSettings
from perception_r1.reward.calibration import calibrate
from perception_r1.reward.gguf_server import gguf_file
from perception_r1.reward.judge_admission import JudgeAdmission, admit
from perception_r1.reward.judges import ExactJudge, Judge, LazyJudge, LossyJudge, NoisyJudge
from perception_r1.reward.labelled_pairs import world_pairs
from perception_r1.reward.llm_judge import LLMJudge
from perception_r1.reward.rewards import (
    WEIGHTS,
    PerceptionReward,
    accuracy_reward,
    format_reward,
    repetition_penalty,
    token_repetition_penalty,
)
from perception_r1.reward.tuned_judge import TunedJudge
from perception_r1.world import WorldConfig, make_problems

JUDGE_PROBLEMS = 80  # of the world, to measure a judge

# They differ in nothing else. "sft" pays for nothing: it imitates (see `sft`).
ANSWERS = {"format": WEIGHTS["format"], "accuracy": WEIGHTS["accuracy"]}
SIGHT = {"perception": WEIGHTS["perception"]}
LOOPS = {"repetition": WEIGHTS["repetition"]}
ARMS: dict[Arm, dict[str, float]] = {
    "accuracy_only": ANSWERS,
    "perception": ANSWERS | SIGHT | LOOPS,
    "perception_no_repetition": ANSWERS | SIGHT,
    "repetition_only": ANSWERS | LOOPS,
    "sft": {},
}


def reward_functions(settings: TrainSettings, judge: Judge | None) -> tuple[list, list[float]]:
    """The rewards of an arm with their weights. What an arm does not pay for is logged where it costs nothing."""
    weights = dict(ARMS[settings.arm])
    if "perception" in weights:
        weights["perception"] = settings.perception_weight
    repetition = token_repetition_penalty if settings.repetition == "tokens" else repetition_penalty
    functions = {
        "format": format_reward,
        "accuracy": accuracy_reward,
        "repetition": repetition,
    }
    if judge is not None:
        lost = 0.0 if settings.lost_verdicts == "zero" else None
        functions["perception"] = PerceptionReward(judge, settings.mode, lost, settings.soft)
    return list(functions.values()), [weights.get(name, 0.0) for name in functions]


def make_judge(settings: TrainSettings, cache: Path | None = None) -> Judge | None:
    """The judge of the settings; None where it would cost calls and nothing is paid for it."""
    if "perception" not in ARMS[settings.arm] and settings.judge not in LOCAL_JUDGES:
        return None
    contradictions = settings.mode == "contradiction_aware"
    local = {"exact": ExactJudge(), "presence": ExactJudge(False), "lazy": LazyJudge()}
    if settings.judge in local:
        judge = local[settings.judge]
    elif settings.judge == "tuned":
        judge = TunedJudge(gguf_file(settings.judge_model), contradictions=contradictions)
    else:
        judge = LLMJudge(
            settings.judge, settings.judge_model, cache=cache, contradictions=contradictions, ask=settings.judge_ask,
            threshold=settings.judge_threshold, step_deadline=settings.judge_deadline,
        )  # fmt: skip
    if settings.judge_flip:
        judge = NoisyJudge(judge, settings.judge_flip, settings.seed, per_call=True)
    return LossyJudge(judge, settings.judge_lost, settings.seed) if settings.judge_lost else judge


def admission_of(judge: Judge) -> JudgeAdmission:
    """A judge's admission, measured now on the world's own sentences.

    Raises:
        InputError: the judge gives no verdict.
    """
    pairs = world_pairs(make_problems(JUDGE_PROBLEMS, WorldConfig(seed=1), "dev"))
    verdict = asyncio.run(judge.judge([pairs[0].response], [[pairs[0].annotation]]))[0]
    if verdict.marks is None:
        raise InputError(
            f"the judge {judge.name!r} gives no verdict ({verdict.failure}); is it up?"
        )
    return admit(asyncio.run(calibrate(judge, pairs, "own")))
