"""One question of a benchmark, and our rules for scoring a response to it: one set of rules for all eight benchmarks.

What is taken for the answer: the box, the answer tags, "the answer is", option letters and options' texts, numbers.
Whether it is right: options by letter, text or value; values with units, lists and algebra by `answers.grade`.
The authors' own rules stand in `official_rules`.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from perception_r1.common.errors import InputError
from perception_r1.problems.answers import extract_answer, grade
from perception_r1.problems.schema import IMAGE_MARK, Problem

LETTERS = "ABCDEFGHIJ"
NUMERIC = ("integer", "float")
IN_IMAGE = "Answer the question in the image."


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
        prompt: what a model is asked where that is not question and options: these stand in the image.
    """

    id: str
    question: str
    options: tuple[str, ...]
    answer: str
    images: tuple[str | bytes, ...] = field(repr=False)
    groups: Mapping[str, str]
    answer_type: str = "text"
    precision: int | None = None
    prompt: str = ""

    @property
    def letter(self) -> str | None:
        """The right option's letter; None for an open question."""
        if not self.options:
            return None
        if self.answer in self.options and self.answer not in tuple(LETTERS[: len(self.options)]):
            return LETTERS[self.options.index(self.answer)]
        return self.answer.strip().upper()

    @property
    def lettered_options(self) -> str:
        """The options as a question lists them, a line each."""
        pairs = zip(LETTERS, self.options, strict=False)
        return "\n".join(f"({letter}) {option}" for letter, option in pairs)

    @property
    def text(self) -> str:
        """Question and options as a model is asked, without marks for images."""
        if self.prompt:
            return self.prompt
        text = self.question
        if self.options and tuple(self.options) != tuple(LETTERS[: len(self.options)]):
            text += f"\nChoices:\n{self.lettered_options}"
        several = len(self.images) > 1
        text = re.sub(r"<image[ _]?(\d*)>", r"image \1" if several else "", text).strip()
        return text or IN_IMAGE

    def problem(self, folder: Path | None = None) -> Problem:
        """As a problem that a policy can be asked, with its images, named ones from `folder`.

        Raises:
            InputError: an image is missing or cannot be read.
        """
        text = IMAGE_MARK * len(self.images) + self.text
        try:
            images = tuple(_encoded(image, Path(folder or "")) for image in self.images)
            return Problem(id=self.id, problem=text, images=images, answer=self.answer or "?")
        except OSError as error:
            why = f"cannot read the image {error.filename}: {error.strerror}"
            raise InputError(f"item {self.id}: {why}; fetch the benchmark's files again") from error
        except ValidationError as error:
            why = error.errors()[0]["msg"].removeprefix("Value error, ")
            names = [image for image in self.images if isinstance(image, str)]
            where = f"item {self.id} ({', '.join(names) or 'images in the file'})"
            raise InputError(f"{where}: {why}; fetch the benchmark's files again") from error


def _encoded(image: str | bytes, folder: Path) -> bytes:
    if isinstance(image, bytes):
        return image
    flat = folder / "images" / image.replace("/", "_")  # in a copy with all images in one folder
    return (flat if flat.is_file() else folder / image).read_bytes()


def ours(response: str, item: Item) -> tuple[str | None, bool]:
    """A response by our rules: what is extracted (None if there is no answer), and whether it is right."""
    answer = extract(response, item.options, item.answer_type in NUMERIC)
    return answer, is_right(answer, item)


# --- what the answer is ----------------------------------------------------------------------------

_TAGS = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_ANNOUNCED = re.compile(
    r"(?:answers?|(?:correct|right|best) (?:option|choice))\b[^.:\n]{0,40}?(?:\b(?:is|are|would be|should be)|:|=)"
    r"\s*[:*\s]*(?=(?P<answer>[^\n]+))",
    re.IGNORECASE,
)
_AFTER_IS = re.compile(r"(?:=|≈|\bis|\bare|\bequals)\s*(?P<answer>[^=\n]+)$")
_COURTESY = re.compile(
    r"(?:is there anything|do you |i hope|let me know|please let|would you like)", re.IGNORECASE
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_SENTENCE_END = re.compile(r"(?<!\d)(?<!\b[A-J])\.(?=\s|$)|(?<=\d)\.(?=\s|$)")


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
    if (tagged := _TAGS.findall(response)) and tagged[-1].strip():
        text = tagged[-1].strip()
    if announced := list(_ANNOUNCED.finditer(text)):
        return _first_sentence(announced[-1]["answer"])
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _COURTESY.match(line)]
    if not lines:
        return None
    sentences = re.split(r"(?<=[.!?])\s+", lines[-1])
    last = next((s for s in reversed(sentences) if not _COURTESY.match(s)), "")
    if options and (letter := _named_option(lines, last, text, options)):
        return letter
    if len(lines) == 1 and len(lines[0]) <= 60:
        after_is = _AFTER_IS.search(lines[0].rstrip("."))
        return (after_is["answer"] if after_is else lines[0]).strip(" .*$")
    bold = re.findall(r"\*\*([^*\n]{1,40})\*\*", lines[-1])
    if bold and (not number or _NUMBER.search(bold[-1])):
        return bold[-1].strip(" .:$")
    after_is = _AFTER_IS.search(_first_sentence(lines[-1])[-300:])
    if after_is and (not number or _NUMBER.search(after_is["answer"])):
        return after_is["answer"].strip(" .*$")
    numbers = _NUMBER.findall(last) if number else []
    return numbers[-1] if numbers else None


