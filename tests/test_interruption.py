"""Test scripts that receive signals, in separate processes."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from tests import harness

_START = """
import hashlib, sys, time
from scripts import console
from seeflower_jax.training import stopping

class Swallows:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(30)

def swallow(_):
    Swallows()  # Python ignores every exception of __del__.
    time.sleep(30)

def clean_up(_):
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        time.sleep(5)
        print("clean", flush=True)

def compute(_):
    with stopping.after_step():
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # as a compilation: minutes

def convert(_):
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        raise RuntimeError("INTERNAL: the callback failed")

def step(_):
    with stopping.after_step():
        print("ready", flush=True)
        while not stopping.requested():
            time.sleep(0.01)
    raise stopping.Interrupted("interrupted after step 3")

sys.argv[0] = "scripts/train.py"
console.run(%s)
"""


@contextlib.contextmanager
def _started(function):
    """Start a process, and yield the process when it is ready for signals."""
    with subprocess.Popen(
        [sys.executable, "-c", _START % function],
        cwd=harness.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("function", ["swallow", "convert"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_ends_a_script_in_one_line(function, number):
    with _started(function) as process:
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert stderr == "scripts.train: interrupted\n"


def test_cleanup_of_some_seconds_is_not_interrupted():
    with _started("clean_up") as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, "clean\n")
    assert stderr == "scripts.train: interrupted\n"


def test_second_signal_ends_a_computation_at_once():
    with _started("compute") as process:
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        assert "ends after the step under way" in process.stderr.readline()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode == 130
    assert stderr == "\ninterrupted again: ended at once\n"


def test_loop_ends_after_the_step_under_way():
    with _started("step") as process:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 143
    assert stderr.splitlines()[-1] == "scripts.train: interrupted after step 3"


def test_ignored_signal_stays_ignored():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from scripts import console\n"
        "console.run(lambda _: signal.raise_signal(signal.SIGINT))"
    )
    done = harness.run_python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
