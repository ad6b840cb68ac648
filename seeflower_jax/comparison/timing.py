"""Speed and memory of functions, each measured in its own process.

rates = in_processes(["-m", "scripts.benchmark", "train"], ["keras", "torch"], rounds=3)
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from seeflower_jax.records.progress_bar import progress_bar

# A function without arguments whose run time is measured.
Call: TypeAlias = Callable[[], object]
# {name of a figure: its value}, or the last line of the error of the process.
Measurement: TypeAlias = dict[str, float] | str


def seconds(function: Call, steps: int, warm: int = 2, at_least: float = 0) -> float:
    """Return the median time of a call.

    Args:
      function: the call.
      steps: the number of timed calls.
      warm: the number of calls before them.
      at_least: seconds that all timed calls together take at least. A fast function is
        called more often, so that other load on the machine changes its median less.
    """
    for _ in range(warm):
        function()
    times: list[float] = []
    while len(times) < steps or sum(times) < at_least:
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_mib(device_bytes: int | None) -> float:
    """Return the peak of memory in MiB.

    Args:
      device_bytes: the peak of the accelerator's memory in bytes; None without an
        accelerator, which returns the peak of the process.
    """
    if device_bytes is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return device_bytes / 2**20


def use_platform(platform: str | None) -> None:
    """Let the processes of `in_processes` compute only on 'cpu' or only on 'gpu'.

    Raises:
      RuntimeError: if the platform is 'gpu' and NVIDIA's driver is not installed.
    """
    if platform == "gpu" and not shutil.which("nvidia-smi"):
        raise RuntimeError(
            "platform is 'gpu', but there is no nvidia-smi; expected an NVIDIA GPU "
            "with its driver, or --platform=cpu"
        )
    if platform == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if platform is not None:
        os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[platform]


def _start(arguments: Sequence[str]) -> Measurement:
    """Start Python, and return the figures that it prints as its last line."""
    process = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit {process.returncode}"
    return json.loads(process.stdout.splitlines()[-1])


def in_processes(
    command: Sequence[str], workers: Sequence[str], rounds: int
) -> dict[str, Measurement]:
    """Return what each worker measures, the median over rounds.

    Args:
      command: the arguments of Python; this function adds `--worker=NAME`. The process
        prints a JSON object of numbers as its last line.
      workers: the names of the workers.
      rounds: number of starts of each worker. The workers take turns, so that other
        load on the machine affects all of them.

    Returns:
      {worker: its figures}. If a worker fails, its value is the last line of its error,
      and it does not start again.
    """
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    errors: dict[str, str] = {}
    for number in range(1, rounds + 1):
        with progress_bar(f"round {number} of {rounds}", len(workers), "start") as bar:
            for name in workers:
                bar.set_postfix_str(name)
                if name not in errors:
                    measured = _start([*command, f"--worker={name}"])
                    if isinstance(measured, str):
                        errors[name] = measured
                    else:
                        figures[name].append(measured)
                bar.update()
    return {
        name: errors[name]
        if name in errors
        else {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in figures.items()
    }
