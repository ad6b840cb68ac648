"""How every script starts, prints its result and fails.

    def main(argv) -> None:
        console.show({"report": str(path)}, text=str(path))

    if __name__ == "__main__":
        console.run(main)

Stdout has the result and nothing else, stderr progress and errors. A script ends with
status 0, with 2 if its command line cannot be followed, and with 1 if it fails.
"""

import json
import logging
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from scripts import usage

_JSON = flags.DEFINE_bool("json", False, "Prints the result as JSON.")
_DEBUG = flags.DEFINE_bool("debug", False, "Shows where in the code an error arose.")


def show(result: dict, text: str, indent: int | None = 2) -> None:
    """Prints a result: `text`, or the JSON object with --json.

    Ends the script, silently, if nobody reads on: `... | head` has what it wants.
    """
    try:
        print(json.dumps(result, indent=indent) if _JSON.value else text, flush=True)
    except BrokenPipeError:
        _end_unread()


def _end_unread() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def run(main: Callable, takes: str = "", commands: Sequence[str] = ()) -> None:
    """Runs `main` as `absl.app.run` does; an error becomes one line on stderr.

    With --debug its traceback is shown too. Of a path that the message names and that
    is not there, the nearest one is told.

    Args:
      main: gets the arguments that are no flags, the first is the script's name.
      takes: what those are, of which there must be one then; none are expected
        otherwise.
      commands: what the only one of them may be.
    """

    def parse(argv):
        for holder in (_JSON, _DEBUG):  # --help shows those of the main module
            flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[holder.name])
        try:
            arguments = flags.FLAGS(argv)
        except SystemExit:  # of --help, with status 1
            sys.exit()
        except BrokenPipeError:  # of --help, too
            _end_unread()
        except Exception as error:
            raise usage.UsageError(usage.explain(error)) from error
        given = arguments[1:]
        if commands and (len(given) != 1 or given[0] not in commands):
            raise usage.UsageError(usage.expected(" ".join(given), commands))
        if takes and not given:
            raise usage.UsageError(f"expected {takes}")
        if given and not takes and not commands:
            raise usage.UsageError(f"unexpected arguments: {' '.join(given)}")
        return arguments

    def begin(argv):
        for name in ("absl", "jax"):
            # Orbax tells its every step, JAX which devices are not there.
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            return main(argv)
        except app.UsageError as error:
            raise usage.UsageError(str(error)) from error

    try:
        app.run(begin, flags_parser=parse)
    except (Exception, KeyboardInterrupt) as error:
        # Flags behind one that is wrong were not parsed.
        if flags.FLAGS["debug"].value or "--debug" in sys.argv[1:]:
            traceback.print_exc()
        script = pathlib.Path(sys.argv[0]).stem
        print(f"scripts.{script}: {_line(error)}", file=sys.stderr)
        statuses = {usage.UsageError: 2, KeyboardInterrupt: 130}
        sys.exit(statuses.get(type(error), 1))


def _line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, usage.UsageError):
        return f"{error} (--help shows examples)"
    message = usage.describe(error)
    for argument in sys.argv[1:]:
        flag, _, value = argument.lstrip("-").rpartition("=")
        if flag in flags.FLAGS and isinstance(
            flags.FLAGS[flag].parser, flags.EnumParser
        ):
            continue
        if value in message and (near := usage.nearest_path(value)):
            message += f"; {value} is not there, did you mean {near}?"
    return f"{message} (--debug shows where this arose)"
