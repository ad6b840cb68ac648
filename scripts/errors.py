"""Describe errors in one line.

raise ValueError(errors.describe(error)) from error
"""

import io
import logging
import signal
import sys
from collections.abc import Sequence

from absl import app

from seeflower_jax.sharding import processes


def describe(error: BaseException) -> str:
    """Return the message of an error, with its type if the message needs it."""
    message = str(error)
    unclear = LookupError | TypeError | AttributeError | NameError
    if not message or isinstance(error, unclear):
        return f"{type(error).__name__}: {message}".removesuffix(": ")
    return message


def describe_flags(error: Exception) -> str:
    """Return one line that says why the flags of a command line cannot be parsed."""
    if isinstance(error, KeyError | AttributeError):  # Raised for --config.KEY=VALUE.
        while isinstance(error.args[0], Exception):
            error = error.args[0]
        message = f"unknown config key {'; '.join(error.args[0].splitlines())}"
    else:
        message = describe(error).removeprefix("ERROR:: ")
    return " ".join(message.split())


def ending(error: BaseException, received: Sequence[int]) -> tuple[str, int]:
    """Return the last line and the exit status of a script that ends with an error.

    Args:
      error: the error, or KeyboardInterrupt.
      received: signals that have interrupted the script.
    """
    if isinstance(error, app.UsageError):
        return f"{error} (--help shows examples)", 2
    # A library may turn KeyboardInterrupt into its own error.
    if received or isinstance(error, KeyboardInterrupt):
        message = str(error) if isinstance(error, KeyboardInterrupt) else ""
        return message or "interrupted", 128 + (*received, signal.SIGINT)[0]
    if processes.count() > 1 and "by peer" in str(error):  # an error of Gloo or gRPC
        return f"another process has ended; see its last line ({describe(error)})", 1
    return f"{describe(error)} (--debug prints the traceback)", 1


class Messages(logging.Formatter):
    """Format the messages of log records, without tracebacks that libraries add."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


def set_up_output(debug: bool) -> None:
    """Log messages to stderr, with tracebacks of libraries only if `debug` is set.

    As on stderr, a character that the encoding of stdout lacks becomes its code. Names
    of files have such characters if they are not UTF-8.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # It may be replaced, as in tests.
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    if not debug:
        logging.getLogger().handlers[0].setFormatter(Messages())
    logging.getLogger("jax").setLevel(logging.WARNING)
    # Orbax uses absl to log its steps and the tracebacks of errors that it raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
