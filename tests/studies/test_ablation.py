"""Test the rows of the ablation, and scripts.ablation, which measures them."""

import dataclasses
import importlib
import json
import sys

import pytest
from absl import flags
from flax import traverse_util
from ml_collections import config_flags

from seeflower_jax import models, records
from seeflower_jax.experiment.settings import derive, read_settings
from seeflower_jax.studies import ablation, tables
from seeflower_jax.studies.rows import CONFIGS
from seeflower_jax.training import partition
from tests import harness, recorded


def _config(change, monkeypatch):
    """Return the config of scripts.train for the command of a change."""
    script, arguments = change.commands("runs")[0]
    assert script == "train" and "--notest" in arguments
    argv = [script, *(a for a in arguments if a.startswith("--config"))]
    monkeypatch.setattr(sys, "argv", argv)  # ml_collections reads the keys here
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    values(argv)
    return config.value


@pytest.mark.parametrize("change", ablation.CHANGES, ids=lambda change: change.key)
def test_changes_are_what_their_names_say(change, monkeypatch):
    monkeypatch.chdir(harness.ROOT)
    module = importlib.import_module(f"configs.{CONFIGS[change.model]}")
    best = config = module.get_config(change.recipe)
    if change.values:
        config = _config(change, monkeypatch)
        before, after = dict(records.flat(best)), dict(records.flat(config))
        assert before.keys() == after.keys()
        assert change.values == {k: v for k, v in after.items() if v != before[k]}
        settings = read_settings(config)
        params = models.shapes(settings.spec(num_classes=102))["params"]
        names = traverse_util.flatten_dict(params, sep="/")
        for stage in settings.stages:
            partition.assign(stage.rules, names)
    hashes = map(records.config_hash, recorded.layouts(config))
    rows = ablation.load_results(harness.ROOT / "results")
    row = rows.get(change.model, {}).get(change.name)
    assert row is None or row["config_hash"] in hashes


def test_changes_of_the_default_recipe_reach_its_fine_tuning(monkeypatch):
    monkeypatch.chdir(harness.ROOT)

    def stages(key):
        (change,) = ablation.select([key])
        config = _config(change, monkeypatch)
        return read_settings(derive(config, config.init.pretraining)).stages

    head, finetune = stages("inception_v3_random_erasing")
    assert head.augmentation is None and finetune.augmentation.erasing == 0.25
    head, finetune = stages("inception_v3_batch_statistics_trained")
    assert not head.train_batch_stats and finetune.train_batch_stats


def test_keys_select():
    keys = [change.key for change in ablation.CHANGES]
    assert len(set(keys)) == len(keys)
    assert ablation.select([]) == list(ablation.CHANGES)
    selected = ablation.select(
        ["vgg16_two_stages_head_alone*", "inception_v3_*_head_alone"]
    )
    assert {change.model for change in selected} == {"vgg16", "inception_v3"}
    assert all(change.values["stage_order"] == ("head",) for change in selected)
    with pytest.raises(
        ValueError,
        match="row 'vgg16_two_stages_mirored'.*'vgg16_two_stages_also_mirrored",
    ):
        ablation.select(["vgg16_two_stages_mirored"])


@pytest.mark.parametrize(
    "key",
    ["vgg16_two_stages_head_alone", "vgg16_two_stages_without_the_mean_of_weights"],
)
def test_commands_take_local_files(key):
    (change,) = ablation.select([key])
    (_, train), (_, evaluate) = change.commands("o", {"data.dir": "d"}, "w")
    weights = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert train[-2:] == ["--config.data.dir=d", f"--config.init.weights=w/{weights}"]
    assert f"--workdir=o/{key}" in train and evaluate[0] in train


def test_rows_that_change_only_the_evaluation_take_the_folder_of_the_images():
    (change,) = ablation.select(["vgg16_two_stages_also_mirrored"])
    ((script, arguments),) = change.commands("o", {"data.dir": "d"})
    assert (script, arguments[-1]) == ("evaluate", "--data_dir=d")


