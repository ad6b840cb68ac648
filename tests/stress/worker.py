"""Run the cases of a kind in this process, one after the other.

    python -m tests.stress.worker WORLD KIND OUTCOMES SKIP...
    python -m tests.stress.worker WORLD KIND --case NAME

OUTCOMES gets a line of JSON when a case begins and when it ends, so the process that
started this one knows which input crashed or hung it. SKIP are the names of cases that
are not run again. --case prints the outcome of one case, and keeps its files.
"""

import gc
import importlib
import json
import pathlib
import resource
import shlex
import shutil
import sys
import tempfile
import time
import warnings

from tests import harness
from tests.stress.cases import MARKER, Case, judge
from tests.stress.world import World

KINDS = (
    "images",
    "folders",
    "weights",
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
    here = pathlib.Path(tempfile.mkdtemp(prefix="stress_"))
    problem = ""
    try:
        case.prepare(here, world)
        start = time.monotonic()
        try:
            completed = harness.run_here(case.script, *case.command(here, world))
        except BaseException as error:  # a script lets no exception out
            text = f"Traceback (most recent call last): {error!r}"
            completed = harness.Completed(1, "", text)
        seconds = time.monotonic() - start
        if completed.returncode in (0, 3) and case.expect != "refused":
            try:
                case.check(completed, here, world)
            except AssertionError as error:
                problem = f"wrong result: {str(error).strip() or 'check failed'}"
            except Exception as error:
                problem = f"the result cannot be read: {error!r}"
        verdict, reason = judge(case, completed, problem)
        if any(here.rglob(MARKER)):
            verdict, reason = "code_executed", "the input created a file"
        told = {"command": shlex.join([case.script, *case.command(here, world)])}
        told |= completed._asdict()
        return (told if keep else {}) | {
            "verdict": verdict,
            "reason": " ".join(reason.replace(str(here), "HERE").split())[:400],
            "seconds": round(seconds, 2),
        }
    finally:
        if not keep:
            shutil.rmtree(here, ignore_errors=True)


def main(world: str, kind: str, outcomes: str, *names: str) -> None:
    """Run the cases of a kind: one, or all that are not skipped."""
    warnings.simplefilter("ignore")
    intact = World(pathlib.Path(world))
    intact.enter()
    cases = load(kind)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, hard))
    if outcomes == "--case":
        (case,) = (case for case in cases if case.name == names[0])
        print(json.dumps(run(case, intact, keep=True)))
        return
    with open(outcomes, "a", buffering=1) as file:
        for case in cases:
            if case.name not in names:
                print(json.dumps({"case": case.name}), file=file)
                outcome = {"case": case.name, **run(case, intact)}
                print(json.dumps(outcome), file=file)
                if outcome["seconds"] > 1:  # it may have left much behind
                    gc.collect()


if __name__ == "__main__":
    main(*sys.argv[1:])
