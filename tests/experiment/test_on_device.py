"""Test a run with training images in the memory of the device."""

import pytest

from seeflower_jax import records
from seeflower_jax.data import resident
from seeflower_jax.evaluation import evaluator
from seeflower_jax.experiment.train import train
from seeflower_jax.inference.run import load_run
from tests import harness, tiny_config

pytestmark = pytest.mark.long


def test_it_has_the_bits_of_a_run_that_reads_the_cache(flowers, tmp_path, monkeypatch):
    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(dir=str(flowers), cache_dir=str(tmp_path / "cache"))
    config.stage_order = ("finetune",)
    config.stages.finetune.epochs = 2
    evaluator._logits.cache_clear()
    used, original = [], resident.ResidentLoader.__call__

    def noted(self, start, stop):
        used.append(start)
        return original(self, start, stop)

    monkeypatch.setattr(resident.ResidentLoader, "__call__", noted)
    runs = {}
    for choice in ("never", "always"):
        config.data.on_device = choice
        train(config, tmp_path / choice, test=False)
        runs[choice] = load_run(tmp_path / choice).network.variables
        assert used == ([] if choice == "never" else [0])
    harness.assert_trees_equal(runs["always"], runs["never"])
    logs = [records.read_log(tmp_path / choice) for choice in runs]
    assert [line["train"] for line in logs[0]] == [line["train"] for line in logs[1]]
    # The choice does not change the run, so it may change when a run is resumed.
    configs = [load_run(tmp_path / choice).config for choice in runs]
    assert len({records.config_hash(config) for config in configs}) == 1
    # Validation, calibration and result of both runs share one compiled function.
    assert evaluator._logits.cache_info().misses == 1


def test_too_many_pixels_are_refused_before_the_first_stage(
    flowers, tmp_path, monkeypatch
):
    monkeypatch.setattr(resident, "_MAX_PIXELS", 10)
    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(dir=str(flowers), cache_dir=str(tmp_path / "cache"))
    config.data.on_device = "always"
    with pytest.raises(ValueError, match="on_device is 'always', but the training im"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.stages.finetune.augment.enabled = False  # reads the cache
    train(config, tmp_path / "run", test=False)
