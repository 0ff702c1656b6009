"""The judging language model: tunes SmolLM2-135M on labelled statements, fits its threshold, and keeps the adapter.

    python data/judges/make.py GGUF [--out DIR]

GGUF is the file of SmolLM2-135M-Instruct (Q4_1). The extra "llm" must be installed. Two cores take 14 to 34 minutes.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

import peft
import torch
from tqdm import trange

from perception_r1.common import provenance
from perception_r1.common.files import sha256, write_json
from perception_r1.reward.calibration import calibrate, fit_threshold
from perception_r1.reward.judges import MARKS
from perception_r1.reward.labelled_pairs import foreign_pairs, world_pairs
from perception_r1.reward.labelled_statements import STYLES_TO_LEARN, Statement, statements
from perception_r1.reward.tuned_judge import ADAPTER, MarkReader, TunedJudge, question
from perception_r1.world import WorldConfig, make_problems

SEED = 0
RECIPE = {"problems": 800, "examples": 7200, "batch": 16, "rate": 5e-4}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": 0.0}


def tune(reader: MarkReader, examples: list[Statement], batch: int, rate: float) -> list[dict]:
    """Train an adapter on each example once; `reader.model` becomes a PEFT model.

    Returns:
        The log: step, seconds, and the mean loss since the last row.
    """
    reader.model = peft.get_peft_model(reader.model, peft.LoraConfig(**LORA))
    weights = [w for w in reader.model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    steps = len(examples) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear"
    )
    log, losses, start = [], [], time.monotonic()
    for step in trange(steps):
        shown = examples[step * batch : (step + 1) * batch]
        scores = reader.scores([question(e.annotation, e.sentence) for e in shown])
        labels = torch.tensor([MARKS.index(e.label) for e in shown])
        loss = torch.nn.functional.cross_entropy(scores, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 20 == 0 or step + 1 == steps:
            seconds, mean = round(time.monotonic() - start), sum(losses) / len(losses)
            log.append({"step": step + 1, "seconds": seconds, "loss": round(mean, 4)})
            losses = []
    return log


def main(arguments: list[str]) -> int:
    """Tune the judge, and write adapter and `card.json` into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--out", type=Path, default=ADAPTER, metavar="DIR")
    given = parser.parse_args(arguments)
    torch.manual_seed(SEED)
    world = make_problems(RECIPE["problems"], WorldConfig(seed=SEED), "train")
    learnt = statements(world, STYLES_TO_LEARN, SEED)
    learnt = random.Random(SEED).sample(learnt, RECIPE["examples"])
    reader = MarkReader(given.gguf)
    log = tune(reader, learnt, RECIPE["batch"], RECIPE["rate"])
    reader.model.half().save_pretrained(given.out)
    card = {
        "model": "SmolLM2-135M-Instruct (Apache-2.0), Q4_1",
        "gguf": sha256(given.gguf),
        "lora": LORA,
        "recipe": RECIPE,
        "seed": SEED,
        "styles": STYLES_TO_LEARN,
        "threshold": 0.5,
        "log": log,
        "created": provenance.now(),
        "threads": torch.get_num_threads(),
        **provenance.origin(("torch", "transformers", "peft", "gguf")),
    }
    write_json(given.out / "card.json", card)
    dev = make_problems(RECIPE["problems"] // 5, WorldConfig(seed=SEED), "dev")
    pairs = world_pairs(dev, SEED) + foreign_pairs(dev, STYLES_TO_LEARN, SEED)
    judge = TunedJudge(given.gguf, given.out, contradictions=False)
    calibration = asyncio.run(calibrate(judge, pairs, "dev", twice=1))
    card["threshold"] = fit_threshold(calibration)
    card["threshold fitted on"] = calibration.card["pairs hash"]
    write_json(given.out / "card.json", card)
    print(f"{given.out}: threshold {card['threshold']:.3f}; {log[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
