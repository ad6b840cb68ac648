"""Scripts as `python -m scripts.NAME` runs them, without the seconds of its imports.

    scripts = forked.Scripts()
    done = scripts.run("train", "--help")  # returncode, stdout, stderr
    scripts.close()

One process imports what scripts import, and becomes a script in a fork of itself.
"""

import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[1]
_IMPORTED = (
    *("classify", "comparison.attribution_speed", "comparison.parity"),
    *("comparison.training_speed", "data.tfds_writer", "exported", "judgement"),
    *("paper_figures", "quickstart", "reporting", "reproduction"),
)


class Scripts:
    """The process that waits for what to run."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, script: str, *arguments) -> subprocess.CompletedProcess:
        """Runs a script to its end."""
        asked = [script, *map(str, arguments)]
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(asked, *answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    for name in _IMPORTED:
        importlib.import_module(f"seeflower_jax.{name}")
    for line in sys.stdin:
        script, *arguments = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            if not (child := os.fork()):
                _become(script, arguments, out, err)
            _, status = os.waitpid(child, 0)
            out.seek(0)
            err.seek(0)
            told = [os.waitstatus_to_exitcode(status), out.read(), err.read()]
        print(json.dumps(told), flush=True)


def _become(script: str, arguments: list[str], out, err) -> None:
    """Runs a script in this process and ends it."""
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = [script, *arguments]
    status = 0
    try:
        runpy.run_module(f"scripts.{script}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
