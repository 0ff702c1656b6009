"""The runner, on small notebooks that really run: parameters, failures, resuming, interruptions."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from bs4 import BeautifulSoup  # nbconvert's
from PIL import Image

from perception_r1.__main__ import main
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.notebook import discovery, pages, runner, start
from perception_r1.notebook.notebook_run import NotebookRun
from tests.conftest import PARAMETERS


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def leftovers(folder: Path) -> list[str]:
    """Hidden or temporary files that a run should not leave behind."""
    return [p.name for p in folder.rglob("*") if p.name.startswith(".") and p.name != ".lock"]


def begin(folder: Path, out: Path, *more: str, largest: int | None = None) -> subprocess.Popen:
    """Start a run of a folder's notebooks in a process of its own, which may write files of `largest` bytes."""

    def prepare() -> None:
        # a shell starts background jobs with Ctrl-C ignored, and the tests may be one
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    command = [sys.executable, "-m", "perception_r1", "run", "--profile", "smoke"]
    command += ["--notebooks", str(folder), "--out", str(out), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, preexec_fn=prepare, text=True, **pipes)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300  # a busy machine is slow
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


# --- runs --------------------------------------------------------------------------------------------

EQUATION = "Code `$x$` and $\\frac{a}{b} < c$ and $$y^2$$"
FIGURE = (
    "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots(1, 2)\n"
    "figure.suptitle('a < \"b\"')\naxes[0].set_title('left\\none', loc='left')\n"
    "axes[1].set_title('right')\nprint('hello')\nrun.save_figure(figure, 'two')"
)


def test_a_run_writes_notebooks_pages_index_and_record_also_into_a_folder_with_an_odd_name(
    write_notebook, tmp_path, capsys
):
    """Also: appendices come last and may need the others; a page shows figures in words and draws its equations."""
    path = write_notebook("01", FIGURE)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(EQUATION))
    nbformat.write(notebook, path)
    write_notebook("A1", needs=("01",))
    (write_notebook.folder / "B1_other.ipynb").write_text("no notebook of ours")
    odd = write_notebook.folder.rename(tmp_path / "note [v2] {x} *")
    out = tmp_path / "run[1] {profile} a*b"
    assert runner.run("smoke", ["1", "a1"], out, folder=odd) == 0
    record = read(out / "run.json")
    assert (record["profile"], record["claims"]) == ("smoke", False) and record["versions"]["trl"]
    assert record["started"] <= record["finished"]
    assert {n: e["status"] for n, e in record["notebooks"].items()} == {"01": "ok", "A1": "ok"}
    assert record["notebooks"]["01"]["finding"] == "found it"
    made = read(out / "artifacts" / "01" / "run.json")
    assert made["artifacts"].keys() == {"figures/two.png", "result.txt"}
    assert made["peak_memory_mb"] > 10
    executed = nbformat.read(out / "01_test.ipynb", as_version=4)
    assert any(o.get("text") == "hello\n" for c in executed.cells for o in c.get("outputs", []))
    html = (out / "01_test.html").read_text()
    page = BeautifulSoup(html, "html.parser")
    assert "hello" in html and not page.find_all("script")
    (picture,) = page.find_all("img")
    assert picture.get("alt") == 'a < "b"; left one; right'
    assert picture.get("src").startswith("data:image/png;base64,")
    inline, block = page.find_all("math")
    assert inline.find("mfrac").text == "ab" and block.get("display") == "block"
    assert page.find("code", string="$x$")
    index = (out / "index.html").read_text()
    assert "found it" in index and 'href="01_test.html"' in index
    assert "makes no scientific claim" in index
    assert index.index("01 · ") < index.index("Appendices</h2>") < index.index("A1 · ")
    assert leftovers(out) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:-1]] == [["01_test", "ok"], ["A1_test", "ok"]]


