"""Several processes that work on one run, on one machine or on several.

    processes.initialize()              # before JAX uses a device
    if processes.is_main():
        path.write_text(content)
    processes.barrier("report")         # wait for all processes
    latest = processes.on_main(lambda: find_latest(folder))     # the same everywhere

JAX coordinates the processes and detects a process that dies; see
`jax.distributed.initialize`. In a single process, nothing here waits or communicates.
All processes call `barrier`, `on_main`, `main_first`, `check_same` and `Vote` in the
same order, except within `alone`, where a process works by itself.
"""

import collections
import contextlib
import os
import pathlib
import pickle
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Value = TypeVar("Value")
Tree = TypeVar("Tree")  # a pytree of arrays
_HEARTBEAT_SECONDS = 15  # A process without a heartbeat for this time is dead.
_FAILED, _FAIL_SECONDS = "seeflower/failed", 2.0
_WAIT_MS = 7 * 24 * 3600 * 1000  # a dead process ends the wait much sooner
_TOKEN, _SHARED_SECONDS = ".processes", 10.0  # network disks show new files late
_calls: collections.Counter[str] = collections.Counter()  # by name
_is_alone = False


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connect this process with the others; JAX finds SLURM, GKE and Open MPI itself.

    Args:
      coordinator: HOST:PORT of process 0, which all processes can reach.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      ValueError: if a value is missing and no cluster provides it.
      RuntimeError: if the processes do not find each other.
    """
    # Its SIGTERM handler would replace the handler that ends a run after its step.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
    _watcher.start()
    with _stdout_on_stderr():  # Gloo reports its first connection on stdout.
        multihost_utils.sync_global_devices("seeflower")


def is_main() -> bool:
    """Return whether this process writes files and decides. It is 0, or `alone`."""
    return index() == 0 or _is_alone


def index() -> int:
    """Return the index of this process, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def count() -> int:
    """Return the number of processes that work together; 1 within `alone`."""
    together = jax.distributed.is_initialized() and not _is_alone
    return jax.process_count() if together else 1


def devices() -> list[jax.Device]:
    """Return the devices of the processes that work together, ordered by process."""
    devices = jax.devices() if count() > 1 else jax.local_devices()
    return sorted(devices, key=lambda device: (device.process_index, device.id))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let this process work as if it were the only one, with its own devices."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def barrier(name: str) -> None:
    """Wait until all processes have called `barrier` with this name."""
    if count() > 1:
        _client().wait_at_barrier(_next_key(name), _WAIT_MS)


def on_main(function: Callable[[], Value]) -> Value:
    """Return what `function` returns in process 0; no other process calls it.

    The value is pickled, so it should be small. Arrays belong in files or on devices.
    """
    if count() == 1:
        return function()
    key = _next_key("value")
    if is_main():
        value = function()
        _client().key_value_set_bytes(key, pickle.dumps(value))
        return value
    return pickle.loads(_client().blocking_key_value_get_bytes(key, _WAIT_MS))


def agree(value: Value) -> Value:
    """Return the value of process 0, for values that differ slightly among processes.

    For example, different types of processors round differently.
    """
    return on_main(lambda: value)


def agree_on_arrays(arrays: Tree) -> Tree:
    """Return the arrays of process 0, like `agree`, but for large arrays.

    The devices exchange the arrays, so they have JAX's types.
    """
    if count() == 1:
        return arrays
    return multihost_utils.broadcast_one_to_all(arrays)


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """Let process 0 run the block before the others.

    The files that process 0 writes then exist for the others. If the processes do not
    share a disk, each process writes its own files.
    """
    if not is_main():
        barrier(f"{name} by process 0")
    yield
    if is_main():
        barrier(f"{name} by process 0")
    barrier(name)


