"""Folders of exports with damaged files, which predict an intact image."""

import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from tests.stress import damage
from tests.stress.cases import Case
from tests.stress.world import World

OWNER = "weights"
FILES = ("model.json", "model.stablehlo", "parameters.safetensors")
NAN, INF = math.nan, math.inf


def same(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the probabilities are those of the intact export."""
    printed = json.loads(completed.stdout)
    details = {c["name"]: c["probability"] for c in printed["classes"]}
    expected = world.probabilities(world.photo)
    assert details.keys() == expected.keys(), f"{details.keys()} for {expected.keys()}"
    for name, value in expected.items():
        assert abs(details[name] - value) < 1e-3, f"{details} for {expected}"


def finite(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the probabilities are numbers; a flipped bit of a weight is no error."""
    values = [c["probability"] for c in json.loads(completed.stdout)["classes"]]
    assert all(map(math.isfinite, values)) and abs(sum(values) - 1) < 1e-3, values


def case(
    name: str,
    change: Callable[[pathlib.Path], object],
    expect: str = "either",
    names: str = "",
    check=same,
) -> Case:
    """Return the case of a copy of the export that `change` changes."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        shutil.copytree(world.folder / "export", folder / "export")
        change(folder / "export")

    image = "{world}/photos/daisy/0.png"
    arguments = ["--export={folder}/export", "--json", "--top=3", image]
    return Case(name, "predict", arguments, expect, names, prepare, check)


def described(key: str, value: Any) -> Callable[[pathlib.Path], None]:
    """Set a value of model.json; `...` removes it."""

    def change(folder: pathlib.Path) -> None:
        path = folder / "model.json"
        description = json.loads(path.read_text())
        *sections, last = key.split(".")
        section = description
        for name in sections:
            section = section[name]
        if value is ...:
            del section[last]
        else:
            section[last] = value
        path.write_text(json.dumps(description))

    return change


def cases() -> Iterator[Case]:
    """Yield all cases of exports."""
    yield case("intact", lambda folder: None, "accepted")
    for file in FILES:
        pattern = file.replace(".", r"\.")
        for name, change in {**damage.GONE, "removed": damage.remove}.items():
            yield case(f"{file}_{name}", lambda f, c=change, n=file: c(f / n), "refused", pattern)  # fmt: skip
        for name, change in damage.flips(6):
            yield case(f"{file}_{name}", lambda f, c=change, n=file: c(f / n), "either", pattern, finite)  # fmt: skip
        for less in (1, 8):
            change = damage.cut(1, less)
            yield case(f"{file}_less_{less}", lambda f, c=change, n=file: c(f / n), "either", pattern)  # fmt: skip
    yield from _descriptions()
    yield from _parameters()


def _descriptions() -> Iterator[Case]:
    """Yield values of model.json that make no sense."""
    rows: dict[str, list] = {
        "temperature": [..., None, "x", 0, -1, NAN, INF, [], {}],
        "class_names": [..., None, "daisy", [], ["daisy"], ["a"] * 4, [1, 2, 3], 3],
        "view": [..., None, {}, [], "x"],
        "view.size": [..., None, 0, -1, NAN, "x", 33, 1e9, 10**9, 1.5],
        "view.shortest_side": [..., None, 0, -1, NAN, "x", 10**9],
        "view.crop": [..., None, 0, -1, NAN, INF, "x", 2],
        "view.keep_aspect": [..., None, "x", NAN],
        "view.colour": [1],
        "spec": [..., None, {}, [], "x"],
        "spec.name": [..., None, "", 1],
        "spec.num_classes": [..., None, 0, -1, NAN, "x", 4],
        "spec.preprocess": [..., "x", 1],
        "spec.colour": [1],
    }
    free = {"spec.preprocess", "view.keep_aspect"}  # predictions may not need them
    for key, values in rows.items():
        for number, value in enumerate(values):
            has_default = key == "view.crop" and value is ...
            expect = "either" if key in free or has_default else "refused"
            name = f"json_{key}_{number}"
            yield case(name, described(key, value), expect, r"model\.json")
    for name, text in (("list", "[]"), ("null", "null"), ("number", "1"), ("deep", "[" * 99999)):  # fmt: skip
        yield case(f"json_{name}", lambda f, t=text: (f / "model.json").write_text(t), "refused", r"model\.json")  # fmt: skip
    bom = "\ufeff".encode()
    yield case("json_bom", lambda f: (f / "model.json").write_bytes(bom + (f / "model.json").read_bytes()), "either", r"model\.json")  # fmt: skip


def _parameters() -> Iterator[Case]:
    """Yield parameters that do not fit the program."""
    import numpy as np
    import safetensors.numpy

    def changed(change) -> Callable[[pathlib.Path], None]:
        def apply(folder: pathlib.Path) -> None:
            path = folder / "parameters.safetensors"
            arrays = safetensors.numpy.load_file(path)
            change(arrays, sorted(arrays)[0])
            safetensors.numpy.save_file(arrays, path)

        return apply

    rows: dict[str, Callable[[dict, str], object]] = {
        "one_missing": lambda a, n: a.pop(n),
        "one_more": lambda a, n: a.update(more=np.zeros(3, np.float32)),
        "nan": lambda a, n: a.update({n: a[n] * np.nan}),
        "inf": lambda a, n: a.update({n: a[n] * np.inf + np.inf}),
        "float64": lambda a, n: a.update({n: a[n].astype(np.float64)}),
        "float16": lambda a, n: a.update({n: a[n].astype(np.float16)}),
        "int32": lambda a, n: a.update({n: a[n].astype(np.int32)}),
        "shape": lambda a, n: a.update({n: np.zeros((2, 2), np.float32)}),
        "scalar": lambda a, n: a.update({n: np.float32(1)[None]}),
        "none": lambda a, n: a.clear(),
    }
    for name, change in rows.items():
        expect = "either" if name in ("float64", "float16", "one_more") else "refused"
        yield case(f"parameters_{name}", changed(change), expect, r"parameters\.safetensors")  # fmt: skip
