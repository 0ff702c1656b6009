"""HTML for people: each executed notebook as one page, and an index over them.

The pages load nothing, and run nothing but the one line of a slider (`panel.still`): equations become MathML, which
browsers draw themselves.
"""

import base64
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
import nbformat
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter

from perception_r1.common.files import DATA, read_json, write_text

_EQUATION = re.compile(r"`[^`]*`|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)


def _mathml(match: re.Match) -> str:
    """`$...$` or `$$...$$` as MathML; a code span as it is."""
    if match["block"]:
        return to_mathml(match["block"].strip(), display="block")
    return to_mathml(match["inline"]) if match["inline"] else match[0]


def write_page(executed: Path, page: Path, notebooks: Sequence[Path]) -> None:
    """Write one executed notebook as a self-contained HTML page.

    Args:
        executed: the notebook.
        page: where to write; pages of a run lie side by side, with its `index.html`.
        notebooks: those of the run as they lie in the project, in order: where links lead, and the bar goes on.

    Raises:
        InputError: `page` cannot be written.
    """
    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _EQUATION.sub(_mathml, cell.source)
    stems = [path.stem for path in notebooks]
    place = stems.index(page.stem)
    around = zip(("before", "name", "next"), [None, *stems, None][place : place + 3], strict=True)
    about = dict(around) | {"name": title(notebook) or page.stem}
    exporter = HTMLExporter(raw_template=Path(__file__).with_name("page.html.j2").read_text())
    body, _ = exporter.from_notebook_node(notebook, {"metadata": about})
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)  # a static page needs none

    def led(link: re.Match) -> str:
        target = Path(link[1])
        if target.stem in stems or target.name == "index.html":
            return f'href="{target.stem}.html"'
        path = os.path.relpath(notebooks[place].parent / target, page.parent)
        return f'href="{quote(path)}"'

    write_text(page, re.sub(r'href="([^":#]+)"', led, body))


def title(notebook: nbformat.NotebookNode) -> str | None:
    """The first heading of a notebook, without its mark-up."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    return re.sub(r"[*_`]", "", heading[1]).strip() if heading else None


def write_index(folder: Path, record: dict) -> None:
    """Write `index.html` over the notebooks of a run.

    Args:
        folder: the run's folder.
        record: the content of its `run.json`.

    Raises:
        InputError: the page cannot be written.
    """
    own = jinja2.PackageLoader("perception_r1.notebook", ".")
    environment = jinja2.Environment(loader=own, autoescape=True)
    environment.filters |= {"picture": _picture, "duration": duration}
    claims = folder / "artifacts" / "05" / "claims.json"
    rows = read_json(claims) if claims.is_file() else []
    sources = os.path.relpath(DATA / "paper" / "sources.csv", folder)
    template = environment.get_template("index.html.j2")
    page = template.render(run=record, folder=folder, claims=rows, sources=sources)
    write_text(folder / "index.html", page)


def duration(seconds: float | None) -> str:
    """Seconds as people say them: "0.4 s", "12 s", "3 min 5 s"."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _picture(path: Path) -> str:
    """A PNG as a data address, so that the index is one file that can be passed on."""
    data = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
    return data and f"data:image/png;base64,{data}"
