"""Problem datasets as Parquet (contract C4): reading, checking, writing. Used in notebooks 02 to 05.

One `Problem` is one row. Three public shapes are read:

- ours: every field of `Problem`, one file, the split in a column;
- the authors' release (`tongxiao2002/Perception-R1-Dataset`): problem, images, answer, visual_key_info;
- `hiyouga/geometry3k`: images, problem, answer, no annotations.

Other columns are ignored; `id` and `split` are filled in where they are missing. Loading from the hub by
name has never been executed here (no network); the tests read small files of the same schemas from disk.
Files are read by pyarrow, which takes a path as it is, whatever brackets or stars it holds (`datasets` takes it for a
pattern). No code from a dataset is ever run, nothing is unpickled.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from perception_r1.common.errors import some
from perception_r1.common.files import whole
from perception_r1.problems import answers
from perception_r1.problems.schema import DatasetError, Problem

FACTS = ("text_facts", "gold_facts", "needed_facts")


def write_problems(problems: Iterable[Problem], path: str | Path) -> None:
    """Write problems as one Parquet file that `datasets` opens with images, whole or not at all.

    Raises:
        DatasetError: no problem, or two with the same id.
        InputError: the file cannot be written.
    """
    problems = list(problems)
    if not problems:
        raise DatasetError(f"no problem to write to {path}", "give at least one")
    _unique(problems, str(path))
    rows = [
        {**problem.model_dump(), "images": [{"bytes": b, "path": None} for b in problem.images]}
        for problem in problems
    ]
    table = pa.Table.from_pylist(rows, schema=_arrow_schema())
    with whole(Path(path)) as temporary:
        pq.write_table(table, temporary, row_group_size=200)


def _arrow_schema() -> pa.Schema:
    """Our columns, with the note by which `datasets` knows that `images` holds images."""
    import datasets  # takes seconds, and only a writer needs it

    text = datasets.Value("string")
    kinds = {"images": datasets.List(datasets.Image())} | dict.fromkeys(FACTS, datasets.List(text))
    columns = {name: kinds.get(name, text) for name in Problem.model_fields}
    return datasets.Features(columns).arrow_schema


def load_problems(
    source: str | Path, split: str | None = None, unusable: Literal["refuse", "drop"] = "refuse"
) -> list[Problem]:
    """Read and check a dataset.

    Args:
        source: a Parquet file, a folder of them, or the name of a dataset on the Hugging Face hub.
        split: read only this split ("train", "test", ...); None for all.
        unusable: what to do about gold answers that no grader could use: refuse the dataset, or drop
            those problems with a warning that names them. They are never kept.

    Returns:
        The problems, in the order of the files.

    Raises:
        DatasetError: nothing there, not Parquet, a bad row, ids that repeat, or unusable gold answers.
    """
    seen: Counter[str] = Counter()
    problems = list(_problems(source, split, seen))
    if not problems:
        wanted = f"no problem of split {split!r}" if split else "no problem"
        raise DatasetError(f"{wanted} in {source}", f"splits there: {some(seen) or 'none'}")
    _unique(problems, str(source))
    faults = {
        p.id: f"{p.id} {p.answer!r} ({fault})"
        for p in problems
        if (fault := answers.gold_fault(p.answer))
    }
    if faults:
        named = f"cannot be graded: {some(faults.values(), 3)}"
        summary = f"{len(faults)} of {len(problems)} gold answers in {source} {named}"
        if unusable == "refuse":
            remedy = 'correct them, or load with unusable="drop" to leave these out'
            raise DatasetError(summary, remedy, column="answer")
        warnings.warn(f"{summary}; these problems are left out", stacklevel=2)
    return [problem for problem in problems if problem.id not in faults]


def _problems(source: str | Path, split: str | None, seen: Counter[str]) -> Iterator[Problem]:
    """The wanted rows of all tables in `source`, checked one by one; `seen` counts rows by split."""
    for name, table_split, batches in _tables(source):
        for number, row in enumerate(_rows(name, batches)):
            row = {column: value for column, value in row.items() if value is not None}
            row.setdefault("split", table_split)
            row["id"] = str(row.get("id", f"{row['split'] or 'row'}-{seen[row['split']]}"))
            seen[row["split"]] += 1
            if split is None or row["split"] == split:
                try:
                    yield Problem.model_validate(row)
                except ValidationError as error:
                    first = error.errors()[0]
                    column = str(first["loc"][0]) if first["loc"] else None
                    fault, _, remedy = first["msg"].removeprefix("Value error, ").partition("; ")
                    remedy = remedy or "correct it, or leave the row out"
                    raise DatasetError(f"{fault} (in {name})", remedy, number, column) from error


def _rows(name: str, batches: Iterable[pa.RecordBatch]) -> Iterator[dict]:
    """The known columns of a table, row by row, images as they are encoded."""
    try:
        for batch in batches:
            known = [column for column in Problem.model_fields if column in batch.schema.names]
            yield from batch.select(known).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # no Parquet, or damaged
        why = " ".join(str(error).split())[:200]
        remedy = "copy the file again, or write it with write_problems or to_parquet"
        raise DatasetError(f"{name} cannot be read as Parquet: {why}", remedy) from error


def _tables(source: str | Path) -> Iterator[tuple[str, str, Iterable[pa.RecordBatch]]]:
    """(name, split, batches of rows) of each Parquet file or each split on the hub."""
    path = Path(source)
    if path.exists():
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise DatasetError(f"no *.parquet in the folder {path}", "give a folder that has some")
        for file in files:
            split = re.match(r"(train|validation|valid|val|dev|test)(?![a-z])", file.stem)
            yield str(file), split[1] if split else "", _read(file)
    elif isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+(?<!\.parquet)", source):
        yield from _hub(source)
    else:
        remedy = "give a Parquet file, a folder, or a hub name owner/dataset"
        raise DatasetError(f"{source} does not exist", remedy)


def _read(file: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a local Parquet file, 64 at a time."""
    with file.open("rb") as opened:
        yield from pq.ParquetFile(opened).iter_batches(64)


def _hub(name: str) -> Iterator[tuple[str, str, Iterable[pa.RecordBatch]]]:
    """The splits of a hub dataset. Real code, never executed here: there is no network."""
    import datasets

    try:
        tables = datasets.load_dataset(name)
    except Exception as error:  # of many kinds: no network, no such name, no right to it
        fault = f"no file or folder {name}; the hub says {type(error).__name__}: {error}"
        remedy = "check the name, the network, and HF_TOKEN for a private dataset"
        raise DatasetError(fault, remedy) from error
    for split, table in tables.items():
        yield f"{name} ({split})", split, table.data.to_batches(64)


def _unique(problems: list[Problem], where: str) -> None:
    repeated = [id_ for id_, count in Counter(p.id for p in problems).items() if count > 1]
    if repeated:
        fault = f"{len(repeated)} ids repeat in {where}: {some(repeated)}"
        raise DatasetError(fault, "give every problem its own id", column="id")
