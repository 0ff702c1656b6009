"""A model on a benchmark: responses, outcomes of each item, scores with intervals, paired comparison (contract C8).

    python -m perception_r1 evaluate --benchmark NAME --data DIR --responses FILE.jsonl --out OUT
    python -m perception_r1 evaluate --benchmark NAME --data DIR --model FOLDER --out OUT
    python -m perception_r1 evaluate --benchmark NAME --data DIR --server URL --served-model NAME --out OUT

The first scores responses that are there; the others generate them first, greedily, and go on where they were stopped.
With `--judge` a language model extracts and judges, too. `summary.json` is written last: where it is, all items were
scored.
"""

import argparse
import asyncio
import functools
from pathlib import Path

import pandas as pd

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.common import provenance
from perception_r1.common.errors import InputError
from perception_r1.common.files import alone, cannot_write, sha256, write_json, write_text
from perception_r1.evaluation import benchmarks, scores
from perception_r1.evaluation.benchmarks import Benchmark
from perception_r1.evaluation.our_rules import Item
from perception_r1.evaluation.responses import (
    FILE,
    ask_policy,
    ask_server,
    generate_responses,
    read_responses,
)

RESULTS = ("outcomes.csv", "differences.csv", "summary.json", "paired.json")


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 evaluate`; see this module."""
    given = _parser().parse_args(arguments)
    if given.batch_size < 1 or given.max_new_tokens < 1:
        raise InputError("--batch-size and --max-new-tokens must be at least 1")
    benchmark = benchmarks.find(given.benchmark)
    items = benchmarks.load(benchmark, given.data, given.items)
    if given.judge and not given.judge_model:
        raise InputError("no model named for the judge; give --judge-model")
    if given.against and given.against.resolve().parent == given.out.resolve():
        raise InputError("--against lies in --out, whose results are replaced; take another folder")
    busy = f"another evaluation writes to {given.out}; wait for it, or choose another --out"
    with alone(given.out, busy):
        try:
            for name in RESULTS:
                (given.out / name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(cannot_write(given.out, error)) from error
        _evaluate(given, benchmark, items)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perception_r1 evaluate", description=__doc__.split("\n")[0]
    )
    add, names = parser.add_argument, ", ".join(benchmarks.BENCHMARKS)
    add("--benchmark", required=True, metavar="NAME", help=names)
    add("--data", type=Path, required=True, metavar="DIR", help="folder with its public files")
    add("--items", type=int, metavar="N", help="how many DIR has, if only a part of the benchmark")
    source = parser.add_mutually_exclusive_group(required=True)
    add_source = source.add_argument
    add_source("--responses", type=Path, metavar="FILE", help="score these: rows of id, response")
    add_source("--model", metavar="NAME", help="generate with a checkpoint: a folder or hub name")
    add_source("--server", metavar="URL", help="generate with an OpenAI-compatible server (.../v1)")
    add("--served-model", default="", metavar="NAME", help="the server's name for its model")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--method", choices=("official", "ours"), default="official", help="whose rules decide")
    add("--judge", metavar="URL", help="a language model that extracts and judges, too")
    add("--judge-model", default="", metavar="NAME", help="its name at that server")
    add("--against", type=Path, metavar="CSV", help="another outcomes.csv, for a paired test")
    add("--max-new-tokens", type=int, default=4096, metavar="N", help="of one response")
    add("--batch-size", type=int, default=8, metavar="N", help="items asked at a time")
    return parser


def _evaluate(given: argparse.Namespace, benchmark: Benchmark, items: list[Item]) -> None:
    """Score the responses, given or generated, write `RESULTS`, and print the scores."""
    by_judge = given.method == "official" and benchmark.official is None
    if by_judge and not given.judge:
        why = f"{benchmark.name} has no rules in official_rules.OFFICIAL (its authors may score by a language model)"
        raise InputError(f"{why}; give --judge and --judge-model, or take --method ours")
    responses = _responses(given, benchmark, items)
    scored = scores.score(benchmark, items, responses)
    verdicts = {name: scored[name] for name in ("official", "ours") if scored[name].notna().all()}
    decides, extracted = given.method, scored[f"{given.method}_extracted"]
    judged = pd.DataFrame()
    if given.judge:
        judge = given.judge, given.judge_model, given.out / "judge.sqlite"
        judged = asyncio.run(scores.ask_judge(items, responses, *judge))
        verdicts[f"extraction by {given.judge_model}"] = judged["judge_extraction"]
        verdicts[f"judge {given.judge_model}"] = judged["judge"]
    if by_judge:
        decides, extracted = f"judge {given.judge_model}", judged["judge_extracted"]
        judged.insert(0, "scored_by", decides)
    outcomes = pd.DataFrame({"id": scored["id"], "extracted": extracted})
    outcomes = outcomes.assign(correct=verdicts[decides], method=given.method).join(judged)
    paired = scores.paired(outcomes, given.against) if given.against else None
    source = given.responses or given.out / FILE
    differences = scored[scored["why"] != ""]
    summary = scores.summarise(benchmark, items, verdicts, decides) | {
        "method": given.method,
        "empty": sum(not text.strip() for text in responses.values()),
        "official and ours differ": differences["why"].value_counts().to_dict(),
        "inputs (SHA-256)": {source.name: sha256(source)},
        "made at": provenance.now(),
        "commit": provenance.commit(),
    }
    write_text(given.out / "outcomes.csv", outcomes.to_csv(index=False))
    write_text(given.out / "differences.csv", differences.to_csv(index=False))
    if paired:
        write_json(given.out / "paired.json", paired)
    write_json(given.out / "summary.json", summary)
    for name, part in summary["scores"].items():
        print(
            f"{benchmark.name}, {name}: {part['correct']} of {part['n']} right, {part['accuracy']:.1%} "
            f"({part['ci_low']:.1%} to {part['ci_high']:.1%})"
        )
    for pair in summary["agreement"]:
        print(f"{' and '.join(pair['between'])}: equal in {pair['equal']} of {pair['of']}")
    print(f"wrote {given.out / 'summary.json'}")


def _responses(
    given: argparse.Namespace, benchmark: Benchmark, items: list[Item]
) -> dict[str, str]:
    """The responses by id, read from the file that was given, or generated."""
    if given.responses:
        return read_responses(given.responses, benchmark, items)
    about = {
        "questions": [(item.id, item.text) for item in items], "instruction": INSTRUCTION,
        "max_new_tokens": given.max_new_tokens, "server": given.server,
        "model": given.model or given.served_model,
    }  # fmt: skip
    tokens = {"max_new_tokens": given.max_new_tokens}
    load = functools.partial(ask_server, given.server, given.served_model, given.data, **tokens)
    if given.model:
        about["weights"] = sha256(Path(given.model))
        load = functools.partial(ask_policy, given.model, given.data, **tokens)
    return generate_responses(items, load, given.out, about, given.batch_size)
