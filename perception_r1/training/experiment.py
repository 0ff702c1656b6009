"""An experiment: arms trained side by side, from one base, on the same problems. Used in notebook 04.

Arms differ in what they pay for, and in nothing else. Each is trained in a process of its own, by the very command
that a cluster would get. What the runs write lies in one working folder until the notebook has finished, so that an
interrupted notebook goes on from the last whole checkpoints.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from perception_r1.common import profiles
from perception_r1.common.checkpoints import read_log
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT, sha256, write_text
from perception_r1.common.settings import TrainSettings, read_pairs, read_settings
from perception_r1.problems import write_problems
from perception_r1.problems.schema import Problem
from perception_r1.training import launch, scale
from perception_r1.training.arms import ARMS
from perception_r1.training.policy import weights_digest
from perception_r1.training.progress import COMPLETIONS
from perception_r1.training.train import POLICY


@dataclass(frozen=True)
class Experiment:
    """What is trained; see `read_experiment`, which checks it.

    Attributes:
        arms: names, of `arms.ARMS`.
        settings: of all arms.
        config: the profile's file.
        changes: where the settings differ from it, as text.
        rates: arm -> its learning rate, where that is an arm's own.
        work: the working folder.
    """

    arms: tuple[str, ...]
    settings: TrainSettings
    config: Path
    changes: dict[str, str]
    rates: dict[str, float]
    work: Path

    @property
    def miniature(self) -> bool:
        """Whether the policy is the miniature, which a CPU trains."""
        return self.settings.model == "miniature"

    @property
    def folders(self) -> dict[str, Path]:
        """Arm -> the folder of its run."""
        return {name: self.work / "runs" / name for name in self.arms}

    def policies(self, base: str) -> dict[str, str | Path]:
        """Base and trained policies, by name, as `load_policy` takes them."""
        return {"base": base} | {name: f / POLICY for name, f in self.folders.items()}

    def train(
        self,
        base: str,
        problems: Sequence[Problem],
        *,
        unadmitted: bool = False,
        watch: Callable[[pd.DataFrame], None] = lambda logs: None,
    ) -> pd.DataFrame:
        """Train all arms; miniatures side by side, each on one core, else one after the other.

        Runs of the same base, problems, settings and code that were interrupted go on; others are removed first.

        Args:
            base: folder, hub name or "miniature".
            problems: to learn from.
            unadmitted: train with a judge that fails its admission.
            watch: called with the logs so far, every twenty seconds; never in a headless run.

        Returns:
            The logs of all arms, a row a step, with a column `arm`.

        Raises:
            InputError: a run failed; the others can go on later.
        """
        data = self.work / "problems.parquet"
        write_problems(problems, data)
        self._remove_other_runs(base, data)
        more = ["--model", base, "--unadmitted"] if unadmitted else ["--model", base]
        for name, value in self.changes.items():
            more += [f"--{name}", value]
        commands = {}
        for arm, folder in self.folders.items():
            files = ["--config", str(self.config), "--data", str(data), "--out", str(folder)]
            own = ["--learning_rate", str(self.rates[arm])] if arm in self.rates else []
            commands[arm] = scale.launch_command(self.settings, [*files, "--arm", arm, *own, *more])
        groups = [commands] if self.miniature else [{arm: c} for arm, c in commands.items()]
        for group in groups:
            launch.run_together(
                group,
                self.folders,
                steps=self.settings.max_steps,
                threads=1 if self.miniature else None,
                watch=lambda: watch(launch.read_logs(self.folders)),
                every=20,
            )
        return launch.read_logs(self.folders)

    def _remove_other_runs(self, base: str, data: Path) -> None:
        """Remove runs of other settings, code, problems or base; say how far those of this experiment have come."""
        parts = [sha256(ROOT / "perception_r1"), sha256(data), weights_digest(base)]
        identity = json.dumps([base, self.settings.model_dump(), self.rates, *parts], default=str)
        note = self.work / "experiment.json"
        if not note.exists() or note.read_text(encoding="utf-8") != identity:
            shutil.rmtree(self.work / "runs", ignore_errors=True)
            write_text(note, identity)
        if done := sum(launch.steps_done(folder) for folder in self.folders.values()):
            print(f"an interrupted run left {done} steps; going on from its checkpoints")

    def keep(self, completions: Path) -> None:
        """Write what was sampled while training to one file, with a field `arm`."""
        logs = [
            read_log(folder / COMPLETIONS).assign(arm=arm) for arm, folder in self.folders.items()
        ]
        text = pd.concat(logs).to_json(orient="records", lines=True, force_ascii=False)
        write_text(completions, text)


def read_experiment(
    profile: str,
    arms: str,
    work: Path,
    changes: str = "",
    seed: int = -1,
    rates: Mapping[str, float] | None = None,
) -> Experiment:
    """An experiment as notebook 04's parameters say.

    Args:
        profile: whose table `[train]` holds the settings.
        arms: names with commas between, as in "accuracy_only,perception".
        work: the working folder.
        changes: of settings, as in "max_steps=20,judge=lazy".
        seed: of sampling and of the order of problems; -1: the settings'.
        rates: arm -> a miniature's own learning rate; `changes` go first.

    Raises:
        InputError: an arm that there is not, impossible settings, or too few GPUs.
    """
    names = tuple(dict.fromkeys(name.strip() for name in arms.split(",")))
    if unknown := set(names) - set(ARMS):
        raise InputError(f"arms: no arm {', '.join(unknown)}; there are {', '.join(ARMS)}")
    pairs = read_pairs(changes) | ({"seed": str(seed)} if seed >= 0 else {})
    config = profiles.FOLDER / f"{profile}.toml"
    settings = read_settings(config, **pairs)
    gpus = torch.cuda.device_count()
    if settings.model != "miniature" and gpus < settings.processes:
        raise InputError(
            f"profile {profile} trains {settings.model} on {settings.processes} GPU(s) and there are {gpus}; run it "
            "where there are, or take profile laptop. What else is missing, line by line: "
            f"python -m perception_r1 train --config {config.name} --data DATA --out DIR --dry-run"
        )
    own = dict(rates or {}) if settings.model == "miniature" else {}
    return Experiment(names, settings, config, pairs, own, work)
