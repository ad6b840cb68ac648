"""Converting weights from the command line, and what Keras and PyTorch make of it."""

import json

import jax
import keras
import numpy as np
import pytest
import safetensors.torch
import torch

from seeflower_jax import models
from seeflower_jax.download import file_hash
from seeflower_jax.pretrained import loading, readers, writers
from tests import fixtures, harness
from tests.pretrained import networks


def _vgg():
    """A narrow VGG16 of this package, with random variables and biases."""
    spec = models.get_spec(
        "vgg16",
        num_classes=networks.CLASSES,
        width=networks.WIDTH,
        pooling="flatten",
        hidden=networks.HIDDEN,
    )
    return spec, fixtures.random_variables(spec, 4)


def test_torchvision_file_becomes_a_checkpoint_that_trains(tmp_path):
    network = networks.torch_vgg()
    source = tmp_path / "v.pth"
    torch.save(network.state_dict(), source)
    out = tmp_path / "converted"
    done = harness.run_apart(
        "convert_weights",
        "--model=vgg16",
        f"--source={source}",
        f"--out={out}",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spec"]["preprocess"] == "torch"
    content = json.loads((out / "model.json").read_text())
    assert content["source"]["sha256"] == file_hash(source)
    spec, variables, record = loading.load_classifier("vgg16", str(out))
    assert record == content["source"] and spec.preprocess == "torch"
    networks.assert_close(
        networks.logits(spec, variables), networks.torch_logits(network)
    )
    plain = models.get_spec("vgg16", num_classes=3, width=networks.WIDTH)
    new, _, _ = loading.load_pretrained(plain, str(out))
    assert new.preprocess == "torch" and new.hidden == ()
    with pytest.raises(ValueError, match="converted holds vgg16, expected vgg19"):
        readers.read("vgg19", out)
    again = harness.run_apart(
        "convert_weights", "--model=vgg16", f"--source={source}", f"--out={out}"
    )
    assert again.returncode != 0 and "exists; give another name" in again.stderr


def test_file_without_a_classifier(tmp_path, narrow_weights):
    spec, variables, source = loading.load_source("inception_v3", str(narrow_weights))
    assert "head" not in variables["params"]
    writers.write(tmp_path / "out", "orbax", spec, variables, source)
    again, _, _ = loading.load_source("inception_v3", str(tmp_path / "out"))
    assert again == spec
    _, whole, _ = loading.load_pretrained(
        models.get_spec("inception_v3", num_classes=3, width=spec.width),
        str(tmp_path / "out"),
    )
    harness.assert_trees_equal(
        whole["params"]["backbone"],
        variables["params"]["backbone"],
    )


def test_keras_predicts_the_same_by_what_is_written(tmp_path):
    spec, variables = _vgg()
    writers.write(tmp_path / "v.h5", "keras_h5", spec, variables, {})
    network = networks.keras_vgg()
    network.load_weights(tmp_path / "v.h5")
    ours = networks.logits(spec, variables)
    networks.assert_close(ours, networks.keras_logits(network))
    found, again, _ = loading.load_classifier("vgg16", str(tmp_path / "v.h5"))
    np.testing.assert_array_equal(networks.logits(found, again), ours)


def test_pytorch_predicts_the_same_by_what_is_written(tmp_path):
    spec, variables = _vgg()
    spec = models.ModelSpec(**(spec.to_dict() | {"preprocess": "torch"}))
    path = tmp_path / "v.safetensors"
    writers.write(path, "safetensors", spec, variables, {})
    network = networks.torch_vgg()
    network.load_state_dict(safetensors.torch.load_file(path))
    ours = networks.logits(spec, variables)
    networks.assert_close(ours, networks.torch_logits(network))
    found, again, _ = loading.load_classifier("vgg16", str(path))
    assert found == spec
    np.testing.assert_array_equal(networks.logits(found, again), ours)


def test_keras_inception_predicts_the_same_by_what_is_written(tmp_path):
    spec = models.get_spec("inception_v3", num_classes=5)
    variables = fixtures.random_variables(spec, 0)
    rng = np.random.default_rng(0)
    # Means of about the size that lets signals through all layers.
    variables["batch_stats"] = jax.tree_util.tree_map_with_path(
        lambda path, value: rng.uniform(
            *((-0.2, 0.2) if path[-1].key == "mean" else (0.5, 1.5)), value.shape
        ).astype(np.float32),
        variables["batch_stats"],
    )
    writers.write(tmp_path / "i.h5", "keras_h5", spec, variables, {})
    network = keras.applications.InceptionV3(
        weights=None, classes=5, input_shape=(75, 75, 3), classifier_activation=None
    )
    network.load_weights(tmp_path / "i.h5")
    images = networks.IMAGES[:, :75, :75]
    prepared = images.astype(np.float32) / 127.5 - 1
    ours = jax.jit(lambda x: models.apply(spec, variables, x)[0])(images)
    networks.assert_close(ours, network.predict(prepared, verbose=0))


def test_inception_round_trip_in_torchvisions_names(tmp_path, narrow_weights):
    spec, variables, _ = loading.load_source("inception_v3", str(narrow_weights))
    writers.write(tmp_path / "i.safetensors", "safetensors", spec, variables, {})
    found, again, _ = loading.load_source(
        "inception_v3", str(tmp_path / "i.safetensors")
    )
    assert found.batch_norm_scale and not found.count_include_pad
    scales = [
        again["params"]["backbone"][name]["bn"].pop("scale")
        for name in again["params"]["backbone"]
    ]
    assert all((scale == 1).all() for scale in scales)
    harness.assert_trees_equal(again, variables)


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    spec, variables = _vgg()
    torch_spec = models.ModelSpec(**(spec.to_dict() | {"preprocess": "torch"}))
    with pytest.raises(ValueError, match="preprocess is 'torch', Keras' 'caffe'"):
        writers.write(tmp_path / "v.h5", "keras_h5", torch_spec, variables, {})
    small = models.get_spec("baseline")
    with pytest.raises(ValueError, match="files support .*, not baseline"):
        writers.write(tmp_path / "b.h5", "keras_h5", small, {}, {})
    assert not list(tmp_path.iterdir())


def test_arguments():
    done = harness.run_apart("convert_weights", "--out=x", "--source=y", "--workdir=z")
    assert done.returncode != 0 and "one of --workdir and --source" in done.stderr
