"""The paper's eight benchmarks: read their public files, extract answers, score. Used by `evaluate` and notebook 05.

Two named methods. "official": the rules of the benchmark's authors (`official`), mistakes included. "ours": one set
of rules for all eight, below: the box, the answer tags, "the answer is", option letters and values; numbers with
units, lists and algebra by `answers.grade`. Some authors extract or score with a language model; `evaluate` asks one
where it is given one.
"""

import ast
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from perception_r1.common.errors import InputError
from perception_r1.evaluation import official_rules
from perception_r1.problems.answers import extract_answer, grade
from perception_r1.problems.schema import IMAGE_MARK, Problem

LETTERS = "ABCDEFGHIJ"
NUMERIC = ("integer", "float")


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        id: unique in the benchmark.
        question: without its options; marks for images are kept as the file has them.
        options: texts of the options, empty for an open question.
        answer: gold, as the file has it: an option's letter or text, or a value.
        images: file names in the benchmark's folder, or encoded images.
        groups: what sub-scores are taken over: "subject", "level", ...
        answer_type: "text", "integer", "float" or "list", where the file says so.
        precision: decimal places of a float.
        asked: what a model is asked where that is not question and options: these stand in the image.
    """

    id: str
    question: str
    options: tuple[str, ...]
    answer: str
    images: tuple[str | bytes, ...] = field(repr=False)
    groups: Mapping[str, str]
    answer_type: str = "text"
    precision: int | None = None
    asked: str = ""

    @property
    def letter(self) -> str | None:
        """The right option's letter; None for an open question."""
        if not self.options:
            return None
        if self.answer in self.options and self.answer not in tuple(LETTERS[: len(self.options)]):
            return LETTERS[self.options.index(self.answer)]
        return self.answer.strip().upper()

    @property
    def text(self) -> str:
        """Question and options as a model is asked, without marks for images."""
        if self.asked:
            return self.asked
        text = self.question
        if self.options and tuple(self.options) != tuple(LETTERS[: len(self.options)]):
            lines = [f"({a}) {option}" for a, option in zip(LETTERS, self.options, strict=False)]
            text += "\nChoices:\n" + "\n".join(lines)
        several = len(self.images) > 1
        text = re.sub(r"<image[ _]?(\d*)>", r"image \1" if several else "", text).strip()
        return text or IN_IMAGE

    def problem(self, folder: Path | None = None) -> Problem:
        """As a problem that a policy can be asked, with its images.

        Raises:
            InputError: an image is missing or cannot be read.
        """
        images = [_image(image, folder, self.id) for image in self.images]
        if not images:
            raise InputError(
                f"item {self.id} has no image; leave the benchmark's files as they are"
            )
        return Problem(
            id=self.id, problem=IMAGE_MARK * len(images) + self.text, images=tuple(images), answer=self.answer or "?"
        )  # fmt: skip


def _image(image: str | bytes, folder: Path | None, id_: str) -> bytes:
    if isinstance(image, bytes):
        data, where = image, "the file"
    else:
        flat = Path("images") / image.replace("/", "_")  # copies with all images in one folder
        paths = [Path(folder or "") / name for name in (image, flat)]
        where = next((path for path in paths if path.is_file()), paths[0])
        try:
            data = where.read_bytes()
        except OSError as error:
            raise InputError(
                f"item {id_}: cannot read the image {where}: {error.strerror}"
            ) from error
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
    except Exception as error:  # Pillow's plugins raise many kinds
        raise InputError(
            f"item {id_}: the image in {where} cannot be decoded ({type(error).__name__}); fetch it again"
        ) from error
    return data


