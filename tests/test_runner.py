"""The runner, on small notebooks that really run: parameters, failures, resuming, interruptions."""

import functools
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import nbformat
import pytest
from bs4 import BeautifulSoup  # nbconvert's
from PIL import Image

from perception_r1.__main__ import main
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.common.files import read_json as read
from perception_r1.notebook import discovery, pages, refresh, runner, start
from perception_r1.notebook.notebook_run import NotebookRun
from tests.conftest import PARAMETERS, alive
from tests.stub_server import until


def leftovers(folder: Path) -> list[str]:
    """Hidden or temporary files that a run should not leave behind."""
    return [p.name for p in folder.rglob("*") if p.name.startswith(".") and p.name != ".lock"]


def begin(folder: Path, out: Path, **settings) -> subprocess.Popen:
    """Start a run of a folder's notebooks in a process of its own."""
    command = [sys.executable, "-m", "perception_r1", "run", "--profile", "smoke", "--resume"]
    command += ["--notebooks", str(folder), "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes, **settings)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    until(lambda: path.exists() or process.poll() is not None, 300)  # a busy machine is slow
    assert path.exists(), process.communicate()


EQUATION = (
    "Code `$x$` and $\\frac{a}{b} < c$ and $$y^2$$ [appendix](A1_test.ipynb) [sources](../data.csv)"
)
FIGURE = (
    "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots(1, 2)\n"
    "figure.suptitle('a < \"b\"')\naxes[0].set_title('left\\none', loc='left')\n"
    "axes[1].set_title('right')\nprint('hello')\nrun.save_figure(figure, 'two')"
)


def test_a_run_writes_pages_index_and_record_also_into_a_folder_with_an_odd_name(
    write_notebook, tmp_path
):
    """Also: appendices come last and may need the others; a page shows figures in words and draws its equations."""
    path = write_notebook("01", FIGURE)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(EQUATION))
    nbformat.write(notebook, path)
    write_notebook("A1", needs=("01",))
    (write_notebook.folder / "B1_other.ipynb").write_text("no notebook of ours")
    odd = write_notebook.folder.rename(tmp_path / "note [v2] * {1}")
    out = tmp_path / "run[1] a*b {x}"
    assert runner.run("smoke", ["1", "a1"], out, folder=odd) == 0
    record = read(out / "run.json")
    assert (record["profile"], record["claims"]) == ("smoke", False) and record["versions"]["trl"]
    assert {n: e["status"] for n, e in record["notebooks"].items()} == {"01": "ok", "A1": "ok"}
    html = (out / "01_test.html").read_text()
    page = BeautifulSoup(html, "html.parser")
    assert "hello" in html and not page.find_all("script")
    (picture,) = page.find_all("img")
    assert picture.get("alt") == 'a < "b"; left one; right'
    inline, block = page.find_all("math")
    assert inline.find("mfrac").text == "ab" and block.get("display") == "block"
    assert page.find("code", string="$x$")
    links = {link.text: link.get("href") for link in page.find_all("a")}
    assert links["appendix"] == links["Next: A1 test"] == "A1_test.html"
    assert links["Index"] == "index.html" and "Before" not in html
    assert (out / unquote(links["sources"])).resolve() == tmp_path / "data.csv"
    index = (out / "index.html").read_text()
    assert "makes no scientific claim" in index
    assert index.index("01 · ") < index.index("Appendices</summary>") < index.index("A1 · ")
    assert leftovers(out) == []


def test_failures_are_all_reported_and_only_what_depends_on_them_is_skipped(
    write_notebook, tmp_path, capsys
):
    """What an earlier run had promised and written does not count; nor does the kernel's last word reach the screen."""
    out = tmp_path / "run"
    earlier = NotebookRun("03", "smoke", str(out))
    earlier.path("result.txt").touch()
    earlier.finish("earlier")
    last_word = "import atexit, os\natexit.register(os.write, 2, b'closed stream\\n')"
    write_notebook("01", "x = 1\nraise ValueError('the first\\nfailure')")
    write_notebook("02", needs=("01",))
    write_notebook("03", last_word, finish="")
    write_notebook("04", "import os\nos._exit(3)")
    write_notebook("05", writes=("result.txt", "promised.csv"))
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 1
    assert capsys.readouterr().err.splitlines() == [
        "01_test failed: cell [4] `x = 1`: ValueError: the first",
        "02_test skipped: needs notebook 01, which did not run through",
        "03_test failed: ran, but did not write what it promises: result.txt",
        "04_test failed: the kernel died (out of memory?); see the last cell that has an output",
        "05_test failed: ran, but did not write what it promises: promised.csv",
    ]
    assert "ValueError" in (out / "01_test.html").read_text()  # one can read what went wrong
    assert not (out / "artifacts" / "01").exists()


