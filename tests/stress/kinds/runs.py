"""Run directories in which one file is damaged, as each script reads them.

A script names the file, or gives the result of the intact run: it computes again what
can be computed again.
"""

import functools
import json
import math
import pathlib
import re
import shutil
from collections.abc import Iterator

from tests.stress import damage
from tests.stress.cases import Case, Check
from tests.stress.kinds.exports import described, finite, same
from tests.stress.world import CONFIG, World

OWNER = "run"
# {name: file, or a pattern of which the first match is taken}
FILES = {
    "config": "config.json",
    "result": "result.json",
    "data": "data.json",
    "metrics": "metrics.jsonl",
    "features": "features_head.npy",
    "logits": "logits_validation.npz",
    "views": "logits_test_test_time.npz",
    "page": "report.html",
    "curves": "learning_curves.png",
    "marker": "checkpoints/*/_CHECKPOINT_METADATA",
    "commit": "checkpoints/*/commit_success.txt",
    "meta": "checkpoints/*/meta/metadata",
    "best_tree": "checkpoints/*/best/_METADATA",
    "best_manifest": "checkpoints/*/best/manifest.ocdbt",
    "best_arrays": "checkpoints/*/best/ocdbt.process_0/d/*",
    "best_more": "checkpoints/*/best/d/*",
    "state_tree": "checkpoints/*/state/_METADATA",
    "checkpoint": "checkpoints/*",
    "checkpoints": "checkpoints",
}


def metrics(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the printed metrics of the test split are those of the intact run."""
    printed = json.loads(completed.stdout)
    test = printed.get("test", printed)
    for key in ("top1", "loss", "count"):
        value, expected = test[key], world.result["test"][key]
        assert math.isclose(value, expected, rel_tol=1e-4), (
            f"{key} {value} for {expected}"
        )


def probabilities(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the probabilities are those of the intact run.

    A run that is not finished, or whose config has changed, has no temperature. Its
    probabilities are other ones, if stderr says so.
    """
    if re.search("calibrat|temperature", completed.stderr):
        finite(completed, folder, world)
    else:
        same(completed, folder, world)


def page(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the page is complete."""
    text = (folder / "run" / "report.html").read_text()
    assert "</html>" in text[-1000:], "the page is incomplete"


def exported(completed, folder: pathlib.Path, world: World) -> None:
    """Check that the parameters are those of the intact export."""
    name = "out/parameters.safetensors"
    intact = world.folder / "export" / "parameters.safetensors"
    assert (folder / name).read_bytes() == intact.read_bytes(), "other parameters"


DOORS: dict[str, tuple[list[str], Check]] = {
    "train": ([CONFIG, "--json"], metrics),
    "evaluate": (["--json"], metrics),
    "predict": (["--json", "--top=3", "{world}/photos/daisy/0.png"], probabilities),
    "export": (["--out={folder}/out"], exported),
    "report": ([], page),
}


def case(name: str, door: str, change, expect: str = "either", names: str = "") -> Case:
    """Return the case of a copy of the run that `change` changes."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        shutil.copytree(world.run, folder / "run")
        change(folder / "run")

    more, check = DOORS[door]
    arguments = ["--workdir={folder}/run", *more]
    return Case(f"{door}_{name}", door, arguments, expect, names, prepare, check)


def _change(folder: pathlib.Path, pattern: str, change: damage.Damage) -> None:
    path = sorted(folder.glob(pattern))[0]
    if path.is_file():
        change(path)
    else:  # a folder can be missing, empty or a file
        shutil.rmtree(path)
        if change is damage.GONE["empty"]:
            path.mkdir()
        elif change is not damage.GONE["dangling_link"]:
            path.write_bytes(b"")


def cases() -> Iterator[Case]:
    """Yield all cases of run directories."""
    ways = {
        name: damage.GONE[name]
        for name in ("empty", "cut_half", "zeros", "html", "folder", "dangling_link")
    }
    ways |= {"removed": damage.remove, "less_1": damage.cut(1, 1)}
    ways |= dict(damage.flips(2))
    for door in DOORS:
        yield case("intact", door, lambda folder: None, "accepted")
        for file, pattern in FILES.items():
            # A message about a part of a checkpoint may name the checkpoint.
            names = "checkpoints" if "*" in pattern else pattern.replace(".", r"\.")
            if file in ("config", "checkpoint", "checkpoints"):
                names = "/run"  # such a folder is no run, or has no variables
            for way, damaged in ways.items():
                if file.startswith("checkpoint") and way not in (
                    "empty",
                    "removed",
                    "zeros",
                ):
                    continue
                change = functools.partial(_change, pattern=pattern, change=damaged)
                yield case(f"{file}_{way}", door, change, "either", names)
    yield from _values()


def _values() -> Iterator[Case]:
    """Yield values of JSON files that make no sense."""
    rows = {
        "config.json": [
            ("model", None),
            ("model.name", "resnet"),
            ("data.shortest_side", -1),
            ("eval.size", "x"),
            ("stage_order", []),
            ("stages", 3),
            ("seed", math.nan),
            ("more", 1),
        ],
        "result.json": [
            ("calibration", ...),
            ("calibration.temperature", 0),
            ("calibration.temperature", math.nan),
            ("calibration.temperature", "x"),
            ("config_hash", ...),
            ("test", ...),
            ("test", []),
            ("validation.top1", "x"),
            ("test_seen", ...),
        ],
        "data.json": [("splits", ...), ("more", 1)],
    }
    for file, changes in rows.items():
        for number, (key, value) in enumerate(changes):
            for door in ("train", "evaluate", "predict", "report"):

                def change(
                    folder: pathlib.Path, file: str = file, key=key, value=value
                ) -> None:
                    target = folder / "model.json"  # the name that `described` changes
                    (folder / file).rename(target)
                    try:
                        described(key, value)(folder)
                    except KeyError:  # this run has no such value
                        pass
                    target.rename(folder / file)

                names = f"{file}|{key}".replace(".", r"\.")
                yield case(f"{file}_{key}_{number}", door, change, "either", names)
