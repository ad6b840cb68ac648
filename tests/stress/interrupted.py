"""Kill training, resume it, and compare it with a run that was not interrupted.

counts = kills(world, log, short=False, jobs=2)
counts = write_points(world, log, short=False, jobs=2)

The same are, to the last bit: the best variables, the metrics of the result, and
metrics.jsonl without its rates.
"""

import concurrent.futures
import functools
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from seeflower_jax import records
from seeflower_jax.inference.run import load_run
from tests.stress import children
from tests.stress.world import CONFIG, World

# Two stages of two epochs, with a checkpoint after each step.
_CHANGES = (
    "{'stages.head.epochs': 2, 'stages.head.validate_every': 1, "
    "'stages.head.batch_size': 9, 'stages.finetune.batch_size': 9}"
)
KILLS, SHORT_KILLS = 50, 2
SHORT_POINTS = 4
_MEASURED = ("seconds", "images_per_second", "command")


def command(folder: pathlib.Path) -> list[str]:
    """Return the arguments of the run that is killed."""
    text = f"{CONFIG}:{_CHANGES}"
    return [text, f"--workdir={folder}", "--checkpoint_seconds=0", "--json"]


def content(folder: pathlib.Path) -> dict:
    """Return what has to be the same in each run."""
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
        "page": page.rstrip().endswith("</html>"),
    }


def difference(found: Mapping, expected: Mapping) -> str:
    """Return the parts in which two runs differ."""
    return ", ".join(key for key in expected if found.get(key) != expected[key])


@functools.cache
def reference(world: World) -> tuple[float, dict]:
    """Return the seconds and the content of a run that is not interrupted."""
    folder = world.folder / "reference"
    seconds = []
    for _ in range(2):  # The first one compiles.
        shutil.rmtree(folder, ignore_errors=True)
        seconds.append(children.seconds("train", command(folder), folder))
    return seconds[-1], content(folder)


class _Trials:
    """Trials that are interrupted, with their outcomes in a file of the world.

    A trial that is in the file already is not run again.
    """

    def __init__(self, world: World, part: str, log: Callable[[str], object]):
        self.folder = world.folder / part
        self.folder.mkdir(exist_ok=True)
        self.part, self.log = part, log
        self.path = self.folder / "outcomes.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.outcomes = {d["name"]: d for d in map(json.loads, lines)}
        self.seconds, self.expected = reference(world)

    def run(
        self, trials: Mapping[str, Callable[[pathlib.Path], int]], jobs: int
    ) -> dict:
        """Run trials, functions that kill a run and return the number of kills."""
        start, total = time.monotonic(), len(trials)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = {
                pool.submit(self._one, name, trial)
                for name, trial in trials.items()
                if name not in self.outcomes
            }
            done = total - len(futures)
            for number, future in enumerate(
                concurrent.futures.as_completed(futures), 1
            ):
                outcome = future.result()
                self.outcomes[outcome["name"]] = outcome
                with open(self.path, "a") as file:
                    print(json.dumps(outcome), file=file)
                left = (time.monotonic() - start) / number * (len(futures) - number)
                if outcome["problem"] or number % 10 == 0:
                    self.log(
                        f"{self.part} {done + number} of {total}, {left / 60:.0f} min "
                        f"left {outcome['name'] + ': ' if outcome['problem'] else ''}"
                        f"{outcome['problem']}"
                    )
        chosen = [self.outcomes[name] for name in trials]
        return {
            "count": sum(outcome["kills"] for outcome in chosen),
            "runs": len(chosen),
            "failed": sum(bool(outcome["problem"]) for outcome in chosen),
            "hangs": sum(outcome["problem"] == "hang" for outcome in chosen),
        }

    def _one(self, name: str, trial: Callable[[pathlib.Path], int]) -> dict:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        kills, problem = trial(folder), ""
        completed = children.run("train", command(folder), folder)
        if completed.returncode:
            hang = completed.returncode == children.HANG
            problem = "hang" if hang else completed.stderr.strip()[-300:]
        else:
            try:
                problem = difference(content(folder), self.expected)
            except Exception as error:
                problem = f"cannot be read: {error!r}"
        if not problem:
            shutil.rmtree(folder)
            for path in self.folder.glob(f"{name}.*"):
                path.unlink()
        return {"name": name, "kills": kills, "problem": problem}


def kills(world: World, log: Callable, short: bool, jobs: int) -> dict:
    """Kill runs at random times, up to three times each."""
    trials = _Trials(world, "kills", log)
    count = SHORT_KILLS if short else KILLS
    plan: dict[str, Callable[[pathlib.Path], int]] = {}
    for number in range(-(-count // 2)):
        rng = np.random.default_rng([7, number])
        shares = rng.uniform(0.05, 1.0, 2)

        def trial(folder: pathlib.Path, shares: Iterable[float] = shares) -> int:
            killed = 0
            for share in shares:
                child = children.start("train", command(folder), folder)
                # Two processes at a time take longer than one.
                killed += child.kill_after(share * trials.seconds * min(jobs, 2) ** 0.5)
            return killed

        plan[f"random_{number}"] = trial
    return trials.run(plan, jobs)


def write_points(world: World, log: Callable, short: bool, jobs: int) -> dict:
    """Kill a run at each of its writes below the run directory."""
    trials = _Trials(world, "write_points", log)
    counting = trials.folder / "counting"
    shutil.rmtree(counting, ignore_errors=True)
    children.run("train", command(counting), counting, kill_at=10**9)
    points = int(counting.with_name("counting.writes").read_text())
    shutil.rmtree(counting)
    log(f"write_points: {points} writes in a run")
    chosen = range(1, points + 1)
    if short:
        chosen = np.linspace(1, points, SHORT_POINTS).astype(int).tolist()

    def trial_at(point: int) -> Callable[[pathlib.Path], int]:
        def trial(folder: pathlib.Path) -> int:
            options = {"kill_at": point}
            completed = children.run("train", command(folder), folder, **options)
            return int(completed.returncode < 0)

        return trial

    plan = {f"write_{point}": trial_at(point) for point in chosen}
    return {**trials.run(plan, jobs), "writes_of_a_run": points}
