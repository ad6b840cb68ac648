"""The rows of the ablation, and scripts.ablation, which makes them."""

import importlib
import json
import pathlib
import sys

import pytest
from absl import flags
from flax import traverse_util
from ml_collections import config_flags

from seeflower_jax import ablation, models, records
from seeflower_jax.training import partition, stages
from tests import harness

ROOT = pathlib.Path(__file__).parents[1]


def _config(change, monkeypatch):
    """What scripts.train makes of the command of a change."""
    script, arguments = change.commands("runs")[0]
    assert script == "train" and "--notest" in arguments
    argv = [script, *(a for a in arguments if a.startswith("--config"))]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections finds the keys
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    values(argv)
    return config.value


@pytest.mark.parametrize("change", ablation.CHANGES, ids=lambda change: change.key)
def test_changes_are_what_their_names_say(change, monkeypatch):
    monkeypatch.chdir(ROOT)
    module = importlib.import_module(f"configs.{ablation.CONFIGS[change.model]}")
    best = module.get_config()
    hashed = records.config_hash(best)
    if change.values:
        config = _config(change, monkeypatch)
        there, here = dict(records.flat(best)), dict(records.flat(config))
        assert there.keys() == here.keys()
        assert change.values == {k: v for k, v in here.items() if v != there[k]}
        hashed = records.config_hash(config)
        spec = models.get_spec(num_classes=102, **config.model)
        names = traverse_util.flatten_dict(models.shapes(spec)["params"], sep="/")
        for stage in stages.stages(config):
            partition.assign(stage.rules, names)
    row = ablation.recorded(ROOT / "results").get(change.model, {}).get(change.name)
    assert row is None or row["config_hash"] == hashed


def test_keys_select():
    keys = [change.key for change in ablation.CHANGES]
    assert len(set(keys)) == len(keys)
    assert ablation.select([]) == list(ablation.CHANGES)
    found = ablation.select(["vgg16_head_alone*", "inception_v3_head_alone"])
    assert {change.model for change in found} == {"vgg16", "inception_v3"}
    assert all(change.values["stage_order"] == ("head",) for change in found)
    with pytest.raises(ValueError, match="no row.*'vgg16_mirored'.*'vgg16_also_mirror"):
        ablation.select(["vgg16_mirored"])


@pytest.mark.parametrize(
    "key", ["vgg16_head_alone", "vgg16_without_the_mean_of_weights"]
)
def test_commands_take_local_files(key):
    (change,) = ablation.select([key])
    (_, train), (_, evaluate) = change.commands("o", {"data.dir": "d"}, "w")
    weights = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert train[-2:] == ["--config.data.dir=d", f"--config.init.weights=w/{weights}"]
    assert f"--workdir=o/{key}" in train and evaluate[0] in train


def test_script_records_what_is_missing(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "runs"
    out.mkdir()
    (out / "inception_v3_official_seed0").symlink_to(tiny_run.workdir)
    arguments = [
        f"--out={out}",
        f"--results={tmp_path}",
        "--only=vgg19_also_mirrored,inception_v3_not_mirrored",
        "--json",
    ]
    planned = harness.run_here("ablation", *arguments, "--dry_run")
    rows = json.loads(planned.stdout)["rows"]
    assert [row["state"] for row in rows] == ["missing"] * 2
    # No run of VGG19 is there; the other row is made all the same.
    made = harness.run_here("ablation", *arguments)
    assert made.returncode == 1
    assert "these rows failed: vgg19_also_mirrored" in made.stderr
    rows = ablation.recorded(tmp_path)
    assert list(rows) == ["inception_v3"] and rows["inception_v3"]["not mirrored"]
    planned = harness.run_here("ablation", *arguments, "--dry_run")
    rows = json.loads(planned.stdout)["rows"]
    assert {row["name"]: row["state"] for row in rows} == {
        "inception_v3_not_mirrored": "recorded",
        "vgg19_also_mirrored": "missing",
    }
