"""The committed notebooks: what every one must promise, and that all of them run."""

import ast
import csv
import json
import re

import datasets
import nbformat
import papermill
import pytest
import torch
from markupsafe import escape
from scipy.stats import binomtest

from perception_r1 import problems
from perception_r1.common import recorded
from perception_r1.common.files import NOTEBOOKS, shared_data
from perception_r1.evidence import mathvista_pairs
from perception_r1.notebook import discovery, runner
from perception_r1.reward.attacks import RELATIONS
from perception_r1.reward.judge_server import JudgeServer
from perception_r1.reward.judges import ExactJudge
from perception_r1.reward.learned_judge import LearnedJudge
from perception_r1.training.policy import load_policy
from tests.stub_server import StubServer, good

SETS = ["own", "foreign, trained", "foreign, other"]
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_the_five_notebooks_and_their_appendices_are_there():
    numbers = [path.name[:2] for path in PATHS]
    assert numbers[:5] == ["01", "02", "03", "04", "05"]
    assert all(number[0] == "A" for number in numbers[5:])
    assert list(discovery.discover()) == numbers


def test_first_code_cell_holds_documented_literal_parameters(notebook):
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert cell.metadata["tags"] == ["parameters"]
    statements = ast.parse(cell.source).body
    assert [s.target.id for s in statements][:2] == ["profile", "out"]
    for statement in statements:
        assert isinstance(statement, ast.AnnAssign)
        ast.literal_eval(statement.value)
    assert statements[0].value.value == "laptop"


def test_papermill_reads_a_type_and_a_help_text_for_every_parameter(notebook, tmp_path):
    nbformat.write(notebook, tmp_path / "notebook.ipynb")
    for parameter in papermill.inspect_notebook(str(tmp_path / "notebook.ipynb")).values():
        assert parameter["inferred_type_name"] in discovery.TYPES
        assert parameter["help"], parameter["name"]


def test_one_title_an_opening_and_a_close(notebook, request):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1
    assert notebook.cells[0].source.startswith("# ")
    parts = ("**The question.**", "**Cost.**", "## What was found", "## References")
    if request.node.callspec.id[0] != "A":  # an appendix is no station of the path
        assert [part for part in parts if part not in prose] == []


def test_no_widget_state_no_private_path_and_small(notebook):
    text = json.dumps(notebook)
    assert "widgets" not in notebook.metadata
    assert not re.search(r"/(home|root|Users)/| at 0x", text)
    assert len(text) < 1_000_000


def test_links_between_notebooks_lead_somewhere(notebook):
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)#:]+\.ipynb)\)", cell.source):
            assert (NOTEBOOKS / target).is_file(), target


