"""The rules of the house, kept by reading every import: which room may know which other."""

import ast
import re
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("manifest", "store", "extract", "probe", "evaluate", "sweep", "demo", "cli")
# What a room may import besides itself.
MAY_IMPORT = {
    "store": set(),
    "manifest": {"store"},
    "extract": {"store"},
    "probe": {"store"},
    "evaluate": {"store"},
    "sweep": {"store", "probe", "evaluate"},
    "demo": {"store", "extract"},
    "cli": set(ROOMS),
}
ONLY_IN = {
    "typer": {"cli"},
    "rich": {"cli"},
    "torch": {"extract", "demo"},
    "torchvision": {"extract", "demo"},
    "transformers": {"extract", "demo"},
    "av": {"extract", "demo"},
}
FILES = {path: room for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}
RUN_LENGTH = 6


def imports(path):
    """Every module that a file imports, wherever in it: also in functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield node.module
            # `from hiprobe.extract import pipeline` names a module.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("hiprobe", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_of(path): path for path in FILES}


def test_there_are_files_in_every_room():
    assert set(FILES.values()) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    allowed = MAY_IMPORT[room] | {room}
    strangers = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path, own in FILES.items()
        if own == room
        for module in imports(path)
        if module.startswith("hiprobe.") and module.split(".")[1] not in allowed
    ]
    assert not strangers


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_rooms(library):
    strangers = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path, room in FILES.items()
        if room not in ONLY_IN[library]
        for module in imports(path)
        if module.split(".")[0] == library
    ]
    assert not strangers


def circles(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_two_files_import_each_other_even_by_a_detour():
    graph = {
        name: {module for module in imports(path) if module in MODULES and module != name}
        # A package's own names are imported when they are first used: that is no circle.
        - ({name.rpartition(".")[0]} if path.name != "__init__.py" else set())
        for name, path in MODULES.items()
    }
    graph = {name: needs for name, needs in graph.items() if MODULES[name].name != "__init__.py"}
    assert not circles(graph)


def test_the_benchmarks_have_no_circles():
    folder = ROOT / "benchmarks"
    files = {f"benchmarks.{p.relative_to(folder).with_suffix('').as_posix().replace('/', '.')}": p
             for p in folder.rglob("*.py")}  # fmt: skip
    graph = {name: {module for module in imports(path) if module in files and module != name}
             for name, path in files.items()}  # fmt: skip
    assert not circles(graph)


def test_no_basename_stands_twice():
    names = Counter(
        path.name
        for path, room in FILES.items()
        if room != "cli" and path.name not in ("__init__.py", "pipeline.py")
    )
    assert not [name for name, count in names.items() if count > 1]


def test_only_store_looks_into_provenance():
    """Nobody else decides by a key of the untyped dict: `origin` has typed fields."""
    fields = "model|prompt|keyframes|segment_frames|manifest|layers|processor|numerics"
    pattern = re.compile(rf"""provenance(\[|\.get\()["']({fields})["']""")
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path, room in FILES.items()
        if room != "store"
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert not lines


def significant_lines(path):
    """Lines that say something: no blank ones, comments, lone brackets, imports or docstrings."""
    source = path.read_text(encoding="utf-8")
    prose = set()
    for node in ast.walk(ast.parse(source)):
        is_prose = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_prose or isinstance(node, ast.Import | ast.ImportFrom):
            prose.update(range(node.lineno, node.end_lineno + 1))
    for number, line in enumerate(source.splitlines(), start=1):
        text = line.strip()
        if number not in prose and re.search(r"\w", text) and not text.startswith("#"):
            yield text


def test_no_run_of_six_lines_stands_in_two_rooms():
    rooms_of = defaultdict(set)
    for path, room in FILES.items():
        lines = list(significant_lines(path))
        for start in range(len(lines) - RUN_LENGTH + 1):
            rooms_of[tuple(lines[start : start + RUN_LENGTH])].add(room)
    assert not ["\n".join(run) for run, rooms in rooms_of.items() if len(rooms) > 1]


def test_every_room_is_installed_under_its_name():
    import tomllib

    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {f"hiprobe.{path.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
               for path in FILES}  # fmt: skip
    assert folders <= set(setup["packages"]) == set(setup["package-dir"])
    assert not (ROOT / "evaluate/__init__.py").exists(), "it would shadow Hugging Face's evaluate"
    assert not (ROOT / "hiprobe").exists()


def test_every_file_of_the_house_is_on_the_map():
    """CONTRIBUTING.md has a line for each file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.name not in ("__init__.py", "__main__.py")
        and not re.search(rf"\b{re.escape(path.stem)}\b", text)
    ]
    assert not missing
