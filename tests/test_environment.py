"""Pins, set-up files, profiles and the environment check agree with each other; files are whole or not there."""

import re
import subprocess
import tomllib

import pandas as pd
import pytest
from packaging.requirements import Requirement

from perception_r1.__main__ import main
from perception_r1.common import check, files, profiles, provenance, recorded
from perception_r1.common.checkpoints import read_log, whole_folder
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import ROOT
from perception_r1.training.progress import append_row

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pinned_lines() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_has_a_pin_inside_its_range_for_every_python():
    wanted = [*PROJECT["dependencies"], *EXTRAS["browser"], *EXTRAS["dev"], *EXTRAS["gpu"]]
    for requirement in map(Requirement, wanted):
        pins = [pin for pin in pinned_lines() if pin.name == requirement.name]
        for pin in pins:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{pin} is outside {requirement}"
        for python in ("3.11", "3.12", "3.13"):
            versions = {"python_version": python, "python_full_version": f"{python}.0"}
            platform = {**versions, "sys_platform": "linux"}
            holding = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(platform)]
            assert len(holding) == 1, f"{requirement.name}: {len(holding)} pins on {python}"


def test_profiles_load_and_say_what_was_measured():
    assert profiles.names() == ["gpu", "laptop", "paper", "smoke"]
    for name in profiles.names():
        profile = profiles.load_profile(name)
        assert profile.measured == "never executed" or re.search(r"\d", profile.measured)
    assert not profiles.load_profile("smoke").claims


def test_a_malformed_profile_is_named(tmp_path, monkeypatch):
    whole = (profiles.FOLDER / "smoke.toml").read_text()
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    for new, message in (("seed =", "is not TOML"), ("seed = 1\ncolour = 3", "colour: Extra")):
        (tmp_path / "mine.toml").write_text(re.sub(r"seed = \d+", new, whole, count=1))
        with pytest.raises(InputError, match=f"mine.toml.*{message}"):
            profiles.load_profile("mine")


def test_check_prints_one_line_a_requirement_and_fails_with_the_remedy(capsys, monkeypatch):
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[1] for line in lines}
    assert {"python", "torch", "trl", "gpu", "disk", "memory", "vllm"} <= named
    assert all("(optional)" in line for line in lines if line.startswith("FAIL"))

    monkeypatch.setattr(check, "DISK_GB", 10**6)
    monkeypatch.setattr(check, "pins", lambda: {"torch": {"1.0"}})
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"FAIL +disk .* GiB free; free 1000000 GiB", out)
    assert re.search(r"FAIL +torch .*; pinned to 1.0; pip install", out)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": "ä"})
    assert files.read_json(path) == {"a": "ä"}
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte-order mark
    assert files.read_json(path) == {"a": "ä"}
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), files.whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match=r"cannot write .*a.json/b.json: .*; choose another"):
        files.write_json(path / "b.json", {})
    for content, words in ((b"{", "line 1"), (b"\xff", "0xff in position 0")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"a.json is not JSON in UTF-8: .*{words}"):
            files.read_json(path)
    with pytest.raises(InputError, match="cannot read .*nothing.json: No such file"):
        files.read_json(tmp_path / "nothing.json")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "weights").write_text("old")
    with pytest.raises(InputError), whole_folder(folder) as part:
        (part / "weights").write_text("half")
        raise OSError("no room")
    assert (folder / "weights").read_text() == "old"
    with whole_folder(folder) as part:
        (part / "other").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_log_whose_first_row_did_not_fit_on_the_disk_gets_its_header_later(tmp_path):
    log = tmp_path / "grpo_log.csv"
    log.touch()
    append_row(log, {"step": 1, "reward": 0.5})
    assert read_log(log).to_dict("records") == [{"step": 1, "reward": 0.5}]


def test_a_digest_is_of_names_and_contents(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    digests = [files.sha256(tmp_path / "d"), files.sha256(tmp_path / "d" / "a")]
    assert digests[1] == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    (tmp_path / "d" / "__pycache__").mkdir()
    (tmp_path / "d" / "__pycache__" / "a.pyc").write_text("1")
    assert files.sha256(tmp_path / "d") == digests[0]
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    assert files.sha256(tmp_path / "d") not in digests
    assert files.sha256(tmp_path / "nowhere") is None
    assert some([3, 1, 2]) == "1, 2, 3" and some(range(7), 2) == "0, 1 and 5 more"


def test_what_is_recorded_is_read_back_with_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    table = pd.DataFrame({"a": [1, 2]})
    recorded.write("t", table, "here", "MIT", {"in": "00"}, "a test")
    pd.testing.assert_frame_equal(recorded.read("t"), table)
    about = files.read_json(tmp_path / "t.provenance.json")
    assert about["made by"] == "a test"
    assert about["inputs (SHA-256)"] == {"in": "00"}


def test_the_commit_is_the_one_of_this_checkout():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert provenance.commit().removesuffix("-dirty") == head.stdout.strip()
    assert 10 < provenance.peak_memory_mb() < 100_000
