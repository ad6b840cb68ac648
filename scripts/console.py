"""Start a script, print its result, and report its errors in one line.

    if __name__ == "__main__":
        console.run(main)  # main(argv) ends with console.show(result, text)

The result goes to stdout, progress and errors go to stderr. The exit status is 0 after
success, 1 if the script fails, 2 if its command line is wrong, 130 after Ctrl-C, and
143 after SIGTERM.
"""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags

from scripts import computation_flags, errors, interruption
from seeflower_jax.sharding import processes

app.define_help_flags()
_JSON = flags.DEFINE_bool("json", False, "Print the result as JSON.")
_DEBUG = flags.DEFINE_bool("debug", False, "Print the traceback of an error.")
_PLUGINS = flags.DEFINE_list("plugins", [], "Modules to import; see tests/extending.")


def run(main: Callable[[list[str]], object], takes: str = "") -> NoReturn:
    """Parse the command line, import the plugins, call `main`, and exit.

    Args:
      main: function of the script's name and the arguments that are not flags.
      takes: these arguments, such as "the paths of images"; empty without arguments.
    """
    received: list[int] = []
    try:
        with _exit_if_unread():
            arguments = _parse(sys.argv, takes)
        errors.set_up_output(_DEBUG.value)
        computation_flags.apply()
        with interruption.handled() as received, processes.ending_together():
            main(arguments)
        sys.exit()
    except (Exception, KeyboardInterrupt) as error:
        _fail(*errors.ending(error, received))


def show(result: dict, text: str, indent: int | None = 2) -> None:
    """Print `text`, or with --json the result as a JSON object, in one process."""
    if processes.is_main():
        with _exit_if_unread():
            content = json.dumps(result, indent=indent) if _JSON.value else text
            print(content, flush=True)


def _parse(argv: list[str], takes: str) -> list[str]:
    own = (_JSON, _DEBUG, _PLUGINS, *computation_flags.FLAGS)
    for holder in own:  # --help lists flags of the main module.
        flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[holder.name])
    try:
        arguments = flags.FLAGS(argv)
    except SystemExit:  # After --help; absl exits with status 1.
        sys.stdout.flush()
        sys.exit()
    except (flags.Error, LookupError, AttributeError, TypeError, ValueError) as error:
        raise app.UsageError(errors.describe_flags(error)) from error
    if bool(given := " ".join(arguments[1:])) != bool(takes):
        raise app.UsageError(f"expected {takes or 'flags only'}, got {given!r}")
    for name in _PLUGINS.value:
        try:
            importlib.import_module(name)
        except Exception as error:
            message = f"cannot import {name}: {errors.describe(error)}"
            raise app.UsageError(f"--plugins: {message}") from error
    return arguments


@contextlib.contextmanager
def _exit_if_unread() -> Iterator[None]:
    """Exit silently if no program reads stdout any more, as in `... | head`."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _fail(message: str, status: int) -> NoReturn:
    # Flags after a wrong one are not parsed, so the command line is searched too.
    if flags.FLAGS["debug"].value or "--debug" in sys.argv[1:]:
        traceback.print_exc()
    script = pathlib.Path(sys.argv[0]).stem
    print(f"scripts.{script}: {message}", file=sys.stderr)
    processes.fail(message, status)
