"""docs/attribution.md: its examples run, and it lists all adapters."""

import functools
import re

import keras
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import attribution as attr
from tests import harness

PAGE = (harness.ROOT / "docs/attribution.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the current folder, with a photo, and random weights for Keras."""
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rose.jpg")
    monkeypatch.chdir(tmp_path)
    random = functools.partial(keras.applications.ResNet50, weights=None)
    monkeypatch.setattr(keras.applications, "ResNet50", random)
    return tmp_path


def test_the_page_starts_with_ten_lines(folder):
    example = EXAMPLES[0]
    assert PAGE.startswith(f"# Attribution\n\n```python\n{example}")
    assert len(example.split("\n\n")) == 2 and len(example.splitlines()) == 11
    names = {}
    exec(example, names)
    assert names["cam"].shape == (224, 224) and names["cam"].min() >= 0
    assert Image.open(folder / "rose_cam.png").size == (224, 224)


def test_layers_are_listed(capsys):
    exec(EXAMPLES[1], {})
    (comment,) = re.findall(r"^# (\{.*\})$", EXAMPLES[1], re.MULTILINE)
    assert capsys.readouterr().out.strip() == comment


def test_vision_transformers():
    names = {}
    exec(EXAMPLES[2], names)
    for name in ("rollout", "relevance", "cam"):
        assert names[name].shape == (1, 32, 48)
    assert len(names["layers"]) == 2 and names["relevance"].max() > 0


def test_layers_and_places():
    names = {}
    exec(EXAMPLES[3], names)
    assert names["one_layer"].shape == names["both_layers"].shape == (2, 64, 64)
    np.testing.assert_allclose(names["share"], 1, rtol=1e-4)
    assert len(EXAMPLES) == 4


def test_all_adapters_are_in_the_table():
    adapters = {name for name in attr.__all__ if name.startswith("from_")}
    assert set(re.findall(r"^\| `(from_\w+)\(", PAGE, re.MULTILINE)) == adapters