def test_values_of_a_row_are_not_overwritten():
    (change,) = ablation.select(["inception_v3_short_two_epochs_*_bfloat16"])
    (_, train), _ = change.commands("o", {"model.dtype": "float32", "data.dir": "d"})
    dtypes = [argument for argument in train if "dtype" in argument]
    assert dtypes == ["--config.model.dtype=bfloat16"]
    assert train[-1] == "--config.data.dir=d"
    # Rows are compared with results of the recipe, which have the dtype of the recipe.
    done = harness.run_here("ablation", "--out=o", "--dtype=float32", "--dry_run")
    assert done.returncode == 2 and "flag 'dtype'" in done.stderr


def test_table_compares_with_the_recipe():
    recipe = {"model": "vgg16", "split": "official", "recipe": "best", "seed": 0}
    recipe["validation"] = {"top1": 0.9}
    row = {"top1": 0.875, "count": 1020, "config_hash": "abc"}
    rows = {"vgg16": {"one size": row}}
    text = tables.ablation_table(rows, [recipe])
    assert "| VGG16 | best | unchanged | .9000 |  |  |" in text
    assert "| VGG16 | best | one size | .8750 | -.0250 | abc |" in text
    linear = recipe | {"recipe": "linear", "validation": {"top1": 0.95}}
    rows["vgg16"]["one view"] = row | {"top1": 0.94, "recipe": "linear"}
    text = tables.ablation_table(rows, [recipe, linear])
    assert "| VGG16 | linear | one view | .9400 | -.0100 | abc |" in text
    assert tables.ablation_table({}, [recipe]) == ""


def test_table_has_the_standard_errors_of_its_counts_and_any_network():
    row = {"top1": 0.5, "count": 100, "config_hash": "abc"}
    text = tables.ablation_table({"small": {"one size": row}}, [])
    assert "| small | best | one size | .5000 |  | abc |" in text
    assert "(standard errors 0.050 to 0.050)" in text


@pytest.mark.parametrize(
    "section, key, value",
    [("data", "source", "synthetic"), ("data", "split", "reversed"), ("", "seed", 1)],
)
def test_rows_of_other_images_or_seeds_are_refused(tiny_run, section, key, value):
    ablation.check(tiny_run, "one size")
    changes = {section: {key: value}} if section else {key: value}
    run = dataclasses.replace(tiny_run, config=derive(tiny_run.config, changes))
    with pytest.raises(ValueError, match=f"{key} of .* is {value!r}; expected"):
        ablation.check(run, "one size")


def test_rows_may_have_the_seed_of_their_change(tiny_run, monkeypatch):
    change = ablation.Change("small", "again", {"seed": 1}, recipe="best")
    monkeypatch.setattr(ablation, "CHANGES", (change,))
    again = dataclasses.replace(tiny_run, config=derive(tiny_run.config, {"seed": 1}))
    ablation.check(again, "again")
    with pytest.raises(ValueError, match="seed of .* is 0; expected 1, as in all rows"):
        ablation.check(tiny_run, "again")


def test_script_records_what_is_missing(inception_run, tmp_path, monkeypatch):
    monkeypatch.chdir(harness.ROOT)
    out = tmp_path / "runs"
    out.mkdir()
    (out / "inception_v3_official_three_stages_seed0").symlink_to(inception_run.workdir)
    arguments = [
        f"--out={out}",
        f"--results={tmp_path}",
        "--only=vgg19_two_stages_also_mirrored,inception_v3_three_stages_not_mirrored",
        "--json",
    ]
    planned = harness.run_here("ablation", *arguments, "--dry_run")
    rows = json.loads(planned.stdout)["rows"]
    assert [row["state"] for row in rows] == ["missing"] * 2
    # There is no run of VGG19. The other row is measured nevertheless.
    made = harness.run_here("ablation", *arguments)
    assert made.returncode == 1
    assert "these rows failed: vgg19_two_stages_also_mirrored" in made.stderr
    rows = ablation.load_results(tmp_path)
    assert list(rows) == ["inception_v3"] and rows["inception_v3"]["not mirrored"]
    planned = harness.run_here("ablation", *arguments, "--dry_run")
    rows = json.loads(planned.stdout)["rows"]
    assert {row["name"]: row["state"] for row in rows} == {
        "inception_v3_three_stages_not_mirrored": "recorded",
        "vgg19_two_stages_also_mirrored": "missing",
    }