def test_failures_are_all_reported_and_only_what_depends_on_them_is_skipped(
    write_notebook, tmp_path, capsys
):
    """What an earlier run had promised and written does not count; nor does the kernel's last word reach the screen."""
    out = tmp_path / "run"
    complaint = "import atexit, os\natexit.register(os.write, 2, b'closed stream\\n')\n"
    write_notebook("03", complaint)
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 0
    time.sleep(1.1)  # the record's time has a resolution of one second
    write_notebook("01", "x = 1\nraise ValueError('the first\\nfailure')")
    write_notebook("02", needs=("01",))
    write_notebook("03", finish="")
    write_notebook("04", "import os\nos._exit(3)")
    write_notebook("05", writes=("result.txt", "promised.csv"))
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 1
    entries = read(out / "run.json")["notebooks"]
    statuses = [entries[number]["status"] for number in sorted(entries)]
    assert statuses == ["failed", "skipped", "failed", "failed", "failed"]
    assert capsys.readouterr().err.splitlines() == [
        "01_test failed: cell [4] `x = 1`: ValueError: the first",
        "02_test skipped: needs notebook 01, which did not run through",
        "03_test failed: ran, but did not write what it promises: result.txt",
        "04_test failed: the kernel died (out of memory?); see the last cell that has an output",
        "05_test failed: ran, but did not write what it promises: promised.csv",
    ]
    assert "ValueError" in (out / "01_test.html").read_text()  # one can read what went wrong
    assert "the first" in (out / "index.html").read_text()
    assert not (out / "artifacts" / "01").exists() and not (out / "02_test.ipynb").exists()


