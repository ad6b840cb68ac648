"""Test a head that is trained on the features of a few augmented draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import models
from seeflower_jax.data.augmentation import augment
from seeflower_jax.experiment import images, stage_plans
from seeflower_jax.experiment.settings import SettingsError, read_settings
from seeflower_jax.experiment.train import train
from seeflower_jax.inference.run import load_run
from tests import tiny_config

pytestmark = pytest.mark.long

DRAWS = 3


@pytest.fixture(scope="module")
def config(flowers, tmp_path_factory):
    config = tiny_config.make_small(tiny_config.get_config())
    cache = str(tmp_path_factory.mktemp("cache"))
    config.data.update(dir=str(flowers), cache_dir=cache)
    config.stage_order = ("head",)
    head = config.stages.head
    head.update(epochs=4, draws=DRAWS)
    head.augment.update(enabled=True, size=32, mixup=0.0, cutmix=0.0)
    return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("draws")
    train(config, workdir)
    return load_run(workdir)


def _files(workdir):
    return {path.name: np.load(path) for path in workdir.glob("features_*.npy")}


def test_features_are_those_of_augmented_images(run):
    settings, dataset = read_settings(run.config), images.of_run(run)
    (stage,), network = settings.stages, run.network
    files = _files(run.workdir)
    names = {f"features_head_draw{number}.npy" for number in range(DRAWS)}
    assert files.keys() == names | {"features_head.npy"}
    indices = dataset.indices("train")
    batch = dataset.reader(indices)
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    key = jax.random.fold_in(key, stage_plans._DRAWS)
    augmented = jax.jit(augment, static_argnums=3)
    features = jax.jit(models.features, static_argnums=0)
    for number in range(DRAWS):
        draw = jax.random.fold_in(key, number)
        keys = jnp.stack([jax.random.fold_in(draw, index) for index in indices])
        seen = augmented(keys, batch["canvas"], batch["sizes"], stage.augmentation)
        expected = features(network.spec, network.variables, seen)
        drawn = files[f"features_head_draw{number}.npy"]
        np.testing.assert_allclose(drawn, expected, atol=1e-4)
    assert not np.allclose(
        files["features_head_draw0.npy"], files["features_head_draw1.npy"], atol=0.1
    )
    batch = dataset.reader(dataset.indices("validation"))
    seen = network.view(batch["canvas"], batch["sizes"])
    expected = features(network.spec, network.variables, seen)
    np.testing.assert_allclose(files["features_head.npy"], expected, atol=1e-4)


def test_kept_draws_are_used_again(run, config, tmp_path):
    """A resumed run computes only missing draws, and ends like an uninterrupted run."""
    for name in ("config.json", "data.json"):
        (tmp_path / name).write_bytes((run.workdir / name).read_bytes())
    for number in range(DRAWS - 1):
        name = f"features_head_draw{number}.npy"
        (tmp_path / name).write_bytes((run.workdir / name).read_bytes())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features_*")}
    train(config, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    ours, theirs = load_run(tmp_path).network, run.network
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    again, whole = _files(tmp_path), _files(run.workdir)
    assert all((again[name] == whole[name]).all() for name in whole)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("augment.enabled", False, "augment.enabled is False; expected True, because"),
        ("augment.mixup", 0.2, "augment.mixup is 0.2; expected 0.0, because"),
        ("train_batch_stats", True, "train_batch_stats is True; expected False"),
        ("partition", ((".*", 1.0),), "expected to train 'head/.*' alone, because"),
        ("solver", "ridge", "solver is 'ridge'; expected 'gradient', because"),
    ],
)
def test_values_that_a_stage_on_draws_cannot_have(config, key, value, message):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({f"stages.head.{key}": value})
    with pytest.raises(SettingsError, match=message):
        read_settings(config)
