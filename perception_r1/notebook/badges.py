"""Colab and Binder links for every notebook, written into `notebooks/README.md` from the list of files.

python -m perception_r1 badges OWNER/NAME [--branch main]
"""

import re
from pathlib import Path
from urllib.parse import quote

from perception_r1.common.errors import InputError
from perception_r1.common.files import NOTEBOOKS, write_text

_BLOCK = re.compile(r"(<!-- badges -->\n).*?(<!-- /badges -->)", re.DOTALL)
COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"


def badge_lines(repository: str, branch: str, folder: Path = NOTEBOOKS) -> list[str]:
    """A line a notebook with its Colab and Binder badges.

    Raises:
        InputError: `repository` is not "owner/name".
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(
            f"{repository!r} is no repository; write it as OWNER/NAME, as in its address on GitHub"
        )
    lines = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        place = f"notebooks/{path.name}"
        colab = f"{COLAB}/github/{repository}/blob/{branch}/{place}"
        binder = (
            f"{BINDER}/v2/gh/{repository}/{branch}?urlpath={quote(f'lab/tree/{place}', safe='')}"
        )
        lines.append(
            f"- {path.stem}: [![Colab]({COLAB}/assets/colab-badge.svg)]({colab}) "
            f"[![Binder]({BINDER}/badge_logo.svg)]({binder})"
        )
    return lines


def write_badges(repository: str, branch: str = "main", folder: Path = NOTEBOOKS) -> None:
    """Put the badges into the marked block of `README.md` in the folder of the notebooks.

    Raises:
        InputError: no such repository name, or the page has no marked block.
    """
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8")
    name = repository.partition("/")[2]
    first = (
        f"`!git clone --depth 1 -b {branch} https://github.com/{repository}`, `%cd {name}/notebooks`, "
        "`!pip install -q -e ..`"
    )
    lines = [
        *badge_lines(repository, branch, folder),
        "",
        f"Binder installs everything; on Colab run first: {first}.",
    ]
    lines += ["Neither was ever executed by us.", ""]
    if not _BLOCK.search(text):
        raise InputError(
            f"{page} has no block between <!-- badges --> and <!-- /badges -->; restore it with git"
        )
    write_text(page, _BLOCK.sub(lambda found: found[1] + "\n".join(lines) + found[2], text))
