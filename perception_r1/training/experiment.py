"""The arms of an experiment: trained side by side, from one base, on the same problems. Used in notebook 04.

Arms differ in what they pay for, and in nothing else. Each is trained in a process of its own, by the very command
that a cluster would get. What the runs write lies in one working folder until the notebook has finished, so that an
interrupted notebook goes on from the last whole checkpoints.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from perception_r1.annotation.pipeline import annotate_by_reading
from perception_r1.common import profiles
from perception_r1.common.checkpoints import read_log
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT, sha256
from perception_r1.common.settings import TrainSettings, read_pairs, read_settings
from perception_r1.problems.schema import Problem, load_problems, write_problems
from perception_r1.training import launch, scale
from perception_r1.training.arms import ARMS
from perception_r1.training.policy import MINIATURE
from perception_r1.training.progress import COMPLETIONS
from perception_r1.training.train import POLICY
from perception_r1.world import WorldConfig, make_problems

AUTHORS_DATA = "tongxiao2002/Perception-R1-Dataset"  # on the hub


@dataclass(frozen=True)
class Experiment:
    """What is trained; see `read_experiment`, which checks it.

    Attributes:
        arms: names, of `arms.ARMS`.
        settings: of all arms.
        config: the profile's file.
        changes: where the settings differ from it, as text.
        work: the working folder.
    """

    arms: tuple[str, ...]
    settings: TrainSettings
    config: Path
    changes: dict[str, str]
    work: Path

    @property
    def miniature(self) -> bool:
        """Whether the policy is the miniature, which a CPU trains."""
        return self.settings.model == "miniature"

    @property
    def folders(self) -> dict[str, Path]:
        """Arm -> the folder of its run."""
        return {name: self.work / "runs" / name for name in self.arms}

    @property
    def device(self) -> str:
        """Where the policies are evaluated."""
        return "cuda" if torch.cuda.is_available() and not self.miniature else "cpu"

    def policies(self, base: str) -> dict[str, str | Path]:
        """Base and trained policies, by name, as `load_policy` takes them."""
        return {"base": base} | {name: f / POLICY for name, f in self.folders.items()}

    def make_data(self, dials: WorldConfig, number: int) -> Path:
        """Make training problems here, annotated by reading: a Parquet file in the working folder."""
        path = self.work / "problems.parquet"
        write_problems(annotate_by_reading(make_problems(number, dials, "train")), path)
        return path

    def first(self, source: str | Path, number: int = 0) -> tuple[list[Problem], str | Path]:
        """The problems to train on, and their file: the first `number` of `source`, or all for 0.

        Raises:
            InputError: there are not so many.
        """
        source = Path(source).resolve() if Path(source).exists() else source
        problems = load_problems(source)
        if number > len(problems):
            raise InputError(f"train_problems is {number}, and there are {len(problems)} problems")
        if number:
            problems, source = problems[:number], self.work / "some.parquet"
            write_problems(problems, source)
        return problems, source

    def train(
        self,
        base: str,
        data: str | Path,
        held_out: Sequence[Problem] = (),
        *,
        admission: Path | None = None,
        unadmitted: bool = False,
        watch: Callable[[pd.DataFrame], None] | None = None,
    ) -> pd.DataFrame:
        """Train all arms; miniatures side by side, each on one core, else one after the other.

        Runs of the same base, data, settings and code that were interrupted go on; others are removed first.

        Args:
            base: folder, hub name or "miniature".
            data: Parquet file, folder or hub name.
            held_out: problems that all answer every `eval_steps` steps.
            admission: notebook 03's `admissions.json`, where the judge is the exact one.
            unadmitted: train with a judge that fails its admission.
            watch: called with the logs so far, every twenty seconds; never in a headless run.

        Returns:
            The logs of all arms, a row a step, with a column `arm`.

        Raises:
            InputError: a run failed; the others can go on later.
        """
        self._same_experiment(base, data)
        more = ["--model", base, "--seed", str(self.settings.seed)]
        if self.settings.eval_steps and held_out:
            write_problems(held_out, self.work / "dev.parquet")
            more += ["--held-out", str(self.work / "dev.parquet")]
        if self.settings.judge == "exact" and admission:
            more += ["--admission", str(admission)]
        more += ["--unadmitted"] if unadmitted else []
        for name, value in self.changes.items():
            more += [f"--{name}", value]
        commands = {
            name: scale.launch_command(
                self.settings, self.config, data, folder, "--arm", name, *more
            )
            for name, folder in self.folders.items()
        }
        groups = [commands] if self.miniature else [{k: v} for k, v in commands.items()]
        for group in groups:
            launch.run_together(
                group, self.folders, steps=self.settings.max_steps, threads=1 if self.miniature else None,
                watch=lambda: watch(self.logs()) if watch and len(self.logs()) else None, every=20,
            )  # fmt: skip
        return self.logs()

    def logs(self) -> pd.DataFrame:
        """The logs so far, a row a step, with a column `arm`."""
        return launch.read_logs(self.folders)

    def keep(self, completions: Path, policies: Path) -> None:
        """Copy what stays: all completions in one file, with a field `arm`, and the trained miniatures."""
        completions.parent.mkdir(parents=True, exist_ok=True)
        with completions.open("w", encoding="utf-8") as file:
            for name, folder in self.folders.items():
                for row in read_log(folder / COMPLETIONS).to_dict("records"):
                    file.write(json.dumps({"arm": name, **row}, ensure_ascii=False) + "\n")
                if self.miniature:
                    shutil.copytree(folder / POLICY, policies / name, dirs_exist_ok=True)

    def clear(self) -> None:
        """Remove the working folder of miniatures; larger policies stay there."""
        if self.miniature:
            shutil.rmtree(self.work, ignore_errors=True)

    def _same_experiment(self, base: str, data: str | Path) -> None:
        """Remove runs of other settings, code, data or base; say how far others of the same kind have come."""
        start = MINIATURE if base == "miniature" else Path(base)
        parts = [self.settings.model_dump(), sha256(ROOT / "perception_r1"), sha256(Path(data))]
        identity = hashlib.sha256(json.dumps([*parts, sha256(start)], default=str).encode())
        note = self.work / "experiment.txt"
        if not note.exists() or note.read_text(encoding="utf-8") != identity.hexdigest():
            shutil.rmtree(self.work / "runs", ignore_errors=True)
        self.work.mkdir(parents=True, exist_ok=True)
        note.write_text(identity.hexdigest(), encoding="utf-8")
        if done := sum(launch.steps_done(folder) for folder in self.folders.values()):
            print(f"an interrupted run left {done} steps; going on from its checkpoints")


def read_experiment(
    profile: str, arms: str, work: Path, changes: str = "", seed: int = -1
) -> Experiment:
    """An experiment as notebook 04's parameters say.

    Args:
        profile: whose table `[train]` holds the settings.
        arms: names with commas between, as in "accuracy_only,perception".
        work: the working folder.
        changes: of settings, as in "eval_steps=0,judge=lazy"; a judge's folder is seen from the notebook's.
        seed: of sampling and of the order of problems; -1: the settings'.

    Raises:
        InputError: an arm that there is not or that comes twice, impossible settings, or too few GPUs.
    """
    names = tuple(name.strip() for name in arms.split(",") if name.strip())
    if unknown := set(names) - set(ARMS):
        raise InputError(f"arms: no arm {', '.join(unknown)}; there are {', '.join(ARMS)}")
    if not names or len(set(names)) < len(names):
        raise InputError("arms: name at least one, each once, as in accuracy_only,perception")
    pairs = read_pairs(changes)
    if "judge" in pairs and Path(pairs["judge"]).is_dir():
        pairs["judge"] = str(Path(pairs["judge"]).resolve())
    config = profiles.FOLDER / f"{profile}.toml"
    settings = read_settings(config, **pairs, **({"seed": seed} if seed >= 0 else {}))
    gpus = torch.cuda.device_count()
    if settings.model != "miniature" and gpus < settings.processes:
        raise InputError(
            f"profile {profile} trains {settings.model} on {settings.processes} GPU(s) and there are {gpus}; run it "
            "where there are, or take profile laptop. What is missing, line by line: "
            f"python -m perception_r1 train --config {config.name} --data DATA --out DIR --dry-run"
        )
    return Experiment(names, settings, config, pairs, work)
