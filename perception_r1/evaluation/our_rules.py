"""One question of a benchmark, and our rules for scoring a response to it: one set of rules for all eight benchmarks.

What is taken for the answer: the box, the answer tags, "the answer is", option letters and options' texts, numbers.
Whether it is right: options by letter, text or value; values with units, lists and algebra by `answers.grade`.
The authors' own rules stand in `official_rules`.
"""

import ast
import contextlib
import re
import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from perception_r1.common.errors import InputError
from perception_r1.problems.answer_text import patterns, plain_text
from perception_r1.problems.answer_values import COUNTS, MAX_CHARACTERS, read_answer
from perception_r1.problems.answers import extract_answer, final_text, grade
from perception_r1.problems.option_letters import LETTERS, option_letter
from perception_r1.problems.schema import IMAGE_MARK, Problem

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
    def text(self) -> str:
        """Question and options as a model is asked, without marks for images."""
        if self.prompt:
            return self.prompt
        text = self.question
        if self.options and tuple(self.options) != tuple(LETTERS[: len(self.options)]):
            lettered = zip(LETTERS, self.options, strict=False)
            text += "\nChoices:" + "".join(f"\n({letter}) {option}" for letter, option in lettered)
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

_RULES = patterns(
    tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["patterns"],
    count="|".join(COUNTS),
)
_NEAR = 300  # characters before and behind a letter that say how it is meant
_TAIL = 20_000  # characters of a response that are looked at, from its end
_LAST = 20  # announcements, and letters, that are looked at


def extract(response: str, options: Sequence[str] = (), number: bool = False) -> str | None:
    """The answer that our rules find in what a response says after its thoughts, first rule first; None if none.

    The box, unless it is no option and an answer is announced behind it; the answer tags; what follows the last "the
    answer is" that is no denial, or goes before "is correct"; for options a letter that begins or ends the
    response, the last one in parentheses, or the one option that the last sentence names; a response of one short line;
    the last bold words; what the last line says after "is" or "="; for numbers the last one of the last sentence.

    Args:
        response: what the model said.
        options: texts of the options, if there are any.
        number: whether a number is wanted: then words behind it go, as in "3 bars below 40".
    """
    answer = _stated_answer(response, options, number)
    leading = _RULES.leading.match(answer) if number and answer else None
    if not leading:
        return answer
    value = leading["value"]
    return str(COUNTS.index(value.lower())) if value.lower() in COUNTS else value


def _stated_answer(response: str, options: Sequence[str], number: bool) -> str | None:
    text = final_text(response).strip()
    boxed = extract_answer(text)
    text = text[-_TAIL:]
    if boxed is not None:
        if not options or choose(boxed, options):
            return boxed
        box = max(text.rfind(r"\boxed"), text.rfind("box{"))
        behind = text[text.find(boxed, box) + len(boxed) :]
        alone = re.search(r"(?:^|\n)\W{0,9}([A-J])\W{0,9}$", behind)
        return _announced(behind, options) or (alone[1] if alone else boxed)
    if (tagged := _RULES.tags.findall(text)) and tagged[-1].strip():
        text = tagged[-1].strip()
    announced = _announced(text, options)
    if announced and (not options or _RULES.denied.match(announced) or choose(announced, options)):
        return announced
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _RULES.courtesy.match(line)]
    if options:
        lines = _without_list(lines)
    if not lines:
        return None
    sentences = [sentence for sentence in _RULES.sentence.split(lines[-1]) if sentence]
    last = next((s for s in reversed(sentences) if not _RULES.courtesy.match(s)), "")
    if named := options and _named_option(lines, last, options) or announced:
        return named
    if len(lines) == 1 and len(lines[0]) <= 60:
        says = _RULES.after_verb if len(sentences) == 1 else _RULES.after_is
        match = says.search(lines[0].rstrip(".。"))
        if match and not _is_denied(match) and not (number and re.search(r"\d", _around(match)[0])):
            return match["answer"].strip(" .*$")
        return lines[0].strip(" .*$")
    bold = re.findall(r"\*\*([^*\n]{1,40})\*\*", lines[-1])
    if bold and (not number or _RULES.number.search(bold[-1])):
        return bold[-1].strip(" .:$")
    concludes = number and _RULES.concluding.match(last)
    match = _RULES.after_is.search(_first_sentence(last if concludes else lines[-1])[-300:])
    if match and (not number or _RULES.counted.match(match["answer"])):
        return match["answer"].strip(" .*$")
    numbers = _RULES.number.findall(last) if number else []
    return numbers[-1] if numbers else None


