"""Problem datasets: the schema, and reading and writing them as Parquet (contract C4). Used in notebooks 02 to 05.

One `Problem` is one row. Three public shapes are read, all through `datasets`:

- ours: every column of `FEATURES`, one file, the split in a column;
- the authors' release (`tongxiao2002/Perception-R1-Dataset`): problem, images, answer, visual_key_info;
- `hiyouga/geometry3k`: images, problem, answer, no annotations.

Other columns are ignored; `id` and `split` are filled in where they are missing. Loading from the hub by
name has never been executed here (no network); the tests read small files of the same schemas from disk.
No code from a dataset is ever run, nothing is unpickled.

A `Problem` that exists is valid: text, tags and images were checked when it was made. A bad row is a
`DatasetError` that names the row (counted from 0, as pandas and `datasets` do), the column and the remedy.
"""

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from perception_r1.common.errors import InputError, some
from perception_r1.common.files import whole
from perception_r1.problems import answers

TEXT = datasets.Value("string")
FEATURES = datasets.Features(
    {
        "id": TEXT,
        "split": TEXT,
        "problem": TEXT,
        "images": datasets.List(datasets.Image()),
        "answer": TEXT,
        "visual_key_info": TEXT,  # null where the problem has not been annotated
        "cot": TEXT,
        "text_facts": datasets.List(TEXT),
        "gold_facts": datasets.List(TEXT),
        "needed_facts": datasets.List(TEXT),
        "family": TEXT,
    }
)
REQUIRED = ("problem", "images", "answer")
IMAGE_MARK = "<image>"


class DatasetError(InputError):
    """A dataset cannot be used.

    Attributes:
        row: number of the row, counted from 0, or None if the fault is not in one row.
        column: name of the column, or None.
    """

    def __init__(self, what: str, remedy: str, row: int | None = None, column: str | None = None):
        self.what, self.remedy, self.row, self.column = what, remedy, row, column
        places = [f"row {row}" if row is not None else "", f"column {column}" if column else ""]
        place = ", ".join(p for p in places if p)
        super().__init__(f"{place + ': ' if place else ''}{what}; {remedy}")


def tag_annotations(annotations: Iterable[str]) -> str:
    r"""Number annotations as the authors do: `<info1>...</info1>\n<info2>...</info2>`.

    Raises:
        DatasetError: there is none, one is empty, or one holds an `<infoN>` tag itself.
    """
    items = [item.strip() for item in annotations]
    if not items:
        raise _tags("no annotation", "give at least one, or null for a problem not annotated")
    for k, item in enumerate(items, start=1):
        if not item or _TAG.search(item):
            what = f"holds the tag {_TAG.search(item)[0]}" if item else "is empty"
            raise _tags(f"annotation {k} {what}", "give plain text")
        if not _encodable(item):
            raise _tags(
                f"annotation {k} holds half a character (a lone surrogate)", "give plain text"
            )
    return "\n".join(f"<info{k}>{item}</info{k}>" for k, item in enumerate(items, start=1))


def read_annotations(text: str) -> list[str]:
    """The annotations of one `visual_key_info` text; the inverse of `tag_annotations`.

    Raises:
        DatasetError: tags missing, not closed, nested, not numbered 1, 2, 3, ..., empty, or text outside them.
    """
    items: list[str] = []
    end = 0
    tags = _TAG.finditer(text)
    for opening in tags:
        k = len(items) + 1
        _only_space(text[end : opening.start()])
        if opening[0] != f"<info{k}>":
            raise _tags(f"{opening[0]} where <info{k}> was expected (gap, repeat or stray tag)")
        closing = next(tags, None)
        if closing is None:
            raise _tags(f"<info{k}> is not closed")
        if closing[0] != f"</info{k}>":
            raise _tags(f"{closing[0]} inside <info{k}>, which is not closed")
        items.append(text[opening.end() : closing.start()].strip())
        if not items[-1]:
            raise _tags(f"<info{k}> is empty")
        end = closing.end()
    _only_space(text[end:])
    if not items:
        raise _tags("no annotation", "use null for a problem not annotated, or leave the row out")
    return items


_TAG = re.compile(r"<\s*/?\s*info\s*\d*\s*>", re.IGNORECASE)


