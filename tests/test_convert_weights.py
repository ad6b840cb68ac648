"""Test scripts.convert_weights, and predictions of Keras and PyTorch from its files."""

import json

import jax
import keras
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from seeflower_jax import models
from seeflower_jax.comparison import references
from seeflower_jax.download import file_hash
from seeflower_jax.pretrained import loading, readers, writers
from tests import fixtures, harness
from tests.pretrained import networks


def _vgg(**changes):
    """Return a narrow VGG16 of this package, with random variables and biases."""
    fields = {
        "num_classes": networks.CLASSES,
        "width": networks.WIDTH,
        "pooling": "flatten",
        "hidden": networks.HIDDEN,
    }
    spec = models.get_spec("vgg16", **fields | changes)
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
    # With means of about this size, signals pass through all layers.
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


def test_torchvision_inception_predicts_the_same_by_what_is_written(tmp_path):
    images = networks.IMAGES[:, :75, :75]
    network = references.torch_network("inception_v3")
    expected = references.torch_outputs("inception_v3", network, images)["logits"]
    torch.save(network.state_dict(), tmp_path / "i.pth")
    spec, variables, _ = loading.load_classifier(
        "inception_v3", str(tmp_path / "i.pth")
    )
    path = tmp_path / "i.safetensors"
    writers.write(path, "safetensors", spec, variables, {})
    again = torchvision.models.inception_v3(
        aux_logits=False, transform_input=True, init_weights=False
    )
    again.load_state_dict(safetensors.torch.load_file(path))
    outputs = references.torch_outputs("inception_v3", again.eval(), images)
    networks.assert_close(outputs["logits"], expected)


def test_keras_loads_the_backbone_alone(tmp_path):
    """The network has a classifier that Keras cannot build."""
    spec, variables = _vgg(pooling="average", pooled=("block4_pool", "block5_pool"))
    with pytest.raises(ValueError, match=r"it reads block4_pool, .*\(--nohead\)"):
        writers.write(tmp_path / "v.h5", "keras_h5", spec, variables, {})
    backbone = loading.without_head(variables)
    writers.write(tmp_path / "v.h5", "keras_h5", spec, backbone, {})
    network = networks.keras_vgg(top=False)
    network.load_weights(tmp_path / "v.h5")
    endpoints = models.apply(spec, variables, networks.IMAGES)[1]
    ours = np.asarray(endpoints["block5_pool"])
    networks.assert_close(ours, networks.keras_logits(network))
    assert [path.name for path in tmp_path.iterdir()] == ["v.h5"]


@pytest.mark.parametrize(
    "changes,file_format,message",
    [
        (
            {"pooling": "root_average"},
            "keras_h5",
            "pools by 'root_average', not average",
        ),
        ({"hidden": (9, 8, 7)}, "keras_h5", "its layers are .*'fc3'"),
        ({"pooling": "average"}, "safetensors", "pools by 'average', not flatten"),
        ({"hidden": ()}, "safetensors", r"its layers are \['logits'\], not"),
        ({"input_size": 256}, "safetensors", "takes 1664 features, not a 7"),
    ],
)
def test_classifier_that_a_framework_cannot_have(
    tmp_path, changes, file_format, message
):
    spec, variables = _vgg(**changes)
    with pytest.raises(ValueError, match=message):
        path = tmp_path / f"v{writers._SUFFIXES[file_format][0]}"
        writers.write(path, file_format, spec, variables, {})
    assert not list(tmp_path.iterdir())


def test_keras_inception_is_refused_in_torchvisions_names(tmp_path, narrow_weights):
    """torchvision's average pooling counts the padding, and Keras' does not."""
    spec, variables, _ = loading.load_source("inception_v3", str(narrow_weights))
    message = "count_include_pad is False, torchvision's True; .*'keras_h5'"
    with pytest.raises(ValueError, match=message):
        writers.write(tmp_path / "i.safetensors", "safetensors", spec, variables, {})


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    spec, variables = _vgg()
    torch_spec = models.ModelSpec(**(spec.to_dict() | {"preprocess": "torch"}))
    with pytest.raises(ValueError, match="preprocess is 'torch', Keras' 'caffe'"):
        writers.write(tmp_path / "v.h5", "keras_h5", torch_spec, variables, {})
    small = models.get_spec("baseline")
    with pytest.raises(ValueError, match="files support .*, not baseline"):
        writers.write(tmp_path / "b.h5", "keras_h5", small, {}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "file_format,name,message",
    [
        ("orbax", "v.h5", "v.h5 is the name of a file, .* --to=keras_h5 for a"),
        ("orbax", "v.PTH", "give a name without .PTH"),
        ("keras_h5", "v.weights.h5", "Keras 3 reads as another format; give v.h5"),
        ("keras_h5", "v", "v does not end in .h5 or .hdf5"),
        ("safetensors", "v.pth", "v.pth does not end in .safetensors"),
    ],
)
def test_endings_of_other_formats(tmp_path, file_format, name, message):
    with pytest.raises(ValueError, match=message):
        writers.write(tmp_path / name, file_format, *_vgg(), {})
    arguments = f"--out={tmp_path / name}", f"--to={file_format}"
    done = harness.run_here("convert_weights", "--workdir=absent", *arguments)
    assert done.returncode == 1  # before the run is loaded
    assert f"{name} " in done.stderr and "absent" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_arguments():
    done = harness.run_apart("convert_weights", "--out=x", "--source=y", "--workdir=z")
    assert done.returncode != 0 and "one of --workdir and --source" in done.stderr
    for flag in ("--model=vgg16", "--preprocess=torch"):
        done = harness.run_here("convert_weights", "--out=x", "--workdir=y", flag)
        assert done.returncode == 2
        assert "--model and --preprocess need --source" in done.stderr