def _announced(text: str, options: Sequence[str]) -> str | None:
    """What the last announcement says that names an option, or the last one of all; a denial is none."""
    mentions = [
        one
        for one in [*_RULES.announced.finditer(text)][-_LAST:]
        if not _RULES.hypothetical.search(text, max(0, one.start() - _NEAR), one.end())
        and not _RULES.unwanted.search(_around(one)[0])
    ]
    if options:
        mentions += filter(_is_meant, [*_RULES.is_right.finditer(text)][-_LAST:])
    phrases = [_first_sentence(one["answer"]) for one in sorted(mentions, key=re.Match.start)]
    phrases = [phrase for phrase in phrases if phrase and not _RULES.not_this.match(phrase)]
    named = (phrase for phrase in reversed(phrases) if options and choose(phrase, options))
    return next(named, phrases[-1] if phrases else None)


def _around(named: re.Match[str]) -> tuple[str, str]:
    """What stands before a place in its sentence, and what comes behind it."""
    before = named.string[max(0, named.start() - _NEAR) : named.start()]
    return _RULES.sentence.split(before)[-1], named.string[named.end() : named.end() + _NEAR]


def _is_denied(named: re.Match[str]) -> bool:
    """Whether an option that a text names is denied there: "cannot be B", "B is wrong"."""
    before, behind = _around(named)
    clause = re.split(r"(?<!thing )(?<!all )(?<!All )\bbut\b|[,;]|\.\s", before)[-1]
    return bool(_RULES.denied.search(clause) or _RULES.denied_behind.match(behind))


def _is_meant(named: re.Match[str]) -> bool:
    """Whether a letter that a text names is neither denied nor one of several."""
    before, behind = _around(named)
    sentence = before + named[0] + _RULES.sentence.split(behind)[0]
    several = len(set(_RULES.label.findall(sentence))) > 2
    return not (
        _is_denied(named)
        or (several and not _RULES.concluded.search(before))
        or _RULES.listed.search(before)
        or _RULES.listed_behind.match(behind)
    )


def _without_list(lines: Sequence[str]) -> list[str]:
    """Without the list of the options, where a response repeats it: letters in order, a line each, from A or three."""
    labels = [_RULES.labelled.match(line) for line in lines]
    letters = "".join(label["letter"] if label else " " for label in labels)
    runs = re.finditer("".join(f"{letter}?" for letter in string.ascii_uppercase), letters)
    listed = [run.span() for run in runs if len(run[0]) > 2 or run[0] == "AB"]
    dropped = {k for span in listed for k in range(*span)}
    return [line for k, line in enumerate(lines) if k not in dropped]


def _named_option(lines: Sequence[str], last: str, options: Sequence[str]) -> str | None:
    """The letter that begins or ends a response, its last one in parentheses, or that of the option it ends with."""
    letters = LETTERS[: len(options)]
    foreign = _RULES.labelled.match(lines[-1])
    if foreign and foreign["letter"] not in letters:
        return choose(foreign["text"], options)
    mentions = [
        *_RULES.chosen.finditer(lines[-1]),
        *_RULES.ends.finditer(lines[-1]),
        *filter(None, map(_RULES.begins.match, (lines[-1], lines[0]))),
        *[*_RULES.bracketed.finditer("\n".join(lines))][: -_LAST - 1 : -1],
    ]
    meant = (one["letter"] for one in mentions if one["letter"] in letters and _is_meant(one))
    if letter := next(meant, None):
        return letter
    for part in (last, lines[0]):
        matches = {
            letter: re.search(rf"(?i)(?<!\w){re.escape(option.strip())}(?!\w)", part)
            for letter, option in zip(letters, options, strict=False)
        }
        named = [(letter, one) for letter, one in matches.items() if one]
        if len(named) == 1 and len(named[0][1][0]) > 1 and not _is_denied(named[0][1]):
            return named[0][0]
    return None