def _encodable(text: str) -> bool:
    """Whether UTF-8 can hold the text; JSON from a language model may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _only_space(text: str) -> None:
    if text.strip():
        raise _tags(f"text outside the tags: {text.strip()[:40]!r}")


def _tags(what: str, remedy: str = "write <info1>...</info1>, <info2>...</info2>, one fact each"):
    return DatasetError(what, remedy, column="visual_key_info")


class Problem(BaseModel):
    """One problem: a row of a dataset, checked.

    Attributes:
        id: unique in its dataset.
        split: "train", "dev", "test", ... or "" if unknown.
        problem: the question, with one `<image>` mark per image.
        images: encoded images (PNG where we wrote them); PIL images may be given and become PNG.
        answer: the gold answer as written, e.g. "2 \\sqrt { 221 }".
        visual_key_info: visual annotations, tagged; None where the problem has not been annotated.
        cot: a teacher's chain of thought, "" if none.
        text_facts: facts that stand in the question, as logic forms.
        gold_facts: facts that stand in the image, as logic forms; empty where unknown.
        needed_facts: those of the gold facts that the answer needs; empty where unknown.
        family: kind of scene, "" if unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    split: str = ""
    problem: str
    images: tuple[bytes, ...] = Field(repr=False)
    answer: str
    visual_key_info: str | None = None
    cot: str = ""
    text_facts: tuple[str, ...] = ()
    gold_facts: tuple[str, ...] = ()
    needed_facts: tuple[str, ...] = ()
    family: str = ""

    @field_validator("*")
    @classmethod
    def _unicode(cls, value: object) -> object:
        texts = value if isinstance(value, tuple) else (value,)
        if not all(_encodable(text) for text in texts if isinstance(text, str)):
            raise ValueError("half a character (a lone surrogate); take it out")
        return value

    @field_validator("problem", "answer")
    @classmethod
    def _not_empty(cls, text: str) -> str:
        if not text.replace(IMAGE_MARK, "").strip():
            raise ValueError("empty; fill it in, or leave the row out")
        return text

    @field_validator("id", "split", "problem", "answer", "cot", "family")
    @classmethod
    def _writable(cls, text: str) -> str:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("half a character (a lone surrogate); write it as UTF-8") from error
        return text

    @field_validator("images", mode="before")
    @classmethod
    def _readable(cls, images: object) -> object:
        if not isinstance(images, list | tuple) or not images:
            raise ValueError("no image; give a list of images, or leave the row out")
        return tuple(_encoded(image, k) for k, image in enumerate(images))

    @field_validator("visual_key_info")
    @classmethod
    def _tagged(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                read_annotations(text)
            except DatasetError as error:
                raise ValueError(f"{error.what}; {error.remedy}") from error
        return text

    @model_validator(mode="after")
    def _marks(self) -> "Problem":
        marks = self.problem.count(IMAGE_MARK)
        if marks != len(self.images):
            raise ValueError(
                f"problem: {marks} {IMAGE_MARK} marks for {len(self.images)} images; write one mark per image"
            )
        return self

    @property
    def image(self) -> Image.Image:
        """The first image, decoded now."""
        return Image.open(io.BytesIO(self.images[0]))

    def open_images(self) -> list[Image.Image]:
        """All images, decoded now (a problem keeps only their bytes)."""
        return [Image.open(io.BytesIO(data)) for data in self.images]

    @property
    def annotations(self) -> list[str]:
        """The visual annotations; empty where the problem has not been annotated."""
        return [] if self.visual_key_info is None else read_annotations(self.visual_key_info)

    def annotated(self, annotations: Iterable[str]) -> "Problem":
        """A copy with these annotations (none: not annotated).

        Raises:
            DatasetError: an annotation is empty or holds a tag.
        """
        items = list(annotations)
        return self.model_copy(
            update={"visual_key_info": tag_annotations(items) if items else None}
        )


def _encoded(image: object, k: int) -> bytes:
    """One image as bytes that are known to decode; `k` names it in messages."""
    if isinstance(image, dict):  # as `datasets` stores it, {"bytes": ..., "path": ...}
        image = image.get("bytes")
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(
                f"image {k} has no pixels ({image.width}x{image.height}); draw it again"
            )
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()
    if not isinstance(image, bytes) or not image:
        raise ValueError(f"image {k} has no bytes; embed the images in the file")
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()  # decodes every pixel, so that a truncated file is found now
    except (
        Exception
    ) as error:  # Pillow's plugins raise many kinds (OSError, SyntaxError, struct.error, ...)
        raise ValueError(
            f"image {k} is not a readable image ({type(error).__name__}, {len(image)} bytes); "
            "export it again as PNG or JPEG"
        ) from error
    return image


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
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    with whole(Path(path)) as temporary:
        pq.write_table(table, temporary, row_group_size=200)


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
    faults = check_answers(problems)
    if not faults:
        return problems
    named = some([f"{id_} ({why})" for id_, _, why in faults], 3)
    what = f"{len(faults)} of {len(problems)} gold answers in {source} cannot be graded: {named}"
    if unusable == "refuse":
        raise DatasetError(
            what, 'correct them, or load with unusable="drop" to leave these out', column="answer"
        )
    warnings.warn(f"{what}; these problems are left out", stacklevel=2)
    left_out = {id_ for id_, _, _ in faults}
    return [problem for problem in problems if problem.id not in left_out]


def check_answers(problems: Iterable[Problem]) -> list[tuple[str, str, str]]:
    """The gold answers that nobody could grade, as (id, answer, why)."""
    faults = []
    for problem in problems:
        try:
            answers.usable_gold(problem.answer)
        except InputError as error:
            faults.append((problem.id, problem.answer, str(error)))
    return faults


def _problems(source: str | Path, split: str | None, seen: Counter[str]) -> Iterator[Problem]:
    """The wanted rows of all tables in `source`, checked one by one; `seen` counts rows by split."""
    for name, table_split, table in _tables(source):
        for number, row in enumerate(_rows(name, table)):
            row = {column: value for column, value in row.items() if value is not None}
            row.setdefault("split", table_split)
            row["id"] = str(row.get("id", f"{row['split'] or 'row'}-{seen[row['split']]}"))
            seen[row["split"]] += 1
            if split is None or row["split"] == split:
                yield _problem(name, number, row)


def _problem(name: str, number: int, row: dict) -> Problem:
    """One row as a `Problem`, or a `DatasetError` that says what is wrong with it."""
    try:
        return Problem.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        column = str(first["loc"][0]) if first["loc"] else None
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            what = "null"
        what, _, remedy = what.partition("; ")
        if column is None:  # the message of `_marks` names its column itself
            column, _, what = what.partition(": ")
        remedy = remedy or "correct it, or leave the row out"
        raise DatasetError(f"{what} (in {name})", remedy, row=number, column=column) from error


def _rows(name: str, table: datasets.IterableDataset | datasets.Dataset) -> Iterator[dict]:
    """The known columns of a table, row by row, images as undecoded bytes."""
    present = table.column_names
    missing = [column for column in REQUIRED if column not in present]
    if missing:
        raise DatasetError(
            f"{name} has no column {some(missing)}, only {some(present, 12)}",
            "rename the columns, or write the file with write_problems",
            column=missing[0],
        )
    if not isinstance(table.features["images"], datasets.List):
        raise DatasetError(
            f"{name} holds {table.features['images']}, not a list of images, in each row",
            "write a list of images, [image] for one",
            column="images",
        )
    known = [column for column in FEATURES if column in present]
    images = datasets.List(datasets.Image(decode=False))
    number = 0
    try:
        for row in table.select_columns(known).cast_column("images", images):
            yield row
            number += 1
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"text is not UTF-8 (in {name}): {error.object[:20]!r}",
            "save it as UTF-8",
            row=number,
            column=_not_utf8(name, number, known),
        ) from error
    except (
        pa.ArrowException,
        OSError,
        TypeError,
    ) as error:  # a damaged page, or an impossible type
        raise DatasetError(
            f"cannot be read (in {name}): {' '.join(str(error).split())[:200]}",
            "copy or export the file again",
            row=number,
        ) from error


