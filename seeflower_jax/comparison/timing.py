"""Speed and memory of functions, each measured in its own process.

rates = in_processes(["-m", "scripts.benchmark", "train"], ["keras", "torch"], rounds=3)
"""

import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias

from seeflower_jax.records.progress_bar import progress_bar

# A function without arguments whose run time is measured.
Call: TypeAlias = Callable[[], object]
# {name of a figure: its value}, or the last line of the error of the process.
Measurement: TypeAlias = dict[str, float] | str
_TAKES_TURNS = "SEEFLOWER_TAKES_TURNS"
# The environment of the processes of `in_processes`. Several of them may share the
# memory of a GPU, of which JAX would take three quarters at once.
_WORKER_ENVIRONMENT = {_TAKES_TURNS: "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_READY = "ready"


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
        _await_turn()
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def mean_seconds(function: Call, steps: int, warm: int = 6) -> float:
    """Return the mean time of calls in a row, for a call that returns before its end.

    The next call waits for the rest of its work, so a single call has no time of its
    own. All timed calls have one turn.

    Args:
      function: the call.
      steps: the number of timed calls.
      warm: the number of calls before them. They use up the batches that the threads of
        a loader made while the first call compiled.
    """
    for _ in range(warm):
        function()
    _await_turn()
    started = time.perf_counter()
    for _ in range(steps):
        function()
    return (time.perf_counter() - started) / steps


def _await_turn() -> None:
    """In a process of `in_processes`, wait for the turn of this process."""
    if os.environ.get(_TAKES_TURNS):
        print(_READY, flush=True)
        sys.stdin.readline()


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


def has_gpu() -> bool:
    """Return whether the processes of `in_processes` compute on an NVIDIA GPU.

    It is False if an environment variable hides the GPU, as `use_platform` does.
    """
    hidden = {("CUDA_VISIBLE_DEVICES", ""), ("JAX_PLATFORMS", "cpu")}
    return bool(shutil.which("nvidia-smi")) and not hidden & os.environ.items()


def torch_device() -> str:
    """Return the device for PyTorch in a process of `in_processes`.

    It is 'cuda' if there is a GPU that PyTorch can use, or if `use_platform` requires a
    GPU: PyTorch then raises an error instead of computing on the CPU.
    """
    import torch

    required = os.environ.get("JAX_PLATFORMS") == "cuda"
    return "cuda" if required or torch.cuda.is_available() else "cpu"


def _turns(arguments: Sequence[str]) -> Generator[None, None, Measurement]:
    """Start Python, and yield before each call that `seconds` times there.

    Returns:
      The figures that the process prints as its last line.
    """
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | _WORKER_ENVIRONMENT,
        ) as process,
    ):
        assert process.stdin and process.stdout
        last = ""
        try:
            for line in process.stdout:
                if line.strip() == _READY:
                    yield
                    with contextlib.suppress(BrokenPipeError):  # if it was killed
                        os.write(process.stdin.fileno(), b"\n")
                else:
                    last = line
        except BaseException:
            process.kill()
            raise
        if process.wait():
            errors.seek(0)
            lines = errors.read().strip().splitlines()
            return lines[-1] if lines else f"exit {process.returncode}"
        return json.loads(last)


def _in_turns(command: Sequence[str], names: Sequence[str]) -> dict[str, Measurement]:
    """Run workers at the same time, whose timed calls alternate."""
    running = {name: _turns([*command, f"--worker={name}"]) for name in names}
    measured: dict[str, Measurement] = {}
    while running:
        for name, turns in list(running.items()):
            try:
                next(turns)
            except StopIteration as end:
                measured[name] = end.value
                del running[name]
    return measured


def in_processes(
    command: Sequence[str], workers: Sequence[str], rounds: int, together: int = 1
) -> dict[str, Measurement]:
    """Return the largest of what each worker measures in several rounds.

    For a rate, this is the fastest round. If the system places two busy threads of a
    process on one core, the process is slow for seconds, although no other process
    computes. A median of few rounds would depend on this placement.

    Args:
      command: the arguments of Python; this function adds `--worker=NAME`. The process
        prints a JSON object of numbers as its last line.
      workers: the names of the workers.
      rounds: number of starts of each worker. The workers take turns, so that other
        load on the machine affects all of them.
      together: number of consecutive workers that run at the same time. The calls that
        `seconds` times alternate among them, and one waits while another computes.
        Their rates can then be compared on a machine whose speed changes.

    Returns:
      {worker: its figures}. If a worker fails, its value is the last line of its error,
      and it does not start again.
    """
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    errors: dict[str, str] = {}
    for number in range(1, rounds + 1):
        with progress_bar(f"round {number} of {rounds}", len(workers), "start") as bar:
            for first in range(0, len(workers), together):
                group = workers[first : first + together]
                bar.set_postfix_str(", ".join(group))
                left = [name for name in group if name not in errors]
                for name, measured in _in_turns(command, left).items():
                    if isinstance(measured, str):
                        errors[name] = measured
                    else:
                        figures[name].append(measured)
                bar.update(len(group))
    return {
        name: errors[name]
        if name in errors
        else {key: max(row[key] for row in rows) for key in rows[0]}
        for name, rows in figures.items()
    }
