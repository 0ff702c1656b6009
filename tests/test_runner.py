"""The runner, on small notebooks that really run: parameters, failures, resuming, interruptions."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
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
from perception_r1.notebook import discovery, runner
from perception_r1.notebook.notebook_run import NotebookRun
from tests.conftest import PARAMETERS


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def leftovers(folder: Path) -> list[str]:
    """Hidden or temporary files that a run should not leave behind."""
    return [p.name for p in folder.rglob("*") if p.name.startswith(".") and p.name != ".lock"]


def test_a_run_writes_notebooks_pages_index_and_record(write_notebook, tmp_path, capsys):
    write_notebook("01", "print('hello')")
    write_notebook("02", needs=("01",))
    out = tmp_path / "run"
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 0
    record = read(out / "run.json")
    assert record["profile"] == "smoke"
    assert record["versions"]["trl"]
    assert {n: e["status"] for n, e in record["notebooks"].items()} == {"01": "ok", "02": "ok"}
    assert record["notebooks"]["01"]["finding"] == "found it"
    assert (out / "artifacts" / "01" / "result.txt").read_text() == "whole"
    made = read(out / "artifacts" / "01" / "run.json")
    assert made["artifacts"].keys() == {"result.txt"}
    assert made["peak_memory_mb"] > 10
    executed = nbformat.read(out / "01_test.ipynb", as_version=4)
    assert any(o.get("text") == "hello\n" for c in executed.cells for o in c.get("outputs", []))
    page = (out / "01_test.html").read_text()
    assert "hello" in page
    assert "<script" not in page
    index = (out / "index.html").read_text()
    assert "found it" in index
    assert 'href="01_test.html"' in index
    assert "makes no scientific claim" in index
    assert leftovers(out) == []
    assert "01_test" in capsys.readouterr().out
    assert "HBChannel" not in {type(thread).__name__ for thread in threading.enumerate()}


def test_appendices_run_after_the_notebooks_and_may_need_them(write_notebook, tmp_path):
    write_notebook("A2", needs=("01", "A1"))
    write_notebook("A1")
    write_notebook("01")
    (write_notebook.folder / "B1_other.ipynb").write_text("no notebook of ours")
    notebooks = discovery.discover(write_notebook.folder)
    assert list(notebooks) == ["01", "A1", "A2"]
    chosen = discovery.select(notebooks, ["a1", "1"])
    assert [notebook.number for notebook in chosen] == ["01", "A1"]
    out = tmp_path / "run"
    assert runner.run("smoke", ["01", "A1"], out, folder=write_notebook.folder) == 0
    assert (out / "artifacts" / "A1" / "result.txt").is_file()
    index = (out / "index.html").read_text()
    assert index.index("01 · ") < index.index("Appendices</h2>") < index.index("A1 · ")


def test_a_kernel_that_complains_as_it_ends_is_not_heard(write_notebook, tmp_path):
    complain = "import atexit, os\natexit.register(os.write, 2, b'closed stream\\n')"
    write_notebook("01", f"{complain}\nassert os.write(2, b'said\\n')")
    process = start(write_notebook.folder, tmp_path / "run")
    assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0
    assert "said" in (tmp_path / "run" / "01_test.html").read_text()


def test_failures_are_all_reported_and_only_what_depends_on_them_is_skipped(
    write_notebook, tmp_path, capsys
):
    write_notebook("01", "x = 1\nraise ValueError('the first\\nfailure')")
    write_notebook("02", needs=("01",))
    write_notebook("03")
    write_notebook("04", writes=("result.txt", "promised.csv"))
    write_notebook("05", finish="")
    out = tmp_path / "run"
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 1
    entries = read(out / "run.json")["notebooks"]
    assert [entries[n]["status"] for n in sorted(entries)] == [
        "failed",
        "skipped",
        "ok",
        "failed",
        "failed",
    ]
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "01_test failed: cell [4] `x = 1`: ValueError: the first",
        "02_test skipped: needs notebook 01, which did not run through",
        "04_test failed: ran, but did not write what it promises: promised.csv",
        "05_test failed: ran, but did not write what it promises: result.txt",
    ]
    assert "ValueError" in (out / "01_test.html").read_text()  # one can read what went wrong
    assert "the first" in (out / "index.html").read_text()
    assert not (out / "artifacts" / "01").exists()
    assert not (out / "02_test.ipynb").exists()


def test_a_promise_kept_by_an_earlier_run_does_not_count(write_notebook, tmp_path):
    write_notebook("01")
    out = tmp_path / "run"
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 0
    time.sleep(1.1)  # the record's time has a resolution of one second
    write_notebook("01", finish="")
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 1


def test_a_kernel_that_dies_is_a_failure_with_a_name(write_notebook, tmp_path, capsys):
    write_notebook("01", "import os\nos._exit(3)")
    assert runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder) == 1
    assert "01_test failed: the kernel died" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ends at once", "is not there", "has no interpreter"])
def test_a_kernel_that_does_not_start_is_a_failure_of_its_notebook_alone(
    write_notebook, tmp_path, capsys, monkeypatch, name
):
    spec = tmp_path / "share" / "kernels" / "broken" / "kernel.json"
    spec.parent.mkdir(parents=True)
    commands = {
        "ends at once": [
            sys.executable,
            "-c",
            "import sys; sys.exit('says why\\n')",
            "{connection_file}",
        ],
        "has no interpreter": [str(tmp_path / "python"), "{connection_file}"],
    }
    if command := commands.get(name):
        spec.write_text(json.dumps({"argv": command, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    for number in ("01", "02", "03"):
        path = write_notebook(number)
        if number == "02":
            notebook = nbformat.read(path, as_version=4)
            notebook.metadata["kernelspec"]["name"] = "broken"
            nbformat.write(notebook, path)
    out = tmp_path / "run"
    assert runner.run("smoke", out=out, folder=write_notebook.folder) == 1
    told = capsys.readouterr().err
    assert "02_test failed: the kernel did not start: " in told and "Traceback" not in told
    assert ("(says why); `make check`" in told) == (name == "ends at once")
    entries = read(out / "run.json")["notebooks"]
    assert [entry["status"] for entry in entries.values()] == ["ok", "failed", "ok"]


def test_a_saved_figure_is_the_picture_that_is_shown(tmp_path):
    folder = tmp_path / "run"
    run = NotebookRun("01", "smoke", str(folder))
    figure, axes = plt.subplots(figsize=(4, 3), dpi=100)
    axes.plot([0, 1], color="#0072B2")
    shown = run.save_figure(figure, "rise")
    assert figure.number not in plt.get_fignums()  # or the notebook would show it twice
    picture = Image.open(run.path("figures/rise.png"))
    assert shown.data == run.path("figures/rise.png").read_bytes()
    assert abs(shown.width - 400) < 40 and abs(picture.width - 1.44 * shown.width) < 2
    colours = {colour for _, colour in picture.convert("RGB").getcolors()}
    assert {(255, 255, 255), (0, 0x72, 0xB2)} <= colours


def test_a_page_says_in_words_what_its_figures_show(write_notebook, tmp_path):
    write_notebook(
        "01",
        "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots(1, 2)\n"
        "figure.suptitle('a < \"b\"')\naxes[0].set_title('left\\none', loc='left')\n"
        "axes[1].set_title('right')\nrun.save_figure(figure, 'two')",
    )
    assert runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder) == 0
    page = BeautifulSoup((tmp_path / "run" / "01_test.html").read_text(), "html.parser")
    (picture,) = page.find_all("img")
    assert picture.get("alt") == 'a < "b"; left one; right'
    assert picture.get("src").startswith("data:image/png;base64,")
    assert 300 < int(picture.get("width")) < 800


MANY = PARAMETERS + 'n: int = 1  # a\nrate: float = 0.5\nflag: bool = False\nname: str = "a"\n'


def test_parameters_reach_the_notebooks_that_have_them_with_their_types(write_notebook, tmp_path):
    write_notebook(
        "01", "run.path('seen.txt').write_text(repr((n, rate, flag, name)))", parameters=MANY
    )
    write_notebook("02")
    out = tmp_path / "run"
    settings = ["n=7", "rate=1e-3", "flag=true", "name=with = and 'quote'"]
    assert runner.run("smoke", out=out, parameters=settings, folder=write_notebook.folder) == 0
    seen = (out / "artifacts" / "01" / "seen.txt").read_text()
    assert seen == repr((7, 0.001, True, "with = and 'quote'"))


@pytest.mark.parametrize(
    "setting, message",
    [
        (
            "m=1",
            r"--param m: no selected notebook has it; there are: flag \(bool\), n \(int\), name \(str\), rate",
        ),
        ("n=1.5", "takes n as int, and '1.5' is none"),
        ("n=", "takes n as int, and '' is none"),
        ("rate=fast", "takes rate as float, and 'fast' is none"),
        ("flag=maybe", "takes flag as bool, and 'maybe' is none"),
        ("n", "write it as name=value"),
        ("profile=laptop", "use --profile"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(
    write_notebook, tmp_path, setting, message
):
    write_notebook("01", parameters=MANY)
    with pytest.raises(InputError, match=message):
        runner.run(
            "smoke", out=tmp_path / "run", parameters=[setting], folder=write_notebook.folder
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "parameters, message",
    [
        (None, "01_test.ipynb has no cell tagged 'parameters'"),
        ('profile: str = "a"\n', "must have out"),
        (PARAMETERS + "n = 1\n", "parameter n needs a type that can be set"),
        (PARAMETERS + "n: dict = {}\n", "parameter n needs a type"),
    ],
)
def test_a_notebook_that_breaks_the_contract_is_named(
    write_notebook, tmp_path, parameters, message
):
    write_notebook("01", parameters=parameters)
    with pytest.raises(InputError, match=message):
        runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder)


def test_unreadable_notebooks_are_named(write_notebook, tmp_path):
    path = write_notebook("01")
    notebook = nbformat.read(path, as_version=4)
    del notebook.metadata["kernelspec"]
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match="01_test.ipynb names no kernel"):
        runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder)
    path.unlink()
    (write_notebook.folder / "01_broken.ipynb").write_text("{not a notebook")
    with pytest.raises(InputError, match="01_broken.ipynb is not JSON"):
        runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder)
    (write_notebook.folder / "01_broken.ipynb").unlink()
    with pytest.raises(InputError, match=r"no notebooks NN_\*.ipynb in"):
        runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder)
    write_notebook("01", needs=("02",))
    write_notebook("02")
    with pytest.raises(InputError, match="01_test.ipynb needs notebook 02, which is not before it"):
        runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profile", "huge"], "error: no profile 'huge'; there are: gpu, laptop, paper, smoke"),
        (["--only", "01,9"], "error: no notebook 09; there are: 01, 02, 03, 04, 05"),
        (
            ["--param", "depth=3"],
            "error: --param depth: no selected notebook has it; there are: arms (str)",
        ),
        (
            ["--only", "1", "--param", "download=perhaps"],
            "takes download as bool, and 'perhaps' is none",
        ),
        (
            ["--out", "/proc/nowhere/run"],
            "error: cannot write /proc/nowhere/run: No such file or directory; choose",
        ),
        (["--out", "Makefile/run"], "Makefile/run: Not a directory"),
        (["--out", "notebooks"], "notebooks holds the project's own files"),
        (["--out", "data/results/mine"], "holds the project's own files"),
        (["--out", ""], "--out is empty"),
        (["--only", ""], "--only is empty"),
    ],
)
def test_the_command_line_answers_bad_input_with_one_line(arguments, message, capsys):
    assert main(["run", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_resume_runs_only_what_changed(write_notebook, tmp_path):
    out, outside = tmp_path / "run", tmp_path / "input.txt"
    outside.write_text("one")
    code = f"from pathlib import Path\nrun.uses(Path({str(outside)!r}))\nrun.path('copy').write_text(n)"
    parameters = PARAMETERS + 'n: str = "a"\n'

    def statuses(*settings: str) -> list[str]:
        assert (
            runner.run(
                "smoke", out=out, parameters=settings, resume=True, folder=write_notebook.folder
            )
            == 0
        )
        return [entry["status"] for entry in read(out / "run.json")["notebooks"].values()]

    write_notebook("01", code, parameters)
    write_notebook("02", needs=("01",))
    assert statuses() == ["ok", "ok"]
    assert statuses() == ["unchanged", "unchanged"]
    assert statuses("n=b") == [
        "ok",
        "ok",
    ]  # another parameter changes 01, and 02 reads what 01 wrote
    assert statuses("n=b") == ["unchanged", "unchanged"]
    outside.write_text("two")  # an input that 01 noted; its artefacts stay the same
    assert statuses("n=b") == ["ok", "unchanged"]
    (out / "artifacts" / "02" / "result.txt").write_text("tampered")
    assert statuses("n=b") == ["unchanged", "ok"]
    (out / "01_test.html").unlink()
    assert statuses("n=b") == ["ok", "unchanged"]
    write_notebook("02", "1 + 1", needs=("01",))
    assert statuses("n=b") == ["unchanged", "ok"]


def test_one_folder_holds_one_profile(write_notebook, tmp_path):
    write_notebook("01")
    assert runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder) == 0
    with pytest.raises(InputError, match="holds a run of profile 'smoke'; choose another --out"):
        runner.run("laptop", out=tmp_path / "run", folder=write_notebook.folder)
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(InputError, match="is not a run's record"):
        runner.run("smoke", out=tmp_path / "run", folder=write_notebook.folder)


def start(folder: Path, out: Path, *more: str, largest: int | None = None) -> subprocess.Popen:
    """Start a run of a folder's notebooks in a process of its own, which may write files of `largest` bytes."""

    def prepare() -> None:
        # a shell starts background jobs with Ctrl-C ignored, and the tests may be one
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    command = [sys.executable, "-m", "perception_r1", "run", "--profile", "smoke"]
    return subprocess.Popen(
        [*command, "--notebooks", str(folder), "--out", str(out), *more],
        cwd=ROOT,
        preexec_fn=prepare,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_corrupt_and_resumes(write_notebook, tmp_path, how):
    out, mark, go = tmp_path / "run", tmp_path / "reached", tmp_path / "go"
    write_notebook("01")
    code = (
        "import os, time\nfrom pathlib import Path\nrun.path('result.txt').write_text('ha')\n"
        f"Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        f"while not Path({str(go)!r}).exists(): time.sleep(0.1)"
    )
    write_notebook("02", code)
    process = start(write_notebook.folder, out)
    wait_for(mark, process)
    process.send_signal(how)
    _, told = process.communicate(timeout=60)
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert told == "Interrupted; what was finished is kept, and --resume goes on from here\n"
        assert leftovers(out) == []
    record = read(out / "run.json")  # whole, whatever happened
    assert [entry["status"] for entry in record["notebooks"].values()] == ["ok", "not run"]
    assert not (out / "artifacts" / "02").exists()
    assert not (out / "02_test.ipynb").exists()
    kernel = int(mark.read_text())
    for _ in range(100):  # the kernel notices that its parent is gone
        if not alive(kernel):
            break
        time.sleep(0.1)
    assert not alive(kernel)
    go.write_text("")
    process = start(write_notebook.folder, out, "--resume")
    process.communicate(timeout=120)
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
    process = start(write_notebook.folder, tmp_path / "run")
    wait_for(mark, process)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.count("\n")) == (130, 1) and told.startswith("Interrupted; ")


def test_two_runs_cannot_share_a_folder(write_notebook, tmp_path):
    out, mark = tmp_path / "run", tmp_path / "reached"
    write_notebook(
        "01", f"import time\nfrom pathlib import Path\nPath({str(mark)!r}).touch()\ntime.sleep(60)"
    )
    first = start(write_notebook.folder, out)
    wait_for(mark, first)
    second = start(write_notebook.folder, out)
    _, told = second.communicate(timeout=60)
    assert (second.returncode, told.count("\n")) == (2, 1)
    assert "another run is writing to" in told
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)


@pytest.mark.parametrize(
    "code, limit, file",
    [("print('x' * 300_000)", 200_000, "01_test.ipynb"), ("1", 100_000, "01_test.html")],
)
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(
    write_notebook, tmp_path, code, limit, file
):
    """A limit on file sizes stands in for a full disk: the same failing write, without a mount."""
    write_notebook("01", code)
    process = start(write_notebook.folder, tmp_path / "run", largest=limit)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2
    assert told.count("\n") == 1
    assert told.startswith(f"error: cannot write {tmp_path / 'run' / file}: File too large; free")
    assert leftovers(tmp_path / "run") == []
    assert not (tmp_path / "run" / "01_test.ipynb").exists()
