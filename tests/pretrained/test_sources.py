"""Test that weight files give the outputs of their framework, or are refused."""

import json
import pickle

import h5py
import jax
import numpy as np
import pytest
import torch

from seeflower_jax import models
from seeflower_jax.comparison import parity, references
from seeflower_jax.pretrained import (
    keras_archive,
    keras_h5,
    loading,
    published,
    readers,
    torch_files,
    torch_state,
)
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.merge import MergeError
from tests import fixtures, harness
from tests.pretrained import networks

SPEC = models.get_spec("vgg16", num_classes=4, width=networks.WIDTH)


@pytest.fixture(scope="module")
def keras_vgg():
    network = networks.keras_vgg()
    return network, networks.keras_logits(network)


@pytest.fixture(scope="module")
def torch_vgg():
    network = networks.torch_vgg()
    return network, networks.torch_logits(network)


@pytest.mark.parametrize("name", ["v.weights.h5", "v.keras", "v.h5", "unnamed.h5"])
def test_keras_vgg_with_its_classifier(keras_vgg, tmp_path, name):
    network, expected = keras_vgg
    path = tmp_path / name
    if name in ("v.keras", "v.h5"):  # the whole model, new and old
        network.save(path)
    else:
        path = tmp_path / "v.weights.h5"
        network.save_weights(path)
    if name == "unnamed.h5":  # as the first versions of Keras 3 wrote it
        with h5py.File(path, "a") as file:
            for group in file["layers"].values():
                group["vars"].attrs.pop("name", None)
    spec, variables, record = loading.load_classifier("vgg16", str(path))
    assert spec.hidden == networks.HIDDEN and spec.num_classes == networks.CLASSES
    assert spec.preprocess == "caffe" and record["exact"] is False
    networks.assert_close(networks.logits(spec, variables), expected)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_torchvision_vgg_with_its_classifier(torch_vgg, tmp_path, ending):
    import safetensors.torch

    network, expected = torch_vgg
    path = tmp_path / f"v{ending}"
    save = safetensors.torch.save_file if ending == ".safetensors" else torch.save
    save(network.state_dict(), path)
    spec, variables, _ = loading.load_classifier("vgg16", str(path))
    assert spec.preprocess == "torch" and spec.pooling == "flatten"
    networks.assert_close(networks.logits(spec, variables), expected)


def test_torchvision_vgg19_names():
    places = [
        int(name.split(".")[1])
        for name in torch_state.torch_names("vgg19").values()
        if name.startswith("features") and name.endswith("weight")
    ]
    assert places == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]


def test_torchvision_inception_every_block(tmp_path):
    images = networks.IMAGES[:, :75, :75]
    network = references.torch_network("inception_v3")
    assert any(name.startswith("AuxLogits") for name in network.state_dict())
    reference = references.torch_outputs("inception_v3", network, images)
    torch.save(network.state_dict(), tmp_path / "i.pth")
    errors = parity.endpoint_errors(
        "inception_v3", tmp_path / "i.pth", images, reference
    )
    assert len(errors) == 108 and max(errors.values()) < 1e-4, errors
    spec = readers.read("inception_v3", tmp_path / "i.pth")[1]
    assert spec.count_include_pad and spec.batch_norm_scale and spec.preprocess == "tf"


@pytest.mark.parametrize("named", [True, False])
def test_keras_inception_archive_every_block(tmp_path, named):
    """Without the names of the layers, their order determines them."""
    images = networks.IMAGES[:, :75, :75]
    network = references.keras_network("inception_v3", 75)
    path = tmp_path / "i.weights.h5"
    network.save_weights(path)
    if not named:
        with h5py.File(path, "a") as file:
            for group in file["layers"].values():
                group["vars"].attrs.pop("name", None)
    reference = references.keras_outputs("inception_v3", network, images)
    errors = parity.endpoint_errors("inception_v3", path, images, reference)
    assert len(errors) == 12 and max(errors.values()) < 1e-4, errors


