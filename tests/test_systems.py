"""MathVista's published answers: the official counts, broken files, and the download from a real server."""

import functools
import hashlib
import http.server
import json
import threading

import pandas as pd
import pytest

from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.evidence import mathvista_pairs


def test_counts_of_right_answers_equal_the_official_ones(shared):
    """Read here in another way: MathVista's own score files, as plain JSON."""
    outcomes = mathvista_pairs.load_mathvista(shared / "mathvista")
    for key, (name, _) in mathvista_pairs.MATHVISTA_SYSTEMS.items():
        scores = json.loads((shared / "mathvista" / f"scores_{key}.json").read_text())
        table = outcomes[name]
        assert table["correct"].sum() == scores["average"]["correct"]
        tasks = table.groupby("task")["correct"].sum().to_dict()
        assert tasks == {task: group["correct"] for task, group in scores["task"].items()}


def test_recorded_counts_are_those_of_the_files(shared):
    counted = mathvista_pairs.count_pairs(mathvista_pairs.load_mathvista(shared / "mathvista"))
    pd.testing.assert_frame_equal(counted, recorded.read("mathvista_pairs"))


def test_compare_pairs_adds_intervals_and_tests_only_when_asked():
    pairs = pd.DataFrame({"both": [4], "b": [1], "c": [5], "neither": [2]})
    row = mathvista_pairs.compare_pairs(pairs, test=True).iloc[0]
    assert (row["n"], row["difference"], row["pvalue"]) == (12, 4 / 12, 0.21875)
    assert row["low"] < 4 / 12 < row["high"]
    assert "pvalue" not in mathvista_pairs.compare_pairs(pairs, test=False)


ITEM = {"pid": "1", "true_false": True, "metadata": {"task": "math word problem"}}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{not json", "is not JSON .* line 1"),
        (b"[]", "is not MathVista's format"),
        (json.dumps({"1": ITEM, "2": "text"}).encode(), "item 2 has no"),
        (json.dumps({"1": ITEM | {"true_false": "True"}}).encode(), "item 1: true_false is 'True'"),
        (json.dumps({"1": ITEM | {"metadata": {}}}).encode(), "item 1 has no 'task'"),
    ],
)
def test_unreadable_outcomes_are_one_clear_line(tmp_path, content, message):
    path = tmp_path / "output.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        mathvista_pairs.read_outcomes(path)


def test_places(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_R1_SHARED", str(tmp_path))
    assert mathvista_pairs.mathvista_places()[0] == tmp_path / "mathvista"
    assert mathvista_pairs.find_mathvista("none") is None
    with pytest.raises(InputError, match="lacks 8 of MathVista's 8 files"):
        mathvista_pairs.find_mathvista(tmp_path)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A real HTTP server with small files laid out as in MathVista's repository; counts requests."""
    sums = {}
    root = tmp_path / "repository"
    for key, (_, folder) in mathvista_pairs.MATHVISTA_SYSTEMS.items():
        name = f"output_{key}.json"
        (root / folder).mkdir(parents=True, exist_ok=True)
        content = f"content of {name}".encode()
        (root / folder / name).write_bytes(content)
        sums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(mathvista_pairs, "MATHVISTA_SHA256", sums)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=root)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_download_fetches_all_once(repository, tmp_path):
    root, url, asked = repository
    folder = mathvista_pairs.download_mathvista(tmp_path / "here", url=url)
    assert mathvista_pairs.find_mathvista(folder) == folder
    served = (root / "bard" / "output_bard.json").read_bytes()
    assert (folder / "output_bard.json").read_bytes() == served and len(asked) == 8
    (folder / "output_gpt4.json").unlink()  # as after an interruption
    mathvista_pairs.download_mathvista(folder, url=url)
    assert len(asked) == 9


def test_a_changed_or_missing_file_is_refused_and_not_kept(repository, tmp_path):
    root, url, _ = repository
    (root / "gpt4" / "output_gpt4.json").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"output_gpt4.json is not the file .* it was not kept"):
        mathvista_pairs.download_mathvista(tmp_path / "here", url=url)
    there = {path.name for path in (tmp_path / "here").iterdir()}
    assert "output_gpt4.json" not in there and all(name.endswith(".json") for name in there)
    (root / "gpt4" / "output_gpt4.json").unlink()
    with pytest.raises(InputError, match="cannot fetch .* is there a network"):
        mathvista_pairs.download_mathvista(tmp_path / "there", url=url)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        mathvista_pairs.download_mathvista(tmp_path / "file" / "folder", url=url)
