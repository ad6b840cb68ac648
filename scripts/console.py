"""How every script starts and fails.

    if __name__ == "__main__":
        console.run(main)

`main` gets what `absl.app.run` gives it: the arguments that are no flags.
"""

import difflib
import logging
import pathlib
import sys
from collections.abc import Callable

from absl import app, flags

flags.DEFINE_bool("debug", False, "Shows where in the code an error arose.")


def run(main: Callable) -> None:
    """Runs `main` as `absl.app.run` does; an error becomes its message and status 1.

    With --debug it is raised as it is. Of an argument that the message names and that
    is no path, the nearest path is told.
    """

    def quiet(argv):
        # Orbax tells its every step.
        logging.getLogger("absl").setLevel(logging.WARNING)
        return main(argv)

    try:
        app.run(quiet)
    except Exception as error:
        # Flags behind one that is wrong were not parsed.
        if flags.FLAGS["debug"].value or "--debug" in sys.argv[1:]:
            raise
        message = str(error) or type(error).__name__
        if isinstance(error, KeyError | TypeError | AttributeError | IndexError):
            message = f"{type(error).__name__}: {message}"
        script = pathlib.Path(sys.argv[0]).stem
        print(f"scripts.{script}: {message}", file=sys.stderr)
        for argument in sys.argv[1:]:
            path = argument.split("=", 1)[-1]
            if path in message and (near := nearest(path)):
                print(f"{path} is not there; did you mean {near}?", file=sys.stderr)
        print("--debug shows where this arose", file=sys.stderr)
        sys.exit(1)


def nearest(path: str) -> str | None:
    """The existing path most like one that does not exist; None where there is none."""
    missing = pathlib.Path(path).expanduser()
    while not missing.parent.exists():
        missing = missing.parent
    if missing.exists() or not missing.parent.is_dir():
        return None
    there = [entry.name for entry in missing.parent.iterdir()]
    near = difflib.get_close_matches(missing.name, there, n=1)
    return str(missing.with_name(near[0])) if near else None
