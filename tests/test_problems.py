"""Problem datasets: what is written is what is read, by us, by `datasets` and by a reader of the authors' format."""

import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from perception_r1.problems.parquet import load_problems, write_problems
from perception_r1.problems.schema import DatasetError, Problem, read_annotations, tag_annotations
from tests.conftest import png


def problem(k: int = 0, **changes) -> Problem:
    values = {
        "id": f"triangle-{k}",
        "split": "train",
        "problem": "<image>What is AB?",
        "images": [png((k % 256, 0, 0))],
        "answer": str(k),
        "visual_key_info": tag_annotations([f"Segment AB is {k} long.", "Angle C is right."]),
        "cot": "We see AB.",
        "text_facts": ["Triangle(A, B, C)"],
        "gold_facts": [f"Equals(LengthOf(Line(A, B)), {k})"],
        "needed_facts": [f"Equals(LengthOf(Line(A, B)), {k})"],
        "family": "triangle",
    }
    return Problem(**{**values, **changes})


def table(path, **changes):
    """A Parquet file of two rows with the columns that every source has; None takes a column out."""
    columns = {
        "problem": ["<image>a?", "<image>b?"],
        "images": [[{"bytes": png(), "path": None}]] * 2,
        "answer": ["1", "2"],
        **changes,
    }
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return path


def second_image(data: bytes) -> list:
    return [[{"bytes": png(), "path": None}], [{"bytes": data, "path": None}]]


def not_utf8() -> pa.Array:
    good = pa.array([b"<image>a?", b"<image>\xff\xfe?"])
    return pa.Array.from_buffers(pa.string(), 2, good.buffers())


PLAIN = st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool)


@given(st.lists(PLAIN.filter(lambda t: "info" not in t.lower()), min_size=1, max_size=12))
@example(["x < 5 and y > 3", "angle <ABC>", "a\nb", "</info"])
def test_tags_are_read_back_exactly(annotations):
    assert read_annotations(tag_annotations(annotations)) == annotations


