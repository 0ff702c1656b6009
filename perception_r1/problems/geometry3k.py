"""Geometry3K: 3,002 textbook problems whose visual facts people wrote down as logic forms. Used in appendix A1.

The annotation files are Inter-GPS's (github.com/lupantech/InterGPS, MIT); read are the facts of the diagrams.
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
    """

    id: str
    gold: tuple[str, ...]


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
    """Read a folder's annotations of diagrams.

    Raises:
        InputError: the file is missing or unreadable.
    """
    diagrams = read_json(folder / "diagram_logic_forms_annot.json")
    return [Record(id_, tuple(one["diagram_logic_forms"])) for id_, one in diagrams.items()]
