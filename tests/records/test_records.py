"""Test locks of folders, and files that are written completely."""

import concurrent.futures
import errno
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from configs import inception
from seeflower_jax import records
from seeflower_jax.records import locks, origin
from tests import harness

_HOLD = """
import sys
from seeflower_jax import records
with records.lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that locks the folder `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, tmp_path / "run"],
        cwd=harness.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_lock_names_the_holder_and_ends_when_it_dies(holder, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(records.FolderInUseError) as caught, records.lock(folder):
        pass
    message = str(caught.value)
    who = f"process {holder.pid} on {socket.gethostname()} has been writing to it"
    assert message.startswith(f"{folder} is in use: {who} since 20")
    assert message.endswith("wait until it ends, or give another folder")
    assert json.loads((folder / ".lock").read_text())["pid"] == holder.pid
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with records.lock(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_lock_is_of_a_thread_that_may_take_it_again(tmp_path):
    caught = []

    def take():
        try:
            with records.lock(tmp_path):
                pass
        except records.FolderInUseError as error:
            caught.append(error)

    with records.lock(tmp_path), records.lock(str(tmp_path)):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert len(caught) == 1
    take()
    assert len(caught) == 1


def test_lock_removes_a_created_folder_that_stays_empty(tmp_path):
    with records.lock(tmp_path / "empty"):
        pass
    with records.lock(tmp_path / "filled"):
        (tmp_path / "filled/result.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["filled"]


def test_lock_removed_by_the_last_holder_is_taken_anew(tmp_path, monkeypatch):
    """The file can vanish between opening and locking it."""
    flock, calls = locks.fcntl.flock, []

    def late(descriptor, flags):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(descriptor)
        flock(descriptor, flags)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with records.lock(tmp_path):
        assert len(calls) == 2 and (tmp_path / ".lock").exists()


def test_file_system_without_flock_is_said_once(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with records.lock(tmp_path):
                pass
    assert caplog.messages == [
        f"{tmp_path} cannot be locked (No locks available); let only one process at a "
        "time write to it"
    ]
    assert list(tmp_path.iterdir()) == []


def test_file_is_replaced_by_a_complete_one_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt), records.replacing(path) as partial:
        partial.write_text("{")
        raise KeyboardInterrupt
    with pytest.raises(records.FullDiskError, match=f"cannot write {path}: the disk"):
        with records.replacing(path) as partial:
            partial.write_text("{")
            raise OSError("512 requested and 0 written")  # the message of NumPy
    with pytest.raises(PermissionError, match="denied"):
        with records.replacing(path):
            raise PermissionError(errno.EACCES, "Permission denied", "images/a.jpg")
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert records.read_result(tmp_path) == {"a": 1}


def test_json_gets_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    records.write_json("~/new/folder/result.json", {"a": 1})
    assert records.read_result(tmp_path / "new/folder") == {"a": 1}


@pytest.mark.parametrize(
    "content", [b"", b'{"a": ', b"[1]", b"null", b"\xff\xfe", b"\0" * 20, b"[" * 99999]
)
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(records.DamagedFileError) as caught:
        records.read_result(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: ") and "\n" not in message
    assert message.endswith(
        "start the training command again, which evaluates the run again"
    )


def test_damaged_file_of_results_is_named(tmp_path):
    path = tmp_path / "ablation.json"
    path.write_text("null")
    with pytest.raises(records.DamagedFileError, match="ablation.json is damaged"):
        records.add_entry(path, "small", "best", {})
    path.unlink()
    records.add_entry(path, "small", "best", {"top1": 1})
    assert json.loads(path.read_text()) == {"small": {"best": {"top1": 1}}}


def test_entry_keeps_values_of_the_same_origin(tmp_path):
    path = tmp_path / "faithfulness.json"

    def entry_after(**entry):
        records.add_entry(path, "small", "saliency", entry, same=("run", "layer"))
        return json.loads(path.read_text())["small"]["saliency"]

    entry_after(run="a", layer=("x",), deletion=0.1, infidelity=0.2)
    merged = {"run": "a", "layer": ["x"], "deletion": 0.1, "infidelity": 0.3}
    assert entry_after(run="a", layer=("x",), infidelity=0.3) == merged
    other = {"run": "b", "layer": ["x"], "infidelity": 0.4}
    assert entry_after(**other) == other


def test_entries_that_are_added_at_the_same_time_are_all_there(tmp_path):
    path = tmp_path / "new" / "ablation.json"
    keys = [str(number) for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: records.add_entry(path, "small", key, {}), keys))
    assert json.loads(path.read_text())["small"].keys() == set(keys)
    assert [p.name for p in path.parent.iterdir()] == ["ablation.json"]


@pytest.fixture
def others_lock(tmp_path, monkeypatch):
    """Make a lock file that this process may read and not write."""
    path, open_file = tmp_path / ".lock", os.open
    path.write_text("{}")
    inode = path.stat().st_ino

    def refuse(name, flags, *mode):
        if flags & os.O_RDWR and os.path.exists(name) and os.stat(name).st_ino == inode:
            raise PermissionError(13, "Permission denied", str(name))
        return open_file(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    return path


def test_lock_file_of_another_user_who_was_killed(others_lock):
    with records.lock(others_lock.parent):
        assert json.loads(others_lock.read_text())["pid"] == os.getpid()
    assert not others_lock.exists()


def test_lock_of_another_user_on_a_network_disk(others_lock, monkeypatch):
    def flock(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(PermissionError, match=re.escape(str(others_lock))):
        with records.lock(others_lock.parent):
            pass
    assert others_lock.read_text() == "{}"


def test_lock_of_another_user_is_respected(others_lock):
    with others_lock.open() as file:
        locks.fcntl.flock(file, locks.fcntl.LOCK_EX)
        with pytest.raises(records.FolderInUseError, match="another process is"):
            with records.lock(others_lock.parent):
                pass
    assert others_lock.read_text() == "{}"


@pytest.mark.parametrize(
    "home,arguments,expected",
    [
        ("/home/ann", ["--dir=/home/ann/x", "/home/ann"], "--dir=~/x ~"),
        ("/home/ann", ["--runs=/home/ann/a,/home/ann/b"], "--runs=~/a,~/b"),
        ("/home/ann", ["--dir=/home/ann/my x"], "'--dir=~/my x'"),
        ("/home/ann", ["/home/anna/x", "/mnt/home/ann"], "/home/anna/x /mnt/home/ann"),
        ("/home/ann", ["/home/ann.old", "/home/ann-b"], "/home/ann.old /home/ann-b"),
        ("/", ["--dir=/data/x", "/"], "--dir=/data/x /"),
    ],
)
def test_home_folder_of_a_command_is_a_tilde(home, arguments, expected, monkeypatch):
    monkeypatch.setenv("HOME", home)
    command = records.command_line("train", arguments)
    assert command == f"python -m scripts.train {expected}"


def test_commit_is_of_this_package_and_not_of_a_repository_above(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (tmp_path / "own.py").touch()
    installed = tmp_path / "venv" / "origin.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(origin, "__file__", str(installed))
    assert records.provenance("")["git_commit"] is None
    git("init", "--quiet")
    author = ("-c", "user.name=Ann", "-c", "user.email=ann@localhost")
    git("add", "own.py")
    git(*author, "commit", "--quiet", "--message=own")
    assert records.provenance("")["git_commit"] is None
    git("add", "venv")
    git(*author, "commit", "--quiet", "--message=all")
    assert records.provenance("")["git_commit"] == git("rev-parse", "HEAD")


def test_hash_of_a_config_from_before_a_key_existed():
    config = inception.three_stages()
    old = records.plain(config)
    del old["distillation"], old["device"]
    del old["data"]["logit_adjustment"], old["data"]["on_device"]
    for stage in old["stages"].values():
        del stage["draws"]
    assert records.config_hash(old) == records.config_hash(config)
    config.device.compilation_cache, config.data.on_device = False, "always"
    assert records.config_hash(old) == records.config_hash(config)
    config = inception.three_stages()
    assert records.with_later_keys(old) == records.plain(config)
    for key, value in {
        "data.logit_adjustment": 1.0,
        "device.matmul_precision": "float32",
        "distillation.weight": 0.5,
        "stages.head.draws": 1,
    }.items():
        changed = inception.three_stages()
        changed.update_from_flattened_dict({key: value})
        assert records.config_hash(changed) != records.config_hash(old)
        assert records.with_later_keys(changed.to_dict()) == changed.to_dict()


@pytest.mark.parametrize(
    "value,names",
    [
        ("", []),
        ("/usr/lib/libjemalloc.so.2:libfirst.so ", ["libjemalloc.so.2", "libfirst.so"]),
    ],
)
def test_provenance_names_preloaded_libraries_without_folders(
    value, names, monkeypatch
):
    monkeypatch.setenv("LD_PRELOAD", value)
    assert records.provenance("")["preloaded"] == names