def test_committed_outputs_are_those_of_a_whole_run(notebook):
    """Cells that were edited after the last `refresh` would lack outputs or have gaps in the counts."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    ran = notebook.metadata["perception_r1"].get("ran")
    assert ran == discovery.code_digest(notebook), "its code changed since: make refresh"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """All notebooks, executed under papermill as a person without real data would."""
    out = tmp_path_factory.mktemp("smoke")
    assert runner.run("smoke", out=out, parameters=["mathvista=none", "shared=none"]) == 0
    return out


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_smoke_run_of_all_notebooks(smoke):
    record = json.loads((smoke / "run.json").read_text())
    assert {entry["status"] for entry in record["notebooks"].values()} == {"ok"}
    for number, entry in record["notebooks"].items():
        assert entry["finding"], number
        assert (smoke / f"{entry['file']}.html").is_file()


def test_notebook_01_without_real_data_says_so(smoke):
    assert rows(smoke / "artifacts" / "01" / "pairs.csv") == []
    record = json.loads((smoke / "artifacts" / "01" / "run.json").read_text())
    assert record["pairs_missing"] == "MathVista's answers were not asked for"
    tests = rows(smoke / "artifacts" / "01" / "mcnemar.csv")
    assert [round(float(row["pvalue"]), 4) for row in tests] == [0.2188, 0.6875, 0.0386]
    text = (smoke / "01_motivation_mcnemar.html").read_text()
    assert "-7.2 points" in text  # section 6 shows the recorded counts


def test_notebook_01_on_real_answers(shared, tmp_path):
    folder = shared / "mathvista"
    assert runner.run("smoke", ["01"], tmp_path, [f"mathvista={folder}"]) == 0
    pairs = rows(tmp_path / "artifacts" / "01" / "pairs.csv")
    planned = [row for row in pairs if row["pvalue"]]
    assert len(planned) == 7
    geometry = [row for row in planned if row["task"] == "geometry problem solving"]
    assert {(row["b"], row["c"], row["n"]) for row in geometry} == {("31", "16", "208")}
    names = {name for name, _ in mathvista_pairs.MATHVISTA_SYSTEMS.values()}
    assert {row["before"] for row in pairs} | {row["after"] for row in pairs} == names
    assert sum(row["task"] == "all" for row in pairs) == 28
    record = json.loads((tmp_path / "artifacts" / "01" / "run.json").read_text())
    assert record["pairs_missing"] is None
    assert [name.rsplit("/", 1)[-1] for name in record["inputs"]] == ["mathvista", "run.json"]


def test_notebook_02_writes_datasets_that_others_can_read(smoke):
    folder = smoke / "artifacts" / "02"
    made = problems.load_problems(folder / "annotations.parquet")
    assert all(problem.annotations for problem in made)
    rows_ = datasets.load_dataset(
        "parquet", data_files=str(folder / "problems.parquet"), split="train"
    )
    assert rows_[0]["images"][0].size == (336, 336)
    audit = json.loads((folder / "audit.json").read_text())
    precision = next(row for row in audit["summary"] if row["measure"] == "precision")
    assert precision["low"] <= precision["share"] <= precision["high"]
    assert audit["planted"]["contradicted"][0] == audit["planted"]["contradicted"][1]
    dropped = rows(folder / "drops.csv")
    assert {row["reason"] for row in dropped} >= {"cannot be read", "deduced, not seen"}


def test_notebook_02_with_a_model_behind_an_endpoint_and_real_data(tmp_path):
    """A real local server in the model's place: the notebook's own path, prompt to audit. Real data where it is."""
    folder = shared_data()
    here = (folder / "geometry3k").is_dir()
    answer = json.dumps({"facts": [{"sentence": "AB = 3", "source": "figure"}]})
    with StubServer(lambda call: good(answer)) as server:
        settings = [f"shared={folder if here else 'none'}"]
        settings += [f"chat_url={server.url}", "chat_model=stub"]
        assert runner.run("smoke", ["02"], tmp_path, settings) == 0
        assert server.count == 50
    assert (
        "0 of 50 trajectories without a usable answer"
        in (tmp_path / "02_annotation_extraction.html").read_text()
    )
    if not here:
        pytest.skip(f"the model was asked, but there is no real data at {folder}")
    kinds = {
        row["kind"]: int(row["diagram"])
        for row in rows(tmp_path / "artifacts" / "02" / "geometry3k_kinds.csv")
    }
    assert kinds == recorded.read("geometry3k_kinds").set_index("kind")["diagram"].to_dict()
    reading = rows(tmp_path / "artifacts" / "02" / "mathvision_reading.csv")
    assert reading[1]["count"] == "436"  # the official number of right answers


def test_notebook_01_with_an_incomplete_folder_is_one_clear_failure(tmp_path, capsys):
    assert runner.run("smoke", ["01"], tmp_path / "run", [f"mathvista={tmp_path}"]) == 1
    assert "InputError: " in capsys.readouterr().err
    assert not (tmp_path / "run" / "artifacts" / "01").exists()


def test_notebook_03_measures_four_judges_and_lists_what_attacks_win(smoke):
    folder = smoke / "artifacts" / "03"
    found = [r for r in rows(folder / "calibration.csv") if r["by"] == "all"]
    quality = {(r["judge"], r["pairs"], r["measure"]): r for r in found}
    judges = ("exact", "noisy, 20% flipped", "lazy", "learned")
    for judge in judges:
        for pairs in (*SETS, "real"):  # the last one recorded
            assert 0 <= float(quality[judge, pairs, "recall"]["value"]) <= 1
    assert float(quality["exact", "own", "kappa"]["value"]) == 1
    attacked = {row["judge"] for row in rows(folder / "attacks.csv")}
    assert {"echo", "copyist", "obedient", "fragile", "exact", "lazy", "learned"} <= attacked
    paid = {(r["judge"], r["attack"]): float(r["paid"]) for r in rows(folder / "attacks.csv")}
    assert {a for (j, a), share in paid.items() if j == "copyist" and share} <= {RELATIONS}
    assert paid["reference, copyist", "forged tags"] == paid["obedient", "order"] == 1
    cards = json.loads((folder / "admissions.json").read_text())
    assert [card["calibrated on"] for card in cards] == [*SETS * 4, "own"]
    assert cards[-1]["model"] == "obedient" and "order" in cards[-1]["failed"][-1]
    assert LearnedJudge.load(folder / "learned_judge").training["steps"] == 5


def test_notebook_03_runs_alone_with_a_served_judge_and_real_sentences(tmp_path):
    """A served judge stands for a language model: it is calibrated, admitted and attacked like the others."""
    folder = shared_data()
    here = (folder / "geometry3k").is_dir()
    with JudgeServer(ExactJudge(), model="served") as server:
        parameters = [f"judge_url={server.url}", "judge_model=served",
                      f"shared={folder if here else 'none'}"]  # fmt: skip
        assert runner.run("smoke", ["03"], tmp_path, parameters) == 0
    text = (tmp_path / "03_judge_reward_design.html").read_text()
    assert "using the recorded sample of 64 problems" in text
    artifacts = tmp_path / "artifacts" / "03"
    cards = json.loads((artifacts / "admissions.json").read_text())
    sets = [*SETS, "real"] if here else SETS
    assert [card["calibrated on"] for card in cards] == [*sets * 5, "own"]
    found = rows(artifacts / "calibration.csv")
    found = [r for r in found if (r["judge"], r["pairs"], r["by"]) == ("served", "own", "all")]
    served = {r["measure"]: r["value"] for r in found}
    assert float(served["kappa"]) == 1
    assert "served" in {row["judge"] for row in rows(artifacts / "attacks.csv")}
    if not here:
        pytest.skip(f"all but real sentences is shown: no {folder / 'geometry3k'}")
    assert cards[3]["pairs"] == 200 and not cards[3]["admitted"]


def test_notebook_04_trains_both_arms_and_compares_them_rightly(smoke):
    folder = smoke / "artifacts" / "04"
    log = rows(folder / "grpo_log.csv")
    steps = [(arm, str(step)) for arm in ("accuracy_only", "perception") for step in (1, 2, 3)]
    assert [(row["arm"], row["step"]) for row in log] == steps
    lines = [json.loads(line) for line in (folder / "completions.jsonl").open()]
    assert {line["arm"] for line in lines} == {"accuracy_only", "perception"}
    tables = {
        name: {row["id"]: row for row in rows(folder / f"outcomes_{name}.csv")}
        for name in ("base", "accuracy_only", "perception")
    }
    assert tables["base"].keys() == tables["accuracy_only"].keys() == tables["perception"].keys()
    for row in rows(folder / "comparisons.csv"):
        if row["measure"] != "answers":
            continue
        one, other = tables[row["before_is"]], tables[row["after_is"]]
        ids = [i for i in one if one[i]["kind"] == row["kind"]]
        lost = sum((one[i]["right"], other[i]["right"]) == ("True", "False") for i in ids)
        won = sum((one[i]["right"], other[i]["right"]) == ("False", "True") for i in ids)
        assert (int(row["n"]), int(row["b"]), int(row["c"])) == (len(ids), lost, won)
        assert float(row["p"]) == pytest.approx(binomtest(lost, lost + won or 1).pvalue)
    start, _ = load_policy("miniature")
    for arm in ("accuracy_only", "perception"):
        trained, _ = load_policy(folder / "policies" / arm)
        pairs = zip(start.parameters(), trained.parameters(), strict=True)
        assert any(not a.equal(b) for a, b in pairs)
    assert not (smoke / "training").exists()


def test_notebook_04_runs_alone_with_the_recorded_sample(tmp_path, capsys):
    settings = [
        "arms=repetition_only, sft",
        "changes=judge=lazy,judge_flip=0.2",
        "train_seed=3",
        "test_problems=6",
        "base=train",
    ]
    assert runner.run("smoke", ["04"], tmp_path, settings) == 0
    text = (tmp_path / "04_grpo_training.html").read_text()
    assert "using the recorded sample" in text
    record = json.loads((tmp_path / "artifacts" / "04" / "run.json").read_text())
    assert record["train_seed"] == 3 and "seed 3" in record["finding"]
    for arm in ("repetition_only", "sft"):
        assert len(rows(tmp_path / "artifacts" / "04" / f"outcomes_{arm}.csv")) == 6
    before = (tmp_path / "artifacts" / "04" / "run.json").read_bytes()
    assert runner.run("smoke", ["04"], tmp_path, ["arms=accuracy_olny"]) == 1
    assert "no arm accuracy_olny; there are accuracy_only, perception" in capsys.readouterr().err
    assert (tmp_path / "artifacts" / "04" / "run.json").read_bytes() == before


def test_notebook_05_judges_the_claims_from_this_run(smoke):
    folder = smoke / "artifacts" / "05"
    claims = {row["id"]: row for row in json.loads((folder / "claims.json").read_text())}
    assert len(claims) >= 12
    base = rows(smoke / "artifacts" / "04" / "outcomes_base.csv")
    wrong = [row for row in base if row["kind"] == "image-only" and row["right"] == "False"]
    misread = sum(row["needed"] == "wrong" for row in wrong)
    assert claims["errors-perceptual"]["our_value"] == pytest.approx(misread / len(wrong))
    assert f"of {len(wrong)} wrong" in claims["errors-perceptual"]["what"]
    audit = json.loads((smoke / "artifacts" / "02" / "audit.json").read_text())["summary"][0]
    assert claims["annotation-accuracy"]["our_value"] == pytest.approx(audit["share"])
    results = rows(folder / "results.csv")
    assert {row["origin"] for row in results} == {"this run", "recorded"}
    compared = rows(smoke / "artifacts" / "04" / "comparisons.csv")
    assert sum(row["origin"] == "this run" for row in results) == len(compared)
    index = (smoke / "index.html").read_text()
    assert index.index("claims, and what was found") < index.index("01_motivation_mcnemar.html")
    assert all(str(escape(row["claim"])) in index for row in claims.values())


def test_notebook_05_runs_alone_with_recorded_outcomes(tmp_path):
    """And rescores real responses where they are."""
    folder = shared_data()
    here = (folder / "mathvision" / "outputs").is_dir()
    assert runner.run("smoke", ["05"], tmp_path, [f"shared={folder if here else 'none'}"]) == 0
    claims = json.loads((tmp_path / "artifacts" / "05" / "claims.json").read_text())
    found = {row["id"]: row["what"] for row in claims}
    assert (
        "(recorded)" in found["errors-perceptual"] and "(recorded)" in found["annotation-accuracy"]
    )
    text = (tmp_path / "05_results.html").read_text()
    assert "notebook 04, recorded: profile laptop, 600 test problems" in text
    assert ("one system rescored, and equal" if here else "recorded: MATH-Vision") in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_notebook_04_without_a_gpu_says_what_is_missing(tmp_path, capsys):
    assert runner.run("gpu", ["04"], tmp_path) == 1
    said = capsys.readouterr().err
    assert "trains Qwen/Qwen2.5-VL-3B-Instruct on 1 GPU(s) and there are 0" in said
    assert "--dry-run" in said
