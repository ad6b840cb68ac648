"""Test that files are complete or absent, even after a kill or with a full disk."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from seeflower_jax.records import files
from tests import harness

_WRITE_AND_WAIT = """
import sys, time
from seeflower_jax.records import files
with files.creating(sys.argv[1]) as partial:
    partial.write_text("half")
    print("written", flush=True)
    time.sleep(600)
"""


def _writer(path) -> subprocess.Popen:
    """Start a process that writes half a file and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE_AND_WAIT, str(path)],
        cwd=harness.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "written\n"
    return process


def test_file_and_folder(tmp_path):
    with files.creating(tmp_path / "new/a.txt") as partial:
        partial.write_text("all")
        assert not (tmp_path / "new/a.txt").exists()
    with files.creating(tmp_path / "b") as partial:
        (partial / "c").mkdir(parents=True)
    assert (tmp_path / "new/a.txt").read_text() == "all"
    assert (tmp_path / "b/c").is_dir()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "b", "c", "new"]
    (tmp_path / ".b.partial-x").mkdir()  # a process was killed at its end
    with pytest.raises(FileExistsError, match="b exists; give another name"):
        with files.creating(tmp_path / "b"):
            raise AssertionError
    assert not (tmp_path / ".b.partial-x").exists()


def test_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.creating(tmp_path / "a") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_killed_process_leaves_what_the_next_one_removes(tmp_path):
    with _writer(tmp_path / "a.txt") as process:
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] != []
    with files.creating(tmp_path / "a.txt") as partial:
        partial.write_text("all")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_living_process_is_not_disturbed(tmp_path):
    with _writer(tmp_path / "a.txt") as process:
        with files.creating(tmp_path / "a.txt") as partial:
            assert len(list(tmp_path.iterdir())) == 2
            partial.write_text("all")
        assert len(list(tmp_path.iterdir())) == 2
        process.kill()
    assert (tmp_path / "a.txt").read_text() == "all"


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with files.creating(tmp_path / "a") as partial:
            partial.mkdir()
            (partial / "b").write_text("")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")]
    assert modes == [0o750, 0o640]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "x"), ValueError("write failed: errno = 28, ...")],
    ids=["system", "library"],
)
def test_full_disk_names_the_path(tmp_path, error):
    with pytest.raises(OSError, match="cannot write .*a.txt: the disk is full"):
        with files.creating(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise error
    assert list(tmp_path.iterdir()) == []
