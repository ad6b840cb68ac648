"""End a script on SIGINT (Ctrl-C) and on SIGTERM.

    with interruption.handled() as received:
        main()          # KeyboardInterrupt; `received` has the number of the signal

The first signal raises KeyboardInterrupt. A training loop ends after the step under way
instead, see `seeflower_jax.training.stopping`. A second signal ends the process at
once, even during compilation.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from seeflower_jax.records import callbacks
from seeflower_jax.training import stopping

_DEFERRED = """
interrupted: the run ends after the step under way; interrupt again to end it at once"""
_AGAIN_SECONDS = 2.0  # after this time, a callback has swallowed KeyboardInterrupt


@contextlib.contextmanager
def handled() -> Iterator[list[int]]:
    """Handle signals while a script runs; yield the list of received signals."""
    received: list[int] = []
    signals = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # as with `nohup` or `&`
    ]
    if threading.current_thread() is not threading.main_thread() or not signals:
        yield received
        return

    def handle(number, frame):
        if not stopping.is_deferred():
            raise KeyboardInterrupt

    stopping.clear()
    before = {number: signal.signal(number, handle) for number in signals}
    callbacks.silence_interruptions()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Python calls `handle` between two of its instructions, not while JAX compiles. The
    # system's handler writes to the pipe at once, and the thread reads the pipe.
    watcher = threading.Thread(target=_watch, args=(reader, received), daemon=True)
    watcher.start()
    try:
        yield received
    finally:
        signal.set_wakeup_fd(descriptor)
        os.close(writer)
        watcher.join()
        os.close(reader)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if received else handler)


def _watch(reader: int, received: list[int]) -> None:
    """Act on each signal whose number appears in a pipe, until the pipe is closed."""
    raised_again, main_thread = 0, threading.main_thread().ident or 0
    while True:
        timeout = _AGAIN_SECONDS if received else None
        if not select.select([reader], [], [], timeout)[0]:
            if not stopping.is_deferred() and not _is_ending(main_thread):
                raised_again += 1
                signal.pthread_kill(main_thread, received[0])
            continue
        number = os.read(reader, 1)
        if not number:
            return
        if raised_again:  # `pthread_kill` has written to the pipe, too.
            raised_again -= 1
        elif received:
            _exit(number[0])
        elif number[0] in (signal.SIGINT, signal.SIGTERM):
            received.append(number[0])
            stopping.request()
            if stopping.is_deferred():
                print(_DEFERRED, file=sys.stderr)


def _is_ending(thread: int) -> bool:
    """Return whether KeyboardInterrupt is ending a thread, which still cleans up."""
    error = sys._current_exceptions().get(thread)  # a tuple in Python 3.11
    kind = error[0] if isinstance(error, tuple) else type(error)
    return kind is KeyboardInterrupt


def _exit(number: int) -> NoReturn:
    print("\ninterrupted again: ended at once", file=sys.stderr, flush=True)
    os._exit(128 + number)
