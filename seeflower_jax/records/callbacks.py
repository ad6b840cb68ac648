"""Keep expected errors of callbacks off the screen.

callbacks.silence_closed_loops()        # before Orbax reads or writes

Python prints a traceback of an error that nobody can catch, such as that of a callback.
Callbacks run up to the end of the process, so what is silenced stays silenced.
"""

import sys
from collections.abc import Callable
from typing import Any


def silence_closed_loops() -> None:
    """Do not print tracebacks of callbacks that meet a closed event loop.

    After an error in one array, Orbax raises the error and closes the event loop. The
    callbacks of the other arrays then fail.
    """
    _silence("closed loops", lambda error: "Event loop is closed" in str(error))


def silence_interruptions() -> None:
    """Do not print tracebacks of callbacks that a KeyboardInterrupt ended."""
    _silence("interruptions", lambda error: isinstance(error, KeyboardInterrupt))


def _silence(name: str, is_expected: Callable[[Any], bool]) -> None:
    """Leave out errors from the hook that prints them, unless it does so already."""
    original = sys.unraisablehook
    silenced = getattr(original, "silenced", ())
    if name in silenced:
        return

    def hook(unraisable: Any) -> None:
        if not is_expected(unraisable.exc_value):
            original(unraisable)

    hook.silenced = (*silenced, name)  # type: ignore[attr-defined]
    sys.unraisablehook = hook
