"""The stress test as a whole: its parts, its record and its table.

result = run(folder, PARTS, kinds=[], short=True, jobs=2)
"""

import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping

import jax

from seeflower_jax import hints
from tests.harness import run_python
from tests.stress import children, full_disk, interrupted, malformed, together, worker
from tests.stress.world import World

PARTS = ("malformed", "write_points", "kills", "two_at_once", "full_disk")
_FAILURES = ("failed", *malformed.FAILURE_KEYS)


def work_folder(path: str | None) -> pathlib.Path:
    """Return the folder to work in, and let JAX keep compiled programs there.

    Raises:
      ValueError: if the folder holds something else.
    """
    folder = pathlib.Path(path or tempfile.mkdtemp(prefix="stress_")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "stress_test"
    if any(folder.iterdir()) and not mark.exists():
        raise ValueError(f"{folder} holds other files; expected a new folder")
    mark.touch()
    use_compilation_cache(folder / "compiled")
    return folder


def use_compilation_cache(folder: pathlib.Path) -> None:
    """Let this process and its children compile each program once."""
    values = {"jax_compilation_cache_dir": str(folder), **children.CACHE}
    for name, value in values.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def check_names(parts: Iterable[str], kinds: Iterable[str]) -> None:
    """Raise a ValueError for names that are not known."""
    for names, known in ((parts, PARTS), (kinds, worker.KINDS)):
        for name in names:
            if name not in known:
                hint = hints.did_you_mean(name, known)
                raise ValueError(f"unknown {name!r}; known are {list(known)}{hint}")


def run(
    folder: pathlib.Path,
    parts: Iterable[str],
    kinds: Iterable[str] = (),
    short: bool = False,
    jobs: int = 2,
) -> dict:
    """Run parts of the test, and return {part: counts} with "hangs" and "seconds".

    Args:
      folder: the folder to work in; results in it are not computed again.
      parts: names of `PARTS`.
      kinds: kinds of malformed inputs; () is all.
      short: whether to run a small part of each part.
      jobs: number of processes at a time.
    """
    start = time.monotonic()
    log = _log(start)
    world = build(folder)
    world.enter()
    log("built the intact run, export and weight files")
    result: dict = {"form": "short" if short else "full"}
    for part in parts:
        if part == "malformed":
            chosen = list(kinds) or list(worker.KINDS)
            every = 40 if short else 1
            outcomes = malformed.run_kinds(world, chosen, log, jobs, every)
            result[part] = malformed.summarise(outcomes)
        else:
            result[part] = _PART[part](world, log, short, jobs)
    result["hangs"] = sum(result[part].get("hangs", 0) for part in parts)
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


_PART: dict[str, Callable[[World, Callable, bool, int], dict]] = {
    "kills": interrupted.kills,
    "write_points": interrupted.write_points,
    "two_at_once": together.two_at_once,
    "full_disk": full_disk.full_disk,
}


def run_case(folder: pathlib.Path, name: str) -> dict:
    """Run one malformed input, and keep its files."""
    kind, _, case_name = name.partition("/")
    check_names([], [kind])
    names = [case.name for case in worker.load(kind)]
    if case_name not in names:
        raise ValueError(f"unknown case {name!r}{hints.did_you_mean(case_name, names)}")
    build(folder)
    arguments = ["-m", "tests.stress.worker", folder, kind, case_name]
    completed = run_python(*arguments)
    if completed.returncode:
        raise ChildProcessError(f"the case ended its process: {completed.stderr}")
    return json.loads(completed.stdout.splitlines()[-1])


def build(folder: pathlib.Path) -> World:
    """Return the intact things, which another process makes."""
    variables = {name.upper(): str(value) for name, value in children.CACHE.items()}
    completed = run_python("-m", "tests.stress.world", folder, **variables)
    if completed.returncode:
        raise ChildProcessError(completed.stderr)
    return World(folder)


def failed(result: Mapping) -> int:
    """Return how many things failed."""
    parts = [value for value in result.values() if isinstance(value, Mapping)]
    return sum(part.get(key, 0) for part in parts for key in _FAILURES)


def table(result: Mapping) -> str:
    """Return the counts of each part and kind, one a line."""
    lines = []
    for part, counts in result.items():
        if isinstance(counts, Mapping):
            for name, row in {part: counts, **counts.get("by_kind", {})}.items():
                details = [
                    f"{v} {k}" for k, v in row.items() if isinstance(v, int) and v
                ]
                indent = "" if name == part else "  "
                lines.append(f"{indent}{name}: {', '.join(details)}")
    return "\n".join([*lines, f"{result['seconds']:.0f} s"])


def _log(start: float) -> Callable[[str], None]:
    def log(text: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {text}", file=sys.stderr, flush=True)

    return log
