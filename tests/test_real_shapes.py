"""Real figures and answers in the two public schemas, odd modes and sizes among them: read, counted, trained on."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from perception_r1.__main__ import main
from perception_r1.problems import geometry3k, load_problems
from perception_r1.problems.schema import DatasetError, Problem, tag_annotations
from tests.runs import arguments, lines, run

LONG = {"max_prompt_length": 460, "max_completion_length": 8}


def encoded(image: Image.Image, kind: str = "PNG", **how) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(scope="module")
def rows(shared):
    """Ten real problems of Geometry3K, with annotations as the authors' release has them."""
    made = []
    for folder in sorted((shared / "geometry3k" / "examples").iterdir()):
        told = json.loads((folder / "data.json").read_text())
        forms = json.loads((folder / "logic_form.json").read_text())["diagram_logic_form"]
        facts = [geometry3k.to_sentence(form) for form in geometry3k.usable(forms)][:4]
        figure = {"bytes": (folder / "img_diagram.png").read_bytes(), "path": None}
        answer = told["choices"]["ABCD".index(told["answer"])]
        text = "<image>" + told["annotat_text"]
        values = (text, [figure], answer, tag_annotations(facts))
        names = ("problem", "images", "answer", "visual_key_info")
        made.append(dict(zip(names, values, strict=True)))
    return made


def odd(figure: Image.Image) -> list[dict]:
    """The same figure as scanners, screenshots, phones and paint programs leave it."""
    clear = figure.convert("RGBA")
    clear.putalpha(ImageOps.invert(figure.convert("L")))  # black ink on nothing
    deep = Image.fromarray(np.array(figure.convert("L"), np.uint16) * 257)
    turned = Image.Exif()
    turned[0x112] = 6  # to be turned by a quarter
    return [
        encoded(figure.convert("L")), encoded(figure.convert("1")), encoded(clear), encoded(deep),
        encoded(clear.convert("LA")), encoded(figure.convert("RGB").convert("P")),
        encoded(figure.convert("CMYK"), "JPEG", quality=95),
        encoded(figure.convert("RGB").rotate(90, expand=True), "JPEG", exif=turned, quality=95),
    ]  # fmt: skip


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_figure_looks_the_same_in_whatever_mode_it_is_saved(rows):
    figure = Problem(id="x", **rows[4]).image
    plain = np.array(figure.convert("L"), int)
    assert plain.mean() > 200  # black on white
    for saved in odd(figure):
        seen = Problem(id="x", **{**rows[4], "images": [saved]}).image
        assert seen.mode in ("L", "RGB") and seen.size == figure.size
        far = np.abs(np.array(seen.convert("L"), int) - plain)
        assert far.mean() < 6, Image.open(io.BytesIO(saved["bytes"])).mode


@pytest.mark.parametrize("annotated", [True, False], ids=["authors' release", "hiyouga/geometry3k"])
def test_real_rows_are_read_counted_and_trained_on(place, rows, tmp_path, annotated, capsys):
    figure = Problem(id="x", **rows[4]).image
    some = [row | {"images": [image]} for row, image in zip(rows, odd(figure), strict=False)]
    pair = rows[9]["images"] + odd(figure)[:1]
    some.append({**rows[9], "problem": "<image><image>Compare.", "images": pair})
    for k, size in enumerate([(3, 3), (600, 4), (1200, 900)]):
        some[k]["images"] = [encoded(figure.resize(size))]
    if not annotated:
        some = [{k: v for k, v in row.items() if k != "visual_key_info"} for row in some]
    data = tmp_path / "data"
    data.mkdir()
    write(data / "train-00000-of-00001.parquet", [*some, some[0] | {"answer": "see the figure"}])
    write(data / "test-00000-of-00001.parquet", some[:2])
    arm = {} if annotated else {"arm": "accuracy_only"}
    given = {"data": data, "split": "train", "max_steps": 1, "save_steps": 1, **LONG, **arm}
    with pytest.warns(UserWarning, match="1 of 10 gold answers .*train-9 'see the figure'"):
        assert run(place, tmp_path / "out", **given) == 0
    asked = {line["id"] for line in lines(tmp_path / "out" / "completions.jsonl")}
    assert asked <= {f"train-{k}" for k in range(9)} and len(asked) == 2
    assert main(["train", *arguments(place, tmp_path / "dry", **given), "--dry-run"]) == 0
    assert "9 problems" in capsys.readouterr().out


def test_a_corrupt_figure_and_an_impossible_one_are_named(place, rows, tmp_path, capsys):
    broken = {"bytes": rows[5]["images"][0]["bytes"][:400], "path": None}
    data = write(tmp_path / "data.parquet", [*rows[:3], rows[5] | {"images": [broken]}])
    with pytest.raises(DatasetError, match="row 3.*image 0 is not a readable image"):
        load_problems(data)
    strip = encoded(Image.new("L", (9000, 20), 255))
    data = write(tmp_path / "data.parquet", [*rows[:3], rows[5] | {"images": [strip]}])
    assert run(place, tmp_path / "out", data=data) == 2
    assert "row-3" in capsys.readouterr().err
