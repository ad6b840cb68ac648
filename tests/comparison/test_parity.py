"""scripts.parity --attribution and scripts.networks_figure."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import comparison
from seeflower_jax.comparison import attribution_parity
from tests import harness


@pytest.fixture
def photos(tmp_path):
    """Return the paths of two images."""
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 255, (50, 60, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_maps_are_compared(photos, tmp_path, monkeypatch):
    few = {name: attribution_parity.COMPARISONS[name] for name in ("saliency", "lrp")}
    monkeypatch.setattr(attribution_parity, "COMPARISONS", few)
    out = tmp_path / "record.json"
    arguments = ["--attribution", "--size=32", f"--out={out}", *photos]
    done = harness.run_here("parity", *arguments)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert (record["network"], record["size"], record["weights"]) == (
        *("vgg16", 32),
        "random",
    )
    of_tokens = ["attention_rollout", "attention_relevance"]
    assert list(record["methods"]) == ["saliency", "lrp", *of_tokens]
    for name, figures in record["methods"].items():
        peer = "equation" if name in of_tokens else "captum"
        assert figures["against"].startswith(peer)
        assert figures["images"] == 2 and figures["convention"]
        assert figures["correlation"] > 0.999
        assert 0 < figures["relative_difference"] < 1e-3
    for name in ("saliency", "lrp"):
        assert 0 < record["methods"][name]["relative_difference_float64"] < 1e-5
    assert record["command"].startswith("python -m scripts.parity --attribution")
    assert "saliency" in done.stdout and "compared lrp" in done.stderr


def test_missing_peers_are_named(photos, monkeypatch):
    monkeypatch.delitem(sys.modules, "seeflower_jax.comparison.parity", raising=False)
    monkeypatch.delattr(comparison, "parity", raising=False)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    done = harness.run_here("parity", *photos)
    assert done.returncode == 1
    assert "pip install -e .[peers]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_weights_are_named(photos, tmp_path):
    done = harness.run_here("parity", "--attribution", f"--weights={tmp_path}", *photos)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr and done.stderr.count("\n") == 1
