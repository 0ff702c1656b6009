"""What a notebook writes: `<out>/artifacts/NN/`, whole or not at all, with a `run.json` beside it.

A notebook writes into a hidden folder, which `finish` puts in place by renaming. So an interrupted
run leaves the last whole result as it was, and whoever reads `artifacts/NN/` never sees half of one.
"""

import gc
import io
import os
import shutil
import time
from pathlib import Path

import pandas as pd
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from perception_r1.common import files, provenance
from perception_r1.common.errors import InputError
from perception_r1.common.profiles import Profile, load_profile


class NotebookRun:
    """One execution of one notebook: its profile, its output folder, what it read.

    Attributes:
        out: the run's folder, of all notebooks.
        folder: this notebook's artefacts, `<out>/artifacts/<number>`, once it has finished.

    Args:
        number: the notebook's number, "01" or "A1".
        profile: the profile's name.
        out: the run's folder, seen from the notebook's; empty for `runs/<profile>` of the project.
        parameters: the notebook's parameters, for the record.

    Raises:
        InputError: no such profile, or `out` cannot be written.
    """

    def __init__(self, number: str, profile: str, out: str = "", **parameters: object):
        self.number = number
        self.profile: Profile = load_profile(profile)
        self.parameters = {"profile": profile, "out": out, **parameters}
        self.out = Path(out).resolve() if out else files.ROOT / "runs" / profile
        self.folder = self.out / "artifacts" / number
        self._part = self.folder.with_name(f".{number}.part")
        self._inputs: dict[str, str | None] = {}
        self._started = provenance.now()
        self._clock = time.perf_counter()
        try:
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir(parents=True)
        except OSError as error:
            raise InputError(files.cannot_write(self._part, error)) from error

    def versions(self) -> pd.DataFrame:
        """Versions, seed and profile as a one-row table, for the top of the notebook."""
        packages = ("numpy", "pandas", "scipy", "statsmodels", "torch", "transformers", "trl")
        about = {"profile": self.profile.name, "seed": self.profile.seed}
        return pd.DataFrame([about | provenance.versions(packages)], index=[""])

    def uses(self, path: Path) -> Path:
        """Note that the notebook read `path`, or looked for it in vain, so that `--resume` can tell a change."""
        self._inputs[os.path.relpath(path, files.NOTEBOOKS)] = files.sha256(path)
        return path

    def upstream(self, number: str, name: str, recorded: Path | None = None) -> Path | None:
        """An artefact (file or folder) that another notebook left in this run; noted as read.

        Args:
            number: of that notebook, "02".
            name: of the artefact, "annotations.parquet".
            recorded: what is taken in its place where there is none, which is then said.

        Returns:
            The artefact's path, else `recorded`.
        """
        path = self.uses(self.out / "artifacts" / number / name)
        if path.exists():
            return path
        instead = f": using the recorded {recorded.stem}" if recorded else ""
        print(f"notebook {number} has not been run here{instead}")
        return recorded

    def shared(self, given: str, name: str) -> Path | None:
        """A file or folder of real data, which is no part of the project; noted as looked for.

        Args:
            given: the notebook's parameter `shared`: a folder; empty: the usual places
                (`common.files.shared_data`); "none": do not look.
            name: of the file or folder in it, "geometry3k".

        Returns:
            Its path; None where it is not there or not to be looked for.
        """
        if given == "none":
            return None
        path = self.uses(files.shared_data(given) / name)
        return path if path.exists() else None

    def path(self, name: str) -> Path:
        """Where to write the artefact `name`; folders in it are made."""
        if not self._part.exists():  # a cell run again after `finish`: go on from what was finished
            shutil.copytree(self.folder, self._part)
        path = self._part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save_figure(self, figure: Figure, name: str) -> Image:
        """Write a matplotlib figure to `figures/<name>.png`, close it, and return that picture, for `display`.

        So it is drawn once, not once for the file and once for the notebook. Its 256 colours look like all of them,
        and make it a third as large. Who cannot see it is read its titles.
        """
        import matplotlib.pyplot as plt  # not before there is a figure

        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=144, bbox_inches="tight")
        plt.close(figure)
        picture = PIL.Image.open(drawn).convert("RGB")
        path = self.path(f"figures/{name}.png")
        picture.quantize(method=PIL.Image.Quantize.MAXCOVERAGE).save(path)
        titles = [figure.get_suptitle()]
        titles += [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center")]
        alt = "; ".join(" ".join(title.split()) for title in titles if title)
        return Image(path.read_bytes(), width=round(picture.width * figure.dpi / 144), alt=alt)

    def finish(self, finding: str, figure: str | None = None, **notes: object) -> pd.DataFrame:
        """Put the artefacts in place, with `run.json`.

        Args:
            finding: what was found, in one line, for the index page.
            figure: name of the saved figure that shows it.
            notes: anything else to record.

        Returns:
            The files written and their sizes.
        """
        own = self.path("run.json")
        paths = sorted(path for path in self._part.rglob("*") if path.is_file() and path != own)
        names = [path.relative_to(self._part).as_posix() for path in paths]
        record = {
            "finding": finding,
            "figure": f"figures/{figure}.png" if figure else None,
            "profile": self.profile.name,
            "parameters": self.parameters,
            "started": self._started,
            "seconds": round(time.perf_counter() - self._clock, 2),
            "peak_memory_mb": provenance.peak_memory_mb(),
            **provenance.origin(),
            "inputs": self._inputs,
            "artifacts": {name: files.sha256(self._part / name) for name in names},
            **notes,
        }
        files.write_json(own, record)
        sizes = [round(path.stat().st_size / 1024, 1) for path in paths]
        files.replace_folder(self.folder, self._part)
        return pd.DataFrame({"artefact": names, "KiB": sizes})


def start(number: str, profile: str, out: str = "", **parameters: object) -> NotebookRun:
    """The set-up of every notebook: its run (see `NotebookRun`), and figures in the one style of all.

    Where the profile makes no claims (smoke), that is said at once.
    """
    from perception_r1.notebook.figures import use_style

    gc.set_threshold(50_000)  # as on the command line: see `perception_r1.__main__`
    use_style()
    run = NotebookRun(number, profile, out, **parameters)
    if not run.profile.claims:
        display(Markdown(f"**Profile {profile}: its numbers only show that the code runs.**"))
    return run
