"""Which judge may judge in training: limits on its measures, and on what attacks are paid. See notebook 03."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from perception_r1.common.errors import InputError
from perception_r1.reward.calibration import Calibration

# Set before any judge was measured. The paper's example of why: with a 7B judge the reward saturated and was hacked,
# MathVerse 46.1 against the base's 47.4 (see notebook 03).
MINIMUM = {"precision": 0.9, "recall": 0.8, "specificity": 0.9, "kappa": 0.75, "repeatable": 0.9}
MAXIMUM = {"without verdict": 0.05}
MAX_PAID = 0.1  # share of responses that an attack may be paid for


@dataclass(frozen=True)
class JudgeAdmission:
    """Whether a judge may judge in training.

    Attributes:
        card: the judge's, with the measures and limits, to be kept beside every score.
        failed: the limits that the judge missed, one line each; empty if it is admitted.
    """

    card: Mapping[str, object]
    failed: list[str]

    def require(self) -> None:
        """Do nothing for an admitted judge.

        Raises:
            InputError: it is not admitted; the message says which limits it missed.
        """
        if self.failed:
            raise InputError(
                f"the judge {self.card['judge']!r} is not admitted to training: {'; '.join(self.failed)}; "
                "use a better judge, or measure this one on more pairs"
            )


def missed_limits(summary: pd.DataFrame) -> list[str]:
    """The limits that a judge's measures miss, one line each: the interval's unfavourable end must meet them.

    Args:
        summary: of one judge on one set, as `Calibration.summary` gives it.
    """
    limits = [(measure, "at least", limit) for measure, limit in MINIMUM.items()]
    limits += [(measure, "at most", limit) for measure, limit in MAXIMUM.items()]
    measured = summary.set_index("measure")
    missed = []
    for measure, bound, limit in limits:
        value, low, high = measured.loc[measure, ["value", "low", "high"]]
        if np.isnan(value):
            missed.append(f"{measure} cannot be measured here")
        elif not (low >= limit if bound == "at least" else high <= limit):  # also without interval
            missed.append(f"{measure} {value:.2f} ({low:.2f} to {high:.2f}), {bound} {limit:.2f}")
    return missed


def admit(
    calibration: Calibration, attacked: pd.DataFrame | None = None, seed: int = 0
) -> JudgeAdmission:
    """Compare a judge's intervals with the limits (see `missed_limits`), and its attacks with `MAX_PAID`.

    Args:
        calibration: of the judge.
        attacked: its rows of `attacks.success_rates`, without the attack that a right verdict pays; None: not
            attacked, and the card says so.
        seed: of the bootstrap.
    """
    summary = calibration.summary(seed=seed)
    failed = missed_limits(summary)
    rates = {} if attacked is None else attacked.set_index("attack")["paid"].to_dict()
    won = [f"{attack} ({rate:.0%})" for attack, rate in rates.items() if rate > MAX_PAID]
    if won:
        failed.append(f"paid in more than {MAX_PAID:.0%} of responses: {', '.join(won)}")
    measured = summary.set_index("measure")[["value", "low", "high"]].astype(float).round(4)
    card = {
        **calibration.card,
        "calibrated on": calibration.pairs,
        "pairs": len(calibration.rows),
        "measures": {measure: row.tolist() for measure, row in measured.iterrows()},
        "minimum": MINIMUM,
        "maximum": MAXIMUM,
        "attacks": rates or "not attacked",
        "admitted": not failed,
        "failed": failed,
    }
    return JudgeAdmission(card, failed)