def _not_utf8(name: str, row: int, columns: list[str]) -> str | None:
    """The column of a local file whose text in that row is not UTF-8."""
    for column in columns if Path(name).is_file() else ():
        try:
            pq.read_table(name, columns=[column]).slice(row, 1).to_pylist()
        except UnicodeDecodeError:
            return column
    return None


def _tables(source: str | Path) -> Iterator[tuple[str, str, datasets.Dataset]]:
    """(name, split, table) of each Parquet file or each split on the hub."""
    path = Path(source)
    if path.exists():
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise DatasetError(f"no *.parquet in the folder {path}", "give a folder that has some")
        for file in files:
            found = re.match(r"(train|validation|valid|val|dev|test)(?![a-z])", file.stem)
            yield from ((str(file), found[1] if found else "", table) for table in _open(file))
    elif isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+(?<!\.parquet)", source):
        yield from _hub(source)
    else:
        raise DatasetError(
            f"{source} does not exist", "give a Parquet file, a folder, or a hub name owner/dataset"
        )


def _open(file: Path) -> list[datasets.IterableDataset]:
    """A local Parquet file (none if it has no row), read as a stream: nothing is copied to a cache."""
    try:
        if pq.read_metadata(file).num_rows == 0:  # `datasets` cannot stream it
            return []
        table = datasets.load_dataset(
            "parquet", data_files=str(file), split="train", streaming=True
        )
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"cannot read {file} as Parquet ({error})", "write it with write_problems or to_parquet"
        ) from error
    return [table]


def _hub(name: str) -> Iterator[tuple[str, str, datasets.Dataset]]:
    """The splits of a hub dataset. Real code, never executed here: there is no network."""
    try:
        tables = datasets.load_dataset(name)
    except Exception as error:  # of many kinds: no network, no such name, no right to it
        raise DatasetError(
            f"no file or folder {name}, and the hub does not give it ({type(error).__name__}: {error})",
            "check the name, the network, and HF_TOKEN for a private dataset",
        ) from error
    for table_split, table in tables.items():
        yield f"{name} ({table_split})", table_split, table


def _unique(problems: list[Problem], where: str) -> None:
    repeated = [id_ for id_, count in Counter(p.id for p in problems).items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{len(repeated)} ids repeat in {where}: {some(repeated)}",
            "give every problem its own id",
            column="id",
        )