def test_a_kernel_that_does_not_start_is_a_failure_of_its_notebook(
    write_notebook, tmp_path, capsys, monkeypatch
):
    commands = {
        "ends": [sys.executable, "-c", "", "{connection_file}"],
        "no-interpreter": [str(tmp_path / "python"), "{connection_file}"],
        "absent": None,
    }
    for number, (name, command) in enumerate(commands.items(), 1):
        spec = tmp_path / "share" / "kernels" / name / "kernel.json"
        if command:
            spec.parent.mkdir(parents=True)
            about = {"argv": command, "display_name": "x", "language": "python"}
            spec.write_text(json.dumps(about))
        notebook = nbformat.read(path := write_notebook(f"0{number}"), as_version=4)
        notebook["metadata"]["kernelspec"]["name"] = name
        nbformat.write(notebook, path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    assert runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all("_test failed: the kernel did not start: " in line for line in lines)
    assert len(lines) == 3


def test_a_saved_figure_is_the_picture_that_is_shown(tmp_path):
    run = NotebookRun("01", "smoke", str(tmp_path / "run"))
    figure, axes = plt.subplots(figsize=(4, 3), dpi=100)
    axes.plot([0, 1], color="#0072B2")
    shown = run.save_figure(figure, "rise")
    assert figure.number not in plt.get_fignums()  # or the notebook would show it twice
    picture = Image.open(run.path("figures/rise.png"))
    assert shown.data == run.path("figures/rise.png").read_bytes()
    assert abs(shown.width - 400) < 40 and abs(picture.width - 1.44 * shown.width) < 2
    colours = {colour for _, colour in picture.convert("RGB").getcolors()}
    assert {(255, 255, 255), (0, 0x72, 0xB2)} <= colours


def test_a_notebook_finds_what_others_left_or_what_is_recorded(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    run = start("03", "smoke", str(out))
    capsys.readouterr()
    recorded = tmp_path / "sample.csv"
    assert run.upstream("02", "made.csv", recorded) == recorded
    line = "notebook 02 has not been run here: using the recorded sample\n"
    assert capsys.readouterr().out == line
    made = out / "artifacts" / "02" / "made.csv"
    made.parent.mkdir(parents=True)
    made.write_text("x")
    assert run.upstream("02", "made.csv", recorded) == made
    (tmp_path / "real").mkdir()
    assert run.shared(str(tmp_path), "real") == tmp_path / "real"
    assert run.shared(str(tmp_path), "other") is None
    assert run.shared("none", "real") is None
    monkeypatch.setenv("PERCEPTION_R1_SHARED", str(tmp_path))
    assert run.shared("", "real") == tmp_path / "real"
    run.path("sub/file.txt").write_text("x")
    run.finish("found it", figure="rise")
    record = read(out / "artifacts" / "03" / "run.json")
    names = [Path(name).name for name in record["inputs"]]
    assert names == ["made.csv", "real", "other"]  # none: nobody looked
    assert (record["finding"], record["figure"]) == ("found it", "figures/rise.png")
    run.path("more.txt").write_text("y")  # a cell run again goes on from what was finished
    run.finish("again")
    assert sorted(read(out / "artifacts/03/run.json")["artifacts"]) == ["more.txt", "sub/file.txt"]


MANY = PARAMETERS + 'n: int = 1  # a\nrate: float = 0.5\nflag: bool = False\nname: str = "a"\n'


def test_parameters_have_types_and_bad_ones_are_refused(write_notebook):
    write_notebook("01", parameters=MANY)
    write_notebook("02")
    notebooks = discovery.select(discovery.discover(write_notebook.folder), [])
    good = ["n=7", "rate=1e-3", "flag=true", "name=with = and 'quote'"]
    values = discovery.read_parameters(notebooks, good)
    expected = {"n": 7, "rate": 0.001, "flag": True, "name": "with = and 'quote'"}
    assert values == {"01": expected, "02": {}} and type(values["01"]["n"]) is int
    for setting, message in (
        ("m=1", r"names there are: flag \(bool\), n \(int\), name \(str\), rate \(float\)$"),
        ("n=1.5", "takes n as int, and '1.5' is none"),
        ("n", "write it as name=value"),
        ("out=there", "names there are: flag"),
    ):
        with pytest.raises(InputError, match=message):
            discovery.read_parameters(notebooks, [setting])


def test_a_notebook_that_is_none_or_breaks_the_contract_is_named(write_notebook):
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            discovery.discover(write_notebook.folder)

    refused(r"no notebooks NN_\*.ipynb in")
    write_notebook("01", parameters=None)
    refused("01_test.ipynb: its cell tagged 'parameters' must have out, profile")
    path = write_notebook("01", parameters='profile: str = "a"\n')
    refused("must have out")
    write_notebook("01")
    good = read(path)
    for content in ("{not a notebook", "[]", json.dumps(good | {"metadata": {}})):
        path.write_text(content)
        refused("cannot read .*01_test.ipynb: .*; open it in JupyterLab, choose Python 3, and save")
    path.write_text(json.dumps(good))
    (write_notebook.folder / "01_test-Copy1.ipynb").write_text(json.dumps(good))
    refused("01_test.ipynb and 01_test-Copy1.ipynb share a number")


def test_the_command_line_answers_bad_input_with_one_line(capsys, monkeypatch):
    for arguments, message in (
        (["--profile", "huge"], "error: no profile 'huge'; there are: gpu, laptop, paper, smoke"),
        (["--only", "01,9"], "error: no notebook 09; there are: 01, 02, 03, 04, 05"),
        (["--out", "/proc/nowhere/run"], "cannot write /proc/nowhere/run: No such file or"),
        (["--out", "data/results/mine"], "holds the project's own files"),
        (["--out", ""], "holds the project's own files"),
    ):
        monkeypatch.chdir(ROOT)
        assert main(["run", *arguments]) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1


def test_an_interrupted_run_leaves_nothing_corrupt_and_resumes(write_notebook, tmp_path):
    """Stopped, gone on, killed, gone on, and on with another parameter; meanwhile no second run may write there.

    What else makes a result old: `test_batch`.
    """
    out, mark, go = tmp_path / "run", tmp_path / "reached", tmp_path / "go"
    write_notebook("01", "run.path('copy').write_text(n)", PARAMETERS + 'n: str = "a"\n')
    code = (
        "import os, time\nfrom pathlib import Path\nrun.path('result.txt').write_text('ha')\n"
        f"Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        f"while not Path({str(go)!r}).exists(): time.sleep(0.1)"
    )
    write_notebook("02", code, needs=("01",))
    for how, before in ((signal.SIGTERM, "ok"), (signal.SIGKILL, "unchanged")):
        process = begin(write_notebook.folder, out)
        wait_for(mark, process)
        if how == signal.SIGTERM:
            with pytest.raises(InputError, match="another run is writing to"):
                runner.run("smoke", out=out, folder=write_notebook.folder)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=60)
        kernel = int(mark.read_text())
        mark.unlink()
        if how == signal.SIGTERM:
            assert process.returncode == 130 and leftovers(out) == []
            assert stderr.startswith("Interrupted; what was finished is kept, and --resume goes on")
            assert stderr.count("\n") == 1
        record = read(out / "run.json")  # whole, whatever happened
        statuses = [entry["status"] for entry in record["notebooks"].values()]
        assert statuses == [before, "not run"]
        assert not (out / "artifacts" / "02").exists()
        until(lambda pid=kernel: not alive(pid))  # it notices that its parent is gone
    go.touch()
    for given, first in (((), "unchanged"), (("n=b",), "ok")):  # 02 reads what 01 wrote
        assert runner.run("smoke", (), out, given, resume=True, folder=write_notebook.folder) == 0
        entries = read(out / "run.json")["notebooks"]
        assert [entry["status"] for entry in entries.values()] == [first, "ok"]
    assert (out / "artifacts" / "02" / "result.txt").read_text() == "whole"
    assert leftovers(out) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(write_notebook, tmp_path):
    """A limit on file sizes stands in for a full disk: the same failing write, without a mount."""
    write_notebook("01")
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    process = begin(write_notebook.folder, tmp_path / "run", preexec_fn=limit)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr.count("\n")) == (2, 1)
    assert f"error: cannot write {tmp_path}/run/01_test.html: File too large; free" in stderr
    assert leftovers(tmp_path / "run") == [] and not (tmp_path / "run" / "01_test.ipynb").exists()


def test_outputs_go_into_the_notebook_that_ran_and_into_no_other(
    write_notebook, tmp_path, monkeypatch
):
    path, executed = write_notebook("01"), tmp_path / "runs" / "refresh" / "01_test.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="seen")]
    executed.parent.mkdir(parents=True)
    nbformat.write(notebook, executed)
    monkeypatch.setattr(refresh, "ROOT", tmp_path)
    monkeypatch.setattr(refresh, "run", lambda *_, **__: 0)
    monkeypatch.setattr(refresh, "discover", lambda: discovery.discover(path.parent))
    assert refresh.refresh() == 0
    assert nbformat.read(path, as_version=4).cells[-1].outputs[0].text == "seen"
    write_notebook("01", "changed = True")
    with pytest.raises(InputError, match="01_test.ipynb changed while it ran"):
        refresh.refresh()


def test_times_are_said_as_people_say_them():
    said = [pages.duration(seconds) for seconds in (None, 9.96, 59.4, 185)]
    assert said == ["", "10.0 s", "59 s", "3 min 5 s"]
