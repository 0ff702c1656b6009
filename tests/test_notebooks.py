"""The committed notebooks: what every one must promise, and that all of them run."""

import ast
import csv
import json
import re

import nbformat
import papermill
import pytest
from markupsafe import escape

from perception_r1 import problems
from perception_r1.common import recorded
from perception_r1.common.files import NOTEBOOKS, shared_data
from perception_r1.common.files import read_json as read
from perception_r1.notebook import discovery, runner
from perception_r1.reward.judge_server import JudgeServer
from perception_r1.reward.judges import ExactJudge
from tests.stub_server import StubServer, good

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
DRAWING = re.compile(r"save_figure|figures\.")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_five_notebooks_and_their_appendices_are_there():
    numbers = [path.name[:2] for path in PATHS]
    assert numbers[:5] == ["01", "02", "03", "04", "05"]
    assert numbers[5:] == [f"A{k}" for k in range(1, 1 + len(numbers[5:]))]
    assert list(discovery.discover()) == numbers


def test_parameters_are_literals_with_type_and_help_text_then_comes_the_set_up(notebook):
    parameters, set_up = code_of(notebook)[:2]
    assert parameters.metadata["tags"] == ["parameters"]
    for statement in ast.parse(parameters.source).body:
        assert isinstance(statement, ast.AnnAssign)
        ast.literal_eval(statement.value)
    for parameter in papermill.inspect_notebook(notebook).values():
        assert parameter["inferred_type_name"] in discovery.TYPES
        assert parameter["help"], parameter["name"]
    assert "run = start(" in set_up.source


def test_code_is_short_enough_to_read(notebook):
    """Lines that are not blank: at most 350 in all, 12 in a cell, 15 where it draws."""
    sizes = [
        (len([line for line in cell.source.splitlines() if line.strip()]), cell.source)
        for cell in code_of(notebook)
    ]
    assert sum(size for size, _ in sizes) <= 350
    assert [s for size, s in sizes if size > (15 if DRAWING.search(s) else 12)] == []
    assert not [source for _, source in sizes if "sys.path" in source]


def test_one_title_an_opening_and_a_close(notebook, request):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1
    assert notebook.cells[0].source.startswith("# ")
    parts = ("**The question.**", "**Cost.**", "## What was found", "## References")
    if request.node.callspec.id[0] != "A":  # an appendix is no station of the path
        assert [part for part in parts if part not in prose] == []
    for target in re.findall(r"\]\(([^)#:]+\.ipynb)\)", prose):
        assert (NOTEBOOKS / target).is_file(), target


def test_committed_outputs_are_those_of_a_whole_run_small_and_without_private_paths(notebook):
    """Cells that were edited after the last `refresh` would lack outputs or have gaps in the counts."""
    text = json.dumps(notebook)
    assert "widgets" not in notebook.metadata and len(text) < 1_000_000
    assert not re.search(r"/(home|root|Users)/| at 0x", text)
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    ran = notebook.metadata["perception_r1"].get("ran")
    assert ran == discovery.code_digest(notebook), "its code changed since: make refresh"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """All notebooks, executed under papermill as a person without real data would, but with a served judge."""
    out = tmp_path_factory.mktemp("smoke")
    given = ["mathvista=none", "shared=none", "train_seed=3", "judge_model=served"]
    with JudgeServer(ExactJudge(), model="served") as server:
        assert runner.run("smoke", out=out, parameters=[*given, f"judge_url={server.url}"]) == 0
    return out


def test_smoke_run_of_all_notebooks(smoke):
    record = read(smoke / "run.json")
    assert len(record["notebooks"]) == len(PATHS)
    for number, entry in record["notebooks"].items():
        assert entry["status"] == "ok" and entry["finding"], number
        assert (smoke / f"{entry['file']}.html").is_file()
    assert not (smoke / "training").exists()


def test_notebook_01_without_real_data_says_so(smoke):
    folder = smoke / "artifacts" / "01"
    assert rows(folder / "pairs.csv") == []
    assert read(folder / "run.json")["pairs_missing"] == "MathVista's answers were not asked for"
    page = (smoke / "01_motivation_mcnemar.html").read_text()
    assert "-7.2 points" in page  # the recorded counts


def test_notebook_02_writes_datasets_that_can_be_read(smoke):
    folder = smoke / "artifacts" / "02"
    made = problems.load_problems(folder / "annotations.parquet")
    assert all(problem.annotations for problem in made)
    assert problems.load_problems(folder / "problems.parquet")[0].image.size == (336, 336)
    reasons = {row["reason"] for row in rows(folder / "drops.csv")}
    assert reasons >= {"cannot be read", "deduced, not seen"}


