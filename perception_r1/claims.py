"""What the paper claims, what our evidence says, and whether the two agree (contract C9). Used in notebook 05.

Claims and the rule for each stand in `data/claims.toml`, committed before the runs where the evidence was not known.
A rule looks at the interval alone, and at the direction: sizes of a miniature and of Qwen2.5-VL-7B are not compared.
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from perception_r1.comparison import NO_GAIN
from perception_r1.errors import InputError
from perception_r1.files import DATA

FILE = DATA / "claims.toml"


def _gain(low: float, high: float) -> str:
    return "yes" if low > 0 else "no" if high < NO_GAIN else "undecided"


def _no_gain(low: float, high: float) -> str:
    return "no" if low > 0 else "yes" if high < NO_GAIN else "undecided"


def _similar(low: float, high: float) -> str:
    if -NO_GAIN < low and high < NO_GAIN:
        return "yes"
    return "no" if low > 0 or high < 0 else "undecided"


# What is claimed of a difference (after - before) -> whether its 95% interval agrees. "gain": yes if the interval lies
# above 0; no if it ends below +5 points, so that a gain of 5 is ruled out. "loss": the same, mirrored. "no gain": the
# other way round. "similar": yes if it lies within 5 points of 0; no if it lies to one side of 0.
RULES: Mapping[str, Callable[[float, float], str]] = {
    "gain": _gain,
    "loss": lambda low, high: _gain(-high, -low),
    "no gain": _no_gain,
    "similar": _similar,
}


class Claim(BaseModel):
    """One claim; `study` (with the policies before and after) or `computed` name its evidence, if there is any.

    Besides `RULES` there are "above" (a share: yes if its interval lies above `threshold`, no if below) and "holds"
    (arithmetic on published numbers: yes or no).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    claim: str
    paper_value: str
    source: str
    study: str = ""
    before: str = ""
    after: str = ""
    kind: Literal["image-only", "text-rich"] = "image-only"
    measure: str = ""
    computed: str = ""
    rule: Literal["gain", "loss", "no gain", "similar", "above", "holds", ""] = ""
    threshold: float | None = None
    known: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        if self.study and self.computed:
            raise ValueError("study and computed: one of the two")
        if self.study and not (self.before and self.after and self.measure):
            raise ValueError("a study takes before, after and measure")
        if bool(self.study or self.computed) != bool(self.rule):
            raise ValueError("evidence takes a rule, and a rule takes evidence")
        if (self.rule == "above") != (self.threshold is not None):
            raise ValueError("the rule above takes a threshold, and no other does")
        if self.study and self.rule not in RULES:
            raise ValueError(f"rule {self.rule!r} is none for a difference")
        return self


def read_claims(path: Path = FILE) -> list[Claim]:
    """The claims, in the order of the file.

    Raises:
        InputError: the file is missing or no TOML, a claim breaks the schema, or two share an id.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["claims"]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; restore it with git") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{path} is no list of claims: {error}") from error
    found = []
    for number, entry in enumerate(tables, start=1):
        try:
            found.append(Claim.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "as a whole"
            raise InputError(f"{path}, claim {number}, {place}: {first['msg']}") from error
    ids = [claim.id for claim in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(f"{path}: two claims have the id {twice[0]!r}; rename one")
    return found


def agrees(claim: Claim, low: float, high: float) -> str:
    """Whether an interval of the evidence agrees with the claim: "yes", "no" or "undecided"."""
    if claim.rule == "above":
        return "yes" if low > claim.threshold else "no" if high < claim.threshold else "undecided"
    return RULES[claim.rule](low, high)
