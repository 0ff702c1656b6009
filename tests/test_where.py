"""`study where`: coordinates by hand, the nearest cells, and the command on a checkpoint and on a real local server."""

import re

import numpy as np
import pandas as pd
import pytest

from perception_r1.__main__ import main
from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, read_rows
from perception_r1.problems import load_problems, write_problems
from perception_r1.study.where import COORDINATES, NEAR_BY, coordinates, nearest
from tests.judging import truth
from tests.stub_server import StubServer, good, status

SAMPLE = str(DATA / "sample" / "miniature.parquet")
FEW = ["--problems", "4", "--samples", "4", "--max-new-tokens", "64"]


@pytest.fixture(autouse=True)
def one_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "results")
    cells = pd.DataFrame([{"cell": "plain"} | dict.fromkeys(NEAR_BY, 0.1)])
    recorded.write("map_cells", cells, "test", "Apache-2.0", {}, "test")


def responses(id_, *rows):
    """Rows of (right, marks): "+" stated, "-" absent, "x" contradicted."""
    words = {"+": "stated", "-": "absent", "x": "contradicted"}
    return [
        (id_, "...", right, marks.count("+") / len(marks), " ".join(map(words.get, marks)))
        for right, marks in rows
    ]


def table(*rows):
    return pd.DataFrame(rows, columns=["id", "response", "accuracy", "perception", "marks"])


def test_coordinates_by_hand():
    speaks = responses("a", (1, "++"), (0, "+-"), (0, "-x"), (1, "-+"))
    silent = responses("b", (1, "+"), (1, "+"), (1, "-"), (1, "+"))
    lost = [*responses("c", (1, "+"), (1, "+"), (1, "+")), ("c", "...", 0, np.nan, "none: down")]
    found = coordinates(table(*speaks, *silent, *lost), resamples=50).set_index("coordinate")
    values = found["value"]
    assert list(values.index) == list(COORDINATES)
    assert values["silent"] == 0.5 and values["read"] == pytest.approx(7 / 12)
    assert values["lucky_share"] == pytest.approx(2 / 6) and values["luck"] == pytest.approx(2 / 4)
    spread = 7 / 12 * 5 / 12
    assert values["within"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 4) / 3 / spread)
    # advantage of a right answer is half of it: the first fact earns 0, the second that half
    step = 1 / np.sqrt(1 / 3)
    assert values["signal"] == pytest.approx((0 + step / 4 + 0) / 3 / spread, rel=1e-3)
    assert values["signal_to_noise"] == pytest.approx(1 / 3 / np.std([0, 1, 0]))
    # within groups: .5 .5 -.5 -.5 by .5 0 -.5 0 in a's order, nothing in b
    assert values["reward_correlation"] == pytest.approx(0.5 / np.sqrt(1 * (0.5 + 0.75)))
    assert (found["low"] <= values + 1e-9).all() and (values <= found["high"] + 1e-9).all()
    with pytest.raises(InputError, match="no problem has a verdict .*down"):
        coordinates(table(*lost))


def test_nearest_cells():
    found = pd.DataFrame({"coordinate": NEAR_BY, "value": [0.5, np.nan, 1.0]})
    columns = dict(zip(NEAR_BY, ([0.5, 0.1, 0.9], [0, 0.5, 1], [1.0, 1.0, 0.1]), strict=True))
    cells = pd.DataFrame({"cell": ["x", "y", "z"], **columns})
    near = nearest(found, cells, 2)
    assert list(near["cell"]) == ["x", "y"]
    assert list(near["distance"]) == pytest.approx([0, 0.4 / 0.4])


def test_a_checkpoint_and_the_recorded_map(tmp_path, capsys):
    where = ["study", "where", "--data", SAMPLE, "--model", "miniature"]
    assert main([*where, *FEW, "--out", str(tmp_path)]) == 0
    rows, found = read_rows(tmp_path / "rollouts.jsonl"), pd.read_csv(tmp_path / "coordinates.csv")
    assert len(rows) == 16 and len({row["id"] for row in rows}) == 4
    assert 0 < found.set_index("coordinate").loc["read", "value"] < 1
    text = capsys.readouterr().out
    assert "4 problems, 4 responses each; 0 left out" in text and "plain" in text


def test_a_server_a_judging_model_and_a_second_time_from_the_cache(tmp_path, capsys):
    golds = {p.problem.replace("<image>", "").strip(): p for p in load_problems(SAMPLE)}

    def answer(call):
        image, text = call.body["messages"][-1]["content"]
        assert "image_url" in image and call.body["temperature"] == 1
        if call.body["seed"] == 3:
            return good("")  # an empty response is one
        right = golds[text["text"].split(" First think")[0]].answer if call.body["seed"] else "0"
        return good(f"<think>\nAB is 5.\n</think>\n<answer>\n\\boxed{{{right}}}\n</answer>")

    with StubServer(answer) as server, StubServer(truth) as judge:
        asked = ["study", "where", "--data", SAMPLE, *FEW, "--out", str(tmp_path), "--server"]
        judged = ["--server-model", "stub", "--judge-url", judge.url, "--judge-model", "stub"]
        for _ in range(2):
            assert main([*asked, server.url, *judged]) == 0
            assert (server.count, judge.count > 0) == (16, True)
        server.answer = lambda call: status(400, "no images here")
        assert main([*asked[:-3], "--server", server.url, "--server-model", "stub"]) == 2
    said = capsys.readouterr()
    assert re.fullmatch(r"(?s).*error: chat endpoint .*no images here.*\n", said.err)
    rows = read_rows(tmp_path / "rollouts.jsonl")
    assert [row["accuracy"] for row in rows[:4]].count(0) >= 2
    assert set(rows[3]["marks"].split()) == {"absent"} and rows[3]["perception"] == 0


def test_what_cannot_be_measured(tmp_path, capsys):
    bare = [p.model_copy(update={"visual_key_info": None}) for p in load_problems(SAMPLE)[:2]]
    write_problems(bare, tmp_path / "bare.parquet")
    where = ["study", "where", "--model", "miniature", "--data"]
    for more in ([str(tmp_path / "bare.parquet")], [SAMPLE, "--samples", "1"]):
        assert main([*where, *more]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "has annotations; annotate them first" in said[0] and "--samples 2 or more" in said[1]
