"""Test scripts.prepare_data, and training on the folder that it writes."""

import dataclasses
import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds

from seeflower_jax.data import oxford_flowers, tfds_writer
from tests import harness


def test_written_folder_is_printed_and_read_by_tensorflow_datasets(flowers, tmp_path):
    arguments = [f"--source={flowers}", f"--data_dir={tmp_path}"]
    done = harness.run_apart("prepare_data", *arguments, "--noverify")
    assert done.returncode == 0, done.stderr
    written = done.stdout.splitlines()[-1]
    assert pathlib.Path(written) == tmp_path / "oxford_flowers102/2.1.1"
    stock = tfds.builder("oxford_flowers102", data_dir=tmp_path).as_data_source()
    source = oxford_flowers.load(flowers, verify=False)
    assert len(stock["test"]) == len(source.splits["test"])


def test_folder_that_is_not_the_official_one_is_refused(flowers, tmp_path):
    done = harness.run_apart(
        "prepare_data", f"--source={flowers}", f"--data_dir={tmp_path / 'out'}"
    )
    assert done.returncode != 0 and "imagelabels.mat has SHA-256" in done.stderr
    assert not (tmp_path / "out").exists()


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_interrupted_writing_leaves_nothing_that_blocks_it(flowers, tmp_path):
    program = (
        "import dataclasses, pathlib, sys, time\n"
        "from seeflower_jax.data import oxford_flowers, tfds_writer\n"
        "load = oxford_flowers.load\n"
        "def slow(*arguments):\n"
        "    def wait(index):\n"
        "        pathlib.Path(sys.argv[3]).touch()\n"
        "        time.sleep(60)\n"
        "    return dataclasses.replace(load(*arguments), read=wait)\n"
        "oxford_flowers.load = slow\n"
        "tfds_writer.write(sys.argv[1], sys.argv[2], False)\n"
    )
    out, reading = tmp_path / "out", tmp_path / "reading"
    process = subprocess.Popen(
        [sys.executable, "-c", program, flowers, out, reading],
        cwd=harness.ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not reading.exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert reading.exists()
    assert list((out / "oxford_flowers102").glob(".2.1.1.partial-*"))
    folder = tfds_writer.write(flowers, out, verify=False)
    assert folder == out / "oxford_flowers102" / "2.1.1"
    assert list(folder.parent.iterdir()) == [folder]
    assert len(oxford_flowers.load(out, verify=False).keys) == 48
    before = [path.stat().st_mtime_ns for path in _files(out)]
    assert tfds_writer.write(flowers, out, verify=False) == folder
    assert before == [path.stat().st_mtime_ns for path in _files(out)]
    (folder / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match="2.1.1 exists, but has no dataset_info.json"):
        tfds_writer.write(flowers, out, verify=False)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("write() failed: No space left on device"),  # of array_record
    ],
)
def test_full_disk_names_the_folder(flowers, tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(tfds_writer.tfds, "builder", full)
    with pytest.raises(OSError, match="2.1.1 cannot be written: .*No space left"):
        tfds_writer.write(flowers, tmp_path, verify=False)
    assert not _files(tmp_path)


def test_folder_of_another_format_is_refused(flowers, tmp_path):
    folder = tmp_path / "oxford_flowers102" / "2.1.1"
    folder.mkdir(parents=True)
    for name in (
        "dataset_info.json",
        "oxford_flowers102-train.tfrecord-00000-of-00001",
    ):
        (folder / name).write_text("{}")
    with pytest.raises(ValueError, match="2.1.1 exists, but has no array_record files"):
        tfds_writer.write(flowers, tmp_path, verify=False)


def test_image_in_no_split_is_refused(flowers, tmp_path, monkeypatch):
    source = oxford_flowers.load(flowers, verify=False)
    splits = source.splits | {"train": source.splits["train"][1:]}
    fewer = dataclasses.replace(source, splits=splits)
    monkeypatch.setattr(oxford_flowers, "load", lambda *_: fewer)
    with pytest.raises(ValueError, match="has 1 images in no split, such as image_"):
        tfds_writer.write(flowers, tmp_path, verify=False)
    assert not _files(tmp_path)
