"""docs/attribution.md and docs/attribution_networks.md: the examples and tables."""

import functools
import re

import keras
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import registry
from tests import harness

CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGE = (harness.ROOT / "docs/attribution.md").read_text()
NETWORKS = (harness.ROOT / "docs/attribution_networks.md").read_text()
EXAMPLES, NETWORK_EXAMPLES = CODE.findall(PAGE), CODE.findall(NETWORKS)


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


def test_several_methods():
    names = {}
    exec(EXAMPLES[1], names)
    assert set(names["maps"]) == {"saliency", "grad_cam", "feature_ablation"}
    assert all(maps.shape == (2, 64, 64) for maps in names["maps"].values())


def test_layers_and_places():
    names = {}
    exec(EXAMPLES[2], names)
    assert names["one_layer"].shape == names["both_layers"].shape == (2, 64, 64)
    np.testing.assert_allclose(names["share"], 1, rtol=1e-4)
    assert len(EXAMPLES) == 3


def test_all_methods_are_in_the_table():
    table = PAGE[PAGE.index("| method |") : PAGE.index("- `samples` is")]
    rows = [row.split("|")[1:-1] for row in table.splitlines()[2:] if row[:1] == "|"]
    listed = {}
    for names, _, layer, signed, random, *_ in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert name not in listed
            listed[name] = [cell.strip() for cell in (layer, signed, random)]
    assert listed.keys() == registry.METHODS.keys() | registry.ATTENTION_METHODS.keys()
    for name, method in registry.METHODS.items():
        layer = {True: "one"}.get(method.single_layer, "yes" if method.layered else "")
        signed, random = ("yes" if x else "" for x in (method.signed, method.random))
        assert listed[name] == [layer, signed, random], name


def test_layers_are_listed(capsys):
    assert NETWORKS.split("\n\n")[1].startswith("```python")
    exec(NETWORK_EXAMPLES[0], {})
    (comment,) = re.findall(r"^# (\{.*\})$", NETWORK_EXAMPLES[0], re.MULTILINE)
    assert capsys.readouterr().out.strip() == comment


def test_vision_transformers():
    names = {}
    exec(NETWORK_EXAMPLES[1], names)
    for name in ("rollout", "relevance", "cam"):
        assert names[name].shape == (1, 32, 48)
    assert len(names["layers"]) == 2 and names["relevance"].max() > 0
    assert len(NETWORK_EXAMPLES) == 2


def test_all_adapters_are_in_the_table():
    adapters = {name for name in attr.__all__ if name.startswith("from_")}
    assert set(re.findall(r"^\| `(from_\w+)\(", NETWORKS, re.MULTILINE)) == adapters


def test_pages_are_short():
    assert max(len(page.splitlines()) for page in (PAGE, NETWORKS)) <= 200
