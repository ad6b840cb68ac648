"""Runs a script in this process, which saves the time to import JAX.

status = run("evaluate", f"--workdir={workdir}", "--split=test")
"""

import logging
import pathlib
import runpy
import sys
from unittest import mock

from absl import app, flags

import scripts.console  # defines --debug and --json once

ROOT = pathlib.Path(__file__).resolve().parent.parent
app.define_help_flags()


def run(name: str, *arguments, root: pathlib.Path = ROOT) -> int:
    """The exit status of `python -m scripts.<name> <arguments>`.

    Args:
      name: of the script.
      *arguments: what is typed after it.
      root: the folder with scripts/, another for a script that writes beside it.
    """
    before, path = set(flags.FLAGS), str(root / "scripts" / f"{name}.py")
    modules = set(sys.modules)
    loggers = logging.root, logging.getLogger("absl")
    levels, handlers = [logger.level for logger in loggers], logging.root.handlers[:]
    try:
        with mock.patch.object(sys, "argv", [path, *map(str, arguments)]):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.root.handlers[:] = handlers
        for flag in set(flags.FLAGS) - before:  # each script defines its own
            delattr(flags.FLAGS, flag)
        for module in set(sys.modules) - modules:
            package, _, part = module.partition(".")
            if package == "scripts" and part:  # one that defined flags
                del sys.modules[module]
                delattr(scripts, part)
        flags.FLAGS.unparse_flags()
    raise AssertionError(f"scripts.{name} did not end as scripts do")
