"""Keep expected errors of callbacks off the screen.

callbacks.silence_closed_loops()        # before Orbax reads or writes

Python prints the traceback of an error that no code can catch, such as an error of a
callback. Callbacks can run until the process ends, so an error that is silenced once
stays silenced.
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
    """Make the hook that prints errors skip some, unless it does so already."""
    original = sys.unraisablehook
    silenced = getattr(original, "silenced", ())
    if name in silenced:
        return

    def hook(unraisable: Any) -> None:
        if not is_expected(unraisable.exc_value):
            original(unraisable)

    hook.silenced = (*silenced, name)  # type: ignore[attr-defined]
    sys.unraisablehook = hook