def test_notebook_03_measures_all_judges_and_the_appendix_attacks_them(smoke):
    folder = smoke / "artifacts" / "03"
    calibrated = [row for row in rows(folder / "calibration.csv") if row["by"] == "all"]
    quality = {(row["judge"], row["pairs"], row["measure"]): row for row in calibrated}
    for judge in ("exact", "noisy, 20% flipped", "lazy", "served"):
        for pairs in ("own", "foreign"):
            assert 0 <= float(quality[judge, pairs, "recall"]["value"]) <= 1
    assert "real" in {pairs for _, pairs, _ in quality}  # recorded
    for judge in ("exact", "served"):
        assert float(quality[judge, "own", "kappa"]["value"]) == 1
    attacks = rows(smoke / "artifacts" / "A1" / "attacks.csv")
    paid = {(row["judge"], row["attack"]): float(row["paid"]) for row in attacks}
    assert {"exact", "lazy"} <= {judge for judge, _ in paid}
    assert paid["imitator", "forged tags"] == 1 and paid["exact", "order"] == 0


def test_notebook_04_trains_both_arms_and_compares_them_on_the_same_problems(smoke):
    folder = smoke / "artifacts" / "04"
    steps = [(arm, str(step)) for arm in ("accuracy_only", "perception") for step in (1, 2, 3)]
    assert [(row["arm"], row["step"]) for row in rows(folder / "grpo_log.csv")] == steps
    lines = [json.loads(line) for line in (folder / "completions.jsonl").open()]
    assert {line["arm"] for line in lines} == {"accuracy_only", "perception"}
    tables = {
        name: {row["id"]: row for row in rows(folder / f"outcomes_{name}.csv")}
        for name in ("base", "accuracy_only", "perception")
    }
    assert tables["base"].keys() == tables["accuracy_only"].keys() == tables["perception"].keys()
    pairs = {(row["before_is"], row["after_is"]) for row in rows(folder / "comparisons.csv")}
    assert pairs == {
        ("base", "accuracy_only"), ("base", "perception"), ("accuracy_only", "perception"),
    }  # fmt: skip
    assert read(folder / "run.json")["train_seed"] == 3


def test_notebook_05_judges_the_claims_from_this_run(smoke):
    folder = smoke / "artifacts" / "05"
    claims = {row["id"]: row for row in read(folder / "claims.json")}
    audit = read(smoke / "artifacts" / "02" / "audit.json")["summary"][0]
    assert claims["annotation-accuracy"]["our_value"] == pytest.approx(audit["share"])
    assert len(rows(folder / "map.csv")) == len(recorded.read("map"))
    index = (smoke / "index.html").read_text()
    assert index.index("01_motivation_mcnemar.html") < index.index("Five claims of the paper")
    assert all(str(escape(row["claim"])) in index for row in claims.values())


def test_notebook_01_takes_real_answers(shared, tmp_path):
    assert runner.run("smoke", ["01"], tmp_path, [f"mathvista={shared / 'mathvista'}"]) == 0
    pairs = rows(tmp_path / "artifacts" / "01" / "pairs.csv")
    tested = [row for row in pairs if row["pvalue"] and row["task"] == "geometry problem solving"]
    assert {(row["b"], row["c"], row["n"]) for row in tested} == {("31", "16", "208")}
    record = read(tmp_path / "artifacts" / "01" / "run.json")
    assert record["pairs_missing"] is None
    read_files = [name.rsplit("/", 1)[-1] for name in record["inputs"]]
    assert sorted(read_files) == ["map_rows.parquet", "mathvista"]


def test_notebook_02_with_a_model_behind_an_endpoint_and_real_data(tmp_path):
    """A real local server in the model's place: the notebook's own path, prompt to audit. Real data where it is."""
    folder = shared_data()
    here = (folder / "mathvision").is_dir()
    answer = json.dumps({"facts": [{"sentence": "AB = 3", "source": "figure"}]})
    with StubServer(lambda call: good(answer)) as server:
        settings = [f"shared={folder if here else 'none'}"]
        settings += [f"chat_url={server.url}", "chat_model=stub"]
        assert runner.run("smoke", ["02"], tmp_path, settings) == 0
        assert server.count == 50
    page = (tmp_path / "02_annotation_extraction.html").read_text()
    assert "0 of 50 trajectories without a usable answer" in page
    if not here:
        pytest.skip(f"the model was asked, but there is no real data at {folder}")
    artifacts = tmp_path / "artifacts" / "02"
    reading = rows(artifacts / "mathvision_reading.csv")
    assert reading[1]["count"] == "436"  # the official number of right answers


def test_notebook_05_and_the_second_appendix_run_alone_with_recorded_outcomes(tmp_path):
    """And real responses are rescored where they are."""
    folder = shared_data()
    here = (folder / "mathvision" / "outputs").is_dir()
    settings = [f"shared={folder if here else 'none'}"]
    assert runner.run("smoke", ["05", "A2"], tmp_path, settings) == 0
    claims = {row["id"]: row["meaning"] for row in read(tmp_path / "artifacts/05/claims.json")}
    assert "(recorded)" in claims["annotation-accuracy"]
    page = (tmp_path / "A2_benchmarks_and_claims.html").read_text()
    assert ("equal to the recorded counts" if here else "recorded: MATH-Vision") in page