def test_order_of_layers_is_that_of_the_published_file(assets):
    path = assets / "weights" / published.CATALOG["inception_v3"].name
    order = keras_archive.inception_v3_layers()
    assert [f"{kind}_{number + 1}" for kind, number in order] == list(
        keras_h5.read(path)
    )


def test_hidden_layers_of_the_classifier_are_kept(keras_vgg, tmp_path):
    network, _ = keras_vgg
    network.save_weights(tmp_path / "v.weights.h5")
    weights = str(tmp_path / "v.weights.h5")
    spec = models.get_spec(
        "vgg16", num_classes=4, width=0.05, pooling="flatten", hidden=networks.HIDDEN
    )
    key = jax.random.key(5)
    _, variables, _ = loading.load_pretrained(spec, weights, "hidden", key)
    head = variables["params"]["head"]
    kernel, bias = network.get_layer("fc1").get_weights()
    np.testing.assert_array_equal(head["fc1"]["kernel"], kernel)
    np.testing.assert_array_equal(head["fc1"]["bias"], bias)
    new = models.init_head(spec, key)["params"]["head"]
    np.testing.assert_array_equal(head["logits"]["kernel"], new["logits"]["kernel"])
    _, variables, _ = loading.load_pretrained(spec, weights, "new", key)
    harness.assert_trees_equal(variables["params"]["head"], new)
    with pytest.raises(MergeError, match=r"logits/kernel has shape \(10, 7\)"):
        loading.load_pretrained(spec, weights, "all")
    with pytest.raises(ValueError, match="init.head is 'old'; expected one of"):
        loading.load_pretrained(spec, weights, "old")


def test_file_without_the_layers_of_the_head(tmp_path):
    networks.keras_vgg(top=False).save_weights(tmp_path / "v.weights.h5")
    weights = str(tmp_path / "v.weights.h5")
    spec = models.get_spec(
        "vgg16", num_classes=4, width=0.05, pooling="flatten", hidden=networks.HIDDEN
    )
    with pytest.raises(MergeError, match="v.weights.h5.*\n.*head/fc1/.* is missing"):
        loading.load_pretrained(spec, weights, "hidden")
    with pytest.raises(WeightFileError, match="without a classifier, expected a file"):
        loading.load_classifier("vgg16", weights)


def test_classifier_with_one_output_is_refused(tmp_path):
    spec = models.get_spec("vgg16", num_classes=1, width=networks.WIDTH)
    path = tmp_path / "v.safetensors"
    state = torch_state.state_dict("vgg16", fixtures.random_variables(spec, 0))
    fields = {"spec": json.dumps(spec.to_dict())}
    torch_files.write(path, state, fields)
    with pytest.raises(WeightFileError, match="holds vgg16 with a classifier of one"):
        loading.load_classifier("vgg16", str(path))
    _, _, record = loading.load_source("vgg16", str(path), head=False)
    assert record["name"] == "v.safetensors"


def test_no_weights_are_random_variables():
    spec = models.get_spec("baseline", num_classes=5)
    key = jax.random.key(2)
    loaded_spec, variables, record = loading.load_pretrained(spec, "", key=key)
    assert loaded_spec == spec and set(record.values()) == {None}
    harness.assert_trees_equal(variables, models.init(spec, key))
    with pytest.raises(ValueError, match="no weights 'imagenet' of baseline"):
        loading.load_pretrained(spec, "imagenet")


class _Hostile:
    def __reduce__(self):
        return print, ("code of the file was run",)


@pytest.mark.parametrize("protocol", ["zip", "pickle"])
def test_hostile_pickle_is_refused(tmp_path, capfd, protocol):
    path = tmp_path / "hostile.pth"
    state = {"features.0.weight": torch.zeros(1), "more": _Hostile()}
    if protocol == "zip":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps({"more": _Hostile()}))
    with pytest.raises(WeightFileError, match="hostile.pth holds more than tensors"):
        loading.load_pretrained(SPEC, str(path))
    assert "was run" not in capfd.readouterr().out


