"""Speed, as ratios measured side by side in one run; by hand:  python -m tests.benchmark [name ...]

Not tests: a busy machine makes them slow, and nobody should have to guess by how much. Each prints what was
measured, the ratio, and the bound that the project set itself.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from transformers import TrainerCallback
from trl import GRPOTrainer

from perception_r1.annotation.pipeline import annotate_by_reading
from perception_r1.common.profiles import FOLDER
from perception_r1.common.settings import read_settings
from perception_r1.reward import rewards
from perception_r1.reward.judge_prompt import JudgePrompt
from perception_r1.reward.judge_server import JudgeServer
from perception_r1.reward.llm_judge import LLMJudge
from perception_r1.training.configuration import grpo_config
from perception_r1.training.data import schedule, training_rows
from perception_r1.training.policy import load_policy
from perception_r1.training.progress import LOG
from perception_r1.training.train import train
from perception_r1.world import make_problems, map_world

N, SLOTS = 1024, 64
ANNOTATIONS = [f"The length of segment AB is {k}." for k in range(1, 6)]
TEXTS = [f"Response {k}: the length of segment AB is {k}." for k in range(N)]
WANTED = [ANNOTATIONS[: 3 + k // 8 % 3] for k in range(N)]  # groups of 8 share their annotations


def report(name: str, measured: float, base: float, bound: float, note: str = "") -> None:
    """One line: seconds, ratio and bound."""
    ratio = measured / base
    verdict = "ok" if ratio <= bound else "MISSED"
    print(
        f"  {name}: {measured:.2f} s / {base:.2f} s = {ratio:.2f} (at most {bound:g}) {verdict} {note}"
    )


def _serve(pipe, delay: float, failing: float) -> None:
    """A process that answers every question after `delay` seconds; some fail with HTTP 500 at first."""
    logging.disable(logging.CRITICAL)
    seen: set[str] = set()

    async def answer(messages: list[dict]) -> str:
        question = JudgePrompt.parse(messages)
        await asyncio.sleep(delay)
        if hash(question.response) % 1000 < 1000 * failing and question.response not in seen:
            seen.add(question.response)
            raise RuntimeError("planned")
        marks = ["stated"] * len(question.annotations)
        return question.write(marks)

    with JudgeServer(answer, model="stub") as server:
        pipe.send(server.url)
        pipe.recv()


@contextlib.contextmanager
def stub(delay: float, failing: float = 0.0):
    """URL of a stub server in a process of its own, so that it does not take the client's time."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, delay, failing), daemon=True
    )
    process.start()
    yield ours.recv()
    ours.send("stop")
    process.join()


def timed(coroutine) -> tuple[float, object]:
    """Seconds and result of a coroutine."""
    start = time.perf_counter()
    result = asyncio.run(coroutine)
    return time.perf_counter() - start, result


def judge_latency() -> None:
    """1,024 completions at 1 s latency: the floor is 16 s; with 1% of calls failing; with a warm cache."""
    floor = N / SLOTS * 1.0
    with stub(1.0) as url, tempfile.TemporaryDirectory() as folder:
        settings = {"concurrency": SLOTS, "cache": Path(folder) / "answers.sqlite"}
        cold, verdicts = timed(LLMJudge(url, "stub", **settings).judge(TEXTS, WANTED))
        assert all(v.marks for v in verdicts)
        report("cold, against the latency floor", cold, floor, 1.10)
        warm, again = timed(LLMJudge(url, "stub", **settings).judge(TEXTS, WANTED))
        assert again == verdicts
        report("warm cache, against cold", warm, cold, 0.03)
    with stub(1.0, failing=0.01) as url:
        failing, verdicts = timed(LLMJudge(url, "stub", concurrency=SLOTS).judge(TEXTS, WANTED))
        lost = sum(v.marks is None for v in verdicts)
        note = f"({lost} of {N} without verdict)"
        report("1% of calls fail, against the floor", failing, floor, 1.3, note)


def grading() -> None:
    """100 answers: through `pebble`'s workers, which a hostile one cannot stop, against math-verify in this process."""
    from math_verify import parse, verify

    answers = [rf"\frac{{{k}}}{{\sqrt{{3}}}}" for k in range(1, 101)]
    gold = [rf"\frac{{{k}\sqrt{{3}}}}{{3}}" for k in range(1, 101)]
    texts = [rf"<answer>\boxed{{{answer}}}</answer>" for answer in answers]
    rewards.accuracy_reward(texts[:2], answer=gold[:2])  # starts the workers
    start = time.perf_counter()
    inline = [verify(parse(f"${g}$"), parse(f"${a}$")) for g, a in zip(gold, answers, strict=True)]
    middle = time.perf_counter()
    graded = rewards.accuracy_reward(texts, answer=gold)
    end = time.perf_counter()
    assert all(inline) and graded == [1.0] * len(gold)
    report("graded by workers, against this process", end - middle, middle - start, 2)


# --- training --------------------------------------------------------------------------------------


def alone(measure, *arguments) -> float:
    """What `measure` gives in a fresh process with one thread."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, (1,)) as pool:
        return pool.submit(measure, *arguments).result()


def laptop(steps: int):
    """The laptop profile's settings for a few steps, and problems to train on."""
    values = {"arm": "perception", "max_steps": steps, "warmup_steps": 1}
    settings = read_settings(FOLDER / "laptop.toml", **values, save_steps=steps, seed=11)
    made = make_problems(256, map_world(shortcut=0.5), "train")
    return settings, annotate_by_reading(made)


def our_step(steps: int) -> float:
    """Seconds of a step of our trainer, without the first ones, which warm up."""
    settings, problems = laptop(steps)
    with tempfile.TemporaryDirectory() as folder:
        train(settings, problems, Path(folder), unadmitted=True)
        return pd.read_csv(Path(folder) / LOG)["seconds"][2:].median()


class Steps(TrainerCallback):
    """The seconds of each step."""

    def __init__(self):
        self.seconds, self._begin = [], time.perf_counter()

    def on_step_end(self, *_, **__):
        now = time.perf_counter()
        self.seconds.append(now - self._begin)
        self._begin = now


def bare_trl(steps: int) -> float:
    """Seconds of a step of TRL's trainer with a reward that costs nothing, on the same questions."""
    settings, problems = laptop(steps)
    model, processor = load_policy("miniature")
    rows = training_rows(problems, settings, processor)[0]
    order = schedule(len(rows), settings.prompts_per_step, steps, settings.seed)
    clock = Steps()
    with tempfile.TemporaryDirectory() as folder:
        # reward 1 for every other completion: a group without spread would have no gradient
        GRPOTrainer(
            model=model, args=grpo_config(settings, Path(folder), save_strategy="no"),
            reward_funcs=lambda completions, **_: [float(k % 2) for k in range(len(completions))],
            train_dataset=rows.select(order), processing_class=processor, callbacks=[clock],
        ).train()  # fmt: skip
    return statistics.median(clock.seconds[2:])


def grpo_step() -> None:
    """A step of the laptop profile, one core: against TRL's own trainer with a reward that costs nothing, in turn."""
    turns = [(alone(our_step, 8), alone(bare_trl, 8)) for _ in range(3)]
    ours, theirs = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    report("a step, against TRL's", ours, theirs, 1.05)


BENCHMARKS = {f.__name__: f for f in (judge_latency, grading, grpo_step)}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name].__doc__}", flush=True)
        BENCHMARKS[name]()
