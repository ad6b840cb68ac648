"""Test the preprocessing of weights: stated by the file, known, chosen or assumed."""

import numpy as np
import pytest
import safetensors.numpy

from seeflower_jax import models
from seeflower_jax.download import file_hash
from seeflower_jax.inference.load import load, load_weights
from seeflower_jax.pretrained import (
    loading,
    preprocessing,
    published,
    torch_state,
    writers,
)
from tests import fixtures, harness
from tests.pretrained import networks

SPEC = models.get_spec("vgg16", num_classes=3, width=networks.WIDTH)
FLAT = models.get_spec(
    "vgg16", num_classes=3, width=networks.WIDTH, pooling="flatten", hidden=(8, 8)
)
VARIABLES = fixtures.random_variables(FLAT, 0)


@pytest.fixture
def weights(tmp_path):
    """Return a file with torchvision's names, which states no preprocessing."""
    path = tmp_path / "v.safetensors"
    safetensors.numpy.save_file(torch_state.state_dict("vgg16", VARIABLES), path)
    return path


def _preprocess(path, **options):
    return loading.load_pretrained(SPEC, str(path), **options)[0].preprocess


def test_assumption_is_said(weights, caplog):
    assert _preprocess(weights) == "torch"
    assert (
        f"{weights} does not state its preprocessing: assuming 'torch'" in caplog.text
    )
    assert "to one of unit, tf, caffe, caffe_rgb, torch" in caplog.text


@pytest.mark.parametrize("name", models.PREPROCESS)
def test_choice_decides(weights, caplog, name):
    assert _preprocess(weights, preprocess=name) == name
    assert "assuming" not in caplog.text
    assert load_weights("vgg16", str(weights), name).spec.preprocess == name
    with pytest.raises(ValueError, match="unknown preprocess 'vgg'; |unknown preproc"):
        _preprocess(weights, preprocess="vgg")


def test_known_file(weights, caplog, monkeypatch):
    digits = file_hash(weights)[:8]
    monkeypatch.setitem(preprocessing.KNOWN, "vgg16", {digits: "caffe_rgb"})
    assert _preprocess(weights) == "caffe_rgb" and "assuming" not in caplog.text
    assert _preprocess(weights, preprocess="tf") == "tf"
    assert "expects the preprocessing 'caffe_rgb'" in caplog.text


@pytest.mark.parametrize("reverse,expected", [(False, "caffe"), (True, "caffe_rgb")])
def test_known_variables_in_another_format(tmp_path, monkeypatch, reverse, expected):
    """Caffe's weights are recognised with torchvision's names, and BGR or RGB input."""
    entry = published.PublishedWeights(
        "w.h5", md5="0" * 32, variables=published.backbone_hash(VARIABLES)
    )
    monkeypatch.setitem(published.CATALOG, "vgg16", entry)
    state = torch_state.state_dict("vgg16", VARIABLES)
    if reverse:
        first = state["features.0.weight"][:, ::-1]
        state["features.0.weight"] = np.ascontiguousarray(first)
    safetensors.numpy.save_file(state, tmp_path / "v.safetensors")
    assert _preprocess(tmp_path / "v.safetensors") == expected


def test_file_that_tells_it(tmp_path, caplog):
    spec = models.get_spec(**FLAT.to_dict() | {"preprocess": "unit"})
    for name, file_format in (("v.safetensors", "safetensors"), ("v", "orbax")):
        path = tmp_path / name
        writers.write(path, file_format, spec, VARIABLES, {"name": "x"})
        assert _preprocess(path) == "unit"
        assert _preprocess(path, preprocess="tf") == "tf"
    assert "assuming" not in caplog.text


def test_centred_rgb_is_centred_bgr_reversed():
    images = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)
    rgb = models.PREPROCESS["caffe_rgb"](images)
    np.testing.assert_allclose(
        rgb[0, 0, 0], images[0, 0, 0] - [123, 117, 104], atol=0.1
    )
    bgr = models.PREPROCESS["caffe"](images)[..., ::-1]
    np.testing.assert_allclose(rgb, bgr, atol=0.7)


def test_flags(weights, tmp_path):
    arguments = ["--model=vgg16", f"--source={weights}", "--preprocess=caffe"]
    completed = harness.run_here(
        "convert_weights", *arguments, "--nohead", f"--out={tmp_path / 'out'}"
    )
    assert completed.returncode == 0, completed.stderr
    spec, variables, _ = loading.load_source("vgg16", str(tmp_path / "out"))
    assert spec.preprocess == "caffe" and "head" not in variables["params"]
    completed = harness.run_here("predict", "--export=x", "--preprocess=tf", "x.jpg")
    assert completed.returncode == 2 and "goes with --weights" in completed.stderr
    with pytest.raises(ValueError, match="preprocess='tf' needs model="):
        load(tmp_path, preprocess="tf")
