"""Test the script for caches, and the cache of compiled functions."""

import errno
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from seeflower_jax.data import cache, cache_folder, decoding, oxford_flowers
from seeflower_jax.sharding import compilation
from tests import harness

_KEY = "jax_compilation_cache_dir"


@pytest.fixture
def folder(flowers, tmp_path):
    """Return a cache directory with two caches of one file, and an unfinished cache."""
    source = oxford_flowers.load(flowers, verify=False)
    cache.open_cache(source, 32, tmp_path)
    pixels = tmp_path / "pixels"
    (path,) = pixels.iterdir()
    os.link(path, pixels / "folder_copy_0123_32.npy")
    (pixels / ".photos_4567_32.npy.decoding").mkdir()
    (pixels / ".photos_4567_32.npy.decoding" / "pixels").write_bytes(bytes(50_000))
    (tmp_path / "compiled" / "x86_64_0").mkdir(parents=True)
    (tmp_path / "compiled" / "x86_64_0" / "jit_f-cache").write_bytes(bytes(9_000))
    (tmp_path / "oxford_flowers102").mkdir()
    return tmp_path


def test_list_and_clear(folder):
    done = harness.run_here("cache", "--list", f"--cache_dir={folder}", "--json")
    listed = json.loads(done.stdout)
    sizes = {row["path"].rsplit("/", 1)[1]: row["bytes"] for row in listed["caches"]}
    assert sizes[".photos_4567_32.npy.decoding"] >= 50_000
    assert sizes["x86_64_0"] >= 9_000
    (name,) = [name for name in sizes if name.startswith("oxford")]
    shared = [sizes[name], sizes["folder_copy_0123_32.npy"]]
    size = (folder / "pixels" / name).stat().st_size
    assert min(shared) == 0 and size <= max(shared) < size + 10_000
    assert listed["bytes"] == sum(sizes.values()) and len(sizes) == 4
    done = harness.run_here("cache", "--clear", f"--cache_dir={folder}")
    assert done.stdout.splitlines()[-1].endswith("MB removed")
    assert [p.name for p in folder.iterdir() if any(p.iterdir())] == []
    assert (folder / "oxford_flowers102").is_dir()
    assert harness.run_here("cache", f"--cache_dir={folder}").returncode == 2


def test_only_what_was_not_used_for_days(folder):
    old = folder / "pixels" / ".photos_4567_32.npy.decoding"
    long_ago = time.time() - 40 * 24 * 3600
    for path in (old / "pixels", old):
        os.utime(path, (long_ago, long_ago))
    assert [e.path for e in cache_folder.entries(folder, unused_days=30)] == [old]


def test_a_cache_that_is_being_written_stays(tmp_path):
    path = tmp_path / "pixels" / "photos_1_32.npy"
    with decoding.reserved(path) as folder:
        (folder / "pixels").write_bytes(bytes(100))
        (entry,) = cache_folder.entries(tmp_path)
        assert entry.kind == "unfinished pixels"
        assert cache_folder.remove([entry]) == [] and folder.is_dir()


def test_an_unfinished_cache_of_another_user(tmp_path, monkeypatch):
    path = tmp_path / "photos.npy"
    (tmp_path / ".photos.npy.decoding").mkdir()
    open_locked = decoding.files.open_locked

    def refuse(lock):
        if lock.parent.name == ".photos.npy.decoding":
            raise PermissionError(13, "Permission denied", str(lock))
        return open_locked(lock)

    monkeypatch.setattr(decoding.files, "open_locked", refuse)
    with decoding.reserved(path) as folder:
        assert folder in decoding.unfinished(tmp_path)
        with decoding.try_lock(folder) as is_free:
            assert not is_free
    names = [entry.name for entry in tmp_path.iterdir()]
    assert names == [".photos.npy.decoding"]


def _raiser(error):
    def function(*_, **__):
        raise error

    return function


def test_lock_file_that_may_only_be_read(tmp_path, monkeypatch):
    open_file = os.open

    def refuse(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, flags, *mode)

    with decoding.reserved(tmp_path / "photos.npy") as folder:
        monkeypatch.setattr(os, "open", refuse)
        with decoding.try_lock(folder) as is_free:
            assert not is_free
        for code in (errno.EBADF, errno.EIO):  # EBADF: on a network disk
            error = OSError(code, os.strerror(code))
            monkeypatch.setattr(decoding.files, "lock_descriptor", _raiser(error))
            expected = pytest.raises(OSError) if code == errno.EIO else nullcontext()
            with expected, decoding.try_lock(folder) as is_free:
                assert not is_free
        monkeypatch.undo()


