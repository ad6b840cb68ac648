"""Progress on a terminal and in a file: what a program really writes to stderr."""

import os
import re
import subprocess
import sys
import termios

from tests import harness

_PROGRAM = """
import sys
import tqdm
from seeflower_jax.records.progress_bar import progress_bar

with progress_bar("counting", 12, "image", mininterval=0) as bar:
    for number in range(12):
        bar.set_postfix_str("loss 0.5", refresh=False)
        bar.update()
        if number == 5:
            tqdm.tqdm.write("a message", file=sys.stderr)
with progress_bar("hidden", 3, "image", hidden=True) as bar:
    bar.update(3)
with progress_bar("file", None, "B", 1000) as bar:
    bar.update(4000)
with progress_bar("slow", 2, "step") as bar:
    bar.update(2)
    bar.start_t -= 30
with progress_bar("stopped", 9, "step") as bar:
    bar.update(2)
    raise KeyboardInterrupt
"""


def _stderr(stream):
    """Run the program with a stream as stderr."""
    program = [sys.executable, "-c", _PROGRAM]
    return subprocess.run(program, cwd=harness.ROOT, stderr=stream, check=False).stderr


def test_a_pipe_gets_a_line_for_each_computation():
    written = _stderr(subprocess.PIPE)
    assert b"\r" not in written
    message, *lines = written.decode().partition("Traceback")[0].splitlines()
    assert message == "a message"
    rate = r"[\d.]+"
    expected = (
        rf"counting: 12 images in 0 s, {rate} images/s, loss 0\.5",
        rf"file: 5\.00kB in 0 s, {rate}[kMG]?B/s",
        r"slow: 2 steps in 3[01] s, 15\.[0-4] s/step",
        rf"stopped: 2 steps in 0 s, {rate} steps/s, 7 steps left",
    )
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)


def test_a_terminal_gets_bars():
    terminal, stream = os.openpty()
    try:
        termios.tcsetwinsize(stream, (24, 80))
        _stderr(stream)
        os.set_blocking(terminal, False)
        written = os.read(terminal, 1 << 16).decode()
    finally:
        os.close(stream)
        os.close(terminal)
    assert written.count("\rcounting") > 6 and "12/12" in written
    assert "hidden" not in written and " in 0 s" not in written
