"""HTML for people: each executed notebook as one page, and an index over them.

The pages load nothing and run nothing: equations become MathML, which browsers draw themselves.
"""

import base64
import re
from collections import Counter
from pathlib import Path

import jinja2
import nbformat
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter

from perception_r1.common.files import read_json, write_text

# nbconvert's own page, whose pictures lack what `NotebookRun.save_figure` says of them.
_PAGE = """
{% extends "lab/index.html.j2" %}
{% block data_png %}
{% set alt = output | get_metadata("alt", "image/png") %}
{{ super() | replace("<img ", '<img alt="' ~ (alt | escape_html) ~ '" ') if alt else super() }}
{% endblock %}
"""
_EQUATION = re.compile(r"`[^`]*`|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)


def _mathml(match: re.Match) -> str:
    """`$...$` or `$$...$$` as MathML; a code span as it is."""
    if match["block"]:
        return to_mathml(match["block"].strip(), display="block")
    return to_mathml(match["inline"]) if match["inline"] else match[0]


def write_page(executed: Path, page: Path) -> None:
    """Write one executed notebook as a self-contained HTML page.

    Raises:
        InputError: `page` cannot be written.
    """
    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _EQUATION.sub(_mathml, cell.source)
    named = {"metadata": {"name": title(notebook) or executed.stem}}
    body, _ = HTMLExporter(raw_template=_PAGE).from_notebook_node(notebook, named)
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)  # a static page needs none
    larger = "<style>math { font-size: 1.15em; }</style></head>"
    write_text(page, body.replace("</head>", larger, 1))


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
    about = {"claims": rows, "counts": Counter(row["agrees"] for row in rows)}
    page = environment.get_template("index.html.j2").render(run=record, folder=folder, **about)
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
