"""The judging language model: tunes SmolLM2-135M on labelled statements, fits its threshold, and keeps the adapter.

    python data/judges/make.py GGUF [--out DIR] [--quick]

GGUF is the file of SmolLM2-135M-Instruct (Q4_1). The extra "llm" must be installed. Ten minutes on two cores.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

import peft
import torch
from tqdm import tqdm

from perception_r1.common import provenance
from perception_r1.common.files import sha256, write_json
from perception_r1.reward.calibration import calibrate, fit_threshold
from perception_r1.reward.judges import MARKS
from perception_r1.reward.labelled_pairs import foreign_pairs, world_pairs
from perception_r1.reward.labelled_statements import STYLES_TO_LEARN, Statement, statements
from perception_r1.reward.tuned_judge import ADAPTER, MarkReader, TunedJudge, question
from perception_r1.world import WorldConfig, make_problems

SEED = 0
RECIPE = {"problems": 800, "examples": 7200, "batch": 16, "rate": 5e-4, "held out": 400}
QUICK = RECIPE | {"problems": 20, "examples": 32, "held out": 32}  # it only has to run
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": 0.0}


def tune(reader: MarkReader, examples: list[Statement], held_out: list[Statement]) -> list[dict]:
    """Train an adapter on each example once; `reader.model` becomes a PEFT model.

    Returns:
        The log: step, seconds, mean loss since the last row, accuracy on held-out statements at the end.
    """
    reader.model = peft.get_peft_model(reader.model, peft.LoraConfig(**LORA))
    weights = [w for w in reader.model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RECIPE["rate"], weight_decay=0.0)
    steps = len(examples) // RECIPE["batch"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RECIPE["rate"], total_steps=steps, pct_start=0.1, anneal_strategy="linear"
    )
    log, losses, start = [], [], time.monotonic()
    for step in tqdm(range(1, steps + 1)):
        batch = examples[(step - 1) * RECIPE["batch"] : step * RECIPE["batch"]]
        loss = torch.nn.functional.cross_entropy(*_scores_and_labels(reader, batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0 or step == steps:
            seconds, mean = round(time.monotonic() - start), sum(losses) / len(losses)
            log.append({"step": step, "seconds": seconds, "loss": round(mean, 4)})
            losses = []
    reader.model.eval()
    with torch.inference_mode():
        right = 0
        for start in range(0, len(held_out), 32):
            scores, labels = _scores_and_labels(reader, held_out[start : start + 32])
            right += int((scores.argmax(-1) == labels).sum())
    log[-1]["accuracy"] = right / len(held_out)
    return log


def _scores_and_labels(
    reader: MarkReader, examples: list[Statement]
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = reader.scores([question(e.annotation, e.sentence) for e in examples])
    return scores, torch.tensor([MARKS.index(e.label) for e in examples])


def main(arguments: list[str]) -> int:
    """Tune the judge, and write adapter and `card.json` into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--out", type=Path, default=ADAPTER, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    given = parser.parse_args(arguments)
    recipe = QUICK if given.quick else RECIPE
    torch.manual_seed(SEED)
    world, dev = (
        make_problems(count, WorldConfig(seed=SEED), split)
        for count, split in ((recipe["problems"], "train"), (recipe["problems"] // 5, "dev"))
    )
    rng = random.Random(SEED)
    learnt = rng.sample(statements(world, STYLES_TO_LEARN, SEED), recipe["examples"])
    held_out = rng.sample(statements(dev, STYLES_TO_LEARN, SEED), recipe["held out"])
    reader = MarkReader(given.gguf)
    log = tune(reader, learnt, held_out)
    reader.model.half().save_pretrained(given.out)
    card = {
        "model": "SmolLM2-135M-Instruct (Apache-2.0), Q4_1",
        "gguf": sha256(given.gguf),
        "lora": LORA,
        "recipe": recipe,
        "seed": SEED,
        "styles": STYLES_TO_LEARN,
        "threshold": 0.5,
        "log": log,
        "created": provenance.now(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "threads": torch.get_num_threads(),
        "versions": provenance.versions(("torch", "transformers", "peft", "gguf")),
    }
    write_json(given.out / "card.json", card)
    pairs = world_pairs(dev, SEED) + foreign_pairs(dev, STYLES_TO_LEARN, SEED)
    judge = TunedJudge(given.gguf, given.out, contradictions=False)
    calibration = asyncio.run(calibrate(judge, pairs, "dev", twice=1))
    card |= {
        "threshold": fit_threshold(calibration),
        "threshold fitted on": calibration.card["pairs hash"],
    }
    write_json(given.out / "card.json", card)
    print(f"{given.out}: threshold {card['threshold']:.3f}; {log[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
