"""Run all malformed inputs in worker processes with limits of memory and time.

outcomes = run_kinds(world, ["images", "weights"], log=print)
summary = summarise(outcomes)      # {"count": ..., "tracebacks": ..., ...}
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable

from tests.stress import children, worker
from tests.stress.cases import VERDICTS
from tests.stress.world import World

TIME_LIMIT = 180.0  # seconds for a case
_KEYS = {"traceback": "tracebacks", "hang": "hangs"}
FAILURE_KEYS = [_KEYS.get(name, name) for name in VERDICTS if name != "correct"]
Outcomes = dict[str, dict[str, dict]]  # {kind: {case: outcome}}


def run_kinds(
    world: World,
    kinds: Iterable[str],
    log: Callable[[str], object],
    jobs: int = 2,
    every: int = 1,
) -> Outcomes:
    """Run the cases of some kinds, and return their outcomes.

    Outcomes are kept in the folder of the world, so an interrupted call goes on.

    Args:
      world: the intact things.
      kinds: names of `worker.KINDS`.
      log: takes lines of progress.
      jobs: number of processes at a time.
      every: runs only each n-th case of a kind.
    """
    plan = {kind: [c.name for c in worker.load(kind)] for kind in kinds}
    chosen = {kind: names[::every] for kind, names in plan.items()}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        # The largest kinds first, so that the processes end together.
        order = sorted(plan, key=lambda kind: -len(chosen[kind]))
        futures = {
            kind: pool.submit(_run_kind, world, kind, chosen[kind], plan[kind], log)
            for kind in order
        }
        _report(world, chosen, set(futures.values()), log)
        return {kind: futures[kind].result() for kind in plan}


def _report(
    world: World, chosen: dict[str, list[str]], futures: set, log: Callable
) -> None:
    """Say each minute how many cases are done, and how long the others will take."""

    def ended() -> int:
        paths = [world.folder / f"outcomes_{kind}.jsonl" for kind in chosen]
        return sum(len(_read(path)[0]) for path in paths)

    start, before, total = time.monotonic(), ended(), sum(map(len, chosen.values()))
    while concurrent.futures.wait(futures, timeout=60).not_done:
        done = ended()
        left = (time.monotonic() - start) / max(1, done - before) * (total - done)
        log(f"malformed: {done} of {total} cases, {left / 60:.0f} min left")


def _run_kind(
    world: World,
    kind: str,
    chosen: list[str],
    names: list[str],
    log: Callable[[str], object],
) -> dict[str, dict]:
    path = world.folder / f"outcomes_{kind}.jsonl"
    start = time.monotonic()
    while True:
        ended, begun = _read(path)
        remaining = [name for name in chosen if name not in ended]
        if not remaining:
            break
        skip = sorted({*ended, *(name for name in names if name not in chosen)})
        reason = _watch(world, kind, path, skip)
        ended, begun = _read(path)
        if reason == "status 1":  # the case could not be prepared
            text = (world.folder / f"worker_{kind}.err").read_text()
            raise RuntimeError(f"{kind}/{begun}: {text[-2000:]}")
        if begun is not None:
            verdict = "hang" if reason == "time" else "traceback"
            why = "time limit" if reason == "time" else f"crashed: {reason}"
            line = {"case": begun, "verdict": verdict, "reason": why, "seconds": 0.0}
            with open(path, "a") as file:
                print(json.dumps(line), file=file)
    done = {name: ended[name] for name in chosen}
    wrong = sum(outcome["verdict"] != "correct" for outcome in done.values())
    seconds = time.monotonic() - start
    log(f"malformed {kind}: {len(done)} cases, {wrong} wrong, {seconds:.0f} s")
    return done


def _read(path: pathlib.Path) -> tuple[dict[str, dict], str | None]:
    """Return the outcomes so far, and the case that has begun but not ended."""
    ended, begun = {}, None
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        begun = None if "verdict" in line else line["case"]
        if "verdict" in line:
            ended[line["case"]] = line
    return ended, begun


def _watch(world: World, kind: str, path: pathlib.Path, skip: list[str]) -> str:
    """Run a worker to its end; return "time" if a case takes too long."""
    process = children.fork(
        worker.run_all,
        (str(world.folder), kind, str(path), skip),
        [world.folder / f"worker_{kind}.{end}" for end in ("out", "err")],
    )
    changed, size = time.monotonic(), -1
    while children.status(process, 0.2) is None:
        now = os.path.getsize(path) if path.exists() else 0
        if now != size:
            changed, size = time.monotonic(), now
        elif time.monotonic() - changed > TIME_LIMIT:
            process.kill()
            children.status(process)
            return "time"
    return f"status {children.status(process)}"


def summarise(outcomes: Outcomes) -> dict:
    """Return the counts of all cases, of each kind below `by_kind`, and the problems."""
    by_kind = {kind: _count(cases.values()) for kind, cases in outcomes.items()}
    everything = [c for cases in outcomes.values() for c in cases.values()]
    problems = {
        f"{kind}/{name}": f"{outcome['verdict']}: {outcome.get('reason', '')}"
        for kind, cases in outcomes.items()
        for name, outcome in cases.items()
        if outcome["verdict"] != "correct"
    }
    more = {"problems": problems} if problems else {}
    return {**_count(everything), "by_kind": by_kind, **more}


def _count(cases: Iterable[dict]) -> dict[str, int]:
    cases = list(cases)
    counts = collections.Counter(case["verdict"] for case in cases)
    return {"count": len(cases)} | {
        _KEYS.get(verdict, verdict): counts[verdict]
        for verdict in VERDICTS
        if verdict != "correct"
    }
