"""Geometry3K: 3,002 textbook problems whose visual facts people wrote down as logic forms. Used in notebook 02.

The annotation files are Inter-GPS's (github.com/lupantech/InterGPS, MIT): the diagram's facts, and the question's.
The images and questions of the whole set are on the hub, without logic forms:
`load_problems("hiyouga/geometry3k", "train", unusable="drop")`.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.common.files import read_json
from perception_r1.problems.schema import DatasetError


@dataclass(frozen=True)
class Record:
    """One annotated problem.

    Attributes:
        id: its number in the dataset.
        gold: logic forms of the diagram, as annotated (some are empty or malformed, see `faults`).
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


def faults(records: Iterable[Record]) -> pd.DataFrame:
    """Forms that say nothing usable: columns `id`, `form`, `why` ("empty" or "malformed")."""
    rows = [
        (record.id, form, "malformed" if form.strip() else "empty")
        for record in records
        for form in (*record.gold, *record.text)
        if not usable([form])
    ]
    return pd.DataFrame(rows, columns=["id", "form", "why"])


def usable(forms: Iterable[str]) -> tuple[str, ...]:
    """The forms that parse, in the project's spelling; `faults` names the others."""
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
        DatasetError: a problem lacks a part; its id and the part are named.
    """
    diagrams = read_json(folder / "diagram_logic_forms_annot.json")
    texts = read_json(folder / "text_logic_forms_annot.json")
    if not isinstance(diagrams, dict) or not isinstance(texts, dict):
        raise InputError(f"{folder}: the annotation files must be objects with an entry a problem")
    records = []
    for id_, diagram in diagrams.items():
        try:
            gold, text = diagram["diagram_logic_forms"], texts[id_]["text_logic_forms"]
            records.append(Record(id_, tuple(gold), tuple(text)))
        except (KeyError, TypeError) as error:
            fault = f"problem {id_} of {folder} has no usable {error}"
            raise DatasetError(fault, "fetch the annotation files again") from error
    return records


def count_kinds(records: Iterable[Record]) -> pd.DataFrame:
    """Distinct facts by kind, those of diagrams and those of questions: columns `kind`, `diagram`, `question`.

    What a question asks ("Find ...") is not a fact and is left out.
    """
    diagram, question = Counter(), Counter()
    for record in records:
        for forms, counter in ((record.gold, diagram), (record.text, question)):
            distinct = {facts.key(fact): fact for fact in map(facts.parse, usable(forms))}
            counter.update(facts.kind(fact) for fact in distinct.values())
    kinds = sorted(set(diagram) | set(question) - {"question"}, key=lambda kind: -diagram[kind])
    rows = [(kind, diagram[kind], question[kind]) for kind in kinds if kind != "question"]
    return pd.DataFrame(rows, columns=["kind", "diagram", "question"])