def _first_sentence(text: str) -> str:
    """Up to the end of the first sentence, without marks of emphasis."""
    end = _RULES.sentence_end.search(text)
    return (text[: end.start()] if end else text).strip(" .*$`\"'")


# --- whether it is right -----------------------------------------------------------------------------


def is_right(answer: str | None, item: Item) -> bool:
    """Whether an extracted answer is the gold one, as it stands, or without the words beside its value."""
    if answer is None:
        return False
    if item.options:
        return choose(answer, item.options) == item.letter
    if item.answer_type == "list":
        return (gold := _numbers(item.answer)) is not None and _numbers(answer) == gold
    answer = answer[:MAX_CHARACTERS].replace("\u2212", "-")
    forms = {answer, _RULES.comment.sub("", answer), _RULES.words_before.sub("", answer)}
    return any(_is_value(form, item) for form in forms)


def _is_value(answer: str, item: Item) -> bool:
    if item.precision is not None:
        with contextlib.suppress(InputError):
            given, gold = (read_answer(text).number for text in (answer, item.answer))
            if None not in (given, gold):
                return round(given, item.precision) == round(gold, item.precision)
    return any(_equal(answer, gold) for gold in golds(item.answer))


def choose(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an extracted answer means; None if it is none, or not clear which.

    Its text comes before a letter, so that an option "C" of another place is not mistaken; then a value that one
    option alone has.
    """
    answer = answer[:MAX_CHARACTERS]
    letters, given, texts = LETTERS[: len(options)], _plain(answer), [*map(_plain, options)]
    if (bare := given.upper()) in tuple(letters):
        return bare
    only_letters = [*map(_signs, texts)] == list(letters.lower())
    if not only_letters and texts.count(given) == 1:
        return letters[texts.index(given)]
    for letter, text in zip(letters, texts, strict=False):
        if _signs(given) == letter.lower() + _signs(text):  # "(D) G" where G is a text
            return letter
    if letter := option_letter(answer):
        return letter if letter in letters else None
    if only_letters:
        return None
    value = _RULES.comment.sub("", answer)
    for text, means in (answer, _begins), (value, _equal):
        named = [
            letter for letter, option in zip(letters, options, strict=False) if means(text, option)
        ]
        if len(named) == 1 or len(value) > 100:
            return named[0] if len(named) == 1 else None
    return None


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
    pattern = rf"(?i){re.escape(option.strip())}(?:[\s,.;]|$)"
    return len(option.strip()) > 1 and bool(re.match(pattern, answer.strip()))


def _plain(text: str) -> str:
    """Without dress, article, quotes, spaces (but between digits) and points (but before digits), in small letters."""
    text = re.sub(r"(?i)^(?:the|an?) (?=\w{2})", "", plain_text(text))
    text = re.sub(r"[$*\"']|\.(?!\d)", "", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text).lower()


def _signs(text: str) -> str:
    return re.sub(r"\W", "", text)


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
    one, other = _signs(_plain(official)), _signs(_plain(our_answer))
    if one not in other and other not in one:
        return "taken from different places"
    if item.options and option_letter(our_answer) and len(our_answer) > 3:
        return "an option's letter beside its text, which theirs takes for neither"
    values = [text.strip(" $") for text in (official, item.answer)]
    if all(re.fullmatch(r"-?\d*\.?\d+", v) for v in values) and values[0] != values[1]:
        return "rounding"
    return "units, LaTeX or an option's text, compared in another way"
