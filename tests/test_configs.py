"""Test the recipes of configs/: keys, trained parameters, and what a network sees."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from configs import base, baseline, inception, outside_data, quickstart, vgg16, vgg19
from seeflower_jax import models, records
from seeflower_jax.experiment import images
from seeflower_jax.experiment.checks import RULES, STAGE_RULES
from seeflower_jax.experiment.evaluate import evaluate
from seeflower_jax.experiment.settings import derive, read_settings
from seeflower_jax.experiment.train import train
from seeflower_jax.inference.run import load_run
from seeflower_jax.studies import record, reproduce, rows
from seeflower_jax.training import partition
from seeflower_jax.training.optimizer import make_optimizer
from tests import fixtures, harness, recorded

VARIANTS = {
    "baseline": baseline.SETTINGS,
    "inception": inception.VARIANTS,
    "vgg16": vgg16.VARIANTS,
    "vgg19": vgg16.VARIANTS,
}
RECORDED = record.load_results(harness.ROOT / "results")


def test_the_base_config_has_the_keys_that_the_code_reads():
    config = base.get_config()
    assert config.stages.to_dict() == config.init.pretraining.to_dict() == {}
    assert dict(records.flat(config)).keys() == RULES.keys()
    assert dict(records.flat(base.get_stage())).keys() == STAGE_RULES.keys()


@pytest.mark.parametrize(
    "module,variant",
    [(module, variant) for module in VARIANTS for variant in VARIANTS[module]],
)
def test_every_recipe_makes_sense(module, variant):
    config = importlib.import_module(f"configs.{module}").get_config(variant)
    settings = read_settings(config)
    assert [stage.name for stage in settings.stages] == list(config.stage_order)
    keys = dict(records.flat(base.get_config())).keys()
    config.stages = config.init.pretraining = {}
    assert dict(records.flat(config)).keys() == keys


def test_outside_data_are_seen_before_the_flowers():
    config = outside_data.get_config()
    config.init.pretraining.data.dir = "plants"
    settings = read_settings(config)
    before = read_settings(derive(config, settings.pretraining))
    assert (before.data.source, before.data.dir) == ("folder", "plants")
    assert (settings.data.source, settings.data.dir) == ("oxford_flowers102", "")
    assert [stage.name for stage in before.stages] == ["head", "finetune"]
    config.recipe, config.init.pretraining = "best", {}
    assert config.to_dict() == inception.three_stages().to_dict()


def test_best_of_inception_is_linear_on_the_fine_tuned_network():
    config = inception.get_config()
    assert config.to_dict() == inception.get_config("best").to_dict()
    settings = read_settings(config)
    before = read_settings(derive(config, settings.pretraining))
    assert [stage.name for stage in before.stages] == ["head", "finetune"]
    assert before.spec(102) == read_settings(inception.three_stages()).spec(102)
    assert before.data == settings.data and not before.averages_views
    assert [stage.freezes_backbone("head/.*") for stage in before.stages] == [
        True,
        False,
    ]
    config.recipe, config.init.pretraining = "linear", {}
    del config.stages.head, config.stages.finetune
    assert config.to_dict() == inception.get_config("linear").to_dict()


def test_best_of_the_vggs_is_linear_after_shorter_stages():
    for module in (vgg16, vgg19):
        best = module.get_config()
        settings = read_settings(best)
        before = read_settings(derive(best, settings.pretraining))
        stages = read_settings(module.get_config("two_stages"))
        assert before.spec(102) == stages.spec(102)
        assert [stage.name for stage in before.stages] == ["head", "finetune"]
        assert [stage.rules for stage in before.stages] == [
            stage.rules for stage in stages.stages
        ]
        assert before.stages[1].epochs < stages.stages[1].epochs
        best.recipe, best.init.pretraining = "linear", {}
        del best.stages.head, best.stages.finetune
        assert best.to_dict() == module.get_config("linear").to_dict()


def test_every_run_of_the_quick_start_makes_sense():
    config = quickstart.get_config()
    assert read_settings(config).pretraining
    before = read_settings(derive(config, config.init.pretraining))
    scratch = read_settings(derive(config, config.quickstart.scratch))
    assert [stage.name for stage in before.stages] == ["pretrain"]
    assert [stage.name for stage in scratch.stages] == ["scratch"]
    assert before.data.split == "source" and scratch.data.split == "target"


def test_no_config_is_untested():
    folder = pathlib.Path(base.__file__).parent
    files = {path.stem for path in folder.glob("*.py")}
    others = {"__init__", "base", "paper", "quickstart", "outside_data"}
    assert files == {*others, *VARIANTS}


def _row_of(result):
    """Return the row of a result, None for an ensemble."""
    key = result["model"], result["split"], result["recipe"]
    return next((row for row in rows.ROWS if row.key == key), None)


def _is_of_the_recipe(result, row):
    """Return whether a result has the config of its row, in the type that it states."""
    module, _, variant = row.config.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(variant)
    config.update(seed=result["seed"], data={"split": row.split})
    config.model.dtype = rows.dtype_of(result)
    config.update_from_flattened_dict(dict(row.changes))
    layouts = recorded.layouts(config)
    return result["config_hash"] in map(records.config_hash, layouts)


@pytest.mark.parametrize("result", RECORDED, ids=record.result_name)
def test_recorded_results_are_of_the_recipes(result):
    if row := _row_of(result):
        assert _is_of_the_recipe(result, row)
        return
    assert result["model"] == "ensemble"
    dtypes = {r["config_hash"]: rows.dtype_of(r) for r in RECORDED if r is not result}
    hashes = {member["config_hash"] for member in result["members"]}
    assert hashes <= dtypes.keys()
    assert {dtypes[member] for member in hashes} == {rows.dtype_of(result)}


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_results_in_bfloat16_are_of_the_recipes(row):
    (run,) = reproduce.plan([row], [1], "runs", changes={"model.dtype": "bfloat16"})
    assert "--config.model.dtype=bfloat16" in run.command
    result = {"model": row.model, "split": row.split, "recipe": row.recipe, "seed": 1}
    result["config_hash"] = read_settings(run.config).config_hash
    assert _row_of(result) == row
    assert not _is_of_the_recipe(result, row)
    assert _is_of_the_recipe(result | {"dtype": "bfloat16"}, row)
    before = run.config.init.pretraining
    if before:
        tuned = read_settings(derive(run.config, before))
        assert tuned.model_changes["dtype"] == "bfloat16"


def test_the_three_stages_are_those_that_were_run():
    config = inception.get_config("three_stages")
    assert records.config_hash(recorded.layout(config)) == "10d3f5ef6661"
    config.stages.settle.learning_rate *= 2
    assert records.config_hash(recorded.layout(config)) != "10d3f5ef6661"


@pytest.mark.parametrize(
    "module,recipe,epochs",
    [
        (inception, "three_stages", (30, 4, 1)),
        (vgg16, "two_stages", (30, 2)),
        (vgg19, "two_stages", (30, 2)),
    ],
)
def test_the_short_recipe_differs_in_its_epochs_alone(module, recipe, epochs):
    long, short = (module.get_config(name) for name in (recipe, "short"))
    names = ("head", "finetune", "settle")[: len(epochs)]
    assert short.stage_order == names
    assert tuple(short.stages[name].epochs for name in names) == epochs
    for config in (long, short):
        config.recipe = ""
        for stage in config.stages.values():
            stage.update(epochs=1, validate_every=1)
    assert short.to_dict() == long.to_dict()


@pytest.mark.parametrize("module", [inception, vgg16, vgg19])
@pytest.mark.parametrize("recipe", ["paper", "corrected"])
def test_recipes_of_the_paper(module, recipe):
    config = module.get_config(recipe)
    settings = read_settings(config)
    assert settings.recipe == recipe
    augmentations = [stage.augmentation for stage in settings.stages]
    keep_aspect = {image.keep_aspect for image in (settings.view, *augmentations)}
    assert keep_aspect == {recipe == "corrected"}
    assert config.model.preprocess == ("unit" if recipe == "paper" else None)
    params = models.shapes(settings.spec(num_classes=102))["params"]
    for stage in settings.stages:
        trainable, _ = partition.split(params, stage.rules)
        assert {"head/logits/kernel"} <= set(trainable)
        assert stage.patience == 20
        make_optimizer(stage, stage.schedule(1))
    with pytest.raises(ValueError, match="unknown variant 'papre'; known are"):
        module.get_config("papre")


@pytest.mark.parametrize("module,epochs,rate", [(vgg16, 65, 1e-5), (vgg19, 200, 1e-4)])
@pytest.mark.parametrize("recipe", ["top_only", "top_only_corrected"])
def test_the_head_alone_is_that_of_the_code(module, epochs, rate, recipe):
    config = module.get_config(recipe)
    settings = read_settings(config)
    (stage,) = settings.stages
    assert settings.recipe == recipe and settings.metric == "top1"
    corrected = recipe == "top_only_corrected"
    assert settings.view.keep_aspect == stage.augmentation.keep_aspect == corrected
    assert config.model.preprocess == (None if corrected else "unit")
    assert (stage.epochs, stage.learning_rate) == (epochs, rate)
    assert (stage.batch_size, stage.patience, stage.optimizer) == (32, 30, "adam")
    assert stage.draws == 5 and stage.augmentation.vflip
    spec = settings.spec(num_classes=102)
    assert spec.hidden == (4096, 4096) and spec.dropout == 0.6
    trainable, _ = partition.split(models.shapes(spec)["params"], stage.rules)
    kernels = {name for name in trainable if name.endswith("kernel")}
    assert kernels == {f"head/{name}/kernel" for name in ("fc1", "fc2", "logits")}
    assert trainable["head/fc1/kernel"].shape == (7 * 7 * 512, 4096)


def test_first_stages_of_the_paper_train_what_its_code_does():
    def trained(module):
        settings = read_settings(module.get_config("paper"))
        params = models.shapes(settings.spec(num_classes=102))["params"]
        names = partition.split(params, settings.stages[0].rules)[0]
        return {name.removesuffix("/kernel") for name in names if "kernel" in name}

    assert trained(inception) == {"head/logits"}
    assert trained(vgg19) == {"head/fc2", "head/logits"}
    assert trained(vgg16) == {
        *("backbone/block4_conv3", "backbone/block5_conv1", "backbone/block5_conv2"),
        *("backbone/block5_conv3", "head/fc1", "head/fc2", "head/logits"),
    }


def test_baseline_is_squashed_too():
    (stage,) = read_settings(baseline.get_config("b")).stages
    assert stage.augmentation.keep_aspect is False
    (stage,) = read_settings(baseline.get_config("a")).stages
    assert stage.augmentation is None and stage.view.keep_aspect is False


@pytest.mark.long
def test_paper_shows_the_network_whole_images_in_0_to_1(
    flowers, narrow_weights, tmp_path
):
    config = inception.get_config("paper")
    config.model.width = fixtures.NARROW_WIDTH
    config.init.weights = str(narrow_weights)
    config.data.update(dir=str(flowers), cache_dir=str(tmp_path), verify=False)
    config.data.shortest_side = 80
    config.eval.update(size=80, batch_size=8)
    config.test_time.views = ((80, 1.0),)
    config.stages.head.update(epochs=1, batch_size=8)
    config.stages.head.augment.size = 80
    config.stages.finetune.epochs = 0
    train(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    network = run.network
    assert network.spec.preprocess == "unit"
    # The frozen layers keep the statistics of the file, although batches were
    # normalised by their own statistics.
    loaded = fixtures.narrow_variables(seed=1)["batch_stats"]
    harness.assert_trees_equal(network.variables["batch_stats"], loaded)

    logits = evaluate(run, "test").logits
    dataset = images.of_run(run)
    batch = dataset.reader(dataset.indices("test"))
    row, (height, width) = next(
        (row, size) for row, size in enumerate(batch["sizes"]) if size[0] != size[1]
    )
    whole = batch["canvas"][row, None, :height, :width].astype(np.float32)
    squashed = jax.image.resize(whole, (1, 80, 80, 3), "linear")
    module = jax.jit(models.build(network.spec).apply)
    expected, _ = module(network.variables, squashed / 255)
    np.testing.assert_allclose(logits[row, None], expected, rtol=1e-3, atol=1e-3)
    assert network.view.keep_aspect is False
