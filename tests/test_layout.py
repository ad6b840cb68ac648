"""Test the layout of the package: its rooms, their floors and their sizes."""

import ast
import collections
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "seeflower_jax"
# From the ground floor up. A room imports only from its own floor and lower floors.
FLOORS = (
    {"sharding", "download", "records", "hints"},
    {"data", "models"},
    {"training", "evaluation", "pretrained", "attribution"},
    {"figures"},
    {"inference"},
    {"experiment", "comparison"},
    {"explain"},
    {"report"},
    {"studies"},
)
FLOOR_BY_ROOM = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 6
PATHS = sorted(PACKAGE.rglob("*.py"))


def _room(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def _type_checking_nodes(tree):
    """Return the nodes below `if TYPE_CHECKING`, which import nothing at run time."""
    return {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }


def imported_rooms(tree):
    """Return the rooms of the package that a module imports."""
    rooms, skipped = set(), _type_checking_nodes(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            package, *rest = node.module.split(".")
            if package == PACKAGE.name:
                rooms |= {rest[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package, *rest = alias.name.split(".")
                if package == PACKAGE.name and rest:
                    rooms.add(rest[0])
    return rooms


def _functions(tree):
    """Yield (name, lines of code without the docstring, parameters) of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [argument.arg for argument in arguments]
            yield node.name, lines, [n for n in names if n not in ("self", "cls")]


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text()) for path in PATHS}


def test_every_module_and_room_has_a_floor():
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert modules <= {"__init__", *FLOORS[0]}
    assert (modules | rooms) - {"__init__"} == FLOOR_BY_ROOM.keys()


def test_no_room_imports_a_higher_one(trees):
    upward = [
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path, tree in trees.items()
        for room in imported_rooms(tree)
        if FLOOR_BY_ROOM.get(room, 0) > FLOOR_BY_ROOM.get(_room(path), len(FLOORS))
    ]
    assert not upward


def test_no_two_rooms_import_each_other(trees):
    imports = collections.defaultdict(set)
    for path, tree in trees.items():
        imports[_room(path)] |= imported_rooms(tree) - {_room(path)}
    circles = [
        (a, b)
        for a in list(imports)
        for b in imports[a]
        if a in imports.get(b, ()) and a < b
    ]
    assert not circles


def test_files_and_functions_are_short(trees):
    long = []
    for path, tree in trees.items():
        name = path.relative_to(PACKAGE)
        lines = path.read_text().count("\n")
        if lines > MAX_LINES:
            long.append(f"{name}: {lines} lines")
        for function, lines, parameters in _functions(tree):
            if lines > MAX_FUNCTION_LINES:
                long.append(f"{name}: {function} has {lines} lines")
            strict = _room(path) in ("training", "experiment")
            if strict and len(parameters) > MAX_PARAMETERS:
                long.append(f"{name}: {function} takes {len(parameters)} parameters")
    assert not long


@pytest.mark.parametrize("folder", ["scripts", "seeflower_jax/attribution/methods"])
def test_scripts_and_methods_are_short(folder):
    paths = (PACKAGE.parent / folder).glob("*.py")
    lines = {path.name: path.read_text().count("\n") for path in paths}
    assert lines and max(lines.values()) < 100, lines


def test_networks_and_methods_know_nothing_of_configs_and_flags(trees):
    for path, tree in trees.items():
        if _room(path) in ("models", "attribution"):
            modules = {
                name.split(".")[0]
                for node in ast.walk(tree)
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert not modules & {"absl", "ml_collections", "pathlib", "configs"}, path


@pytest.mark.parametrize(
    "source,rooms",
    [
        ("from seeflower_jax import data, models", {"data", "models"}),
        ("def f():\n  import seeflower_jax.explain.score", {"explain"}),
        ("from seeflower_jax.report.html import x", {"report"}),
        ("if TYPE_CHECKING:\n  from seeflower_jax.report import html", set()),
    ],
)
def test_imports_are_seen(source, rooms):
    assert imported_rooms(ast.parse(source)) == rooms