def test_entries_of_another_user_stay_and_are_named(folder, monkeypatch, caplog):
    first, *others = cache_folder.entries(folder)
    remove = cache_folder._remove

    def refuse(path):
        if path == first.path:
            raise PermissionError(13, "Permission denied", str(path))
        remove(path)

    monkeypatch.setattr(cache_folder, "_remove", refuse)
    assert cache_folder.remove([first, *others]) == others
    (message,) = caplog.messages
    assert message.startswith(f"cannot remove {first.path}: ")


def test_lock_is_held_while_an_unfinished_cache_is_removed(folder, monkeypatch):
    held = []

    def remove(path):
        with decoding.try_lock(path) as is_free:
            held.append(not is_free)

    monkeypatch.setattr(cache_folder, "_remove", remove)
    chosen = [e for e in cache_folder.entries(folder) if e.path.name.startswith(".")]
    assert cache_folder.remove(chosen) == chosen and held == [True]


def test_caches_that_other_processes_write_and_remove(folder, monkeypatch):
    before, rmdir = cache_folder.entries(folder), os.rmdir

    def write_first(path):
        (folder / path / "new-cache").touch()
        rmdir(path)

    monkeypatch.setattr(cache_folder.os, "rmdir", write_first)
    assert cache_folder.remove(before) == before
    listed = {entry.path.name: entry.size for entry in cache_folder.entries(folder)}
    assert listed == {".photos_4567_32.npy.decoding": 0, "x86_64_0": 0}
    # A path that is listed, and is gone when it is opened.
    monkeypatch.setattr(decoding, "unfinished", lambda pixels: [pixels / "gone"])
    assert [e.path.name for e in cache_folder.entries(folder)] == ["x86_64_0"]
    assert cache_folder.remove(before) == before


@pytest.fixture
def unset():
    """Undo the setting of the tests' own cache for one test."""
    before = jax.config.values[_KEY]
    jax.config.update(_KEY, None)
    yield
    jax.config.update(_KEY, before)
    compilation_cache.reset_cache()


def test_setting_of_the_user_comes_first(unset, tmp_path):
    compilation.keep(tmp_path / "first")
    folder = jax.config.values[_KEY]
    assert folder.startswith(str(tmp_path / "first" / "compiled"))
    assert os.path.isdir(folder)
    compilation.keep(tmp_path / "second")  # of a config, after the default
    assert jax.config.values[_KEY].startswith(str(tmp_path / "second"))
    compilation.keep(tmp_path, enabled=False)
    assert jax.config.values[_KEY] is None
    for enabled in (True, False):
        jax.config.update(_KEY, "/of/the/user")
        compilation.keep(tmp_path, enabled)
        assert jax.config.values[_KEY] == "/of/the/user"
    jax.config.update(_KEY, None)
    (tmp_path / "file").touch()
    compilation.keep(tmp_path / "file")  # a file cannot be a folder
    assert jax.config.values[_KEY] is None


def test_the_cache_directory_changes_after_a_function_is_compiled(unset, tmp_path):
    def compile_and_count(number):
        jax.jit(lambda x: jnp.sin(x) + number)(jnp.zeros(7))
        return [len(list((tmp_path / name).rglob("*-cache"))) for name in "ab"]

    compilation.keep(tmp_path / "a")
    first = compile_and_count(1)
    compilation.keep(tmp_path / "b")
    second = compile_and_count(2)
    compilation.keep(tmp_path / "b", enabled=False)
    assert compile_and_count(3) == second
    assert first[0] > 0 == first[1]
    assert second[0] == first[0] and second[1] > 0


def test_a_cache_that_cannot_be_checked_is_used(unset, tmp_path):
    """Such as a read-only one, or one whose entry another process has just removed."""
    folder = compilation.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "f-cache").mkdir()  # an entry that cannot be read
    compilation.keep(tmp_path)
    assert jax.config.values[_KEY] == str(folder)


def _count_of_read_functions(cache_dir) -> int:
    """Return how many functions a new process reads instead of compiling them."""
    code = """
import jax, sys
from seeflower_jax.sharding import compilation
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
compilation.keep(sys.argv[1])
print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))))
print(events.count("/jax/compilation_cache/cache_hits"))
"""
    environment = {**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(cache_dir)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=harness.ROOT,
        timeout=300,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    value, count = done.stdout.split()
    assert np.isclose(float(value), 64**3)
    return int(count)


def test_second_process_reads_what_the_first_has_compiled(tmp_path):
    assert _count_of_read_functions(tmp_path) == 0
    assert _count_of_read_functions(tmp_path) > 0


@pytest.mark.parametrize("size", [0, 300])
def test_functions_that_were_cut_off_are_compiled_again(tmp_path, size):
    _count_of_read_functions(tmp_path)
    paths = list(tmp_path.glob("compiled/*/*-cache"))
    for path in paths:  # as a full disk leaves them
        os.truncate(path, size)
    assert paths and _count_of_read_functions(tmp_path) == 0
    assert _count_of_read_functions(tmp_path) > 0
