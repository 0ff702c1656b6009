"""Pins, set-up files, layers and the environment check agree with each other."""

import ast
import functools
import http.server
import importlib.metadata
import json
import re
import subprocess
import sys
import threading
import tomllib

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from perception_r1.__main__ import main
from perception_r1.common import check, profiles
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pinned_lines() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_has_a_pin_inside_its_range_for_every_python():
    wanted = [
        Requirement(text)
        for text in [*PROJECT["dependencies"], *EXTRAS["browser"], *EXTRAS["dev"], *EXTRAS["gpu"]]
    ]
    for requirement in wanted:
        pins = [pin for pin in pinned_lines() if pin.name == requirement.name]
        assert pins, f"{requirement.name} is not in constraints.txt"
        for pin in pins:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{pin} is outside {requirement}"
        for python in ("3.11", "3.12", "3.13"):
            platform = {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "sys_platform": "linux",
            }
            holding = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(platform)]
            assert len(holding) == 1, (
                f"{requirement.name} has {len(holding)} pins on Python {python}"
            )


def test_pins_that_must_fit_together():
    """What vllm 0.31.0 wants, so that one file serves laptop and GPU."""
    pins = check.pins()
    assert pins["torch"] == {"2.13.0"}
    assert pins["vllm"] == {"0.31.0"}
    assert pins["torchvision"] == {"0.28.0"}
    assert pins["trl"] == {"1.16.0"}
    assert pins["transformers"] == {"5.17.0"}


def test_the_installed_packages_are_the_pinned_ones():
    differing = {}
    for pin in pinned_lines():
        if pin.marker is not None and not Marker(str(pin.marker)).evaluate():
            continue
        try:
            found = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of the gpu extra
        if not pin.specifier.contains(found.split("+")[0]):
            differing[pin.name] = found
    assert differing == {}


def test_environment_yml_and_dockerfile_use_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert "-c constraints.txt" in pip
    assert "-e .[dev]" in pip
    assert any("download.pytorch.org/whl/cpu" in line for line in pip)
    python = next(part for part in environment["dependencies"] if str(part).startswith("python="))
    assert python.removeprefix("python=") in ("3.11", "3.12", "3.13")
    docker = (ROOT / "Dockerfile").read_text()
    assert "-c constraints.txt" in docker
    assert re.search(r"^FROM quay.io/jupyter/\S+:\d{4}-\d\d-\d\d$", docker, re.MULTILINE)
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / "Makefile").read_text()


@pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="not a git checkout, so nothing lists the files"
)
def test_nothing_else_stands_at_the_top_level():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split("/")[0] for line in listed.splitlines()} == {
        "notebooks", "perception_r1", "tests", "data", "environment.yml", "Dockerfile", "README.md", "pyproject.toml",
        "constraints.txt", "Makefile", "LICENSE", "CITATION.cff", ".ci", ".github", ".gitignore",
    }  # fmt: skip


def test_lint_and_format():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_imports_run_downhill():
    """The floors stand in the package's docstring; a module imports only from lower ones."""
    floor = {}
    text = ast.get_docstring(ast.parse((ROOT / "perception_r1" / "__init__.py").read_text()))
    for number, names in re.findall(r"^(\d)  (.*(?:\n   .*)*)", text, re.MULTILINE):
        for name in re.sub(r"\([^)]*\)", "", names).split(","):
            floor[name.strip().removesuffix("/")] = int(number)
    modules = [
        *(ROOT / "perception_r1").glob("*.py"),
        *(p.parent for p in (ROOT / "perception_r1").glob("*/__init__.py")),
    ]
    names = {path.stem for path in modules} - {"__init__"}
    assert names == set(floor), "the map in perception_r1/__init__.py names every module once"
    for name in names:
        path = ROOT / "perception_r1" / name
        files = (
            [path.with_suffix(".py")]
            if path.with_suffix(".py").is_file()
            else sorted(path.glob("*.py"))
        )
        for file in files:
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                    "perception_r1"
                ):
                    continue
                part = node.module.split(".")[1:2]
                for target in part or [alias.name for alias in node.names]:
                    if target != name and target in floor:
                        assert floor[target] <= floor[name], (
                            f"{file.name} imports {target} from above"
                        )


