"""The recipes of configs/: what each trains, and what `paper` shows its network."""

import dataclasses

import numpy as np
import pytest

from configs import baseline, inception, vgg16, vgg19
from seeflower_jax import classify, experiment, models, records
from seeflower_jax.data import augment
from seeflower_jax.training import partition, stages
from tests import fixtures, harness


def test_the_best_recipe_of_inception_is_the_one_that_was_run():
    assert records.config_hash(inception.get_config()) == "10d3f5ef6661"
    assert inception.get_config("best").to_dict() == inception.get_config().to_dict()


@pytest.mark.parametrize(
    "module,epochs", [(inception, (30, 4, 1)), (vgg16, (30, 2)), (vgg19, (30, 2))]
)
def test_the_short_recipe_differs_in_its_epochs_alone(module, epochs):
    best, short = (module.get_config(name) for name in ("best", "short"))
    names = ("head", "finetune", "settle")[: len(epochs)]
    assert short.stage_order == names
    assert tuple(short.stages[name].epochs for name in names) == epochs
    for config in (best, short):
        config.recipe = ""
        for stage in config.stages.values():
            stage.update(epochs=1, validate_every=1)
    assert short.to_dict() == best.to_dict()


@pytest.mark.parametrize("module", [inception, vgg16, vgg19])
@pytest.mark.parametrize("recipe", ["paper", "corrected"])
def test_recipes_of_the_paper(module, recipe):
    config = module.get_config(recipe)
    assert config.recipe == recipe
    squashed = [config.eval] + [s.config.augment for s in stages.stages(config)]
    assert {view.get("keep_aspect", True) for view in squashed} == {
        recipe == "corrected"
    }
    assert ("preprocess" in config.model) == (recipe == "paper")
    changes = {k: v for k, v in config.model.items() if k != "name"}
    spec = models.get_spec(config.model.name, num_classes=102, **changes)
    params = models.shapes(spec)["params"]
    for stage in stages.stages(config):
        trainable, _ = partition.split(params, stage.rules)
        assert {"head/logits/kernel"} <= set(trainable)
        assert stage.config.early_stopping.patience == 20
        partition.make_optimizer(stage.config, stage.rules, stage.schedule(1))
    with pytest.raises(ValueError, match="unknown variant 'papre'; there are"):
        module.get_config("papre")


def test_first_stages_of_the_paper_train_what_its_code_does():
    def trained(module):
        config = module.get_config("paper")
        spec = models.get_spec(
            config.model.name,
            num_classes=102,
            pooling="flatten" if "hidden" in config.model else "average",
            hidden=config.model.get("hidden", ()),
        )
        stage = stages.stages(config)[0]
        names = partition.split(models.shapes(spec)["params"], stage.rules)[0]
        return {name.removesuffix("/kernel") for name in names if "kernel" in name}

    assert trained(inception) == {"head/logits"}
    assert trained(vgg19) == {"head/fc2", "head/logits"}
    assert trained(vgg16) == {
        *("backbone/block4_conv3", "backbone/block5_conv1", "backbone/block5_conv2"),
        *("backbone/block5_conv3", "head/fc1", "head/fc2", "head/logits"),
    }


def test_baseline_is_squashed_too():
    assert baseline.get_config("b").stages.train.augment.keep_aspect is False


def test_paper_shows_the_network_whole_pictures_in_0_to_1(
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
    experiment.train(config, tmp_path / "run")
    run = experiment.load_run(tmp_path / "run")
    assert run.spec.preprocess == "unit"
    # The statistics of the frozen layers are the file's, though batches were
    # normalised by their own.
    loaded = fixtures.narrow_variables(seed=1)["batch_stats"]
    harness.assert_trees_equal(run.variables["batch_stats"], loaded)

    _, logits, _ = experiment.evaluate(run, "test")
    pictures = experiment.Pictures.open(run.config, run.workdir)
    first = pictures.source.splits["test"][0]
    batch = pictures.reader(np.array([first]))
    whole = augment.center_crop(batch["canvas"], batch["sizes"], 80, keep_aspect=False)
    model = models.build(dataclasses.replace(run.spec, preprocess="none of these"))
    expected, _ = model.apply(run.variables, whole / 255)
    np.testing.assert_allclose(logits[:1], expected, rtol=1e-3, atol=1e-3)
    assert classify.from_run(run.workdir).interface.keep_aspect is False