# --- our rules -------------------------------------------------------------------------------------

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_SAID = re.compile(
    r"(?:answers?|(?:correct|right|best) (?:option|choice))\b[^.:\n]{0,40}?(?:\b(?:is|are|would be|should be)|:|=)"
    r"\s*[:*\s]*(?=(?P<said>[^\n]+))",
    re.IGNORECASE,
)  # fmt: skip
_LAST = re.compile(r"(?:=|≈|\bis|\bare|\bequals)\s*(?P<said>[^=\n]+)$")
_COURTESY = re.compile(
    r"(?:is there anything|do you |i hope|let me know|please let|would you like)", re.IGNORECASE
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_MATHS = re.compile(r"\\(?!text|mathrm|mathbf|[,;!$% ]|circ)|[\^+*/√π](?!\s*\{?\\circ)")
_SENTENCE_END = re.compile(r"(?<!\d)(?<!\b[A-J])\.(?=\s|$)|(?<=\d)\.(?=\s|$)")
_ANOTHER = re.compile(
    r"[\s,;/&|]*(?:(?:or|and|maybe|perhaps)\s+)*\(?[A-J](?:[).,;:]|\s*$|\s+(?:or|and)\b)"
)
_LETTER = re.compile(
    r"\s*(?:(?:the|therefore|thus|still|answer|option|choice|is)[:,\s*]+)*"
    r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?\s*[\[({]*\s*(?P<letter>[A-J])\s*(?:[\])}.:,]|(?<=\s)\(|$)",
    re.IGNORECASE,
)


def extract(response: str, options: Sequence[str] = (), number: bool = False) -> str | None:
    """The answer that our rules find in a response, first rule first; None if there is none.

    The box; the answer tags; what follows the last "the answer is"; for options a letter that begins or ends the
    response, the last one in parentheses, or the one option that the last sentence names; a response of one short line;
    the last bold words; what the last line says after "is" or "="; for numbers the last one of the last sentence.

    Args:
        response: what the model said.
        options: texts of the options, if there are any.
        number: whether a number is wanted.
    """
    text = response.strip()
    if (boxed := extract_answer(response)) is not None:
        return boxed
    if (tagged := _ANSWER.findall(response)) and tagged[-1].strip():
        text = tagged[-1].strip()
    if said := list(_SAID.finditer(text)):
        return _sentence(said[-1]["said"])
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not _COURTESY.match(line.strip())
    ]
    if not lines:
        return None
    last = [
        part for part in re.split(r"(?<=[.!?])\s+", lines[-1]) if not _COURTESY.match(part)
    ] or [""]
    if options and (letter := _named(lines, last[-1], text, options)):
        return letter
    if len(lines) == 1 and len(lines[0]) <= 60:
        found = _LAST.search(lines[0].rstrip("."))
        return (found["said"] if found else lines[0]).strip(" .*$")
    if (bold := re.findall(r"\*\*([^*\n]{1,40})\*\*", lines[-1])) and (
        not number or _NUMBER.search(bold[-1])
    ):
        return bold[-1].strip(" .:$")
    found = _LAST.search(_sentence(lines[-1])[-300:])
    if found and (not number or _NUMBER.search(found["said"])):
        return found["said"].strip(" .*$")
    numbers = _NUMBER.findall(last[-1]) if number else []
    return numbers[-1] if numbers else None


def _named(lines: Sequence[str], last: str, text: str, options: Sequence[str]) -> str | None:
    """The letter that begins or ends a response, its last one in parentheses, or that of the option it ends with."""
    letter = f"([{LETTERS[: len(options)]}])"
    begins = re.compile(rf"\(?{letter}[).:](?:\s|$)|{letter}$")
    if found := re.search(rf"\(?\b{letter}\)?\.?$", lines[-1]):
        return found[1]
    for line in (lines[-1], lines[0]):
        if found := begins.match(line):
            return found[1] or found[2]
    if found := re.findall(rf"\({letter}\)", text):
        return found[-1]
    for part in (last, lines[0]):
        named = [a for a, option in zip(LETTERS, options, strict=False) if _occurs(option, part)]
        if len(named) == 1 and len(options[LETTERS.index(named[0])]) > 1:
            return named[0]
    return None


def _occurs(option: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(option.strip())}(?!\w)", text, re.IGNORECASE) is not None


def _sentence(text: str) -> str:
    """Up to the end of its first sentence, without marks of emphasis."""
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip(" .*$`\"'")


def choose(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an extracted answer means; None if it is none, or not clear which.

    Its text comes before a letter, so that an option "C" of another place is not mistaken; then a value that one
    option alone has.
    """
    letters = LETTERS[: len(options)]
    plain = list(map(_plain, options))
    lettered = plain == [a.lower() for a in letters]
    if (bare := _plain(answer).upper()) in tuple(letters):
        return bare
    if not lettered and plain.count(_plain(answer)) == 1:
        return letters[plain.index(_plain(answer))]
    if found := _LETTER.match(answer):
        letter = found["letter"].upper()
        rest = answer[found.end() :]
        if letter not in letters:
            return None
        said = _plain(rest) == plain[letters.index(letter)]
        return letter if said or not _ANOTHER.match(rest) else None
    if lettered:
        return None
    start = [a for a, option in zip(letters, options, strict=True) if _begins(answer, option)]
    if len(start) == 1:
        return start[0]
    if len(answer) > 100:
        return None
    equal = [a for a, option in zip(letters, options, strict=True) if _equal(answer, option)]
    return equal[0] if len(equal) == 1 else None


def _begins(answer: str, option: str) -> bool:
    """Whether an answer begins with an option of words, as in "No, there are none"."""
    words = option.strip()
    return (
        len(words) > 1
        and re.match(rf"{re.escape(words)}(?:[\s,.;]|$)", answer.strip(), re.IGNORECASE) is not None
    )


def _plain(text: str) -> str:
    """Without dress: dollars, stars, quotes, spaces (but between digits), points (but before digits), text's braces."""
    text = re.sub(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}", r"\1", text.strip())
    text = re.sub(r"[$*\"']|\.(?!\d)", "", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text).lower()


def _equal(answer: str, gold: str) -> bool:
    """By `answers.grade`; what it cannot grade is compared letter by letter."""
    if _plain(answer) == _plain(gold):
        return True
    try:
        return grade(answer, gold)
    except InputError:  # the gold answer is prose
        return False


def ours(response: str, item: Item) -> tuple[str | None, bool]:
    """A response by our rules: what is extracted, and whether it is right."""
    found = extract(response, item.options, item.answer_type in NUMERIC)
    return found, is_right(found, item)


def is_right(answer: str | None, item: Item) -> bool:
    """Whether an extracted answer is the gold one, by our rules."""
    if answer is None:
        return False
    if item.options:
        return choose(answer, item.options) == item.letter
    if item.answer_type == "list":
        return (gold := _numbers(item.answer)) is not None and _numbers(answer) == gold
    answer = answer.replace("\u2212", "-")
    numbers = _NUMBER.findall(answer) if item.answer_type in NUMERIC else []
    if len(numbers) == 1 and not _MATHS.search(answer.replace(numbers[0], "", 1)):  # "3 bars"
        answer = numbers[0]
        if item.precision is not None and "/" not in answer:
            value = float(answer.replace(",", ""))
            return round(value, item.precision) == round(float(item.answer), item.precision)
    return any(_equal(answer, gold) for gold in official_rules.golds(item.answer))


def _numbers(text: str) -> tuple[float, ...] | None:
    try:
        return tuple(map(float, ast.literal_eval(text.strip(" $"))))
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        return None


def why_different(item: Item, theirs: str | None, ours: str | None) -> str:
    """Why the authors' rules and ours come to different verdicts on a response, from what each extracted."""
    if ours is None:
        return "ours finds no answer"
    if not theirs:
        return "theirs finds no answer"
    if item.options and choose(theirs, item.options) is None and choose(ours, item.options) is None:
        return "no option is meant; theirs takes the nearest spelling or rounded value"
    one, other = map(_skeleton, (theirs, ours))
    if one not in other and other not in one:
        return "taken from different places"
    if item.options and (found := _LETTER.match(ours)) and ours[found.end() :].strip(" }"):
        return "an option's letter beside its text, which theirs takes for neither"
    values = (re.fullmatch(r"-?\d*\.?\d+", text.strip(" $")) for text in (theirs, item.answer))
    if all(values) and theirs.strip(" $") != item.answer.strip(" $"):
        return "rounding"
    return "units, LaTeX or an option's text, compared in another way"


def _skeleton(text: str) -> str:
    """Letters and digits, without what dresses them."""
    text = re.sub(r"\\?(?:text|mathrm|mathbf|quad|left|right)|bf|~", "", text.lower())
    return re.sub(r"[^a-z0-9]", "", text)


# --- the authors' rules, one function a benchmark ---------------------------------------------------


def _mathvision_official(response: str, item: Item) -> tuple[str | None, bool]:
    answer = official_rules.mathvision_answer(response)
    return answer, official_rules.mathvision_right(answer, item.answer, item.options)


def _mathvista_official(response: str, item: Item) -> tuple[str | None, bool]:
    kind = "multi_choice" if item.options else "free_form"
    extraction = official_rules.mathvista_extraction(response, kind, item.answer_type, item.options)
    if extraction is None:  # their language model's turn: our rules stand in for its extraction
        extraction = extract(response, item.options, item.answer_type in NUMERIC) or ""
    found = official_rules.mathvista_prediction(
        extraction, kind, item.answer_type, item.options, item.precision
    )
    return extraction, found == item.answer


def _wemath_official(response: str, item: Item) -> tuple[str | None, bool]:
    answer = official_rules.wemath_answer(response)
    return answer, answer == item.answer


def _mmmu_official(response: str, item: Item) -> tuple[str | None, bool]:
    if not item.options:
        return response, official_rules.mmmu_open(response, item.answer)
    letter = official_rules.mmmu_choice(response, item.options, item.id)
    return letter, letter == item.answer


def _mmmu_pro_official(response: str, item: Item) -> tuple[str | None, bool]:
    letter = official_rules.mmmu_pro_choice(response, item.options, item.id)
    return letter, letter == item.answer


def _mmstar_official(response: str, item: Item) -> tuple[str | None, bool]:
    letter = official_rules.mmstar_answer(response)
    return letter, letter == item.answer


def _emma_official(response: str, item: Item) -> tuple[str | None, bool]:
    answer = official_rules.emma_answer(response)
    return answer, official_rules.emma_right(answer, item.answer, item.options)


# --- the files ---------------------------------------------------------------------------------------


IN_IMAGE = "Answer the question in the image."


def _read_mathvision(row: Mapping) -> Item:
    return Item(
        str(row["id"]), row["question"], tuple(row["options"]), str(row["answer"]),
        _pictures(row, "decoded_image") or (row["image"],),
        {"subject": row["subject"], "level": str(row["level"])},
    )  # fmt: skip


def _read_mathvista(row: Mapping) -> Item:
    about, precision = row["metadata"], row["precision"]
    return Item(
        str(row["pid"]), row["question"], tuple(row["choices"] or ()), str(row["answer"]),
        _pictures(row, "decoded_image") or (row["image"],),
        {"subject": about["task"], "context": about["context"]}, row["answer_type"],
        None if precision is None else int(precision),
    )  # fmt: skip


def _read_wemath(row: Mapping) -> Item:
    options = re.split(r";?\s*(?:^|(?<=[;\s]))(?=[A-H]\. )", row["option"])
    texts = []
    for part in filter(None, map(str.strip, options)):
        text = part.rstrip(";").strip()[3:].strip()
        if text:
            texts.append(text)
        else:  # a point "C" at the end of the text before
            texts[-1] = f"{texts[-1].rstrip(';')} {part[0]}"
    return Item(
        f"{row['ID']}/{row['key']}", row["question"], tuple(texts), row["answer"],
        _pictures(row, "image_path") or (row["image_path"],),
        {"subject": row["knowledge concept"], "problem": row["ID"], "key": row["key"]},
    )  # fmt: skip


def _read_mathverse(row: Mapping) -> Item:
    about, shown = row["metadata"], row["question"]
    question, _, choices = (shown or row["question_for_eval"]).partition("\nChoices:\n")
    options = [part.strip() for part in re.split(r"(?:^|\n)[A-H] ?:", choices)[1:]]
    if row["question_type"] == "multi-choice" and not options:
        options = "ABCD"
    return Item(
        str(row["sample_index"]), question, tuple(options), str(row["answer"]),
        _pictures(row, "image") or ((row["image"],) if row.get("image") else ()),
        {"subject": about["subject"], "version": row["problem_version"]}, asked="" if shown else IN_IMAGE,
    )  # fmt: skip


def _read_mmmu(row: Mapping) -> Item:
    subject = "_".join(row["id"].split("_")[1:-1])
    return Item(
        row["id"], row["question"], tuple(map(str, ast.literal_eval(row["options"]))), str(row["answer"]),
        _pictures(row, *(f"image_{k}" for k in range(1, 8))),
        {"subject": subject, "type": row["question_type"]},
    )  # fmt: skip


def _read_mmmu_pro(row: Mapping) -> Item:
    vision = "image" in row
    return Item(
        f"{'vision' if vision else 'standard'}/{row['id']}", row.get("question", ""),
        tuple(map(str, ast.literal_eval(row["options"]))), row["answer"],
        _pictures(row, "image", *(f"image_{k}" for k in range(1, 8))),
        {"subject": row["subject"], "setting": "vision" if vision else "standard, 10 options"},
        asked=IN_IMAGE if vision else "",
    )  # fmt: skip


def _read_mmstar(row: Mapping) -> Item:
    question, _, choices = row["question"].partition("\nOptions: ")
    options = [part.strip(" ,\n") for part in re.split(r"(?:^|, |\n)[A-D]: ", choices)[1:]]
    if len(options) < 2:  # written in another way: letters alone
        question, options = row["question"], "ABCD"
    return Item(
        str(row["index"]), question, tuple(options), row["answer"].strip(), _pictures(row, "image"),
        {"subject": row["category"], "ability": row["l2_category"]},
    )  # fmt: skip


def _read_emma(row: Mapping) -> Item:
    options = row["options"] if row["type"].lower() == "multiple choice" else ()
    context = row["context"] if row["context"] not in (None, "None") else ""
    return Item(
        row["pid"], f"{context}\n{row['question']}".strip(), tuple(options),
        str(row["answer"]), _pictures(row, *(f"image_{k}" for k in range(1, 6))),
        {"subject": row["subject"], "type": row["type"]},
    )  # fmt: skip


def _pictures(row: Mapping, *columns: str) -> tuple[str | bytes, ...]:
    """The images of a row as `datasets` stores them: {"bytes": ..., "path": ...}."""
    found = (row.get(column) for column in columns)
    return tuple(one["bytes"] or one["path"] for one in found if isinstance(one, Mapping))


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: where it is, how its rows are read, how its authors score.

    Attributes:
        name: as the paper writes it.
        items: number of questions in the split that the paper uses.
        hub: the dataset on the Hugging Face hub.
        split: of it.
        parts: its configurations, all of which belong to the benchmark; None: it has one without a name.
        files: what a local folder may hold: the first that is there is read, and with it what stands behind a "|".
        read: one row of the file as an `Item`.
        official: the authors' rules, response and item to (extracted, correct); None if a language model scores.
        asks_a_model: what the authors ask a language model for, "" for nothing.
        verified: on what the reading of its files and the rules were checked.
    """

    name: str
    items: int
    hub: str
    split: str
    parts: tuple[str | None, ...]
    files: tuple[str, ...]
    read: Callable[[Mapping], Item]
    official: Callable[[str, Item], tuple[str | None, bool]] | None
    asks_a_model: str = ""
    verified: str = "the published files and results"


_BY_HAND = (
    "small files of the public schema, and rules by hand: no published file or result was at hand"
)
_MMMU_SUBJECTS = tuple(
    "Accounting Agriculture Architecture_and_Engineering Art Art_Theory Basic_Medical_Science Biology Chemistry "
    "Clinical_Medicine Computer_Science Design Diagnostics_and_Laboratory_Medicine Economics Electronics "
    "Energy_and_Power Finance Geography History Literature Manage Marketing Materials Math Mechanical_Engineering "
    "Music Pharmacy Physics Psychology Public_Health Sociology".split()
)

BENCHMARKS = {
    "mathvista": Benchmark(
        "MathVista", 1000, "AI4Math/MathVista", "testmini", (None,),
        ("testmini.json", "testmini*.parquet", "output_*.json"),
        _read_mathvista, _mathvista_official, "extraction",
    ),
    "mathverse": Benchmark(
        "MathVerse", 3940, "AI4Math/MathVerse", "testmini", ("testmini",), 
        ("testmini.json", "testmini.parquet", "testmini-*.parquet"),
        _read_mathverse, None, "extraction and scoring", _BY_HAND,
    ),
    "mathvision": Benchmark(
        "MathVision", 3040, "MathLLMs/MathVision", "test", (None,), ("test.jsonl", "test-*.parquet"),
        _read_mathvision, _mathvision_official,
    ),
    "wemath": Benchmark(
        "We-Math", 1740, "We-Math/We-Math", "testmini", (None,), ("testmini.json", "testmini*.parquet"),
        _read_wemath, _wemath_official, "", "the published problems; rules by hand: no published response was at hand",
    ),
    "mmmu": Benchmark(
        "MMMU", 900, "MMMU/MMMU", "validation", _MMMU_SUBJECTS, ("validation*.parquet",),
        _read_mmmu, _mmmu_official, "", _BY_HAND,
    ),
    "mmmupro": Benchmark(
        "MMMU-Pro", 3460, "MMMU/MMMU_Pro", "test", ("standard (10 options)", "vision"),
        ("standard (10 options)/*.parquet|vision/*.parquet",),
        _read_mmmu_pro, _mmmu_pro_official, "", _BY_HAND,
    ),
    "mmstar": Benchmark(
        "MMStar", 1500, "Lin-Chen/MMStar", "val", ("val",), ("*.parquet",),
        _read_mmstar, _mmstar_official, "", _BY_HAND,
    ),
    "emma": Benchmark(
        "EMMA", 2788, "luckychao/EMMA", "test", ("Math", "Physics", "Chemistry", "Coding"), ("*.parquet",),
        _read_emma, _emma_official, "scoring, in its second kind of evaluation", _BY_HAND,
    ),
}  # fmt: skip


def find(name: str) -> Benchmark:
    """The benchmark of a name, however it is written ("MATH-Vision", "math_vision").

    Raises:
        InputError: there is none.
    """
    key = re.sub(r"[^a-z]", "", name.lower())
    if key not in BENCHMARKS:
        raise InputError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[key]


def load(benchmark: Benchmark, source: str | Path = "", items: int | None = None) -> list[Item]:
    """Read all questions of a benchmark.

    Args:
        benchmark: which one.
        source: a folder with its public files; empty: from the hub (never executed here: no network).
        items: how many there must be; None: as many as the paper's split has.

    Raises:
        InputError: no such folder or file, a row that is not the benchmark's, ids that repeat, or another count.
    """
    where, rows = _from_folder(benchmark, Path(source)) if source else _from_hub(benchmark)
    found: dict[str, Item] = {}
    for number, row in enumerate(rows):
        try:
            item = benchmark.read(row)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, SyntaxError) as error:
            raise InputError(
                f"{where}, row {number}: not a row of {benchmark.name} ({type(error).__name__}: {error}); "
                f"its public format is that of {benchmark.hub}"
            ) from error
        if item.id in found:
            raise InputError(
                f"{where}, row {number}: the id {item.id} was there before; fetch the file again"
            )
        found[item.id] = item
    if not found:
        raise InputError(f"{where} has no questions; fetch it again")
    wanted = benchmark.items if items is None else items
    if len(found) != wanted:
        raise InputError(
            f"{where} has {len(found)} questions and {benchmark.name} {wanted}: fetch it again, or say with --items "
            f"{len(found)} that it is a part of the benchmark"
        )
    return list(found.values())


def _from_folder(benchmark: Benchmark, folder: Path) -> tuple[str, Iterator[Mapping]]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give one with the files of {benchmark.name}")
    for patterns in benchmark.files:
        found = [sorted(folder.rglob(pattern)) for pattern in patterns.split("|")]
        if all(found):
            paths = [path for part in found for path in part]
            if paths[0].suffix == ".parquet":
                return str(folder), (row for path in paths for row in _parquet(path))
            return str(paths[0]), iter(read_rows(paths[0]))
    raise InputError(
        f"{folder} has none of {', '.join(benchmark.files)}; {benchmark.name} is published as {benchmark.hub}"
    )


def read_rows(path: Path) -> list[Mapping]:
    """Rows of a JSON file (a list, or an object of rows) or of a file with one JSON object a line."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            content = json.loads(text)
            rows = list(content.values()) if isinstance(content, dict) else content
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}; fetch it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} holds no rows; it is not a benchmark's file")
    return rows


def _parquet(path: Path) -> Iterator[Mapping]:
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as Parquet ({error}); fetch it again") from error
    for batch in table.to_batches(max_chunksize=64):
        yield from batch.to_pylist()


def _from_hub(benchmark: Benchmark) -> tuple[str, Iterator[Mapping]]:
    import datasets  # slow to import, and needed here alone

    tables = []
    for part in benchmark.parts:
        try:
            table = datasets.load_dataset(benchmark.hub, part, split=benchmark.split)
        except Exception as error:  # of many kinds: no network, no such name, no right to it
            raise InputError(
                f"the hub does not give {benchmark.hub} ({type(error).__name__}: {error}); check the network, or give "
                "a folder with --data"
            ) from error
        for column, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
        tables.append(table)
    return benchmark.hub, itertools.chain(*tables)
