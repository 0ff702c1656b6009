"""What has been run in a folder, and whether it still counts: the `run.json` of a run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from perception_r1.common import provenance
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, NOTEBOOKS, ROOT, read_json, sha256, write_json
from perception_r1.common.profiles import Profile
from perception_r1.notebook import pages
from perception_r1.notebook.discovery import Notebook

# Not among the data that notebooks read: results are looked at by themselves, plans and texts make no run old.
NOT_READ = ("results", "plans", "README.md")


class Ledger:
    """The record of a run's folder, which runs of the same profile add to.

    Attributes:
        record: the content of `run.json`: profile, where, claims, started, finished, commit, machine, versions (of the
            last run), and `notebooks`, which maps a number to an entry: title, file, status ("ok", "unchanged",
            "failed", "skipped", "not run"), error, and once it ran, seconds, finding, figure and `made_of`.
        books: the notebooks of this run, in order; set by the runner.

    Raises:
        InputError: the folder holds a run of another profile.
    """

    def __init__(self, out: Path, profile: Profile, notebooks: Mapping[str, Notebook]):
        self.out = out
        self.profile = profile
        # read before anything runs: what is changed meanwhile makes a result old
        self._code = {
            "package": sha256(ROOT / "perception_r1"),
            "data": [sha256(path) for path in sorted(DATA.iterdir()) if path.name not in NOT_READ],
            "results": sha256(DATA / "results"),
            "versions": provenance.versions(),
        }
        path = out / "run.json"
        self.record = read_json(path) if path.exists() else {"profile": profile.name}
        if (other := self.record.get("profile")) != profile.name:
            raise InputError(f"{out} holds a run of profile {other!r}; choose another --out")
        entries = self.record.get("notebooks", {})
        self.record["notebooks"] = {
            number: entries.get(number, {"status": "not run"})
            | {"title": notebook.title, "file": notebook.path.stem}
            for number, notebook in notebooks.items()
        }

    def begin(self) -> None:
        """Note that a run begins, and by what."""
        self.record |= {
            "where": self.profile.where,
            "claims": self.profile.claims,
            "started": provenance.now(),
            **provenance.origin(),
        }
        self.write()

    def entry(self, notebook: Notebook) -> dict:
        """What is known of a notebook here; see `record`."""
        return self.record["notebooks"][notebook.number]

    def note(self, notebook: Notebook, status: str, **values: object) -> None:
        """Set a notebook's entry, and write the record and the index page."""
        about = {"title": notebook.title, "file": notebook.path.stem, "status": status}
        self.record["notebooks"][notebook.number] = values | about
        self.write()

    def write(self) -> None:
        """Write `run.json` and `index.html`."""
        self.record["finished"] = provenance.now()  # so far
        write_json(self.out / "run.json", self.record)
        pages.write_index(self.out, self.record)

    def made_of(self, notebook: Notebook, given: Mapping[str, object]) -> dict[str, str]:
        """Digests of all that a notebook's result depends on; equal digests need no new run.

        Args:
            notebook: it has run here, or else what it reads is not known.
            given: its parameters.
        """
        inputs = sorted(self.artifacts_record(notebook.number).get("inputs", {}))
        parts = {
            "cells": notebook.sources,
            "parameters": sorted(given.items()),
            "profile": self.profile.model_dump(),
            **self._code,
            "needs": [self.artifacts_record(need).get("artifacts") for need in notebook.needs],
            "inputs": [(path, sha256(NOTEBOOKS / path)) for path in inputs],
        }
        return {
            name: hashlib.sha256(json.dumps(part, default=str).encode()).hexdigest()
            for name, part in parts.items()
        }

    def changed(self, notebook: Notebook, given: Mapping[str, object]) -> set[str]:
        """What differs from when the notebook ran through here: names of `made_of`, or "artifacts"; empty: nothing."""
        before = self.entry(notebook).get("made_of", {})
        changed = {k for k, v in self.made_of(notebook, given).items() if before.get(k) != v}
        written = self.artifacts_record(notebook.number).get("artifacts", {})
        there = [self.out / f"{notebook.path.stem}{end}" for end in (".ipynb", ".html")]
        whole = all(path.is_file() for path in there) and set(notebook.writes) <= set(written)
        folder = self.out / "artifacts" / notebook.number
        whole &= all(sha256(folder / name) == digest for name, digest in written.items())
        return changed if whole else changed | {"artifacts"}

    def artifacts_record(self, number: str) -> dict:
        """The `run.json` that notebook `number` wrote beside its artefacts; empty where there is none."""
        path = self.out / "artifacts" / number / "run.json"
        return read_json(path) if path.exists() else {}
