"""Scripts that are interrupted, and what each must leave.

job = JOBS["train"]
children.run(job.script, job.arguments(world, folder), folder)
assert job.content(folder) == reference("train", world).content
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping

from seeflower_jax import records
from seeflower_jax.inference.run import load_run
from tests.stress import children
from tests.stress.world import CONFIG, World

# Two stages of two epochs; --checkpoint_seconds=0 makes a checkpoint after each step.
_CHANGES = (
    "{'stages.head.epochs': 2, 'stages.head.validate_every': 1, "
    "'stages.head.batch_size': 9, 'stages.finetune.batch_size': 9}"
)
_MEASURED = ("seconds", "images_per_second", "command")


@dataclasses.dataclass(frozen=True)
class Job:
    """A script that writes below a folder.

    Attributes:
      name: of the job.
      script: name of the script.
      arguments: (world, folder) -> its command line.
      content: folder -> what has to be the same whether it was interrupted or not.
      refuses: what the script says if its output is complete; empty if it then succeeds.
    """

    name: str
    script: str
    arguments: Callable[[World, pathlib.Path], list[str]]
    content: Callable[[pathlib.Path], dict]
    refuses: str = ""


def train_command(world: World, folder: pathlib.Path) -> list[str]:
    """Return the arguments of a short run of two stages."""
    text = f"{CONFIG}:{_CHANGES}"
    return [text, f"--workdir={folder}", "--checkpoint_seconds=0", "--json"]


def train_content(folder: pathlib.Path) -> dict:
    """Return the best variables, the result, the log without rates, and the page."""
    result = records.read_result(folder)
    lines = records.read_log(folder)
    for line in lines:
        line.pop("images_per_second", None)
    run = load_run(folder)
    page = (folder / "report.html").read_text()
    return {
        "variables": records.variables_hash(run.network.variables),
        "temperature": run.network.temperature,
        "result": {k: v for k, v in result.items() if k not in _MEASURED},
        "metrics": lines,
        "page": "</html>" in page[-1000:],
    }


def _export(world: World, folder: pathlib.Path) -> list[str]:
    return [f"--workdir={world.run}", f"--out={folder / 'out'}"]


def _convert(world: World, folder: pathlib.Path) -> list[str]:
    source = world.folder / "weights" / "v.safetensors"
    return ["--model=vgg16", f"--source={source}", f"--out={folder / 'out'}"]


def _attribute(world: World, folder: pathlib.Path) -> list[str]:
    network = f"--export={world.folder / 'export'}"
    images = f"--images={world.folder / 'photos'}"
    methods = "--methods=saliency,grad_cam"
    return [network, images, methods, "--batch_size=8", f"--out={folder / 'out'}"]


def _files(folder: pathlib.Path) -> dict:
    """Return the names and the contents of all files of an export."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _variables(folder: pathlib.Path) -> dict:
    """Return the converted variables, and all that is beside them."""
    from seeflower_jax.pretrained import converted

    description, variables = converted.load(folder / "out")
    beside = sorted(path.name for path in folder.iterdir())
    details = {"description": description, "beside": beside}
    return {"variables": records.variables_hash(variables), **details}


def map_content(folder: pathlib.Path) -> dict:
    """Return all maps by image and method, and the number of lines of the index."""
    from seeflower_jax.explain.store import MapStore

    store = MapStore.open(folder / "out")
    lines = list(store.lines())
    maps = {
        f"{line['image']} {line['method']}": store.read(line).tobytes()
        for line in lines
    }
    sheets = sorted(path.name for path in (folder / "out").glob("*.png"))
    return {"maps": maps, "lines": len(lines), "sheets": sheets}


JOBS = {
    job.name: job
    for job in (
        Job("train", "train", train_command, train_content),
        Job("export", "export", _export, _files, "exists"),
        Job("convert", "convert_weights", _convert, _variables, "exists"),
        Job("attribute", "attribute", _attribute, map_content),
    )
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A job that was not interrupted: its seconds, its content and its writes."""

    seconds: float
    content: dict
    writes: int


@functools.cache
def reference(name: str, world: World) -> Reference:
    """Return the reference of a job, which is run twice: the first time compiles."""
    job, folder = JOBS[name], world.folder / f"reference_{name}"
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        start = time.monotonic()
        arguments = job.arguments(world, folder)
        completed = children.run(job.script, arguments, folder, count=True)
        seconds = time.monotonic() - start
        if completed.returncode:
            raise RuntimeError(completed.stderr)
    writes = int(folder.with_name(f"{folder.name}.writes").read_text())
    return Reference(seconds, job.content(folder), writes)


def difference(actual: Mapping, expected: Mapping) -> str:
    """Return the parts in which two contents differ."""
    keys = [
        key for key in {**expected, **actual} if actual.get(key) != expected.get(key)
    ]
    return json.dumps(keys) if keys else ""
