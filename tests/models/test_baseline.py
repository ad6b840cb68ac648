"""Test the paper's baseline: its layers, and a run from random parameters."""

import jax
import numpy as np
import pytest

from configs import baseline, vgg16, vgg19
from seeflower_jax import models
from seeflower_jax.experiment.settings import derive, read_settings
from seeflower_jax.experiment.train import train
from seeflower_jax.inference.load import load
from seeflower_jax.training import partition
from tests import fixtures

pytestmark = pytest.mark.long


def test_layers_are_those_of_the_paper():
    spec = models.get_spec("baseline", num_classes=102)
    params = models.shapes(spec)["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    assert shapes["backbone"]["conv1"] == {"kernel": (3, 3, 3, 16), "bias": (16,)}
    assert shapes["backbone"]["conv2"] == {"kernel": (3, 3, 16, 32), "bias": (32,)}
    assert shapes["head"]["fc1"]["kernel"] == (8 * 8 * 32, 1024)
    assert shapes["head"]["logits"]["kernel"] == (1024, 102)


def test_dropout_is_active_in_training_alone():
    spec = models.get_spec("baseline", num_classes=5)
    variables = fixtures.random_variables(spec, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    logits, endpoints = models.apply(spec, variables, images)
    np.testing.assert_array_equal(logits, models.apply(spec, variables, images)[0])
    assert list(endpoints) == ["conv1", "pool1", "conv2", "pool2"]
    rngs = {"dropout": jax.random.key(0)}
    _, dropped = models.apply(spec, variables, images, rngs=rngs)
    share = np.mean((dropped["pool1"] == 0) & (endpoints["pool1"] > 0))
    assert 0.5 * 0.25 * np.mean(endpoints["pool1"] > 0) < share


@pytest.mark.parametrize("setting", ["a", "b", "c"])
def test_settings(setting):
    config = baseline.get_config(setting)
    assert config.data.split == {"c": "reversed"}.get(setting, "official")
    assert config.stages.train.augment.enabled == (setting != "a")
    with pytest.raises(ValueError, match="unknown setting 'd'"):
        baseline.get_config("d")


def test_config_trains_from_random_parameters(flowers, tmp_path):
    config = baseline.get_config("b")
    config.data.update(dir=str(flowers), cache_dir=str(tmp_path), verify=False)
    config.eval.batch_size = 8
    config.stages.train.update(epochs=2, batch_size=8)
    result = train(config, tmp_path / "run")
    assert result["weights"] == {"name": None, "sha256": None, "exact": None}
    assert result["test"]["count"] == fixtures.CLASSES * fixtures.TEST
    network = load(tmp_path / "run")
    paths = sorted((flowers / "jpg").iterdir())[:2]
    predictions = network.predict(paths, top=2)
    assert [prediction.image for prediction in predictions] == list(map(str, paths))
    for prediction in predictions:
        assert set(prediction.classes) <= set(network.class_names)


def test_vgg_configs_differ_in_the_network_alone():
    first, second = vgg16.get_config(), vgg19.get_config()
    assert (first.model.name, second.model.name) == ("vgg16", "vgg19")
    second.model.name = "vgg16"
    assert first.to_dict() == second.to_dict()
    for config in (first, second):
        pretraining = read_settings(config).pretraining
        settings = read_settings(derive(config, pretraining))
        params = models.shapes(settings.spec(num_classes=102))["params"]
        _, frozen_params = partition.split(params, settings.stages[1].rules)
        frozen = {name.split("/")[1].split("_")[0] for name in frozen_params}
        assert frozen == {"block1", "block2", "block3", "block4"}
