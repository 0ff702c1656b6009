"""Profiles: the same notebooks and code with other numbers. One small TOML file each."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perception_r1.common.errors import InputError, first_fault
from perception_r1.common.files import read_toml
from perception_r1.common.settings import TrainSettings

FOLDER = Path(__file__).parent


class Profile(BaseModel):
    """The numbers that differ between a laptop and a cluster; see the comments in each file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    where: str = Field(description="what machine it is for")
    purpose: str
    measured: str = Field(description="time and memory, or what was never executed")
    claims: bool = Field(description="False: its numbers only show that the code runs")
    seed: int = Field(ge=0)
    problems_train: int = Field(ge=20, description="notebook 02: training problems")
    problems_held_out: int = Field(ge=5, description="notebook 02: problems of each held-out split")
    judge_problems: int = Field(ge=5, description="notebook 03: problems whose facts judges mark")
    attack_problems: int = Field(ge=2, description="notebook 03: problems that are attacked")
    test_problems: int = Field(ge=5, description="notebook 04: problems every policy is tested on")
    grpo_problems: int = Field(ge=12, description="notebook 04: training problems of a miniature")
    train: TrainSettings = Field(description="notebook 04: see settings.TrainSettings")


def names() -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """Read `profiles/<name>.toml`.

    Raises:
        InputError: there is no such profile, or its file is malformed (the field is named).
    """
    if name not in names():
        raise InputError(f"no profile {name!r}; there are: {', '.join(names())}")
    path = FOLDER / f"{name}.toml"
    try:
        return Profile(name=name, **read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from error
