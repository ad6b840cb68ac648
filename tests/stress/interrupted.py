"""Kill scripts, run the same command again, and compare with one that was not killed.

counts = kills(world, log, short=False, jobs=2)
counts = write_points(world, log, short=False, jobs=2)

After training these are the same, to the last bit: the best variables, the metrics of
the result, and metrics.jsonl without its rates.
"""

import concurrent.futures
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping

import numpy as np

from tests.stress import children
from tests.stress.jobs import JOBS, Job, difference, reference
from tests.stress.world import World

# Each run is killed twice. Some have ended before the second time, so more runs follow
# until there are enough kills.
RUNS, SHORT_RUNS, MORE_RUNS = 30, 1, 5
KILLS, SHORT_KILLS = 50, 1
SHORT_POINTS = 3
Trial = Callable[[pathlib.Path], int]  # kills a job; returns the number of kills


class _Trials:
    """Trials that are interrupted, with their outcomes in a file of the world.

    A trial that is in the file already is not run again.
    """

    def __init__(self, world: World, part: str, job: Job, log: Callable[[str], object]):
        self.world, self.job, self.log = world, job, log
        self.name = f"{part} {job.name}"
        self.folder = world.folder / part / job.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "outcomes.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.outcomes = {d["name"]: d for d in map(json.loads, lines)}
        self.reference = reference(job.name, world)

    def start(self, folder: pathlib.Path, kill_at: int = 0) -> children.Child:
        """Start the job."""
        arguments = self.job.arguments(self.world, folder)
        return children.start(self.job.script, arguments, folder, kill_at)

    def run(self, trials: Mapping[str, Trial], jobs: int) -> dict[str, int]:
        """Run the trials, and return their counts."""
        start, total = time.monotonic(), len(trials)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = [
                pool.submit(self._one, name, trial)
                for name, trial in trials.items()
                if name not in self.outcomes
            ]
            ended = enumerate(concurrent.futures.as_completed(futures), 1)
            for number, future in ended:
                outcome = future.result()
                self.outcomes[outcome["name"]] = outcome
                with open(self.path, "a") as file:
                    print(json.dumps(outcome), file=file)
                left = (time.monotonic() - start) / number * (len(futures) - number)
                if outcome["problem"]:
                    self.log(f"{self.name} {outcome['name']}: {outcome['problem']}")
                if number % 20 == 0:
                    done = total - len(futures) + number
                    self.log(
                        f"{self.name}: {done} of {total}, {left / 60:.0f} min left"
                    )
        chosen = [self.outcomes[name] for name in trials]
        return {
            "count": sum(outcome["kills"] for outcome in chosen),
            "failed": sum(bool(outcome["problem"]) for outcome in chosen),
            "hangs": sum(outcome["problem"] == "hang" for outcome in chosen),
        }

    def _one(self, name: str, trial: Trial) -> dict:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        killed, problem = trial(folder), ""
        completed = self.start(folder).end()
        complete = self.job.refuses and self.job.refuses in completed.stderr
        if completed.returncode and not complete:
            hang = completed.returncode == children.HANG
            status = f"status {completed.returncode}"
            message = completed.stderr.strip()[-300:]
            problem = "hang" if hang else f"{status}: {message}"
        else:
            try:
                problem = difference(self.job.content(folder), self.reference.content)
            except Exception as error:
                problem = f"cannot be read: {error!r}"
        if not problem:
            shutil.rmtree(folder)
            for path in self.folder.glob(f"{name}.*"):
                path.unlink()
        return {"name": name, "kills": killed, "problem": problem}


def kills(world: World, log: Callable, short: bool, jobs: int) -> dict:
    """Kill training at random times."""
    trials = _Trials(world, "kills", JOBS["train"], log)

    def trial_at(number: int) -> Trial:
        shares = np.random.default_rng([7, number]).uniform(0.05, (0.95, 0.7))

        def trial(folder: pathlib.Path) -> int:
            # Two processes at a time take longer than one.
            seconds = trials.reference.seconds * min(jobs, 2) ** 0.5
            starts = (trials.start(folder).kill_after(s * seconds) for s in shares)
            return sum(starts)

        return trial

    count, least = (SHORT_RUNS, SHORT_KILLS) if short else (RUNS, KILLS)
    counts = trials.run({f"random_{n}": trial_at(n) for n in range(count)}, jobs)
    while counts["count"] < least and count < 2 * RUNS:
        count += MORE_RUNS
        counts = trials.run({f"random_{n}": trial_at(n) for n in range(count)}, jobs)
    log(f"kills: {counts['count']} kills, {counts['failed']} runs wrong")
    return counts


def write_points(world: World, log: Callable, short: bool, jobs: int) -> dict:
    """Kill each job at each of its writes below its folder."""
    by_kind = {}
    for job in JOBS.values():
        if short and job.name not in ("train", "export"):
            continue
        trials = _Trials(world, "write_points", job, log)

        def trial_at(point: int, trials: _Trials = trials) -> Trial:
            def trial(folder: pathlib.Path) -> int:
                return int(trials.start(folder, point).end().returncode < 0)

            return trial

        points = trials.reference.writes
        chosen = range(1, points + 1)
        if short:
            chosen = np.linspace(1, points, SHORT_POINTS).astype(int).tolist()
        plan = {f"write_{point}": trial_at(point) for point in chosen}
        by_kind[job.name] = trials.run(plan, jobs)
        log(f"write_points {job.name}: {points} writes, {by_kind[job.name]}")
    total = {
        key: sum(counts[key] for counts in by_kind.values())
        for key in ("count", "failed", "hangs")
    }
    return {**total, "by_kind": by_kind}
