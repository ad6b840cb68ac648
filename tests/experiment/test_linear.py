"""Test the recipe `linear` end to end, on small files in the real layouts."""

import json
import shutil

import numpy as np
import pytest

from configs import inception, vgg16
from seeflower_jax import records
from seeflower_jax.evaluation import metrics
from seeflower_jax.experiment import evaluate, images
from seeflower_jax.experiment.settings import (
    SettingsError,
    read_settings,
)
from seeflower_jax.experiment.train import train
from seeflower_jax.explain.attribute import attribute
from seeflower_jax.explain.store import MapStore
from seeflower_jax.inference import export
from seeflower_jax.inference.run import load_run
from seeflower_jax.pretrained import converted
from seeflower_jax.training import ridge, speed
from tests import fixtures, harness

pytestmark = pytest.mark.long


def test_one_step_and_its_record(linear_run):
    folder = linear_run.workdir
    result = records.read_result(folder)
    assert result["recipe"] == "linear" and result["best"]["stage"] == "linear"
    assert result["test"]["top1"] > 0.6  # chance is 0.25
    assert result["seconds"]["linear"] > 0
    (line,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert line["run_step"] == 1
    features = np.load(folder / "features_linear.npy")
    images = fixtures.CLASSES * (fixtures.TRAIN + fixtures.VALIDATION)
    assert features.shape[0] == images
    before = (folder / "result.json").read_bytes()
    assert train(linear_run.config, folder) == result
    assert (folder / "result.json").read_bytes() == before


def test_export_and_map_have_the_head(linear_run, flowers, tmp_path):
    network = linear_run.network
    assert network.variables["batch_stats"]["head"]["norm"]["var"].min() >= 0
    export.save(tmp_path / "export", network, {})
    image = sorted((flowers / "jpg").iterdir())[0]
    (prediction,) = network.predict(image)
    (exported,) = export.load(tmp_path / "export").predict(image)
    np.testing.assert_allclose(
        exported.probabilities, prediction.probabilities, atol=1e-5
    )
    for layer in (None, "head", ["block3_conv1", "block5_conv3"]):
        explanation = network.explain(image, "grad_cam", layer=layer)
        assert np.isfinite(explanation.map).all() and explanation.map.max() > 0


def test_attribution_explains_all_that_the_head_reads(linear_run, flowers, tmp_path):
    network = linear_run.network
    images = network.images(flowers / "jpg")[:2]
    attribute(network, images, ["grad_cam", "hires_cam"], tmp_path, overlays=True)
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["settings"]["layer"] == "head"
    store = MapStore.open(tmp_path)
    maps = [store.read(line) for line in store.lines()]
    assert len(maps) == 4 and all(values.any() for values in maps)


def test_head_of_all_views(linear_config, linear_run, tmp_path):
    """The head is the ridge regression on the features of all views and mirror images.

    Validation in training uses the single view of a prediction.
    """
    config = linear_config.copy_and_resolve_references()
    config.test_time.update(views=((80, 1.0), (80, 0.7)), hflip=True)
    config.stages.linear.all_views = True
    result = train(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    dataset = images.of_run(run)
    evaluator = evaluate.make_evaluator(run)
    variables = linear_run.network.variables  # with the same features
    batches = evaluator.features(variables, dataset.reader, dataset.indices("train"))
    features = np.concatenate(list(batches))
    count = fixtures.CLASSES * fixtures.TRAIN
    assert features.shape[:2] == (count, 4)
    fit = ridge.solve(
        features.reshape(count * 4, -1),
        dataset.labels("train"),
        len(run.network.class_names),
    )
    head = run.network.variables["params"]["head"]["logits"]
    np.testing.assert_allclose(head["kernel"], fit.kernel, atol=1e-5)
    logged = json.loads((run.workdir / "metrics.jsonl").read_text())["validation"]
    single = evaluate.single_view(run)
    logits = evaluate.evaluate(run, "validation", single).logits
    labels = dataset.labels("validation")
    assert logged == pytest.approx(metrics.compute(logits, labels), rel=1e-3)
    averaged = evaluate.evaluate(run, "validation").metrics
    assert result["validation"] == averaged
    config.test_time.hflip = False  # The head was solved on the mirror images, too.
    with pytest.raises(ValueError, match="test_time.hflip: True there, False now"):
        train(config, tmp_path / "run")


def test_many_images_are_solved_on_one_view_each(
    linear_config, linear_run, tmp_path, monkeypatch
):
    """The evaluation still averages all views."""
    config = linear_config.copy_and_resolve_references()
    config.test_time.update(views=((80, 1.0), (80, 0.7)), hflip=True)
    config.stages.linear.all_views = True
    count = fixtures.CLASSES * fixtures.TRAIN
    monkeypatch.setattr(ridge, "MAX_VIEWS", 4 * count)
    result = train(config, tmp_path / "one")
    rows = np.load(tmp_path / "one/features_linear.npy")
    of_one_view = np.load(linear_run.workdir / "features_linear.npy")
    assert len(rows) == count + fixtures.CLASSES * fixtures.VALIDATION
    np.testing.assert_array_equal(rows, of_one_view)
    run = load_run(tmp_path / "one")
    harness.assert_trees_equal(run.network.variables, linear_run.network.variables)
    labels = images.of_run(run).labels("validation")
    logits = np.load(tmp_path / "one/logits_validation_test_time.npz")["logits"]
    single = np.load(tmp_path / "one/logits_validation.npz")["logits"]
    assert np.abs(logits - single).max() > 1e-3
    assert result["validation"] == pytest.approx(metrics.compute(logits, labels))
    monkeypatch.setattr(ridge, "MAX_VIEWS", 4 * count + 1)
    train(config, tmp_path / "all", test=False)
    rows = np.load(tmp_path / "all/features_linear.npy")
    assert len(rows) == 4 * count + fixtures.CLASSES * fixtures.VALIDATION


def test_pages_state_the_number_of_views():
    def words(name):
        return " ".join((harness.ROOT / name).read_text().replace("# ", "").split())

    for name in ("docs/data.md", "configs/base.py"):
        assert f"{ridge.MAX_VIEWS:,} or more views" in words(name)
    counts = {}
    for module in (inception, vgg16):
        settings = read_settings(module.get_config("linear"))
        assert settings.mirror
        counts[module] = ridge.MAX_VIEWS // (2 * len(settings.views))
    assert (
        f"from {counts[inception]:,} training images for the four views of "
        f"Inception-v3, and from {counts[vgg16]:,} for the two views of the VGGs"
    ) in words("docs/data.md")


def test_seed_does_not_matter(linear_config, linear_run, tmp_path):
    network = linear_run.network
    source = {"name": "narrow", "sha256": None, "exact": None}
    converted.save(tmp_path / "weights", network.spec, network.variables, source)
    config = linear_config.copy_and_resolve_references()
    config.init.weights = str(tmp_path / "weights")
    variables = []
    for seed in (1, 2):
        config.seed = seed
        train(config, tmp_path / f"seed{seed}", test=False)
        variables.append(load_run(tmp_path / f"seed{seed}").network.variables)
    harness.assert_trees_equal(*variables)


def test_refit_after_fine_tuning(linear_config, tmp_path, monkeypatch):
    """After a stage that trains the network, another stage can solve the head again.

    A step of the closed form has no share of the device's largest FLOP/s.
    """
    monkeypatch.setitem(speed._PEAK_FLOPS, "cpu", 1e12)
    config = linear_config.copy_and_resolve_references()
    config.stages.finetune = vgg16.get_config().stages.finetune
    config.stages.finetune.update(epochs=1, batch_size=8, validate_every=1)
    config.stages.finetune.augment.size = 80
    config.stages.refit = config.stages.linear
    config.stage_order = ("linear", "finetune", "refit")
    result = train(config, tmp_path / "run")
    assert result["seconds"].keys() == {"linear", "finetune", "refit", "evaluation"}
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    assert [(line["stage"], "model_flop_utilisation" in line) for line in lines] == [
        ("linear", False),
        ("finetune", True),
        ("refit", False),
    ]


def test_fine_tuned_network_gets_the_head_of_linear(flowers, narrow_weights, tmp_path):
    config = inception.get_config()
    config.metric = "loss"  # gets better with the first step, unlike top-1
    config.model.width = fixtures.NARROW_WIDTH
    config.init.weights = str(narrow_weights)
    config.data.update(dir=str(flowers), verify=False, shortest_side=80)
    config.data.cache_dir = str(tmp_path / "cache")
    config.eval.update(size=80, batch_size=8)
    config.test_time.update(views=((80, 1.0),), hflip=False)
    config.init.pretraining.test_time.views = ((80, 1.0),)
    for stage in (config.stages.head, config.stages.finetune):
        stage.update(epochs=1, batch_size=8, validate_every=1)
        stage.augment.size = 80
    result = train(config, tmp_path / "run", test=False)
    # `exact` is about the file, which is not a published one.
    assert (result["weights"]["name"], result["weights"]["exact"]) == (
        "pretraining",
        False,
    )
    names = ["pretraining: head", "pretraining: finetune", "linear"]
    assert [epoch["stage"] for epoch in records.read_logs(tmp_path / "run")] == names
    other = tmp_path / "other"  # of a config without pretraining, in the same folder
    shutil.copytree(tmp_path / "run", other)
    plain = json.loads((other / "config.json").read_text())
    plain["init"]["pretraining"] = {}
    (other / "config.json").write_text(json.dumps(plain))
    assert [epoch["stage"] for epoch in records.read_logs(other)] == ["linear"]
    before = records.read_result(tmp_path / "run/pretraining")
    assert result["pretraining"] == {key: before[key] for key in result["pretraining"]}
    assert result["pretraining"].keys() >= {"validation", "seconds", "weights"}
    runs = [load_run(tmp_path / name) for name in ("run", "run/pretraining")]
    after, tuned = (run.network.variables["params"] for run in runs)
    harness.assert_trees_equal(after["backbone"], tuned["backbone"])
    untuned = fixtures.narrow_variables(seed=1)["params"]["backbone"]
    stem, middle = ("Conv2d_1a_3x3", "mixed5_branch1x1")
    harness.assert_trees_equal(tuned["backbone"][stem], untuned[stem])
    kernels = (tree[middle]["conv"]["kernel"] for tree in (tuned["backbone"], untuned))
    assert not np.array_equal(*kernels)
    assert after["head"]["logits"]["kernel"].shape[0] > 10


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("stages.linear.epochs", 2, "epochs is 2; expected 1, because config.stages."),
        ("stages.linear.augment.enabled", True, "augment.enabled is True; expected Fa"),
        ("model.standardize", False, "config.model.standardize is False; expected Tr"),
        ("test_time.views", ((64, 1.0),), r"test_time.views\[0\] is .* of config.eval"),
        ("model.hidden", (5,), r"config.model.hidden is \(5,\); expected \(\), beca"),
        ("stages.linear.partition", ((".*", 1.0),), "expected to train 'head/"),
        ("stages.linear.solver", "rigde", "expected one of gradient, ridge"),
    ],
)
def test_values_that_a_closed_form_head_cannot_have(linear_config, key, value, message):
    config = linear_config.copy_and_resolve_references()
    config.stages.linear.all_views = True
    config.update_from_flattened_dict({key: value})
    with pytest.raises(SettingsError, match=message):
        read_settings(config)
