"""End a training loop after the step under way, with its state saved.

    stopping.request()                  # as a signal handler does
    with stopping.after_step():         # in the loop
        ...
        if stopping.requested():
            ...                         # save, then raise Interrupted

Signals reach the whole process, so there is one request for all loops of a process. An
exception that a signal handler raises could leave a step half done, and callbacks of
JAX swallow exceptions. A handler therefore raises none while `is_deferred()`.
"""

import contextlib
import threading
from collections.abc import Iterator

_requested, _deferred = threading.Event(), threading.Event()


class Interrupted(KeyboardInterrupt):
    """A run was interrupted; the message says where, and how to resume the run."""


def request() -> None:
    """Ask the loop to end after the step under way; other threads may call this."""
    _requested.set()


def clear() -> None:
    """Withdraw the request."""
    _requested.clear()


def requested() -> bool:
    """Return whether the loop should end."""
    return _requested.is_set()


def is_deferred() -> bool:
    """Return whether a loop is running that acts on the request itself."""
    return _deferred.is_set()


@contextlib.contextmanager
def after_step() -> Iterator[None]:
    """Tell signal handlers that the code in the block acts on the request itself."""
    _deferred.set()
    try:
        yield
    finally:
        _deferred.clear()
