"""A process ends at once, whatever its workers do."""

import subprocess
import sys

from perception_r1.common.files import ROOT


def test_a_process_ends_though_a_worker_was_just_killed():
    """Where workers were waited for at the exit, most runs of this never ended."""
    code = (
        "import atexit, time\n"
        "atexit.register(time.sleep, 2)\n"  # registered first, so it comes last: time to start anew
        "from perception_r1.problems.grading_worker import are_equal\n"  # memory lasts longer than this deadline
        "print(are_equal(r'2\\sqrt{3}', r'9^{9^{9}}!', 0.1))\n"
    )
    how = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([sys.executable, "-c", code], **how)
    assert (done.returncode, done.stdout) == (0, "None\n")
