"""Writing the tensorflow-datasets folder from the command line, and training on it."""

import pathlib

import tensorflow_datasets as tfds

from seeflower_jax.data import oxford_flowers
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
