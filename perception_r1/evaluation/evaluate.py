"""A model on a benchmark: responses, outcomes of each item, scores with intervals, paired comparison (contract C8).

    python -m perception_r1 evaluate --benchmark NAME --data DIR --responses FILE.jsonl --out OUT
    python -m perception_r1 evaluate --benchmark NAME --data DIR --model FOLDER --out OUT
    python -m perception_r1 evaluate --benchmark NAME --data DIR --server URL --served-model NAME --out OUT

The first scores responses that are there; the others generate them first, greedily, and go on where they were stopped.
`summary.json` is written last: where it is, all items were scored.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from perception_r1.annotation.pipeline import INSTRUCTION
from perception_r1.common import provenance
from perception_r1.common.chat import ChatError
from perception_r1.common.checkpoints import append
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import alone, read_rows, sha256, write_json, write_text
from perception_r1.evaluation import benchmarks, scores
from perception_r1.evaluation.benchmarks import Benchmark
from perception_r1.evaluation.our_rules import Item
from perception_r1.evaluation.responses import from_policy, from_server

FILE = "responses.jsonl"
RESULTS = ("outcomes.csv", "differences.csv", "summary.json", "paired.json")


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 evaluate`; see this module."""
    given = _parser().parse_args(arguments)
    benchmark = benchmarks.find(given.benchmark)
    items = benchmarks.load(benchmark, given.data, given.items)
    if given.against and given.against.resolve().parent == given.out.resolve():
        raise InputError("--against lies in --out, whose results are replaced; take another folder")
    busy = f"another evaluation writes to {given.out}; wait for it, or choose another --out"
    with alone(given.out, busy):
        for name in RESULTS:
            (given.out / name).unlink(missing_ok=True)
        _evaluate(given, benchmark, items)
    return 0


def _parser() -> argparse.ArgumentParser:
    purpose = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser("python -m perception_r1 evaluate", description=purpose)
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
    rules = "whose rules decide; if not said, the authors' where they are known, else ours"
    add("--method", choices=("official", "ours"), help=rules)
    add("--against", type=Path, metavar="CSV", help="another outcomes.csv, for a paired test")
    add("--max-new-tokens", type=int, default=4096, metavar="N", help="of one response")
    add("--batch-size", type=int, default=8, metavar="N", help="items asked at a time")
    return parser


def _evaluate(given: argparse.Namespace, benchmark: Benchmark, items: list[Item]) -> None:
    """Score the responses, given or generated, write `RESULTS`, and print the scores."""
    given.method = given.method or ("official" if benchmark.official else "ours")
    if given.method == "official" and not benchmark.official:
        why = f"{benchmark.name} has no rules in official_rules.OFFICIAL"
        raise InputError(f"{why}; take --method ours")
    if given.responses:
        texts = read_responses(given.responses, benchmark, items)
    else:
        texts = _generate(given, items)
    scored = scores.score(benchmark, items, texts)
    verdicts = {name: scored[name] for name in ("official", "ours") if scored[name].notna().all()}
    extracted, correct = scored[f"{given.method}_extracted"], verdicts[given.method]
    outcomes = pd.DataFrame({"id": scored["id"], "extracted": extracted, "correct": correct})
    outcomes["method"] = given.method
    paired = scores.paired(outcomes, given.against) if given.against else None
    source = given.responses or given.out / FILE
    differences = scored[scored["why"] != ""]
    summary = scores.summarise(benchmark, items, verdicts, given.method) | {
        "method": given.method,
        "empty": sum(not text.strip() for text in texts.values()),
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
        right = f"{part['correct']} of {part['n']} right, {part['accuracy']:.1%}"
        interval = f"{part['ci_low']:.1%} to {part['ci_high']:.1%}"
        print(f"{benchmark.name}, {name}: {right} ({interval})")
    print(f"wrote {given.out / 'summary.json'}")


# --- responses ---------------------------------------------------------------------------------------


def read_responses(path: Path, benchmark: Benchmark, items: Sequence[Item]) -> dict[str, str]:
    """Responses by id, one for each item, from a file of rows with `id` (or the benchmark's own column) and `response`.

    An empty response (or null) is one; a missing one is not.

    Raises:
        InputError: unreadable, a row without id or response, or ids that are missing, unknown or there twice.
    """
    responses: dict[str, str] = {}
    twice = []
    for number, row in enumerate(read_rows(path)):
        name, text = str(row.get("id", row.get(benchmark.id))), row.get("response", 0)
        if not isinstance(text, str | None):
            why = "no response; each row takes id and response, which is text, perhaps empty"
            raise InputError(f"{path}, row {number} (id {name}): {why}")
        if name in responses:
            twice.append(name)
        responses[name] = (text or "").encode("utf-8", "replace").decode()
    known = {item.id for item in items}
    for ids, fault in (
        (twice, "come more than once; keep one response each"),
        (responses.keys() - known, f"are not {benchmark.name}'s, like {items[0].id!r}"),
        (known - responses.keys(), "have no response; give it, or an empty one if there was none"),
    ):
        if ids:
            raise InputError(f"{path}: {len(ids)} ids ({some(ids)}) {fault}")
    return responses


def _generate(given: argparse.Namespace, items: Sequence[Item]) -> dict[str, str]:
    """Ask about every item, greedily, append what comes to `FILE` in `--out`, and go on from what stands there.

    Raises:
        InputError: responses made in another way are there, or some items got none (the others are kept).
    """
    path, longest = given.out / FILE, given.max_new_tokens
    about = [(item.id, item.text) for item in items], INSTRUCTION, longest, given.server
    weights = sha256(Path(given.model)) if given.model else None
    text = json.dumps([about, given.model or given.served_model, weights])
    made_by = hashlib.sha256(text.encode()).hexdigest()[:12]
    responses = _kept(path, made_by)
    left = [item for item in items if item.id not in responses]
    if left and given.model:
        size = {"max_new_tokens": longest, "batch_size": given.batch_size}
        ask = from_policy(given.model, **size, quiet=True)
    elif left:
        sampling = {"temperature": 0, "max_tokens": longest}
        ask = from_server(given.server, given.served_model, sampling)
    failed: dict[str, ChatError] = {}
    for start in tqdm(range(0, len(left), given.batch_size), desc="responses", disable=None):
        batch = left[start : start + given.batch_size]
        answers = ask([item.problem(given.data) for item in batch])
        for item, answer in zip(batch, answers, strict=True):
            if isinstance(answer, ChatError):
                failed[item.id] = answer
                continue
            responses[item.id] = answer
            row = {"id": item.id, "response": answer, "made_by": made_by}
            append(path, json.dumps(row) + "\n")
        if len(failed) >= 2 * given.batch_size:  # whoever answers is gone
            break
    if failed:
        there = f"{len(responses)} of {len(items)} items have responses, kept in {path}"
        why = f"{some(failed)} failed: {next(iter(failed.values()))}"
        raise InputError(f"{there}; {why}. The same command asks for the rest")
    return responses


def _kept(path: Path, made_by: str) -> dict[str, str]:
    """What stands in a file, of each id the last; a line that a kill tore is taken off."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    if torn := text.rpartition("\n")[2]:
        write_text(path, text.removesuffix(torn))
    rows = read_rows(path)
    if any(row.get("made_by") != made_by for row in rows):
        why = "made in another way: by another model, of other questions, or with other settings"
        raise InputError(f"{path} holds responses {why}; take another folder for --out")
    return {row["id"]: row["response"] for row in rows}