def test_whole_pickled_network_is_refused(torch_vgg, tmp_path):
    torch.save(torch_vgg[0], tmp_path / "network.pth")
    with pytest.raises(WeightFileError, match=r"torchvision\.models\.vgg\.VGG.*state"):
        torch_files.read(tmp_path / "network.pth")


def test_checkpoint_of_something_else(tmp_path):
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "training.pth")
    with pytest.raises(WeightFileError, match="'state_dict'.*expected a dict of"):
        torch_files.read(tmp_path / "training.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".keras", ".weights.h5"])
def test_truncated_file(torch_vgg, keras_vgg, tmp_path, ending):
    import safetensors.torch

    path = tmp_path / f"v{ending}"
    if ending == ".keras":
        keras_vgg[0].save(path)
    elif ending == ".weights.h5":
        keras_vgg[0].save_weights(path)
    else:
        save = safetensors.torch.save_file if ending[1] == "s" else torch.save
        save(torch_vgg[0].state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightFileError, match=r"v\..* \(5,000 bytes\).*incomplete"):
        readers.read("vgg16", path)


def test_missing_and_additional_tensors_are_listed(torch_vgg, tmp_path):
    state = torch_vgg[0].state_dict()
    state["tail.weight"] = state.pop("features.28.weight")
    torch.save(state, tmp_path / "v.pth")
    with pytest.raises(WeightFileError) as caught:
        readers.read("vgg16", tmp_path / "v.pth")
    message = str(caught.value)
    assert "v.pth does not hold torchvision's vgg16" in message
    assert "features.28.weight is missing" in message
    assert "tail.weight (26, 26, 3, 3) is not expected" in message


def test_weights_of_another_architecture(torch_vgg, tmp_path):
    torch.save(torch_vgg[0].state_dict(), tmp_path / "v.pth")
    with pytest.raises(WeightFileError) as caught:
        readers.read("inception_v3", tmp_path / "v.pth")
    message = str(caught.value)
    assert "v.pth does not hold torchvision's inception_v3" in message
    assert "Conv2d_1a_3x3.conv.weight is missing" in message
    assert len(message.splitlines()) == 42  # the rest is counted
    with pytest.raises(WeightFileError, match="features.26.weight .* is not expected"):
        readers.read("vgg19", tmp_path / "v.pth")


def test_unknown_format_and_source(tmp_path):
    (tmp_path / "v.bin").write_bytes(b"")
    with pytest.raises(WeightFileError, match="v.bin has an unknown format: .*.keras"):
        readers.read("vgg16", tmp_path / "v.bin")
    with pytest.raises(WeightFileError, match=r"holds \['v.bin'\], expected a folder"):
        readers.read("vgg16", tmp_path)
    with pytest.raises(ValueError, match="'imagenet:tf' of vgg16 .*'imagenet:top'"):
        loading.load_pretrained(SPEC, "imagenet:tf")


def test_safetensors_of_another_network_here(torch_vgg, tmp_path):
    state = {name: t.numpy() for name, t in torch_vgg[0].state_dict().items()}
    spec = json.dumps(models.get_spec("vgg19").to_dict())
    torch_files.write(tmp_path / "v.safetensors", state, {"spec": spec})
    with pytest.raises(WeightFileError, match="v.safetensors holds vgg19, expected"):
        readers.read("vgg16", tmp_path / "v.safetensors")


def test_registered_reader_is_chosen_by_its_suffix(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "READERS", dict(readers.READERS))
    spec = models.get_spec("baseline")
    readers.register([".a", ".b"], lambda model, path: (models.shapes(spec), spec))
    for suffix in (".a", ".b"):
        variables, read_spec = readers.read("baseline", tmp_path / f"w{suffix}")
        assert read_spec == spec and "head" in variables["params"]
    for suffix in ("npz", ".tar.gz"):
        with pytest.raises(ValueError, match=f"suffix '{suffix}' of weight files"):
            readers.register([".c", suffix], lambda model, path: None)
    assert ".c" not in readers.READERS
