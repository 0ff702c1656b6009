"""The dials of the world."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perception_r1.common.errors import InputError, some
from perception_r1.world.families import FAMILIES

Split = Literal["train", "dev", "test", "test_unseen"]


class WorldConfig(BaseModel):
    """What kind of problems to make. Each dial changes only what it names.

    Attributes:
        families: kinds of figure, see `families.FAMILIES`; each is drawn equally often.
        questions: kinds of question to ask, by name; empty for all of the families.
        labels: smallest and largest length that is written in a figure.
        angles: smallest and largest angle that is written in a figure, in degrees.
        letters: names for points, in the order in which figures use them; "O" is every circle's centre.
        shuffle: figures are mirrored and named from any corner in either direction; False: a name
            always stands in about the same place.
        image_size: width and height, in pixels.
        turn: figures are turned by at most this many degrees.
        text_rich: probability that the needed facts are written in the question too.
        distractors: at most this many things are drawn that no answer needs, where the figure has room.
        teacher_error_rate: probability that one value the teacher states is wrong.
        slop: probability, for each fact in reach of `slop_on`, that it is left out or misread.
        slop_on: which facts sloppiness reaches.
        unseen: what is new in the split "test_unseen": figures turned further than `turn`, or values
            that no other split writes (those of `is_held_out`).
        seed: problems of one seed are always the same; splits are disjoint whatever the seed.

    Raises:
        InputError: a dial out of range, or a family or question that does not exist.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[str, ...] = tuple(FAMILIES)
    questions: tuple[str, ...] = ()
    labels: tuple[int, int] = (2, 30)
    angles: tuple[int, int] = (25, 140)
    letters: str = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    shuffle: bool = True
    image_size: int = Field(336, ge=96, le=2048)
    turn: int = Field(15, ge=0, le=45)
    text_rich: float = Field(0.5, ge=0, le=1)
    distractors: int = Field(1, ge=0, le=3)
    teacher_error_rate: float = Field(0.0, ge=0, le=1)
    slop: float = Field(0.0, ge=0, le=1)
    slop_on: Literal["needed", "unneeded", "both"] = "both"
    unseen: Literal["positions", "values"] = "positions"
    seed: int = 0

    def __init__(self, **dials: object):
        try:
            super().__init__(**dials)
        except ValidationError as error:
            first = error.errors()[0]
            dial = ".".join(map(str, first["loc"])) or "the dials"
            why = first["msg"].removeprefix("Value error, ")
            raise InputError(f"WorldConfig: {dial}: {why}; got {first['input']!r}") from error

    @model_validator(mode="after")
    def _possible(self) -> "WorldConfig":
        for name, (low, high), least, most in (
            ("labels", self.labels, 1, 999),
            ("angles", self.angles, 10, 170),
        ):
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name} must be a smallest and a largest value in {least}..{most}"
                )
        if not re.fullmatch(r"[A-NP-Z]{3,}", self.letters) or len(set(self.letters)) != len(
            self.letters
        ):
            raise ValueError("letters must be three or more different capitals without O")
        if unknown := set(self.families) - set(FAMILIES):
            raise ValueError(f"no family {some(unknown)}; there are {some(FAMILIES, 20)}")
        if not self.families or len(set(self.families)) != len(self.families):
            raise ValueError("families must name at least one family, each once")
        for family in self.families:
            if not self.questions_of(family):
                raise ValueError(
                    f"family {family} asks none of these questions; it has {some(FAMILIES[family], 20)}"
                )
        known = {question for family in self.families for question in FAMILIES[family]}
        if unknown := set(self.questions) - known:
            raise ValueError(f"no question {some(unknown)}; there are {some(known, 50)}")
        if self.unseen == "values" and not any(
            is_held_out(value) for value in range(self.labels[0], self.labels[1] + 1)
        ):
            raise ValueError(
                'unseen="values" holds out 10, 17, 24, ..., but labels has none of them; use unseen="positions"'
            )
        return self

    def questions_of(self, family: str) -> list[str]:
        """The kinds of question that a family is asked under these dials."""
        return [q for q in FAMILIES[family] if not self.questions or q in self.questions]


def miniature_world(**dials: object) -> WorldConfig:
    """The part of the world that a miniature learns in minutes; `dials` change it (text_rich, slop, ...)."""
    small = {
        "families": ("triangle",), "questions": ("perimeter", "two sides"), "labels": (2, 9),
        "letters": "ABC", "shuffle": False, "image_size": 112, "turn": 5, "slop": 0.2,
    }  # fmt: skip
    return WorldConfig(**{**small, **dials})


def is_held_out(value: int) -> bool:
    """Whether only "test_unseen" may write this length or angle (with unseen="values")."""
    return value >= 10 and value % 7 == 3
