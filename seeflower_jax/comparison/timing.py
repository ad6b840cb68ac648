"""Speed and memory of functions, each measured in a process of its own.

rates = in_processes(["-m", "scripts.benchmark", "train"], ["keras", "torch"], rounds=3)
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence


def seconds(function: Callable[[], object], steps: int, warm: int = 2) -> float:
    """Median time of a call over `steps` calls, after `warm` others."""
    times = []
    for _ in range(warm + steps):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times[warm:])


def peak_mib(device_bytes: int | None) -> float:
    """The peak of memory in MiB: the device's if there is one, else this process'."""
    if device_bytes is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return device_bytes / 2**20


def in_processes(
    command: Sequence[str], workers: Sequence[str], rounds: int
) -> dict[str, dict | str]:
    """What each worker measures, the median over rounds, or its error's last line.

    Args:
      command: arguments of Python; `--worker=NAME` is added. The process prints a JSON
        object of numbers as its last line.
      workers: names.
      rounds: how often each is started; they take turns, so that what else the machine
        does befalls all of them.
    """
    found, failed = {name: [] for name in workers}, {}
    for _ in range(rounds):
        for name in workers:
            if name in failed:
                continue
            done = subprocess.run(
                [sys.executable, *command, f"--worker={name}"],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
                failed[name] = lines[-1]
            else:
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: failed[name]
        if name in failed
        else {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        for name, rows in found.items()
    }
