"""Geometry3K: 3,002 textbook problems whose visual facts people wrote down as logic forms. Used in appendix A1.

The annotation files are Inter-GPS's (github.com/lupantech/InterGPS, MIT): the diagram's facts, and the question's.
The images and questions of the whole set are on the hub, without logic forms:
`load_problems("hiyouga/geometry3k", "train", unusable="drop")`.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perception_r1 import facts
from perception_r1.common.files import read_json


@dataclass(frozen=True)
class Record:
    """One annotated problem.

    Attributes:
        id: its number in the dataset.
        gold: logic forms of the diagram, as annotated (some are empty or malformed, see `usable`).
        text: logic forms of the question.
    """

    id: str
    gold: tuple[str, ...]
    text: tuple[str, ...]


# --- sentences -------------------------------------------------------------------------------------


def to_sentence(form: str) -> str:
    """Say a logic form in English; distinct facts give distinct sentences.

    Raises:
        FactError: the form is empty or malformed.
    """
    return facts.to_sentence(facts.parse(form))


def from_sentence(sentence: str) -> str:
    """The logic form of a sentence made by `to_sentence`, exact but for spaces after commas.

    Raises:
        FactError: it is no such sentence.
    """
    return str(facts.from_sentence(sentence))


def usable(forms: Iterable[str]) -> tuple[str, ...]:
    """The forms that parse, in the project's spelling."""
    parsed = []
    for form in forms:
        with contextlib.suppress(facts.FactError):
            parsed.append(str(facts.parse(form)))
    return tuple(parsed)


# --- loading -----------------------------------------------------------------------------------------


def load_local(folder: Path) -> list[Record]:
    """Read the two annotation files of a folder.

    Raises:
        InputError: a file is missing or unreadable.
    """
    diagrams = read_json(folder / "diagram_logic_forms_annot.json")
    texts = read_json(folder / "text_logic_forms_annot.json")
    records = []
    for id_, diagram in diagrams.items():
        gold, text = diagram["diagram_logic_forms"], texts[id_]["text_logic_forms"]
        records.append(Record(id_, tuple(gold), tuple(text)))
    return records
