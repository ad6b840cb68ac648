"""Test the reading of Keras' weight files, intact and damaged."""

import h5py
import jax
import numpy as np
import pytest

from seeflower_jax import models
from seeflower_jax.pretrained import keras_h5, loading, published
from seeflower_jax.pretrained.merge import MergeError
from tests import fixtures, harness

SPEC = models.get_spec("inception_v3", num_classes=102, width=fixtures.NARROW_WIDTH)


@pytest.fixture(scope="module")
def variables():
    return fixtures.narrow_variables(seed=2)


def _load(path):
    return keras_h5.convert_inception_v3(keras_h5.read(path), str(path))


@pytest.mark.parametrize("first", [0, 1, 95])
def test_round_trip_whatever_number_comes_first(tmp_path, variables, first):
    fixtures.write_inception_h5(tmp_path / "w.h5", variables, first)
    loaded = _load(tmp_path / "w.h5")
    harness.assert_trees_equal(
        loaded,
        {
            "params": {"backbone": variables["params"]["backbone"]},
            "batch_stats": variables["batch_stats"],
        },
    )


def test_layer_names_split_over_attributes(tmp_path, variables):
    path = tmp_path / "w.h5"
    fixtures.write_inception_h5(path, variables)
    with h5py.File(path, "a") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:50], names[50:]
    assert len(_load(path)["params"]["backbone"]) == 94


def test_order_of_the_file_pairs_as_the_numbers_do(assets):
    """Keras pairs layers by depth; pairing by their numbers gives the same pairs."""
    import keras

    path = assets / "weights" / published.CATALOG["inception_v3"].url.rsplit("/", 1)[-1]
    in_file = [name for name in keras_h5.read(path) if name.startswith("conv2d")]
    model = keras.applications.InceptionV3(weights=None, include_top=False)
    in_keras = [layer.name for layer in model.layers if layer.name.startswith("conv2d")]
    number = lambda name: int(name.partition("_")[2] or 0)  # noqa: E731
    first = min(map(number, in_keras))
    assert [number(n) - 1 for n in in_file] == [number(n) - first for n in in_keras]
    assert in_file != sorted(in_file, key=number)


def test_all_defects_are_reported_at_once(tmp_path, variables):
    layers = fixtures.inception_layers(variables)
    layers = [layer for layer in layers if layer[0] != "conv2d_7"]
    layers.append(("block1_conv1", [("block1_conv1_W_1:0", np.zeros((3, 3, 3, 64)))]))
    norm = next(layer for layer in layers if layer[0] == "batch_normalization_9")
    norm[1].pop()
    fixtures.write_keras_h5(tmp_path / "w.h5", layers)
    with pytest.raises(keras_h5.WeightFileError) as caught:
        _load(tmp_path / "w.h5")
    text = str(caught.value)
    assert "w.h5" in text and "93 convolutions, expected 94" in text
    assert "block1_conv1" in text and "batch_normalization_9 has 2 arrays" in text


def test_file_of_another_network(assets):
    path = assets / "weights/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with pytest.raises(keras_h5.WeightFileError, match="block5_conv3"):
        _load(path)


def test_wrong_shapes_name_every_array(narrow_weights):
    spec = models.get_spec("inception_v3", num_classes=102, width=0.1)
    with pytest.raises(MergeError) as caught:
        loading.load_pretrained(spec, str(narrow_weights))
    assert str(narrow_weights) in str(caught.value)
    assert str(caught.value).count("has shape") == 4 * 94
    assert "params/backbone/mixed10_branch_pool/conv/kernel" in str(caught.value)


def test_truncated_file(tmp_path, narrow_weights):
    content = narrow_weights.read_bytes()
    (tmp_path / "half.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(keras_h5.WeightFileError, match="may be incomplete"):
        keras_h5.read(tmp_path / "half.h5")


def test_file_that_is_no_hdf5(tmp_path):
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(keras_h5.WeightFileError, match="text.h5 .10 bytes.*cannot be"):
        keras_h5.read(tmp_path / "text.h5")


def test_missing_file_says_where_to_get_it():
    with pytest.raises(FileNotFoundError, match="MD5 bcbd6486424b2319ff4ef7d526e38f63"):
        loading.load_pretrained(SPEC, "nowhere.h5")


def test_another_file_than_published_is_reported_not_refused(narrow_weights, caplog):
    key = jax.random.key(3)
    _, loaded, record = loading.load_pretrained(SPEC, str(narrow_weights), key=key)
    assert record["exact"] is False and record["name"] == "narrow_notop.h5"
    assert "not the published file" in caplog.text
    head = models.init_head(SPEC, key)["params"]["head"]["logits"]["kernel"]
    np.testing.assert_array_equal(loaded["params"]["head"]["logits"]["kernel"], head)


@pytest.mark.parametrize("model,exact", [("vgg16", True), ("vgg19", False)])
def test_published_variables_are_known_in_another_file(assets, model, exact):
    path = assets / "weights" / published.CATALOG[model].name
    assert not published.CATALOG[model].matches(path)
    _, _, record = loading.load_source(model, str(path))
    assert record["exact"] is exact


def test_one_other_value_is_not_published(tmp_path, variables, monkeypatch):
    variables_hash = published.backbone_hash(variables)
    weights = published.PublishedWeights("w.h5", md5="0" * 32, variables=variables_hash)
    monkeypatch.setitem(published.CATALOG, "inception_v3", weights)
    paths = [tmp_path / name for name in ("same.h5", "other.h5")]
    fixtures.write_inception_h5(paths[0], variables)
    other = jax.tree.map(np.copy, variables)
    jax.tree.leaves(other["batch_stats"])[0][0] += 1e-3
    fixtures.write_inception_h5(paths[1], other)
    loaded = [loading.load_pretrained(SPEC, str(path)) for path in paths]
    assert [record["exact"] for _, _, record in loaded] == [True, False]
