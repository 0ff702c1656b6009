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
from perception_r1.problems.answer_text import plain_text
from perception_r1.problems.answer_values import COUNTS, MAX_CHARACTERS
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
    r"(?:(?:answers?|antwort|réponse|respuesta|(?:correct|right|best) (?:option|choice))\b[^.:\n]{0,40}?"
    r"(?:\b(?:is|are|(?:would|should|must|seems? to) be)\b|[:：=])"
    r"|(?:答案|正[确確]的?|[选選][项項])(?:[选選][项項])?(?:[应應][该該]?)?[是为為]|答案[:：]|[故应應]?[选選][择擇]?(?=[:：\s(（]*[A-J]))"
    r"\s*[:：*\s]*(?=(?P<answer>[^\n]+))",
    re.IGNORECASE,
)
_IF = re.compile(r"\bif\b[^.?!\n]*\bwould be\s*[:*\s]*$", re.IGNORECASE)  # hypothetical
_IS_RIGHT = re.compile(
    r"(?:(?i:option|choice)\s+)?\(?(?<![A-Za-z])(?P<answer>[A-J])(?![A-Za-z])[)*]*"
    r"(?:\s*\([^)\n]*\)|,[^,.\n]{1,60},|: [^.\n]{1,60}?)?"
    r"(?:\s+(?:is|would be|must be)\s+(?!not\b)(?:the\s+)?(?:\w+\s+)?"
    r"(?:(?:correct|right|true|best)(?:\s+(?:answer|choice|option|one))?|answer)"
    r"(?=\s*(?:[^\s\w]|$|because|since|as|and|while|whereas))|是?正[确確])"
)
_DENIED = re.compile(
    r"\b(?:not|none|cannot|never|neither|nor|except|other than|\w+thing but|rul(?:e[sd]?|ing) out"
    r"|(?:eliminat|exclud|discard)\w*)\b|n't\b",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"\W*\b(?:is|are|can|could|would|does)\b[^.]{0,15}?\b(?:not|n't|out|wrong|incorrect|excluded|eliminated)\b",
    re.IGNORECASE,
)
_LISTED = re.compile(
    r"\b[A-J]\b(?:\W{0,3}(?:,|/)|[).:]?[^.;\n]{0,30}(?:\band|\bor|&))[\s(]*$|\([A-J]\)\s*$"
)
_LISTED_BEHIND = re.compile(
    r"(?:\W{0,3}(?:,|/)|[).:]?[^.;,\n]{0,30}(?:\band|\bor|&))[\s(]*[A-J]\b(?!')"
)
_LABEL = re.compile(r"(?<![A-Za-z])([A-J])[.):]")
_AFTER_IS = re.compile(r"(?:=|≈|\bis|\bare|\bequals)\s*(?P<answer>[^=\n]+)$")
_AFTER_VERB = re.compile(
    r"(?:=|≈|\b(?:is|are|equals|get|gets|gives?|obtain|have|has)\b|[是为為有得])\s*(?P<answer>[^=\n]+)$"
)
_FOREIGN = re.compile(r"\W*(?P<letter>[A-Z])[).:]\s*(?P<text>.+)")
_SO = re.compile(r"(?:so|thus|hence|therefore|this means)\b", re.IGNORECASE)
_COURTESY = re.compile(
    r"(?:is there anything|do you |i hope|let me know|please let|would you like)", re.IGNORECASE
)
_COUNT = re.compile(rf".*\d|(?:{'|'.join(COUNTS)})\b", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[A-J]\.)\s+|(?<=。)\s*")
_SENTENCE_END = re.compile(r"(?<!\d)(?<!\b[A-J])\.(?=\s|$)|(?<=\d)\.(?=\s|$)|。|[!?！](?=\s|$)")


