"""Policies, and how they are trained: data, arms, TRL's trainer, imitation, and the way to GPUs. Notebook 04."""

import lazy_loader

PUBLIC = {
    "arms": ["ARMS", "reward_functions"],
    "configuration": ["grpo_config"],
    "data": ["training_rows"],
    "generation": ["generate"],
    "launch": ["read_logs", "run_together"],
    "policy": ["load_policy", "save_policy"],
    "scale": ["launch_command", "recipe_table"],
    "trainer": ["PerceptionGRPOTrainer"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
