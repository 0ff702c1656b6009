"""Speed, as ratios measured side by side in one run; by hand:  python -m tests.benchmark [name ...]

Not tests: a busy machine makes them slow, and nobody should have to guess by how much. Each prints what was
measured, the ratio, and the bound that the project set itself.
"""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import openai
import pandas as pd

from perception_r1 import llm_judge, rewards
from perception_r1.chat import _response_format
from perception_r1.files import DATA, ROOT, shared_data
from perception_r1.judge_server import JudgeServer
from perception_r1.llm_judge import LLMJudge, _schema
from perception_r1.problems import tag_annotations
from perception_r1.profiles import FOLDER
from perception_r1.trainer import LOG

N, SLOTS = 1024, 64
ANNOTATIONS = [f"The length of segment AB is {k}." for k in range(1, 6)]
TEXTS = [f"Response {k}: the length of segment AB is {k}." for k in range(N)]
WANTED = [ANNOTATIONS[: 3 + k // 8 % 3] for k in range(N)]  # groups of 8 share their annotations


def report(what: str, measured: float, base: float, bound: float, note: str = "") -> None:
    """One line: seconds, ratio and bound."""
    ratio = measured / base
    verdict = "ok" if ratio <= bound else "MISSED"
    print(
        f"  {what}: {measured:.2f} s / {base:.2f} s = {ratio:.2f} (at most {bound:g}) {verdict} {note}"
    )


def _serve(pipe, delay: float, failing: float) -> None:
    """A process that answers every question after `delay` seconds; some fail with HTTP 500 at first."""
    logging.disable(logging.CRITICAL)
    seen: set[str] = set()

    async def answer(messages: list[dict]) -> str:
        question = llm_judge.read_prompt(messages)
        await asyncio.sleep(delay)
        if hash(question.response) % 1000 < 1000 * failing and question.response not in seen:
            seen.add(question.response)
            raise RuntimeError("planned")
        marks = ["stated"] * len(question.annotations)
        return llm_judge.write_verdict(
            marks, question.nonce, question.contradictions, question.output
        )

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


async def bare(url: str) -> list[str]:
    """The same requests by the SDK alone, with a semaphore."""
    slots = asyncio.Semaphore(SLOTS)
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:

        async def ask(text: str, wanted: list[str]) -> str:
            messages = llm_judge.prompt(wanted, text, "0" * 16, True, "json")
            shape = _response_format(_schema(len(wanted), True))
            async with slots:
                answer = await client.chat.completions.create(
                    model="stub", messages=messages, temperature=0, max_tokens=512,
                    extra_body={"response_format": shape},
                )  # fmt: skip
            return answer.choices[0].message.content

        return await asyncio.gather(*map(ask, TEXTS, WANTED))


def judge_latency() -> None:
    """1,024 completions at 1 s latency: the floor is 16 s; with 1% of calls failing; with a warm cache."""
    floor = N / SLOTS * 1.0
    with stub(1.0) as url, tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "answers.sqlite"
        judge = LLMJudge(url, "stub", concurrency=SLOTS, cache=cache)
        cold, verdicts = timed(judge.judge(TEXTS, WANTED))
        assert all(v.marks for v in verdicts)
        report("cold, against the latency floor", cold, floor, 1.10)
        warm, again = timed(
            LLMJudge(url, "stub", concurrency=SLOTS, cache=cache).judge(TEXTS, WANTED)
        )
        assert again == verdicts
        report("warm cache, against cold", warm, cold, 0.03)
    with stub(1.0, failing=0.01) as url:
        failing, verdicts = timed(LLMJudge(url, "stub", concurrency=SLOTS).judge(TEXTS, WANTED))
        lost = sum(v.marks is None for v in verdicts)
        report(
            "1% of calls fail, against the floor",
            failing,
            floor,
            1.3,
            f"({lost} of {N} without verdict)",
        )


def judge_overhead() -> None:
    """1,024 completions at 50 ms latency: against the bare SDK sending the same requests, five times in turn."""
    with stub(0.05) as url:
        ours, theirs = [], []
        for _ in range(5):
            theirs.append(timed(bare(url))[0])
            ours.append(timed(LLMJudge(url, "stub", concurrency=SLOTS).judge(TEXTS, WANTED))[0])
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        spread = f"(each turn: {', '.join(f'{r:.2f}' for r in ratios)})"
        report(
            "median, against the bare SDK",
            statistics.median(ours),
            statistics.median(theirs),
            1.2,
            spread,
        )


def accuracy() -> None:
    """`accuracy_reward` against TRL's on 2,000 mixed real answers: throughput, and every difference."""
    from trl.rewards import accuracy_reward as trls

    folder = shared_data() / "mathvision"
    if not folder.is_dir():
        print(f"  left out: no real answers in {folder}")
        return
    gold = {}
    for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines():
        problem = json.loads(line)
        gold[str(problem["id"])] = problem["answer"]
    texts, wanted, official = [], [], []
    for line in (folder / "outputs/Gemini-Pro-CoT.jsonl").read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        if "boxed" in said["response"]:
            texts.append(said["response"])
            wanted.append(gold[str(said["id"])])
            official.append(said["correct"])
    texts, wanted, official = texts[:2000], wanted[:2000], official[:2000]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    rewards.accuracy_reward(texts[:4], wanted[:4])  # start the workers
    trls(messages[:4], [f"${w}$" for w in wanted[:4]])
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = trls(messages, [f"${w}$" for w in wanted])
    middle = time.perf_counter()
    ours = rewards.accuracy_reward(texts, wanted)
    end = time.perf_counter()
    report(f"{len(texts)} answers, against TRL's", end - middle, middle - start, 1 / 1.7)
    differ = [k for k in range(len(texts)) if ours[k] != theirs[k]]
    print(f"  {len(differ)} verdicts differ from TRL's:")
    for k in differ:
        given = rewards.extract_answer(texts[k])
        print(
            f"    gold {wanted[k]!r}, answer {given!r}: ours {ours[k]}, TRL {theirs[k]}, official {official[k]}"
        )


def overlap() -> None:
    """Waiting for the judge and grading answers, together as the trainer runs them, against the slower alone."""
    tagged = [tag_annotations(wanted) for wanted in WANTED]
    texts = [
        f"{text} <answer>\\boxed{{\\frac{{{k}}}{{\\sqrt{{3}}}}}}</answer>"
        for k, text in enumerate(TEXTS)
    ]
    gold = [r"\frac{7\sqrt{3}}{3}"] * N
    graded = rewards.in_thread(rewards.accuracy_reward)
    asyncio.run(graded(texts[:2], answer=gold[:2]))
    with stub(1.0) as url:

        def perception():
            return rewards.PerceptionReward(LLMJudge(url, "stub", concurrency=SLOTS))

        async def both() -> None:
            await asyncio.gather(
                perception()(texts, visual_key_info=tagged),
                graded([t.replace("{3}", "{5}") for t in texts], answer=gold),
            )

        judge = timed(perception()(texts, visual_key_info=tagged))[0]
        grading = timed(graded(texts, answer=gold))[0]
        together = timed(both())[0]
    note = f"(judge {judge:.1f} s, grading {grading:.1f} s)"
    report("together, against the slower one", together, max(judge, grading), 1.1, note)


def grpo_overhead() -> None:
    """Of a step of the laptop profile: all that is neither generation nor forward, backward and optimiser."""
    sample = DATA / "sample" / "miniature.parquet"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "perception_r1.train", "--config", str(FOLDER / "laptop.toml"),
            "--data", str(sample), "--out", folder, "--max_steps", "12", "--warmup_steps", "1",
            "--eval_steps", "0", "--save_steps", "12",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment)
        log = pd.read_csv(Path(folder) / LOG)[2:]  # the first steps warm up
    rest = (log["seconds_rewards"] + log["seconds_other"]).sum()
    report("rewards and bookkeeping, of the steps", rest, log["seconds"].sum(), 0.05)
    print(
        f"  one core: {log['seconds'].median():.2f} s a step, {log['peak_memory_mb'].max():.0f} MB"
    )


BENCHMARKS = {
    f.__name__: f for f in (judge_latency, judge_overhead, accuracy, overlap, grpo_overhead)
}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name].__doc__}", flush=True)
        BENCHMARKS[name]()