# --- profiles ---------------------------------------------------------------------------------------


def test_profiles_load_and_say_what_was_measured():
    assert profiles.names() == ["gpu", "laptop", "paper", "smoke"]
    for name in profiles.names():
        profile = profiles.load_profile(name)
        assert profile.measured == "never executed" or re.search(r"\d", profile.measured)
    assert not profiles.load_profile("smoke").claims


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed = ", "is not TOML"),
        ("seed = -1", "greater than or equal to 0"),
        ("colour = 3", "colour: Extra inputs"),
        ("", "purpose: Field required"),
    ],
)
def test_a_malformed_profile_is_named(tmp_path, monkeypatch, text, message):
    whole = (profiles.FOLDER / "smoke.toml").read_text()
    spoiled = {"seed = ": "seed =", "seed = -1": "seed = -1"}.get(text)
    if spoiled:
        whole = re.sub(r"seed = \d+", spoiled, whole)
    elif text:
        whole += text
    else:
        whole = re.sub(r"purpose = .*", "", whole)
    (tmp_path / "mine.toml").write_text(whole)
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        profiles.load_profile("mine")
    assert "mine.toml" in str(raised.value)


# --- check -------------------------------------------------------------------------------------------


def test_check_prints_one_line_a_requirement_and_passes_here(capsys, monkeypatch):
    monkeypatch.delenv(check.JUDGE_URL, raising=False)
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"(OK|FAIL) +\S", line) for line in lines)
    named = {line.split()[1] for line in lines}
    assert {
        "python",
        "torch",
        "trl",
        "transformers",
        "gpu",
        "disk",
        "memory",
        "torchvision",
        "vllm",
        "judge",
    } <= named
    assert all("(optional)" in line for line in lines if line.startswith("FAIL"))


def test_check_fails_with_the_remedy_when_a_requirement_is_not_met(capsys, monkeypatch):
    monkeypatch.setattr(check, "DISK_GB", 10**6)
    monkeypatch.setattr(check, "pins", lambda: {"torch": {"1.0"}})
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"FAIL +disk .* GiB free; free 1000000 GiB", out)
    assert re.search(r"FAIL +torch .*; pinned to 1.0; pip install", out)


@pytest.fixture
def judge():
    """A real server that answers `/v1/models`, wants a key under `/locked`, and else fails."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status = {"/v1/models": 200, "/locked/models": 401, "/odd/models": 200}.get(
                self.path, 500
            )
            self.send_response(status)
            self.end_headers()
            body = {
                "/v1/models": {"data": [{"id": "some-judge"}]},
                "/odd/models": {"models": 1},
            }.get(self.path, {})
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "path, met, found",
    [
        ("/v1", True, "serves some-judge"),
        ("/v1/", True, "serves some-judge"),
        ("/locked", True, "wants a key"),
        ("/wrong", False, "HTTP 500"),
        ("/odd", False, "KeyError"),
    ],
)
def test_check_asks_the_judge_server_and_hides_secrets(judge, monkeypatch, path, met, found):
    monkeypatch.setenv(check.JUDGE_URL, f"http://user:secret@127.0.0.1:{judge}{path}")
    line = check.check_environment()[-1]
    assert (line.met, line.optional) == (met, True)
    assert found in line.found
    assert "secret" not in str(line)


def test_a_judge_that_is_down(monkeypatch):
    monkeypatch.setenv(check.JUDGE_URL, "http://127.0.0.1:9/v1")
    line = check.check_environment()[-1]
    assert not line.met
    assert "refused" in line.found
