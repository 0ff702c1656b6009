"""Write the outputs of a run into the committed notebooks, so that they read well without a kernel."""

import argparse
import shutil
from collections.abc import Sequence

import nbformat
import pandas as pd

from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, ROOT, read_json, sha256, write_text
from perception_r1.notebook.discovery import code_digest, discover, read_names, select
from perception_r1.notebook.runner import run

README_FIGURES = {"arms.png": "04", "map.png": "05", "pipeline.png": "03"}  # figure -> notebook


def refresh(only: Sequence[str] = ()) -> int:
    """Write the outputs of a laptop run, made without third-party data, into the committed notebooks.

    Args:
        only: numbers of the notebooks to run and write; none: all. What others left in the folder of an earlier
            refresh is read, else what is recorded.

    Returns:
        The exit status of the run; the committed notebooks change only if it is 0.

    Raises:
        InputError: a notebook changed while it ran.
    """
    out = ROOT / "runs" / "refresh"
    refreshed = select(discover(), only)
    names = {name for notebook in refreshed for name in notebook.types}
    without = [f"{name}=none" for name in ("mathvista", "shared") if name in names]
    if status := run("laptop", out=out, parameters=without, resume=True, only=only):
        return status
    for notebook in refreshed:
        committed = nbformat.read(notebook.path, as_version=4)
        executed = nbformat.read(out / notebook.path.name, as_version=4)
        ran = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])]
        if [c.source for c in ran] != [c.source for c in committed.cells]:
            raise InputError(f"{notebook.path.name} changed while it ran; run refresh again")
        both = zip(committed.cells, ran, strict=True)
        code = [(cell, result) for cell, result in both if cell.cell_type == "code"]
        for count, (cell, result) in enumerate(code, 1):
            cell.outputs, cell.execution_count = result.outputs, count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
                if " at 0x" in output.get("data", {}).get("text/plain", ""):
                    del output.data["text/plain"]  # an address, new in every run
        committed.metadata["perception_r1"]["ran"] = code_digest(committed)
        write_text(notebook.path, nbformat.writes(committed) + "\n")
        print(f"  {notebook.path.name} refreshed")
    # what notebook 05 shows where 02 has not been run, and the README's figures
    numbers, artifacts = {notebook.number for notebook in refreshed}, out / "artifacts"
    if "02" in numbers:
        audit = artifacts / "02" / "audit.json"
        table = pd.DataFrame(read_json(audit)["summary"])
        inputs = {"artifacts/02/audit.json": sha256(audit)}
        source = "this project: a laptop run of notebook 02"
        recorded.write("annotation_audit", table, source, "Apache-2.0", inputs, "make refresh")
    for name, number in README_FIGURES.items():
        if number in numbers:
            shutil.copyfile(artifacts / number / "figures" / name, DATA / "results" / name)
    return 0


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 refresh`; see `refresh`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 refresh", description=__doc__)
    parser.add_argument("--only", type=read_names, default=[], metavar="01,A1", help="not all")
    return refresh(parser.parse_args(arguments).only)