class Vote:
    """Tell all processes, in the same round, whether any process votes yes.

    The devices count the votes after their current step, so no process waits. The
    outcome of a round is therefore known one round later. A single process knows it
    immediately.
    """

    def __init__(self) -> None:
        self._last: jax.Array | None = None
        mesh = jax.sharding.Mesh(np.array(devices()), ("data",))
        spec = jax.sharding.PartitionSpec
        self._split = jax.sharding.NamedSharding(mesh, spec("data"))
        everywhere = jax.sharding.NamedSharding(mesh, spec())
        self._count = jax.jit(lambda votes: votes.any(0), out_shardings=everywhere)

    def __call__(self, *votes: bool) -> tuple[bool, ...]:
        """Cast a vote on each question, and return the outcomes of the last round."""
        if count() == 1:
            return votes
        last = self._last
        rows = np.tile(np.array(votes), (jax.local_device_count(), 1))
        cast = jax.make_array_from_process_local_data(self._split, rows)
        self._last = self._count(cast)
        if last is None:
            return tuple(False for _ in votes)
        return tuple(jax.device_get(last).tolist())


def check_shared(folder: str | os.PathLike) -> None:
    """Check that all processes see the same folder.

    Raises:
      ValueError: in every process but the first, if it does not share the folder.
    """
    if count() == 1:
        return
    path = pathlib.Path(folder).expanduser() / _TOKEN
    token = on_main(lambda: _write_token(path))
    until = time.monotonic() + _SHARED_SECONDS
    while not path.exists() or path.read_text() != token:
        if time.monotonic() > until:
            raise ValueError(
                f"{folder} is not the same folder in all processes: process {index()} "
                "does not see what process 0 writes to it; give a folder on a disk "
                "that all machines share"
            )
        time.sleep(0.1)
    barrier("shared folder")
    if is_main():
        path.unlink()


def check_same(name: str, value: object) -> None:
    """Check that all processes have the same value, such as a hash of their files.

    Args:
      name: what the value describes, a plural noun for the message.
      value: the value, which should be small.

    Raises:
      ValueError: in every process whose value is not the value of process 0, which
        waits for these processes.
    """
    expected = agree(value)
    if value != expected:
        raise ValueError(
            f"process {index()} has other {name} than process 0: {value}, not "
            f"{expected}; give all processes the same {name}"
        )
    barrier(f"the same {name}")


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Wait after the block until all processes reach its end, unless this one fails."""
    try:
        yield
    except SystemExit:
        _end_together()
        raise
    _end_together()


def _end_together() -> None:
    if count() > 1:
        barrier("end")
        if is_main():
            _client().key_value_set(_FAILED, "")  # ends the watchers
        _watcher.join()


def fail(message: str, status: int) -> NoReturn:
    """Exit with a status because of an error, and end the other processes at once.

    The others print the message. A normal exit would wait for them, and they would wait
    for this process.
    """
    if count() == 1:
        sys.exit(status)
    try:
        content = f"{status} process {index()} failed: {message}"
        _client().key_value_set(_FAILED, content, allow_overwrite=False)
    except Exception:
        pass  # Another process has failed before, or the coordinator is gone.
    _end(status)


def _watch() -> None:
    """End this process when another one has failed."""
    try:
        content = _client().blocking_key_value_get(_FAILED, _WAIT_MS)
    except Exception:  # JAX ends this process, too.
        return
    status, _, message = content.partition(" ")
    if message and not message.startswith(f"process {index()} "):
        print(message, file=sys.stderr)
        _end(int(status))


_watcher = threading.Thread(target=_watch, daemon=True)


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Let libraries in C++ print to stderr what they print to stdout."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _end(status: int) -> NoReturn:
    if index() == 0:  # The others read the reason from its service.
        time.sleep(_FAIL_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _next_key(name: str) -> str:
    """Return a key for a call by name, the same in all processes."""
    _calls[name] += 1
    return f"seeflower/{name}/{_calls[name]}"


def _write_token(path: pathlib.Path) -> str:
    token = secrets.token_hex()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(token)
    return token


def _client() -> Any:
    """Return the client of JAX's coordination service.

    JAX has no public functions for barriers and values that use no device. Waiting on a
    device does not suit work on the host, such as a download, because collectives of
    CPUs and GPUs time out after minutes.
    """
    from jax._src import distributed

    return distributed.global_state.client