def extract(response: str, options: Sequence[str] = (), number: bool = False) -> str | None:
    """The answer that our rules find in what a response says after its thoughts, first rule first; None if none.

    The box, unless it is no option and an answer is announced behind it; the answer tags; what follows the last "the
    answer is" that is no denial, or goes before "is correct"; for options a letter that begins or ends the
    response, the last one in parentheses, or the one option that the last sentence names; a response of one short line;
    the last bold words; what the last line says after "is" or "="; for numbers the last one of the last sentence.

    Args:
        response: what the model said.
        options: texts of the options, if there are any.
        number: whether a number is wanted.
    """
    text = final_text(response).strip()
    boxed = extract_answer(text)
    if boxed is not None:
        if options and choose(boxed, options) is None:
            box = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
            behind = text[text.find(boxed, box) + len(boxed) :]
            alone = re.search(r"\W([A-J])\W*$", behind)
            return _announced(behind, options) or (alone[1] if alone else boxed)
        return boxed
    if (tagged := _TAGS.findall(text)) and tagged[-1].strip():
        text = tagged[-1].strip()
    announced = _announced(text, options)
    if announced and (not options or choose(announced, options)):
        return announced
    lines = _lines(text)
    if options:
        lines = _without_list(lines)
    if not lines:
        return None
    sentences = _SENTENCE.split(lines[-1])
    last = next((s for s in reversed(sentences) if not _COURTESY.match(s)), "")
    if options and (letter := _named_option(lines, last, options)):
        return letter
    if announced:
        return announced
    if len(lines) == 1 and len(lines[0]) <= 60:
        after_is = (_AFTER_VERB if len(sentences) == 1 else _AFTER_IS).search(
            lines[0].rstrip(".。")
        )
        if number and after_is and re.search(r"\d", after_is.string[: after_is.start()]):
            after_is = None
        return (after_is["answer"] if after_is else lines[0]).strip(" .*$")
    bold = re.findall(r"\*\*([^*\n]{1,40})\*\*", lines[-1])
    if bold and (not number or _NUMBER.search(bold[-1])):
        return bold[-1].strip(" .:$")
    concluding = last.rstrip(".") if _SO.match(last) else _first_sentence(lines[-1])
    after_is = _AFTER_IS.search(concluding[-300:])
    if after_is and (not number or _COUNT.match(after_is["answer"])):
        return after_is["answer"].strip(" .*$")
    numbers = _NUMBER.findall(last) if number else []
    return numbers[-1] if numbers else None


def _lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not _COURTESY.match(line)]


def _announced(text: str, options: Sequence[str]) -> str | None:
    """What the last announcement says that names an option, or the last one of all; a denial is none."""
    found = [one for one in _ANNOUNCED.finditer(text) if not _IF.search(text, 0, one.end())]
    found += [one for one in _IS_RIGHT.finditer(text) if options and _is_meant(one)]
    phrases = [_first_sentence(one["answer"]) for one in sorted(found, key=re.Match.start)]
    phrases = [phrase for phrase in phrases if phrase and not _DENIED.match(phrase)]
    named = [phrase for phrase in phrases if options and choose(phrase, options)]
    return (named or phrases or [None])[-1]


def _is_denied(named: re.Match[str]) -> bool:
    """Whether an option that a text names is denied there: "cannot be B", "B is wrong"."""
    before = re.split(r"\bbut\b|[,;]", _SENTENCE.split(named.string[: named.start()])[-1])[-1]
    return bool(_DENIED.search(before) or _DENIED_BEHIND.match(named.string[named.end() :]))


def _is_meant(named: re.Match[str]) -> bool:
    """Whether a letter that a text names is neither denied nor one of several."""
    before = _SENTENCE.split(named.string[: named.start()])[-1]
    behind = named.string[named.end() :]
    labels = set(_LABEL.findall(before + named[0] + _SENTENCE.split(behind)[0]))
    concluded = re.search(r"\b(?:so|thus|hence|therefore|answer|leaving)\b[^,;]*$", before)
    listed = len(labels) > 2 and not concluded
    return not (
        listed or _is_denied(named) or _LISTED.search(before) or _LISTED_BEHIND.match(behind)
    )


def _without_list(lines: Sequence[str]) -> list[str]:
    """Without the list of the options, where a response repeats it: letters in order, a line each, from A or three."""
    letters = "".join(m[1] if (m := re.match(r"\W*([A-Z])[).:]", line)) else " " for line in lines)
    listed = [
        run for run in re.finditer("A?B?C?D?E?F?G?H?I?J?K?L?M?N?O?P?Q?R?S?T?U?V?W?X?Y?Z?", letters)
        if len(run[0]) > 2 or run[0] == "AB"
    ]  # fmt: skip
    drop = {k for run in listed for k in range(*run.span())}
    return [line for k, line in enumerate(lines) if k not in drop]


