"""Keep tracebacks of callbacks of Orbax off the screen.

callbacks.silence()         # before Orbax reads or writes
"""

import functools
import sys


@functools.cache
def silence() -> None:
    """Do not print tracebacks of callbacks that meet a closed event loop.

    After an error in one array, Orbax raises the error and closes the event loop. The
    callbacks of the other arrays then fail, up to the end of the process. The hook is
    therefore set once and not restored.
    """

    def hook(unraisable, original=sys.unraisablehook):
        if "Event loop is closed" not in str(unraisable.exc_value):
            original(unraisable)

    sys.unraisablehook = hook
