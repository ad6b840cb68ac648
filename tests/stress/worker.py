"""Run the cases of a kind in this process, one after the other.

    python -m tests.stress.worker WORLD KIND NAME     # prints the outcome of one case

run_all(world, "images", "outcomes.jsonl", skip=[])
"""

import gc
import importlib
import json
import os
import pathlib
import resource
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence

from tests import harness
from tests.stress.cases import MARKER, Case, judge
from tests.stress.world import World

KINDS = (
    "images",
    "folders",
    "weights",
    "hdf5",
    "exports",
    "runs",
    "caches",
    "oxford",
    "configs",
    "options",
    "records",
)
MEMORY = 3 * 2**30  # bytes that the cases may add to the process


def load(kind: str) -> list[Case]:
    """Return the cases of a kind."""
    cases = list(importlib.import_module(f"tests.stress.kinds.{kind}").cases())
    names = [case.name for case in cases]
    repeated = {name for name in names if names.count(name) > 1}
    assert not repeated, f"{kind} has several cases of the names {repeated}"
    return cases


def run(case: Case, world: World, keep: bool = False) -> dict:
    """Run a case in a folder of its own, and return its outcome.

    With `keep`, the outcome also has the command and what it printed, and the folder
    is kept.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="stress_"))
    problem = ""
    try:
        case.prepare(folder, world)
        os.chdir(folder)  # for what a script writes to the current folder
        start = time.monotonic()
        try:
            completed = harness.run_here(case.script, *case.command(folder, world))
        except BaseException as error:  # a script lets no exception out
            text = f"Traceback (most recent call last): {error!r}"
            completed = harness.Completed(1, "", text)
        seconds = time.monotonic() - start
        if completed.returncode in (0, 3) and case.expect != "refused":
            try:
                case.check(completed, folder, world)
            except AssertionError as error:
                problem = f"wrong result: {str(error).strip() or 'check failed'}"
            except Exception as error:
                problem = f"the result cannot be read: {error!r}"
        verdict, reason = judge(case, completed, problem)
        if any(folder.rglob(MARKER)):
            verdict, reason = "code_executed", "the input created a file"
        details = {"command": shlex.join([case.script, *case.command(folder, world)])}
        details |= completed._asdict()
        return (details if keep else {}) | {
            "verdict": verdict,
            "reason": " ".join(reason.replace(str(folder), "HERE").split())[:400],
            "seconds": round(seconds, 2),
        }
    finally:
        os.chdir(harness.ROOT)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def run_all(world: str, kind: str, outcomes: str, skip: Sequence[str]) -> None:
    """Run the cases of a kind that are not skipped.

    Args:
      world: the folder of the intact things.
      kind: one of `KINDS`.
      outcomes: the file of the outcomes. It gets a line of JSON when a case begins and
        when it ends, so the process that started this one knows which input crashed it
        or made it hang.
      skip: names of cases.
    """
    intact = _prepare(world)
    with open(outcomes, "a", buffering=1) as file:
        for case in load(kind):
            if case.name not in skip:
                print(json.dumps({"case": case.name}), file=file)
                outcome = {"case": case.name, **run(case, intact)}
                print(json.dumps(outcome), file=file)
                if outcome["seconds"] > 1:  # it may have left much behind
                    gc.collect()


def _prepare(world: str) -> World:
    """Limit the memory of this process, and return the intact things."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(harness.ROOT))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, hard))
    intact = World(pathlib.Path(world))
    intact.enter()
    return intact


def main(world: str, kind: str, name: str) -> None:
    """Print the outcome of one case."""
    (case,) = (case for case in load(kind) if case.name == name)
    print(json.dumps(run(case, _prepare(world), keep=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
