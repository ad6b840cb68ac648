"""Scripts in processes that can be killed, with their output in files.

    child = start("train", [CONFIG, "--workdir=run"], folder)
    child.kill_after(0.7)
    completed = child.end()

Processes are forked from a server that has imported the packages, so a start takes less
than a second.
"""

import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import jax
from absl import flags

from tests import harness

# Small programs are kept in JAX's cache too: each process needs all of them.
CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
TIME_LIMIT = 180.0  # seconds for a script
HANG = -999  # the status of a script that was ended by the time limit
_numbers = itertools.count()
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Child:
    """A script that runs.

    Attributes:
      process: its process.
      stdout, stderr: files with its output.
    """

    process: multiprocessing.Process
    stdout: pathlib.Path
    stderr: pathlib.Path

    def kill_after(self, seconds: float) -> bool:
        """Kill the process after some seconds; return False if it has ended before."""
        if status(self.process, seconds) is not None:
            return False
        self.process.kill()
        status(self.process)
        return True

    def end(self) -> harness.Completed:
        """Wait for the end, and return what the script left."""
        code = status(self.process, TIME_LIMIT)
        if code is None:
            self.process.kill()
            status(self.process)
            code = HANG
        return harness.Completed(code, self.stdout.read_text(), self.stderr.read_text())


def status(
    process: multiprocessing.Process, seconds: float | None = None
) -> int | None:
    """Return the exit status of a process, or None if it still runs after a time.

    The start of a process asks for the statuses of all others. If two threads ask at
    the same time, one of them reads 255, so all of them ask in turn.
    """
    multiprocessing.connection.wait([process.sentinel], seconds)
    with _lock:
        return process.exitcode


def start(
    script: str,
    arguments: Sequence[object],
    folder: pathlib.Path,
    kill_at: int = 0,
    largest: int = 0,
    count: bool = False,
) -> Child:
    """Start a script.

    Args:
      script: name of the script.
      arguments: its command line.
      folder: where its output is kept.
      kill_at: kills the process at this write below `folder`; 0 is never.
      largest: limit of the size of a file in bytes; 0 is none.
      count: whether the number of writes is written to the file `folder`.writes.
    """
    number = next(_numbers)
    paths = [folder.with_name(f"{folder.name}.{number}.{n}") for n in ("out", "err")]
    texts = [str(argument) for argument in arguments]
    values = (script, texts, paths, folder, kill_at, largest, count)
    return Child(fork(_run, values, []), *paths)


def fork(
    function: Callable[..., object], values: Sequence, paths: Sequence[pathlib.Path]
) -> multiprocessing.Process:
    """Start a process that calls a function.

    Args:
      function: a function of a module.
      values: its arguments.
      paths: files of its stdout and stderr, or none.
    """
    # The server may have been started before these variables were set.
    variables = {k: v for k, v in os.environ.items() if k.startswith("STRESS_")}
    with _lock:
        process = harness._fork_server().Process(
            target=_call, args=(function, values, paths, variables)
        )
        process.start()
    return process


def _call(function, values, paths, variables) -> None:
    os.environ.update(variables)
    for name, value in CACHE.items():
        jax.config.update(name, value)
    for descriptor, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(harness.ROOT)
    # The process has imported the script that started it, which has flags of its own.
    for flag in flags.FLAGS.flags_by_module_dict().get("__mp_main__", ()):
        delattr(flags.FLAGS, flag.name)
    function(*values)


def run(script: str, arguments: Sequence[object], folder: pathlib.Path, **options):
    """Run a script to its end."""
    return start(script, arguments, folder, **options).end()


def _run(script, arguments, paths, folder, kill_at, largest, count) -> None:
    if largest:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if kill_at or count:
        _count_writes(folder, kill_at)
    harness._become(script, arguments, *paths)


def _count_writes(folder: pathlib.Path, kill_at: int) -> None:
    """Kill this process at its n-th write below a folder.

    Opening for writing, renaming, removing, making a folder and fsync are writes. The
    audit hook is called before the write. Writes of C++ are not seen; random kills
    meet them.
    """
    root, count = os.path.realpath(folder), itertools.count(1)
    counted = folder.with_name(folder.name + ".writes")

    def write() -> None:
        number = next(count)
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        descriptor = os.open(counted, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, f"{number}\n".encode())
        os.close(descriptor)

    def below(path: object) -> bool:
        if isinstance(path, int) or path is None:
            return False
        text = os.path.abspath(os.fsdecode(path))
        return text == root or text.startswith(root + os.sep)

    def hook(event: str, values: tuple) -> None:
        if event == "open":
            path, _, how = values
            flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
            if (how or 0) & flags and below(path):
                write()
        elif event in ("os.rename", "os.link", "os.symlink"):
            if below(values[0]) or below(values[1]):
                write()
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            if below(values[0]):
                write()

    def counted_fsync(descriptor, fsync=os.fsync) -> None:
        if below(os.readlink(f"/proc/self/fd/{_number(descriptor)}")):
            write()
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


def _number(descriptor) -> int:
    return descriptor if isinstance(descriptor, int) else descriptor.fileno()