PIECES = [*"<info1> </info1> <info2> </info2> <info01> <INFO1> a".split(), "< info1 >", " ", "\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_is_read_is_canonical_and_all_else_is_refused(text):
    """Whatever is accepted is, up to space around it, what `tag_annotations` writes."""
    try:
        items = read_annotations(text)
    except DatasetError as error:
        assert "; " in str(error)
    else:
        assert re.sub(r"\s", "", tag_annotations(items)) == re.sub(r"\s", "", text)


def test_malformed_tags_are_named():
    for text, words in (
        ("AB = 5", "no annotation; write <info1>"),
        ("<info1>a</info2>", "crossed"),
        ("<info1> </info1>", "annotation 1 is empty"),
        ("<info١>a</info١>", "misnumbered"),
    ):
        with pytest.raises(DatasetError, match=words):
            read_annotations(text)
    for annotations in ([], ["a", "  "], ["see <info1>"], ["</info9> b"], ["\ud800"]):
        with pytest.raises(DatasetError):
            tag_annotations(annotations)


def test_round_trip(tmp_path):
    problems = [problem(k, split="test" if k % 3 == 0 else "train") for k in range(20)]
    problems.append(problem(20, visual_key_info=None, gold_facts=[], cot="", family=""))
    problems.append(problem(21, problem="<image> <image> both?", images=[png(), png(size=(3, 4))]))
    write_problems(problems, tmp_path / "new" / "problems.parquet")
    assert load_problems(str(tmp_path / "new")) == problems


def test_other_readers_read_ours(tmp_path):
    """`datasets`, and one of the authors' format: `<infoN>` counted up from 1, images with their bytes."""
    facts = ["GE = 10", "GE is perpendicular to DF at E", "x < 12"]
    write_problems([problem(24, visual_key_info=tag_annotations(facts))], tmp_path / "p.parquet")
    files = {"data_files": str(tmp_path / "p.parquet"), "cache_dir": str(tmp_path / "cache")}
    (row,) = datasets.load_dataset("parquet", **files)["train"]
    tagged = re.findall(r"<info(\d)>(.*?)</info\1>", row["visual_key_info"])
    assert tagged == list(zip("123", facts, strict=True))
    assert (row["problem"], row["answer"]) == ("<image>What is AB?", "24")
    assert (row["id"], row["images"][0].getpixel((0, 0))) == ("triangle-24", (24, 0, 0))


def hub_folder(path, annotated: bool):
    """A dataset as it lies on the hub: Parquet files by split, written by `datasets` itself."""
    tagged = "<info1>GE = 10</info1>\n<info2>GE ⊥ DF</info2>"
    more = {"visual_key_info": tagged, "difficulty": "hard"}
    golds = {"train": ["2 \\sqrt { 221 }", "\\frac { 26 } { 3 }"], "test": ["30"]}
    (path / "data").mkdir(parents=True)
    for split, answers in golds.items():
        rows = [
            {"images": [Image.new("RGB", (12, 8), (k, 0, 0))], "problem": "<image>Find x.", "answer": answer}
            | (more if annotated else {})
            for k, answer in enumerate(answers)
        ]  # fmt: skip
        made = datasets.Dataset.from_list(rows)
        made = made.cast_column("images", datasets.List(datasets.Image()))
        made.to_parquet(path / "data" / f"{split}-00000-of-00001.parquet")
    return path


@pytest.mark.parametrize("annotated", [True, False], ids=["authors' release", "hiyouga/geometry3k"])
def test_public_schemas_are_read_from_disk(tmp_path, annotated):
    problems = load_problems(hub_folder(tmp_path / "set", annotated))
    assert [p.id for p in problems] == ["test-0", "train-0", "train-1"]
    assert [p.split for p in problems] == ["test", "train", "train"]
    assert [p.answer for p in problems] == ["30", "2 \\sqrt { 221 }", "\\frac { 26 } { 3 }"]
    assert problems[2].image.getpixel((0, 0)) == (1, 0, 0)
    assert problems[0].annotations == (["GE = 10", "GE ⊥ DF"] if annotated else [])
    assert load_problems(tmp_path / "set", "test") == problems[:1]  # ids do not depend on the split


@pytest.mark.parametrize("name", ["run[1]", "a*b", "x{1,2}", "50%20"])
def test_a_path_is_a_path_and_no_pattern(tmp_path, name):
    """Beside each lies what a pattern would take instead, or as well."""
    for k, other in enumerate(("run1", "axb", "x1", "50 ", name)):
        write_problems([problem(k)], tmp_path / other / "train.parquet")
    assert load_problems(tmp_path / name) == [problem(4)]
    assert load_problems(str(tmp_path / name / "train.parquet")) == [problem(4)]


def test_large_lists_and_large_binaries_as_polars_writes_them(tmp_path):
    text, struct = pa.large_string(), pa.struct([("bytes", pa.large_binary())])
    facts = pa.array([["Line(A, B)"], None], pa.large_list(text))
    columns = {
        "problem": pa.array(["<image>a?", "<image>b?"], text),
        "answer": pa.array(["1", "2"], text),
        "gold_facts": facts,
    }
    for images in (
        pa.array([[png()]] * 2, pa.large_list(pa.large_binary())),
        pa.array([[{"bytes": png()}]] * 2, pa.large_list(struct)),
        pa.array([[png()]] * 2, pa.list_(pa.binary(), 1)),
    ):
        read = load_problems(table(tmp_path / "p.parquet", images=images, **columns))
        assert [p.gold_facts for p in read] == [("Line(A, B)",), ()]
        assert [p.images for p in read] == [(png(),)] * 2


def test_a_hub_name_goes_to_the_hub(tmp_path, monkeypatch):
    """The hub itself is replaced: it is never reached from a test."""
    folder = hub_folder(tmp_path / "set", annotated=True) / "data"
    files = {split: str(folder / f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
    load = datasets.load_dataset

    def hub(name):
        if name != "tongxiao2002/Perception-R1-Dataset":
            raise ConnectionError("no route to host")
        return load("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", hub)
    problems = load_problems("tongxiao2002/Perception-R1-Dataset", "train")
    assert [p.id for p in problems] == ["train-0", "train-1"]
    with pytest.raises(DatasetError, match="no route to host.*check the name"):
        load_problems("someone/something")


def test_bad_rows_name_row_column_and_remedy(tmp_path):
    for changes, row, column, says in (
        ({"images": None}, 0, "images", "required"),
        ({"problem": ["<image>a?", "<image>  "]}, 1, "problem", "empty"),
        ({"problem": ["<image>a?", "b?"]}, 1, None, "0 <image> marks for 1 images"),
        ({"problem": not_utf8()}, None, None, "'utf-8' codec can't decode"),
        ({"answer": [1, 2]}, 0, "answer", "string"),
        ({"images": [[{"bytes": png(), "path": None}], []]}, 1, "images", "no image"),
        ({"images": [png(), png()]}, 0, "images", "list of images"),
        ({"images": second_image(png(size=(200, 200))[:-40])}, 1, "images", "not a readable image"),
        ({"images": second_image(b"")}, 1, "images", "no bytes"),
        ({"visual_key_info": ["<info2>a</info2>", None]}, 0, "visual_key_info", "misnumbered"),
        ({"id": ["a", "a"]}, None, "id", "repeat"),
        ({"answer": ["1", "see the figure"]}, None, "answer", "row-1 'see the figure'"),
    ):
        path = table(tmp_path / "bad.parquet", **changes)
        with pytest.raises(DatasetError) as caught:
            load_problems(path)
        error = str(caught.value)
        assert (row is None) == (not error.startswith("row")) and (column or "") in error
        assert row is None or error.startswith(f"row {row}")
        assert says in error and str(path) in error
        assert "; " in error and "\n" not in error


def test_files_that_are_no_parquet(tmp_path):
    write_problems([problem(k) for k in range(50)], tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    flipped = data[:300] + bytes(byte ^ 0x55 for byte in data[300:3000]) + data[3000:]
    for damaged in (data[: len(data) // 2], flipped, b"", b"id,answer"):
        (tmp_path / "x.parquet").write_bytes(damaged)
        with pytest.raises(DatasetError, match="x.parquet cannot be read"):
            load_problems(tmp_path)


def test_sources_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = dict.fromkeys(("problem", "answer"), pa.array([], pa.string()))
    table(tmp_path / "none.parquet", **nothing, images=pa.array([], pa.list_(pa.binary())))
    write_problems([problem()], tmp_path / "p.parquet")
    for source, split, says in [
        (tmp_path / "empty", None, "no \\*.parquet"),
        (tmp_path / "nowhere", None, "does not exist"),
        ("data/nowhere.parquet", None, "does not exist"),  # not a hub name
        (tmp_path / "none.parquet", None, "no problem"),
        (tmp_path / "p.parquet", "dev", "splits there: train"),
    ]:
        with pytest.raises(DatasetError, match=says):
            load_problems(source, split)


def test_ungradable_answers_are_refused_or_dropped_with_a_warning(tmp_path):
    problems = [problem(1), problem(2, answer="N/A"), problem(3, answer="\\frac{3}{")]
    write_problems(problems, tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match="2 of 3 gold answers.*triangle-2.*triangle-3"):
        load_problems(tmp_path / "p.parquet")
    with pytest.warns(UserWarning, match="triangle-2.*triangle-3.*left out"):
        assert load_problems(tmp_path / "p.parquet", unusable="drop") == problems[:1]


def test_a_refused_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "p.parquet"
    write_problems([problem(1)], path)
    for bad in ([], [problem(2), problem(2)]):
        with pytest.raises(DatasetError):
            write_problems(bad, path)
    write_problems([problem(1)], tmp_path / "again.parquet")
    with pytest.raises(DatasetError, match="1 ids repeat .*triangle-1"):
        load_problems(tmp_path)
    assert load_problems(path) == [problem(1)]


def test_images_are_kept_as_bytes_and_decoded_when_asked():
    drawn = Image.new("RGB", (30, 20), (1, 2, 3))
    made = problem(images=[drawn])
    assert all(isinstance(image, bytes) for image in made.images)
    assert made.image.tobytes() == drawn.tobytes()
    assert "PNG" not in repr(made)


def test_no_problem_is_made_of_bad_values():
    bad = {"id": [""], "problem": ["<image>"], "answer": ["", "\ud800"], "colour": ["red"]}
    bad |= {"images": ["picture.png", [Image.new("RGB", (0, 5))], []], "cot": ["AB is \udfff."]}
    bad |= {"visual_key_info": ["AB = 5"], "gold_facts": [["ok", "\ud800"]]}
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValidationError):
                problem(**{name: value})
