"""The dials of the world."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perception_r1.common.errors import InputError, first_fault, some
from perception_r1.world.families import FAMILIES

Split = Literal["train", "dev", "test", "test_unseen"]
Length = Annotated[int, Field(ge=1, le=999)]
Share = Annotated[float, Field(ge=0, le=1)]


class WorldConfig(BaseModel):
    """What kind of problems to make. Each dial changes only what it names.

    Attributes:
        families: kinds of figure, see `families.FAMILIES`; each is drawn equally often.
        questions: kinds of question to ask, by name; empty for all of the families.
        labels: smallest and largest length that is written in a figure.
        letters: how many letters name points, see `sketch.LETTERS`; a figure takes up to eight.
        shuffle: figures are mirrored and named from any corner in either direction; False: a name
            always stands in about the same place.
        image_size: width and height, in pixels.
        turn: figures are turned by at most this many degrees, those of the split "test_unseen" by 5 to 20 more.
        text_rich: probability that the needed facts are written in the question too.
        distractors: at most this many things are drawn that no answer needs, where the figure has room.
        sides: labelled sides of a figure of "side_sums", which all are needed.
        shortcut: probability that the text of such a problem gives sums of sides that suffice; it takes 4 sides.
        teacher_error_rate: probability that one value the teacher states is wrong.
        seed: problems of one seed are always the same; splits are disjoint whatever the seed.

    Raises:
        InputError: a dial that does not exist or is out of range, or dials that do not fit together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[str, ...] = tuple(family for family in FAMILIES if family != "side_sums")
    questions: tuple[str, ...] = ()
    labels: tuple[Length, Length] = (2, 30)
    letters: int = Field(24, ge=8, le=24)
    shuffle: bool = True
    image_size: int = Field(336, ge=96, le=2048)
    turn: int = Field(15, ge=0, le=45)
    text_rich: Share = 0.5
    distractors: int = Field(1, ge=0, le=3)
    sides: int = Field(4, ge=2, le=8)
    shortcut: Share = 0.0
    teacher_error_rate: Share = 0.0
    seed: int = 0

    def __init__(self, **dials: object):
        try:
            super().__init__(**dials)
        except ValidationError as error:
            first = error.errors()[0]
            given = f", got {first['input']!r}; see help(WorldConfig)" if first["loc"] else ""
            raise InputError(f"dials of the world: {first_fault(error)}{given}") from error

    @model_validator(mode="after")
    def _possible(self) -> "WorldConfig":
        if self.labels[0] > self.labels[1]:
            raise ValueError(f"labels {self.labels}; give the smallest value first")
        if not self.families or not set(self.families) <= set(FAMILIES):
            raise ValueError(f"families {self.families}; give some of {some(FAMILIES, 20)}")
        if self.shortcut and self.sides < 4:  # a part of fewer is one side, as annotations hold it
            raise ValueError(f"shortcut takes 4 sides or more, got {self.sides}; set sides")
        known = {question for family in self.families for question in FAMILIES[family]}
        if unknown := set(self.questions) - known:
            raise ValueError(f"no question {some(unknown)}; there are {some(known, 50)}")
        if silent := [family for family in self.families if not self.questions_of(family)]:
            raise ValueError(f"family {silent[0]} asks none of these questions; leave it out")
        return self

    def questions_of(self, family: str) -> list[str]:
        """The kinds of question that a family is asked under these dials."""
        return [q for q in FAMILIES[family] if not self.questions or q in self.questions]


def map_world(**dials: object) -> WorldConfig:
    """The small world of the map, which a miniature learns in minutes: sums of sides; `dials` change it."""
    small = {
        "families": ("side_sums",), "questions": ("sum",), "labels": (2, 9), "letters": 8,
        "shuffle": False, "image_size": 112, "turn": 0, "text_rich": 0.0, "distractors": 0,
    }  # fmt: skip
    return WorldConfig(**{**small, **dials})
