"""Badge links against the list of files, and the marked block that holds them."""

import re
from urllib.parse import unquote

import pytest

from perception_r1.__main__ import main
from perception_r1.common.errors import InputError
from perception_r1.common.files import NOTEBOOKS, ROOT
from perception_r1.notebook.badges import badge_lines, write_badges


def test_every_notebook_has_both_links_and_every_link_a_notebook():
    lines = badge_lines("someone/companion", "main")
    names = sorted(path.name for path in NOTEBOOKS.glob("0*.ipynb"))
    assert len(lines) == len(names) == 5
    for line, name in zip(lines, names, strict=True):
        links = re.findall(r"\((https://[^()]+)\)", line)
        colab = next(link for link in links if "/github/" in link)
        binder = next(link for link in links if "urlpath=" in link)
        place = f"notebooks/{name}"
        assert (ROOT / place).is_file()
        assert (
            colab == f"https://colab.research.google.com/github/someone/companion/blob/main/{place}"
        )
        assert (
            unquote(binder)
            == f"https://mybinder.org/v2/gh/someone/companion/main?urlpath=lab/tree/{place}"
        )


def test_the_block_is_written_and_written_again(tmp_path):
    for path in NOTEBOOKS.glob("0*.ipynb"):
        (tmp_path / path.name).touch()
    page = tmp_path / "README.md"
    page.write_text((NOTEBOOKS / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    write_badges("someone/companion", "main", tmp_path)
    once = page.read_text(encoding="utf-8")
    assert once.count("mybinder.org/v2/gh/someone/companion/main") == 5
    assert "## One hour" in once and "was ever executed by us" in once
    write_badges("other/place", "dev", tmp_path)
    again = page.read_text(encoding="utf-8")
    assert "someone" not in again and again.count("/v2/gh/other/place/dev") == 5


def test_bad_names_and_a_page_without_the_block(tmp_path, capsys):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(InputError, match="no block between"):
        write_badges("someone/companion", "main", tmp_path)
    assert main(["badges", "nonsense"]) == 2
    assert "write it as OWNER/NAME" in capsys.readouterr().err
