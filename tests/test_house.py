"""The house: rooms in order, imports one way, no circle, files read in one sitting."""

import ast
import importlib
import io
import tokenize
from pathlib import Path

from perception_r1.common.files import ROOT

PACKAGE = ROOT / "perception_r1"
# From the ground floor up; a room imports only from rooms that stand before it.
ROOMS = (
    "common evidence facts problems world annotation reward training evaluation study notebook"
).split()
MOST_LINES, FEWEST_DOCSTRINGS, MOST_NAMES = 400, 0.18, 120
MOST_CODE = 10_000
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a room's `__init__` has the room's name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that one imports, anywhere in its file, relative imports too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    targets = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*(above if node.level else []), *filter(None, [node.module])]
            base = ".".join(parts)
            targets |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {target for target in targets if target in known} - {name}


def test_every_room_is_in_the_table():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_imports_between_rooms_go_one_way():
    known = modules()
    uphill = []
    for name, path in known.items():
        room = name.split(".")[1:2]
        if not room or room == ["__main__"]:
            continue  # the command line stands above all rooms
        for target in imports(name, path, known):
            other = target.split(".")[1:2]
            if other and ROOMS.index(other[0]) > ROOMS.index(room[0]):
                uphill.append(f"{name} imports {target}")
    assert not uphill


def test_no_files_import_each_other_in_a_loop():
    known = modules()
    # A room's `__init__` hands its names out lazily, so importing it imports none of its files.
    edges = {name: imports(name, path, known) for name, path in known.items()}
    while free := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges, f"in or behind a loop: {sorted(edges)}"


def counted(path: Path) -> tuple[int, int, int]:
    """Lines of code (no blank, comment or docstring), of docstrings, and all of a file."""
    text = path.read_text(encoding="utf-8")
    docstrings, code = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings), len(docstrings), text.count("\n")


def test_the_house_is_thin():
    sizes = {
        path: counted(path)
        for folder in ("perception_r1", "data", "notebooks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {str(path): lines for path, (_, _, lines) in sizes.items() if lines > MOST_LINES}
    code, docstrings, lines = map(sum, zip(*sizes.values(), strict=True))
    assert code <= MOST_CODE
    assert docstrings >= FEWEST_DOCSTRINGS * lines


def test_rooms_hand_out_few_names_and_each_can_be_had():
    names = [
        (room, name)
        for room in ROOMS
        for name in getattr(importlib.import_module(f"perception_r1.{room}"), "__all__", [])
    ]
    assert len(names) <= MOST_NAMES
    for room, name in names:
        assert hasattr(importlib.import_module(f"perception_r1.{room}"), name), (room, name)
