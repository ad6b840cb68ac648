"""The README's own code."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import experiment
from tests import tiny_config

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.fixture
def place(tmp_path, flowers, narrow_weights, monkeypatch):
    """A folder with a tiny run and photos, as the README's examples have them."""
    config = tiny_config.get_config()
    config.data.dir, config.init.weights = str(flowers), str(narrow_weights)
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.shortest_side, config.eval.size = 150, 139
    config.stages.head.epochs = 1
    config.stages.finetune.epochs = 0
    experiment.train(config, tmp_path / "runs/inception_seed0")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (90, 100, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_examples_run(place):
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(examples) == 2
    images = np.zeros((1, 80, 80, 3), np.uint8)
    for example in examples:
        exec(example, {"images": images})
    assert Image.open(place / "cam_1.png").size == (139, 139)


def test_commands_name_scripts_that_are_there():
    names = set(re.findall(r"python -m scripts\.(\w+)", README.read_text()))
    there = {p.stem for p in (README.parent / "scripts").glob("[a-z]*.py")}
    assert names and names <= there
