"""Define the folder in which the commands and examples of the pages run."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import models
from seeflower_jax.attribution import registry
from seeflower_jax.data import oxford_flowers
from seeflower_jax.pretrained import converted, writers
from tests import fixtures
from tests.harness import ROOT


@pytest.fixture
def narrow_inception(place, inception_run) -> None:
    """Add a run of Inception-v3 to the folder, for what no other network can do."""
    (place / "runs/narrow_inception").symlink_to(inception_run.workdir)


@pytest.fixture
def place(tmp_path, flowers, small_run, small_arguments, linear_run, monkeypatch):
    """Return a folder with small versions of the files in the README's commands."""
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "flowers").symlink_to(flowers)
    shutil.copytree(small_run, tmp_path / "runs/inception_seed0")
    (tmp_path / "runs/inception_seed0/report.html").unlink()
    shutil.copytree(small_run, tmp_path / "runs/second_small")
    (tmp_path / "runs/narrow_linear").symlink_to(linear_run.workdir)
    shutil.copytree(linear_run.workdir, tmp_path / "runs/second_linear")
    for folder, count in {"photos": 2, "own/aster": 6, "own/rose": 6}.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (90, 99, 3), "u1")
            Image.fromarray(pixels).save(tmp_path / f"{folder}/{number}.jpg")
    shutil.copy(tmp_path / "photos/0.jpg", tmp_path / "rose.jpg")
    shutil.copy(
        ROOT / "tests/extending/attribution_method.py", tmp_path / "my_module.py"
    )
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` adds the current folder
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    monkeypatch.setitem(sys.modules, "my_module", None)  # is restored afterwards
    del sys.modules["my_module"]
    spec = models.get_spec("small")
    variables = fixtures.random_variables(spec, 0)
    source = {"name": "random", "sha256": None, "exact": None}
    converted.save(tmp_path / "weights", spec, variables, source)
    spec = models.get_spec(
        "vgg16", num_classes=9, width=0.05, pooling="flatten", hidden=(12, 10)
    )
    variables = fixtures.random_variables(spec, 0)
    writers.write(tmp_path / "vgg16.h5", "keras_h5", spec, variables, {})
    load = oxford_flowers.load

    def unchecked(folder, split="official", *_, **__):
        return load(folder, split, verify=False)

    # scripts.reproduce refuses images that are not official.
    monkeypatch.setattr(oxford_flowers, "load", unchecked)
    monkeypatch.chdir(tmp_path)
    return tmp_path