def _named_option(lines: Sequence[str], last: str, options: Sequence[str]) -> str | None:
    """The letter that begins or ends a response, its last one in parentheses, or that of the option it ends with."""
    letters = LETTERS[: len(options)]
    if (foreign := _FOREIGN.match(lines[-1])) and foreign["letter"] not in letters:
        return choose(foreign["text"], options)  # "(D) no" where there are two options
    letter = f"(?P<letter>[{letters}])"
    text = "\n".join(lines)
    begins = (
        rf"[*(\[$\"]*{letter}(?:[*)\]$\"]*$|[).:,;!*]+(?:\s|$)|\s(?:-\s|because\b|since\b|as\b))"
    )
    mentions = [
        *re.finditer(rf"\b(?i:option|choice|pick|choose|select|with)\s+[(*]*{letter}\b", lines[-1]),
        *re.finditer(rf"(?<!\w)[(\[*$\"]*{letter}[)\]*$\"]*[.!]?$", lines[-1]),
        *(found for line in (lines[-1], lines[0]) if (found := re.match(begins, line))),
        *reversed(list(re.finditer(rf"\({letter}\)", text))),
    ]
    if meant := next(filter(_is_meant, mentions), None):
        return meant["letter"]
    for part in (last, lines[0]):
        named = [
            (k, found)
            for k, option in enumerate(options)
            if (found := _whole_words(option).search(part))
        ]
        if len(named) == 1 and len(options[named[0][0]]) > 1 and not _is_denied(named[0][1]):
            return LETTERS[named[0][0]]
    return None


def _whole_words(option: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(option.strip())}(?!\w)", re.IGNORECASE)


def _first_sentence(text: str) -> str:
    """Up to the end of the first sentence, without marks of emphasis."""
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip(" .*$`\"'")


# --- whether it is right -----------------------------------------------------------------------------

_MATHS = re.compile(r"\\(?!text|mathrm|mathbf|[,;!$% ]|circ)|[\^+*/√π](?!\s*\{?\\circ)")
_COMMENT = re.compile(
    r"[,;]?\s+(?:because|since|as|so|which|where|when|for|in|below|above|with)\b.*"
    r"|(?<=[\w%])\s+\((?=[^()]*(?:[A-Za-z]{2}|=|≈))[^()]*\)$",
    re.DOTALL | re.IGNORECASE,
)
_WORDS_BEFORE = re.compile(
    r"(?:(?!not|or|at|than|over|under|above|below|between)[A-Za-z']+,? )+(?=[$€£¥]?-?\d[\d,.]*\D*$)"
)
_LEADING = re.compile(
    rf"(?:about |only )?(?P<value>-?\d[\d,]*(?:\.\d+)?|{'|'.join(COUNTS)})"
    rf" (?!or|to|and|plus|minus|times|out|x\b)(?!.*\b(?:and|or) (?:\d|{'|'.join(COUNTS)}))[a-z]"
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
    forms = {answer: 0, _COMMENT.sub("", answer): 0, _WORDS_BEFORE.sub("", answer): 0}
    if item.answer_type in NUMERIC and (leading := _LEADING.match(answer)):  # "3 bars below 40"
        forms[leading["value"]] = 0
    return any(_is_value(form, item) for form in forms)


def _is_value(answer: str, item: Item) -> bool:
    numbers = _NUMBER.findall(answer) if item.answer_type in NUMERIC else []
    if len(numbers) == 1 and not _MATHS.search(answer.replace(numbers[0], "", 1)):  # "3 bars"
        answer = numbers[0]
        if item.precision is not None and "/" not in answer + item.answer:
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
    only_letters = [re.sub(r"\W", "", text) for text in plain] == list(letters.lower())
    if not only_letters and plain.count(_plain(answer)) == 1:
        return letters[plain.index(_plain(answer))]
    signs = re.sub(r"\W", "", _plain(answer))  # "(D) G" where G is a text
    for letter, option in zip(letters, plain, strict=True):
        if signs == re.sub(r"\W", "", letter.lower() + option):
            return letter
    if letter := option_letter(answer[:MAX_CHARACTERS]):
        return letter if letter in letters else None
    if only_letters:
        return None
    begun = [place for place, option in enumerate(options) if _begins(answer, option)]
    if len(begun) == 1:
        return letters[begun[0]]
    answer = _COMMENT.sub("", answer)
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
    """Without dress, article, quotes, spaces (but between digits) and points (but before digits), in small letters."""
    text = re.sub(r"^(?:the|an?) (?=\w{2})", "", plain_text(text), flags=re.IGNORECASE)
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
    if item.options and option_letter(our_answer) and len(our_answer) > 3:
        return "an option's letter beside its text, which theirs takes for neither"
    values = [text.strip(" $") for text in (official, item.answer)]
    if all(re.fullmatch(r"-?\d*\.?\d+", v) for v in values) and values[0] != values[1]:
        return "rounding"
    return "units, LaTeX or an option's text, compared in another way"


def _skeleton(text: str) -> str:
    """Letters and digits, without what dresses them."""
    text = re.sub(r"\\?(?:text|mathrm|mathbf|quad|left|right)|bf|~", "", text.lower())
    return re.sub(r"[^a-z0-9]", "", text)