@pytest.mark.parametrize("name", ["ends at once", "is not there", "has no interpreter"])
def test_a_kernel_that_does_not_start_is_a_failure_of_its_notebook_alone(
    write_notebook, tmp_path, capsys, monkeypatch, name
):
    spec = tmp_path / "share" / "kernels" / "broken" / "kernel.json"
    spec.parent.mkdir(parents=True)
    end = "import sys; sys.exit('says why\\n')"
    commands = {
        "ends at once": [sys.executable, "-c", end, "{connection_file}"],
        "has no interpreter": [str(tmp_path / "python"), "{connection_file}"],
    }
    if command := commands.get(name):
        spec.write_text(json.dumps({"argv": command, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    notebook = nbformat.read(path := write_notebook("01"), as_version=4)
    notebook["metadata"]["kernelspec"]["name"] = "broken"
    nbformat.write(notebook, path)
    write_notebook("02")
    out = tmp_path / "run"
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("01_test failed: the kernel did not start: ")
    assert printed.count("\n") == 1
    assert ("(says why); `make check`" in printed) == (name == "ends at once")
    entries = read(out / "run.json")["notebooks"]
    assert [entry["status"] for entry in entries.values()] == ["failed", "ok"]


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
    assert run.upstream("02", "made.csv") is None
    line = "notebook 02 has not been run here"
    assert capsys.readouterr().out == f"{line}: using the recorded sample\n{line}\n"
    made = out / "artifacts" / "02" / "made.csv"
    made.parent.mkdir(parents=True)
    made.write_text("x")
    assert run.upstream("02", "made.csv", recorded) == made
    assert run.training_run().origin == "recorded"
    (tmp_path / "real").mkdir()
    assert run.shared(str(tmp_path), "real") == tmp_path / "real"
    assert run.shared(str(tmp_path), "other") is None
    monkeypatch.setenv("PERCEPTION_R1_SHARED", str(tmp_path))
    assert run.shared("", "real") == tmp_path / "real"
    assert run.shared("none", "real") is None
    run.path("sub/file.txt").write_text("x")
    run.finish("found it", figure="rise")
    record = read(out / "artifacts" / "03" / "run.json")
    names = [Path(name).name for name in record["inputs"]]
    assert names == ["made.csv", "run.json", "real", "other"]  # none: nobody looked
    assert record["inputs"][next(iter(record["inputs"]))] and list(record["artifacts"]) == [
        "sub/file.txt"
    ]
    assert (record["finding"], record["figure"]) == ("found it", "figures/rise.png")
    run.path("more.txt").write_text("y")  # a cell run again goes on from what was finished
    run.finish("again")
    assert sorted(read(out / "artifacts/03/run.json")["artifacts"]) == ["more.txt", "sub/file.txt"]


# --- parameters and bad input ------------------------------------------------------------------------

MANY = PARAMETERS + 'n: int = 1  # a\nrate: float = 0.5\nflag: bool = False\nname: str = "a"\n'


@pytest.mark.parametrize(
    "setting, message",
    [
        (
            "m=1",
            r"m: no selected notebook has it; there are: flag \(bool\), n \(int\), name \(str\)",
        ),
        ("n=1.5", "takes n as int, and '1.5' is none"),
        ("rate=fast", "takes rate as float, and 'fast' is none"),
        ("flag=maybe", "takes flag as bool, and 'maybe' is none"),
        ("n", "write it as name=value"),
        ("profile=laptop", "use --profile"),
    ],
)
def test_parameters_have_types_and_bad_ones_are_refused(write_notebook, setting, message):
    write_notebook("01", parameters=MANY)
    write_notebook("02")
    notebooks = discovery.select(discovery.discover(write_notebook.folder), [])
    good = ["n=7", "rate=1e-3", "flag=true", "name=with = and 'quote'"]
    values = discovery.read_parameters(notebooks, good)
    expected = {"n": 7, "rate": 0.001, "flag": True, "name": "with = and 'quote'"}
    assert values == {"01": expected, "02": {}} and type(values["01"]["n"]) is int
    with pytest.raises(InputError, match=message):
        discovery.read_parameters(notebooks, [setting])


@pytest.mark.parametrize(
    "parameters, message",
    [
        (None, "01_test.ipynb has no cell tagged 'parameters'"),
        ('profile: str = "a"\n', "must have out"),
        (PARAMETERS + "n = 1\n", "parameter n needs a type that can be set"),
        (PARAMETERS + "n: dict = {}\n", "parameter n needs a type"),
    ],
)
def test_a_notebook_that_breaks_the_contract_is_named(write_notebook, parameters, message):
    write_notebook("01", parameters=parameters)
    with pytest.raises(InputError, match=message):
        discovery.discover(write_notebook.folder)


def test_unreadable_notebooks_are_named(write_notebook):
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            discovery.discover(write_notebook.folder)

    refused(r"no notebooks NN_\*.ipynb in")
    path = write_notebook("01")
    good = read(path)
    path.write_text(json.dumps(good | {"metadata": {}}))
    refused("01_test.ipynb names no kernel")
    path.write_text(json.dumps({k: v for k, v in good.items() if k != "metadata"}))
    refused("01_test.ipynb breaks the notebook format")
    path.write_text("{not a notebook")
    refused("01_test.ipynb is not JSON")
    worksheets = [{"cells": [{"cell_type": "code", "input": "1", "outputs": []}]}]
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": worksheets}
    for content in (old, [], {}):
        path.write_text(json.dumps(content))
        refused("01_test.ipynb is no notebook of format 4; open it in JupyterLab and save it")
    path.write_text(json.dumps(good | {"cells": [{"cell_type": "code"}]}))
    refused("01_test.ipynb breaks the notebook format")
    write_notebook("01", needs=("02",))
    write_notebook("02")
    refused("01_test.ipynb needs notebook 02, which is not before it")
    (write_notebook.folder / "02_twin.ipynb").write_text(json.dumps(good))
    refused("02_twin.ipynb and 02_test.ipynb share a number")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profile", "huge"], "error: no profile 'huge'; there are: gpu, laptop, paper, smoke"),
        (["--only", "01,9"], "error: no notebook 09; there are: 01, 02, 03, 04, 05"),
        (["--only", "01", "--param", "depth=3"], "no selected notebook has it; there are: "),
        (["--out", "/proc/nowhere/run"], "cannot write /proc/nowhere/run: No such file or"),
        (["--out", "Makefile/run"], "Makefile/run: Not a directory"),
        (["--out", "."], "holds the project's own files"),
        (["--out", "data/results/mine"], "holds the project's own files"),
        (["--out", ""], "--out is empty"),
        (["--only", ""], "--only is empty"),
    ],
)
def test_the_command_line_answers_bad_input_with_one_line(arguments, message, capsys):
    assert main(["run", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


# --- resuming and stopping ---------------------------------------------------------------------------


def test_resume_runs_only_what_changed_and_a_folder_holds_one_profile(write_notebook, tmp_path):
    out, outside = tmp_path / "run", tmp_path / "input.txt"
    outside.write_text("one")
    code = f"from pathlib import Path\nrun.uses(Path({str(outside)!r}))\nrun.path('copy').write_text(n)"
    parameters = PARAMETERS + 'n: str = "a"\n'

    def statuses(setting: str = "n=a") -> list[str]:
        folder = write_notebook.folder
        assert runner.run("smoke", (), out, [setting], resume=True, folder=folder) == 0
        return [entry["status"] for entry in read(out / "run.json")["notebooks"].values()]

    write_notebook("01", code, parameters)
    write_notebook("02", needs=("01",))
    assert statuses() == ["ok", "ok"]
    assert statuses() == ["unchanged", "unchanged"]
    assert statuses("n=b") == ["ok", "ok"]  # a parameter changes 01, and 02 reads what it wrote
    outside.write_text("two")  # an input that 01 noted; its artefacts stay the same
    assert statuses("n=b") == ["ok", "unchanged"]
    (out / "artifacts" / "02" / "result.txt").write_text("tampered")
    assert statuses("n=b") == ["unchanged", "ok"]
    (out / "01_test.html").unlink()
    write_notebook("02", "1 + 1", needs=("01",))
    assert statuses("n=b") == ["ok", "ok"]
    with pytest.raises(InputError, match="holds a run of profile 'smoke'; choose another --out"):
        runner.run("laptop", out=out, folder=write_notebook.folder)
    for content in ("[]", '{"profile": "smoke"}'):
        (out / "run.json").write_text(content)
        with pytest.raises(InputError, match="is not a run's record"):
            runner.run("smoke", out=out, folder=write_notebook.folder)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])  # Ctrl-C: see below
def test_an_interrupted_run_leaves_nothing_corrupt_and_resumes(write_notebook, tmp_path, how):
    out, mark, go = tmp_path / "run", tmp_path / "reached", tmp_path / "go"
    write_notebook("01")
    code = (
        "import os, time\nfrom pathlib import Path\nrun.path('result.txt').write_text('ha')\n"
        f"Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        f"while not Path({str(go)!r}).exists(): time.sleep(0.1)"
    )
    write_notebook("02", code)
    process = begin(write_notebook.folder, out)
    wait_for(mark, process)
    if how == signal.SIGTERM:
        second = begin(write_notebook.folder, out)
        _, stderr = second.communicate(timeout=120)
        assert (second.returncode, stderr.count("\n")) == (2, 1)
        assert "another run is writing to" in stderr
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert stderr == "Interrupted; what was finished is kept, and --resume goes on from here\n"
        assert leftovers(out) == []
    record = read(out / "run.json")  # whole, whatever happened
    assert [entry["status"] for entry in record["notebooks"].values()] == ["ok", "not run"]
    assert not (out / "artifacts" / "02").exists() and not (out / "02_test.ipynb").exists()
    kernel = int(mark.read_text())
    for _ in range(100):  # the kernel notices that its parent is gone
        if not alive(kernel):
            break
        time.sleep(0.1)
    assert not alive(kernel)
    go.write_text("")
    process = begin(write_notebook.folder, out, "--resume")
    process.communicate(timeout=240)
    assert process.returncode == 0
    entries = read(out / "run.json")["notebooks"]
    assert [entry["status"] for entry in entries.values()] == ["unchanged", "ok"]
    assert (out / "artifacts" / "02" / "result.txt").read_text() == "whole"
    assert leftovers(out) == []


def test_an_impatient_second_ctrl_c_is_no_traceback(write_notebook, tmp_path):
    mark = tmp_path / "reached"
    write_notebook(
        "01",
        f"import signal, time\nfrom pathlib import Path\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"Path({str(mark)!r}).touch()\ntime.sleep(60)",
    )
    process = begin(write_notebook.folder, tmp_path / "run")
    wait_for(mark, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (
        130,
        -signal.SIGINT,
    )  # it may be about to end when the second comes
    assert stderr.startswith("Interrupted; ") and stderr.count("\n") == 1


@pytest.mark.parametrize(
    "code, largest, file",
    [("print('x' * 300_000)", 200_000, "01_test.ipynb"), ("1", 100_000, "01_test.html")],
)
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(
    write_notebook, tmp_path, code, largest, file
):
    """A limit on file sizes stands in for a full disk: the same failing write, without a mount."""
    write_notebook("01", code)
    process = begin(write_notebook.folder, tmp_path / "run", largest=largest)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr.count("\n")) == (2, 1)
    assert f"error: cannot write {tmp_path / 'run' / file}: File too large; free" in stderr
    assert leftovers(tmp_path / "run") == [] and not (tmp_path / "run" / "01_test.ipynb").exists()


def test_times_are_said_as_people_say_them():
    said = [pages.duration(seconds) for seconds in (None, 0.44, 9.96, 59.4, 185)]
    assert said == ["", "0.4 s", "10.0 s", "59 s", "3 min 5 s"]
