"""The paper's eight benchmarks: one reader for the public files of all. Used by `evaluate` and notebook 05.

`data/benchmarks.toml` says of each which columns hold what; where a column is not as an `Item` has it, a function in
`ADAPT` makes it so. How responses are scored stands in `official_rules` and `our_rules`.
"""

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path

import pyarrow.parquet as pq

from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, read_rows, read_toml
from perception_r1.evaluation.official_rules import OFFICIAL
from perception_r1.evaluation.our_rules import IN_IMAGE, Item

FILE = DATA / "benchmarks.toml"
BAD_ROW = (LookupError, TypeError, ValueError, AttributeError, SyntaxError)

# --- columns that are not as an item has them ----------------------------------------------------------


def _mathverse(row: Mapping) -> Mapping:
    text = row["question"] or row["question_for_eval"]
    question, _, choices = text.partition("\nChoices:\n")
    options = [part.strip() for part in re.split(r"(?:^|\n)[A-H] ?:", choices)[1:]]
    if row["question_type"] == "multi-choice" and not options:
        options = "ABCD"
    prompt = "" if row["question"] else IN_IMAGE  # "Vision Only"
    return {"question": question, "options": options, "prompt": prompt}


def _wemath(row: Mapping) -> Mapping:
    parts = re.split(r";?\s*(?:^|(?<=[;\s]))(?=[A-H]\. )", row["option"])
    options = []
    for part in filter(None, map(str.strip, parts)):
        text = part.rstrip(";").strip()[3:].strip()
        if text:
            options.append(text)
        else:  # a point "C" at the end of the option before
            options[-1] = f"{options[-1].rstrip(';')} {part[0]}"
    return {"id": f"{row['ID']}/{row['key']}", "options": options}


def _mmmu(row: Mapping) -> Mapping:
    subject = "_".join(row["id"].split("_")[1:-1])
    return {"options": map(str, ast.literal_eval(row["options"])), "subject": subject}


def _mmmu_pro(row: Mapping) -> Mapping:
    in_image = {"question": "", "prompt": IN_IMAGE} if "image" in row else {}
    setting = "vision" if in_image else "standard"
    options = map(str, ast.literal_eval(row["options"]))
    return in_image | {"options": options, "setting": setting, "id": f"{setting}/{row['id']}"}


def _mmstar(row: Mapping) -> Mapping:
    question, _, choices = row["question"].partition("\nOptions: ")
    options = [part.strip(" ,\n") for part in re.split(r"(?:^|, |\n)[A-D]: ", choices)[1:]]
    if len(options) < 2:  # written in another way: letters alone
        question, options = row["question"], "ABCD"
    return {"question": question, "options": options, "answer": row["answer"].strip()}


def _emma(row: Mapping) -> Mapping:
    context = row["context"] if row["context"] not in (None, "None") else ""
    options = row["options"] if row["type"].lower() == "multiple choice" else ()
    return {"question": f"{context}\n{row['question']}".strip(), "options": options}


ADAPT: Mapping[str, Callable[[Mapping], Mapping]] = {
    "mathverse": _mathverse, "wemath": _wemath, "mmmu": _mmmu, "mmmupro": _mmmu_pro,
    "mmstar": _mmstar, "emma": _emma,
}  # fmt: skip


# --- the eight ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as `data/benchmarks.toml` describes it; `key` is its name there."""

    key: str
    name: str
    items: int
    hub: str
    files: Sequence[Sequence[str]]
    id: str
    images: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    verified: str
    options: str = "options"
    asks_a_model: str = ""

    @property
    def official(self) -> Callable[[str, Item], tuple[str | None, bool]] | None:
        """The authors' rules, response and item to (extracted, right); None if a language model scores."""
        return OFFICIAL.get(self.key)

    def read(self, row: Mapping) -> Item:
        """One row of its file as an `Item`; raises one of `BAD_ROW` if it is no row of this benchmark."""
        row = {**row, "options": row.get(self.options)}
        row |= ADAPT[self.key](row) if self.key in ADAPT else {}
        cells = [row.get(column) for column in self.images]
        # `datasets` stores an encoded image as {"bytes": ..., "path": ...}
        encoded = [cell["bytes"] or cell["path"] for cell in cells if isinstance(cell, Mapping)]
        named = [cell for cell in cells if cell and isinstance(cell, str)]
        groups = {name: str(reduce(getitem, path, row)) for name, path in self.groups.items()}
        precision = row.get("precision")
        return Item(
            id=str(row[self.id]), question=row["question"], options=tuple(row["options"] or ()),
            answer=str(row["answer"]), images=tuple(encoded or named), groups=groups,
            answer_type=row.get("answer_type", "text"),
            precision=None if precision is None else int(precision), prompt=row.get("prompt", ""),
        )  # fmt: skip


BENCHMARKS = {key: Benchmark(key, **table) for key, table in read_toml(FILE).items()}


def find(name: str) -> Benchmark:
    """The benchmark of a name, however it is written ("MATH-Vision", "math_vision").

    Raises:
        InputError: there is none.
    """
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    if key not in BENCHMARKS:
        raise InputError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[key]


# --- reading ------------------------------------------------------------------------------------------------


def load(benchmark: Benchmark, folder: Path, items: int | None = None) -> list[Item]:
    """Read all questions of a benchmark.

    Args:
        benchmark: which one.
        folder: with its public files.
        items: how many there must be; None: as many as the paper's split has.

    Raises:
        InputError: no such folder or file, a row that is not the benchmark's, or another count of different ids.
    """
    by_id: dict[str, Item] = {}
    for number, row in enumerate(_rows_in(benchmark, folder)):
        try:
            item = benchmark.read(row)
        except BAD_ROW as error:
            why = f"not a row of {benchmark.name} ({type(error).__name__}: {error})"
            remedy = f"its public format is that of {benchmark.hub}"
            raise InputError(f"{folder}, row {number}: {why}; {remedy}") from error
        by_id[item.id] = item
    wanted = benchmark.items if items is None else items
    if len(by_id) != wanted or not by_id:
        counts = f"{folder} has {len(by_id)} questions and {benchmark.name} {wanted}"
        part = f"say with --items {len(by_id)} that it is a part of the benchmark"
        raise InputError(f"{counts}: fetch it again, or {part}")
    return list(by_id.values())


def _rows_in(benchmark: Benchmark, folder: Path) -> Iterator[Mapping]:
    for patterns in benchmark.files:
        matches = [sorted(folder.rglob(pattern)) for pattern in patterns]
        if all(matches):
            files = list(itertools.chain(*matches))
            parts = files if files[0].suffix == ".parquet" else files[:1]  # JSON files are whole
            return (row for part in parts for row in _rows_of(part))
    names = ", ".join(itertools.chain(*benchmark.files))
    remedy = f"hf download {benchmark.hub} --repo-type dataset --local-dir DIR"
    raise InputError(f"{folder} has none of {names}; {benchmark.name} comes by {remedy}")


def _rows_of(path: Path) -> Iterator[Mapping]:
    if path.suffix != ".parquet":
        yield from read_rows(path)
        return
    try:
        yield from pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch it again") from error
