"""Folders and logs that are whole or not there, and an end that waits for nobody."""

import subprocess
import sys

import pytest

from perception_r1.common.checkpoints import read_log, whole_folder
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.training.progress import append_row


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "weights").write_text("old")
    with pytest.raises(InputError), whole_folder(folder) as part:
        (part / "weights").write_text("half")
        raise OSError("no room")
    assert (folder / "weights").read_text() == "old"
    with whole_folder(folder) as part:
        (part / "weights").write_text("new")
    assert (folder / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_log_whose_first_row_did_not_fit_on_the_disk_gets_its_header_later(tmp_path):
    log = tmp_path / "grpo_log.csv"
    log.touch()
    append_row(log, {"step": 1, "reward": 0.5})
    assert read_log(log).to_dict("records") == [{"step": 1, "reward": 0.5}]


def test_a_process_ends_though_a_worker_was_just_killed():
    """Where workers were waited for at the exit, most runs of this never ended."""
    code = (
        "import atexit, time\n"
        "atexit.register(time.sleep, 2)\n"  # registered first, so it comes last: time to start anew
        "from perception_r1.problems.grading_worker import compare\n"
        "print(compare(r'2\\sqrt{3}', r'9^{9^{9}}!', 0.5))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "None\n")
