"""Tiny training runs for the tests: a fresh miniature, five problems, four steps."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from perception_r1.__main__ import main
from perception_r1.annotation import pipeline
from perception_r1.problems import write_problems
from perception_r1.training.policy import new_miniature, save_policy
from perception_r1.world import make_problems, map_world

TABLE = {
    "dtype": "float32", "prompts_per_step": 2, "num_generations": 4, "max_prompt_length": 128,
    "max_completion_length": 24, "max_steps": 4, "per_device_train_batch_size": 4,
    "learning_rate": 1e-3, "lr_scheduler_type": "linear", "save_steps": 2, "seed": 7,
}  # fmt: skip


def make_place(folder: Path) -> Path:
    """A miniature on disk, five annotated problems (so that four steps need two epochs), settings."""
    save_policy(*new_miniature(0), folder / "model")
    made = make_problems(5, map_world(seed=100), "train")
    write_problems(pipeline.annotate_by_reading(made), folder / "data.parquet")
    table = {"model": str(folder / "model"), **TABLE}
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    (folder / "config.toml").write_text(f"[train]\n{text}\n")
    return folder


def arguments(place: Path, out: Path, **changes: object) -> list[str]:
    """Of the command `train`."""
    given = {"config": place / "config.toml", "data": place / "data.parquet", "out": out} | changes
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


def run(place: Path, out: Path, **changes: object) -> int:
    """One run in this process; its exit status."""
    return main(["train", *arguments(place, out, **changes)])


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of a run's policy."""
    return load_file(out / "policy" / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether weights are equal bit by bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def lines(path: Path) -> list[dict]:
    """Of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
