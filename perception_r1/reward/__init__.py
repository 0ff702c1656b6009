"""Judges, how good they are, and the rewards paid for what they say. Notebook 03."""

import lazy_loader

PUBLIC = {
    "judge_server": ["JudgeServer"],
    "judges": ["ExactJudge", "Verdict"],
    "llm_judge": ["LLMJudge"],
    "tuned_judge": ["TunedJudge"],
    "rewards": [
        "PerceptionReward",
        "accuracy_reward",
        "format_reward",
        "format_reward_lenient",
        "repetition_penalty",
    ],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
