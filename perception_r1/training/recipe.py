"""The paper's hyperparameters beside ours, in one table. Explained in notebook 04."""

from pathlib import Path

import pandas as pd

from perception_r1.common import checkpoints
from perception_r1.common.settings import TrainSettings, batch_plan
from perception_r1.evidence import paper
from perception_r1.training.train import ARMS, grpo_config

SCRIPT = "R run script"
OPTIMISERS = {"adamw_torch_fused": "AdamW", "adamw_torch": "AdamW"}
AVERAGES = {
    "bnpo": "over all tokens of a backward pass", "dapo": "over all tokens of a step",
    "grpo": "over each response, then over responses", "dr_grpo": "over the longest length",
}  # fmt: skip
ADVANTAGES = {"group": "(r - mean) / unbiased std of the group"}
SMALLER = "smaller, for one GPU"


def recipe(settings: TrainSettings) -> pd.DataFrame:
    """Every hyperparameter of the paper beside ours, which is read from the `GRPOConfig` that TRL builds.

    Returns:
        Columns: item; paper and its source tag; name, TRL's where TRL has the thing; ours; same, whether the two
        values are equal; note, which says why where they are not, and what an equal value leaves open.
    """
    config = grpo_config(settings, Path("unused"), use_cpu=True)
    weights = ARMS[settings.arm]
    constants = paper.published("constants").set_index("name")
    # As many processes as the settings say, however many this program was started with.
    responses = config.generation_batch_size // config.world_size * settings.processes
    optimiser = str(getattr(config.optim, "value", config.optim))

    def row(item, value, source, name, ours, note="", why=""):
        """`note` stands in any case, `why` where ours differs."""
        same = value == ours
        said = "; ".join(text for text in ("" if same else why, note) if text)
        return item, value, source, name, ours, same, said

    def known(constant: str) -> tuple[object, str]:
        value = float(constants.loc[constant, "value"])
        source = constants.loc[constant, "source"]
        return int(value) if value.is_integer() else value, source

    rows = [
        row("policy", "Qwen/Qwen2.5-VL-7B-Instruct", f"{SCRIPT}:17", "model", settings.model, why=SMALLER),
        row("trained", "all weights, vision tower included", f"{SCRIPT}:17; R default_config.yaml", "peft_config",
            "adapters" if settings.lora_rank else "all weights, vision tower included",
            why=f"LoRA of rank {settings.lora_rank}, for one GPU"),
        row("sharding", "FSDP", f"{SCRIPT}:17; R actor/config.py", "fsdp_version 2, of accelerate",
            "FSDP" if settings.fsdp else "none", why="one process has nothing to share",
            note="version 2, since transformers drops 1; stored in float32, computed in bfloat16"),
        row("group size G", *known("group_size"), "num_generations", config.num_generations),
        row("temperature", *known("temperature"), "temperature", config.temperature),
        row("top_p", 1, f"{SCRIPT}:59-62; R default_config.yaml", "top_p", config.top_p),
        row("tensor parallel of vLLM", 4, f"{SCRIPT}:59-62", "vllm_tensor_parallel_size",
            config.vllm_tensor_parallel_size, why="one GPU has nothing to share"),
        row("memory of vLLM", 0.7, f"{SCRIPT}:59-62", "vllm_gpu_memory_utilization",
            config.vllm_gpu_memory_utilization, why="beside the trainer's own weights",
            note=f"given back during the update (vllm_enable_sleep_mode): {config.vllm_enable_sleep_mode}"),
        row("prompts a step", *known("batch_prompts"), "generation_batch_size / num_generations",
            responses // config.num_generations, why=SMALLER),
        row("responses a step", 1024, f"C; {SCRIPT}:24-30", "generation_batch_size, over all processes", responses,
            why=SMALLER),
        row("optimiser steps a batch of rollouts", 1, f"C; {SCRIPT}:24-30; R fsdp_workers.py:130-131",
            "steps_per_generation / gradient_accumulation_steps x num_iterations",
            config.steps_per_generation // config.gradient_accumulation_steps * config.num_iterations,
            note="so the PPO ratio is 1, and clipping is inert"),
        row("responses in a backward pass", 8, f"{SCRIPT}:24-30", "per_device_train_batch_size",
            config.per_device_train_batch_size, why=SMALLER),
        row("backward passes a step", 16, f"C; {SCRIPT}:24-30", "gradient_accumulation_steps",
            config.gradient_accumulation_steps, why="follows from the batches"),
        row("responses in a pass for old probabilities", 16, f"{SCRIPT}:24-30", "per_device_train_batch_size",
            config.per_device_train_batch_size, why="TRL has one size for both; speed and memory alone depend on it",
            note="TRL makes this pass for the correction below alone: the PPO ratio is 1 without it"),
        row("optimiser", "AdamW", f"{SCRIPT}:54-56", "optim", OPTIMISERS.get(optimiser, optimiser)),
        row("learning rate", *known("learning_rate"), "learning_rate", config.learning_rate,
            why="adapters start at 0 and take larger steps; not tuned"),
        row("betas", (0.9, 0.999), "R fsdp_workers.py:284-305", "adam_beta1, adam_beta2",
            (config.adam_beta1, config.adam_beta2)),
        row("weight decay", *known("weight_decay"), "weight_decay", config.weight_decay,
            why="would pull adapters back to the base"),
        row("warm-up steps", 13, f"C; {SCRIPT}:54-56", "warmup_steps", config.warmup_steps,
            note="0.05 of 275; transformers 5 has no warmup_ratio"),
        row("rate after warm-up", "constant", f"{SCRIPT}:54-56", "lr_scheduler_type",
            str(config.lr_scheduler_type.value).removesuffix("_with_warmup")),
        row("gradient norm", *known("max_grad_norm"), "max_grad_norm", config.max_grad_norm),
        row("steps", *known("steps"), "max_steps", config.max_steps,
            note="25 epochs of 1442 // 128 = 11 there; fewer epochs with fewer prompts a step"),
        row("responses in all", 281_600, "C", "max_steps x responses a step", batch_plan(settings).rollouts,
            why="follows from the batches", note="as many judge calls"),
        row("clip, low", *known("clip_low"), "epsilon", config.epsilon, note="inert, see above"),
        row("clip, high", *known("clip_high"), "epsilon_high", config.epsilon_high,
            note="above the low one by EasyR1's default, not by the script; inert, see above"),
        row("dual clip", 3, "R actor/config.py:75-77", "delta", config.delta,
            why="TRL's delta bounds the same term and is left out; inert, see above"),
        row("weight of the KL term", *known("kl_coefficient"), "beta", config.beta,
            note="off in the script; the paper's Eq. 3 has a KL term [S2, secondary]; no reference model is loaded"),
        row("average of the loss", AVERAGES["bnpo"], "R core_algos.py:349; R dp_actor.py:255-278",
            f"loss_type {config.loss_type}", AVERAGES[config.loss_type], why="another loss_type was chosen",
            note="Eq. 3 averages over each response [S2, secondary], which is loss_type grpo"),
        row("advantage", ADVANTAGES["group"], "R core_algos.py:158-172", "scale_rewards",
            ADVANTAGES.get(config.scale_rewards, config.scale_rewards), note="std + 1e-6 there, + 1e-4 in TRL"),
        row("prompt tokens", *known("max_prompt_tokens"), "none: longer ones are left out of the data",
            settings.max_prompt_length, why=SMALLER),
        row("response tokens", *known("max_response_tokens"), "max_completion_length",
            config.max_completion_length, why=SMALLER),
        row("pixels at least", *known("min_pixels"), "none: the processor's", settings.min_pixels),
        row("pixels at most", *known("max_pixels"), "none: the processor's", settings.max_pixels, why=SMALLER),
        row("validation every", 5, f"{SCRIPT}:36,68-69", "eval_steps", int(config.eval_steps or 0),
            why="off: the validation file is not in the authors' repository; set eval_steps with --held-out"),
        row("checkpoint every", 10, f"{SCRIPT}:36,68-69", "save_steps", int(config.save_steps), why="fewer",
            note=f"whole ones only, the last {checkpoints.KEPT} are kept"),
        row("seed", *known("seed"), "seed", config.seed),
        row("training GPUs", 8, "R README.md", "processes", settings.processes, why="one GPU"),
        row("judge", "Qwen/Qwen2.5-32B-Instruct-AWQ", f"R examples/vllm_qwen_serve.sh; {SCRIPT}:10", "judge_model",
            settings.judge_model, note="4-bit (AWQ) in the scripts; the paper's text names Qwen2.5-32B-IT [S1, S2, "
            "secondary]; our question to the judge is another one (notebook 03)"),
        *(row(f"weight of {part}", *known(constant), "reward_weights", weights.get(part, 0.0),
              why=f"arm {settings.arm}")
          for part, constant in (("format", "alpha"), ("accuracy", "beta"), ("perception", "gamma"))),
        row("weight of repetition", 1, "R custom.py:128-144", "reward_weights", weights.get("repetition", 0.0),
            why=f"arm {settings.arm}", note=f"counted in {settings.repetition}"),
        row("correction for vLLM's rounding", "not known to us", "none", "vllm_importance_sampling_correction",
            config.vllm_importance_sampling_correction,
            why=f"TRL's default: {config.vllm_importance_sampling_mode}, at most "
            f"{config.vllm_importance_sampling_clip_max}; leaves out a response to which vLLM and the trainer give "
            "too different probabilities"),
    ]  # fmt: skip
    columns = ["item", "paper", "source", "name", "ours", "same", "note"]
    return pd.DataFrame(rows, columns=columns, dtype=object)
