"""What is wrong with a command line, in one line.

flag = flags.FLAGS["config"]
flag.parser = usage.ConfigParser(flag.parser)
try:
    flags.FLAGS(sys.argv)
except Exception as error:
    print(usage.explain(error))
"""

import pathlib
import re
from collections.abc import Sequence

from absl import flags

from seeflower_jax import hints


class UsageError(Exception):
    """A command line that cannot be followed.

    `absl.app.UsageError` would have the whole usage printed.
    """


class ConfigParser(flags.ArgumentParser):
    """Says at once, and without the traceback, why a config cannot be had."""

    def __init__(self, parser: flags.ArgumentParser):
        """Wraps the parser of `config_flags.DEFINE_config_file`."""
        self._parser = parser

    def flag_type(self) -> str:
        return self._parser.flag_type()

    def parse(self, path: str):
        """The config of a file, `configs/inception.py` or `configs/inception.py:zca`.

        Raises:
          ValueError: if there is none; names the nearest file.
        """
        file = path.split(":", 1)[0]
        if not pathlib.Path(file).is_file():
            near = nearest_path(file)
            raise ValueError(
                "no such file" + (f"; did you mean {near}?" if near else "")
            )
        try:
            return self._parser.parse(path)
        except Exception as error:
            # The parser puts its traceback into the message of these two.
            wrapped = isinstance(error, TypeError | ValueError) and error.__context__
            raise ValueError(describe(wrapped or error)) from error


def describe(error: BaseException) -> str:
    """The message of an error, with its type where that says nothing without it."""
    message = str(error)
    if not message or isinstance(
        error, KeyError | TypeError | AttributeError | IndexError | NameError
    ):
        return f"{type(error).__name__}: {message}".removesuffix(": ")
    return message


def explain(error: Exception) -> str:
    """What an error that flags raised while they were parsed says to who typed them."""
    message = " ".join(str(error).split())
    required = re.findall(r"Flag (--\w+) must have a value other than None", message)
    if required:
        return f"{' and '.join(required)} must be given"
    if isinstance(error, KeyError | AttributeError):  # of ml_collections
        near = re.search('Did you mean "(.+)" instead of "(.+)"', message)
        if near:
            return f"unknown config key {near[2]!r}; did you mean {near[1]!r}?"
        return "unknown config key: " + message.strip('"')
    choice = re.fullmatch(r"flag --(.+?)=(.*): value should be one of <(.*)>", message)
    if choice:
        return f"--{choice[1]}: {expected(choice[2], choice[3].split('|'))}"
    return message


def expected(given: str, known: Sequence[str]) -> str:
    """Tells what was expected in place of a word."""
    *first, last = map(repr, known)
    choice = f"{', '.join(first)} or {last}" if first else last
    return f"expected {choice}, got {given!r}{hints.did_you_mean(given, known)}"


def nearest_path(path: str) -> str | None:
    """The existing path most like one that does not exist; None where there is none."""
    missing = pathlib.Path(path).expanduser()
    while not missing.parent.exists():
        missing = missing.parent
    if missing.exists() or not missing.parent.is_dir():
        return None
    there = [entry.name for entry in missing.parent.iterdir()]
    near = hints.nearest(missing.name, there)
    return str(missing.with_name(near[0])) if near else None