def _named_option(lines: Sequence[str], last: str, text: str, options: Sequence[str]) -> str | None:
    """The letter that begins or ends a response, its last one in parentheses, or that of the option it ends with."""
    letter = f"([{LETTERS[: len(options)]}])"
    if ending := re.search(rf"\(?\b{letter}\)?\.?$", lines[-1]):
        return ending[1]
    for line in (lines[-1], lines[0]):
        if beginning := re.match(rf"\(?{letter}[).:](?:\s|$)|{letter}$", line):
            return beginning[1] or beginning[2]
    if in_parentheses := re.findall(rf"\({letter}\)", text):
        return in_parentheses[-1]
    for part in (last, lines[0]):
        named = [k for k, option in enumerate(options) if _whole_words(option).search(part)]
        if len(named) == 1 and len(options[named[0]]) > 1:
            return LETTERS[named[0]]
    return None


def _whole_words(option: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(option.strip())}(?!\w)", re.IGNORECASE)


def _first_sentence(text: str) -> str:
    """Up to the end of the first sentence, without marks of emphasis."""
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip(" .*$`\"'")


# --- whether it is right -----------------------------------------------------------------------------

_MATHS = re.compile(r"\\(?!text|mathrm|mathbf|[,;!$% ]|circ)|[\^+*/√π](?!\s*\{?\\circ)")
_ANOTHER_LETTER = re.compile(
    r"[\s,;/&|]*(?:(?:or|and|maybe|perhaps)\s+)*\(?[A-J](?:[).,;:]|\s*$|\s+(?:or|and)\b)"
)
_LETTER = re.compile(
    r"\s*(?:(?:the|therefore|thus|still|answer|option|choice|is)[:,\s*]+)*"
    r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?\s*[\[({]*\s*(?P<letter>[A-J])\s*(?:[\])}.:,]|(?<=\s)\(|$)",
    re.IGNORECASE,
)


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
    return any(_equal(answer, gold) for gold in golds(item.answer))


def choose(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an extracted answer means; None if it is none, or not clear which.

    Its text comes before a letter, so that an option "C" of another place is not mistaken; then a value that one
    option alone has.
    """
    letters = LETTERS[: len(options)]
    plain = [_plain(option) for option in options]
    if (bare := _plain(answer).upper()) in tuple(letters):
        return bare
    only_letters = plain == list(letters.lower())
    if not only_letters and plain.count(_plain(answer)) == 1:
        return letters[plain.index(_plain(answer))]
    if begins := _LETTER.match(answer):
        letter, rest = begins["letter"].upper(), answer[begins.end() :]
        if letter not in letters:
            return None
        its_text = _plain(rest) == plain[letters.index(letter)]
        return letter if its_text or not _ANOTHER_LETTER.match(rest) else None
    if only_letters:
        return None
    begun = [place for place, option in enumerate(options) if _begins(answer, option)]
    if len(begun) == 1:
        return letters[begun[0]]
    if len(answer) > 100:
        return None
    equal = [place for place, option in enumerate(options) if _equal(answer, option)]
    return letters[equal[0]] if len(equal) == 1 else None


def golds(answer: str) -> list[str]:
    """The right answers of an open question: the file may hold a list of texts."""
    if answer.startswith(("['", '["')):
        try:
            return [str(one) for one in ast.literal_eval(answer)]
        except (ValueError, SyntaxError):
            pass
    return [answer]


def _begins(answer: str, option: str) -> bool:
    """Whether an answer begins with an option of words, as in "No, there are none"."""
    pattern = rf"{re.escape(option.strip())}(?:[\s,.;]|$)"
    return len(option.strip()) > 1 and bool(re.match(pattern, answer.strip(), re.IGNORECASE))


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


def _numbers(text: str) -> tuple[float, ...] | None:
    try:
        return tuple(map(float, ast.literal_eval(text.strip(" $"))))
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        return None


def why_different(item: Item, official: str | None, our_answer: str | None) -> str:
    """Why the authors' rules and ours come to different verdicts on a response, from what each extracted."""
    if our_answer is None:
        return "ours finds no answer"
    if not official:
        return "theirs finds no answer"
    if item.options and not any(choose(text, item.options) for text in (official, our_answer)):
        return "no option is meant; theirs takes the nearest spelling or rounded value"
    one, other = _skeleton(official), _skeleton(our_answer)
    if one not in other and other not in one:
        return "taken from different places"
    begins = _LETTER.match(our_answer) if item.options else None
    if begins and our_answer[begins.end() :].strip(" }"):
        return "an option's letter beside its text, which theirs takes for neither"
    values = [text.strip(" $") for text in (official, item.answer)]
    if all(re.fullmatch(r"-?\d*\.?\d+", v) for v in values) and values[0] != values[1]:
        return "rounding"
    return "units, LaTeX or an option's text, compared in another way"


def _skeleton(text: str) -> str:
    """Letters and digits, without what dresses them."""
    text = re.sub(r"\\?(?:text|mathrm|mathbf|quad|left|right)|bf|~", "", text.lower())
    return re.sub(r"[^a-z0-9]", "", text)
