"""Run scripts and compare trees of arrays in tests.

completed = harness.run_here("evaluate", f"--workdir={workdir}")
assert completed.returncode == 0, completed.stderr
harness.assert_trees_equal(restored, saved)
"""

import ast
import contextlib
import io
import logging
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from absl import flags

import scripts.console  # defines the flags of all scripts once

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A process that takes longer hangs. The slowest took over 15 minutes on a busy machine.
SECONDS = 1800


class Completed(NamedTuple):
    """The status and the output of a script."""

    returncode: int
    stdout: str
    stderr: str


def run_here(script: str, *arguments: Any, root: pathlib.Path = ROOT) -> Completed:
    """Run a script in this process.

    This is the fastest way, and a test can replace parts of the package. The output of
    processes that the script starts is not captured.

    Args:
      script: name of the script.
      *arguments: its command line.
      root: folder of scripts/. A script that writes next to scripts/ needs a copy.
    """
    path = str(root / "scripts" / f"{script}.py")
    with (
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        mock.patch.object(sys, "argv", [path, *map(str, arguments)]),
        _restored_flags(),
        _restored_logging(),
    ):
        try:
            runpy.run_path(path, run_name="__main__")
            status = 0
        except SystemExit as exit:
            status = exit.code or 0
            if isinstance(status, str):
                print(status, file=stderr)
                status = 1
    return Completed(status, stdout.getvalue(), stderr.getvalue())


def run_apart(script: str, *arguments: Any, **environment: str) -> Completed:
    """Run a script in a separate process, as `python -m scripts.NAME` does.

    The process is forked from a server, which has already imported the packages of the
    scripts. This saves seconds. If there are environment variables, a new interpreter
    is started, because JAX reads them when it is imported.

    Args:
      script: name of the script.
      *arguments: its command line.
      **environment: variables to set.

    Raises:
      TimeoutExpired: if the process has not ended after `SECONDS`.
    """
    if environment:
        return run_python("-m", f"scripts.{script}", *arguments, **environment)
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        process = _fork_server().Process(
            target=_become, args=(script, list(map(str, arguments)), *paths)
        )
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            command = [f"scripts.{script}", *map(str, arguments)]
            raise subprocess.TimeoutExpired(command, SECONDS)
        return Completed(process.exitcode, *(path.read_text() for path in paths))


def run_python(*arguments: Any, stdout=subprocess.PIPE, **environment) -> Completed:
    """Run a new Python interpreter in the project's folder.

    Raises:
      TimeoutExpired: if the process has not ended after `SECONDS`.
    """
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
    )
    return Completed(process.returncode, process.stdout, process.stderr)


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """Assert that two trees have the same structure and equal arrays.

    Raises:
      AssertionError: if they differ; the message has the path of the first difference.
    """
    _assert_trees(np.testing.assert_array_equal, actual, expected)


def assert_trees_close(
    actual: Any, expected: Any, rtol: float = 1e-7, atol: float = 0.0
) -> None:
    """Assert that two trees are equal as in `assert_trees_equal`, within tolerances."""
    options = {"rtol": rtol, "atol": atol}
    _assert_trees(np.testing.assert_allclose, actual, expected, **options)


def _assert_trees(compare, actual, expected, **options) -> None:
    leaves, expected_leaves = (
        {jax.tree_util.keystr(p): x for p, x in jax.tree.leaves_with_path(tree)}
        for tree in (actual, expected)
    )
    for path in {**expected_leaves, **leaves}:
        assert path in leaves, f"{path or 'the leaf'} is missing"
        assert path in expected_leaves, f"{path or 'the leaf'} is not expected"
        message = f"at {path}" if path else ""
        compare(leaves[path], expected_leaves[path], err_msg=message, **options)


@contextlib.contextmanager
def _restored_flags() -> Iterator[None]:
    """Forget the flags of a script, and the modules with flags, after its run.

    The config file is forgotten too, because ml_collections executes the next file in
    the module of the last one.
    """
    flags_before, modules_before = set(flags.FLAGS), set(sys.modules)
    try:
        yield
    finally:
        for flag in set(flags.FLAGS) - flags_before:
            delattr(flags.FLAGS, flag)
        for module in set(sys.modules) - modules_before:
            package, _, name = module.partition(".")
            if package == "scripts" and name:
                del sys.modules[module]
                delattr(scripts, name)
        sys.modules.pop("config_config", None)
        flags.FLAGS.unparse_flags()


@contextlib.contextmanager
def _restored_logging() -> Iterator[None]:
    """Let a script set up logging, and restore it afterwards."""
    loggers = [logging.getLogger(name) for name in (None, "absl", "jax")]
    handlers, levels = logging.root.handlers[:], [logger.level for logger in loggers]
    logging.root.handlers.clear()  # basicConfig does nothing if there are handlers
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _fork_server() -> multiprocessing.context.BaseContext:
    """Return the server, which starts with the first process and ends with the last."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_imported_modules())
    return context


def _imported_modules() -> list[str]:
    """Return the modules that scripts import from other packages.

    The server skips names that are not modules, as in `from typing import Any`.
    """
    modules = set()
    for path in (ROOT / "scripts").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module != "scripts":
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return sorted(modules)


def _become(script: str, arguments: list[str], *paths: pathlib.Path) -> None:
    """Turn this process into a script, and write its output to two files."""
    for descriptor, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
    os.chdir(ROOT)
    sys.argv = [script, *arguments]
    runpy.run_module(f"scripts.{script}", run_name="__main__", alter_sys=True)
