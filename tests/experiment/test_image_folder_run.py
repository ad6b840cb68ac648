"""Test a run on an image folder: evaluation, attribution, prediction and export."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import ensemble, images
from seeflower_jax.experiment.evaluate import evaluate, write
from seeflower_jax.experiment.settings import SettingsError
from seeflower_jax.experiment.train import train
from seeflower_jax.explain.attribute import attribute
from seeflower_jax.explain.store import MapStore
from seeflower_jax.inference import export
from seeflower_jax.inference.run import load_run
from tests import tiny_config

pytestmark = pytest.mark.long

CLASSES = ("rote Tulpe", "δάφνη", "薔薇")


@pytest.fixture(scope="module")
def run(tmp_path_factory, narrow_weights):
    """Return a tiny run on three classes; one class has a single image."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(zip(CLASSES, (8, 6, 1), strict=True)):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 99, (90, 80 + number, 3), np.uint8)
            pixels[..., label] += 150
            Image.fromarray(pixels).save(root / "photos" / name / f"{number}.webp")
    config = tiny_config.get_config()
    config.data.source, config.data.dir = "folder", str(root / "photos")
    config.data.cache_dir, config.init.weights = str(root), str(narrow_weights)
    config.data.split = "70/0/30"  # no validation
    config.stages.head.epochs = 1
    config.stages.finetune.epochs = 0
    result = train(config, root / "run")
    assert "validation" not in result and result["split"] == "70/0/30"
    assert result["test"]["count"] == 4 and result["test"]["top5"] == 1.0
    return load_run(root / "run")


def test_evaluation(run, tmp_path):
    evaluation = evaluate(run, "test")
    assert run.network.class_names == CLASSES and evaluation.logits.shape == (4, 3)
    write(tmp_path, evaluation, CLASSES)
    with open(tmp_path / "per_class.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(CLASSES)
    assert [row["count"] for row in rows] == ["2", "2", "0"]
    with pytest.raises(ValueError, match="has no 'validation' split here"):
        evaluate(run, "validation")


def test_attribution(run, tmp_path):
    train_images = images.of_run(run).images("train")
    methods = ["finer_cam", "saliency"]
    attribute(run.network, train_images, methods, tmp_path, layer="mixed2")
    store = MapStore.open(tmp_path)
    lines = list(store.lines())
    assert len(lines) == 2 * 11
    assert {line["prediction"] for line in lines} <= set(CLASSES)
    maps = np.stack([store.read(line) for line in lines])
    assert np.isfinite(maps).all() and maps.any()
    files = run.network.images(run.config["data"]["dir"])
    assert files.labels == [0] * 8 + [1] * 6 + [2]


def test_prediction_and_export(run, tmp_path):
    photo = f"{run.config['data']['dir']}/薔薇/0.webp"
    (prediction,) = run.network.predict(photo)
    assert set(prediction.classes) == set(CLASSES)
    export.save(tmp_path / "out", run.network, {})
    (again,) = export.load(tmp_path / "out").predict(photo)
    assert again.classes == prediction.classes
    np.testing.assert_allclose(
        again.probabilities, prediction.probabilities, rtol=1e-4, atol=1e-6
    )


def test_other_images_are_noticed(run, tmp_path):
    shutil.copytree(run.config["data"]["dir"], tmp_path / "photos")
    config = load_run(run.workdir).config
    config["data"]["dir"] = str(tmp_path / "photos")
    with pytest.raises(ValueError, match="config.data.dir: .* there, .* now"):
        train(config, run.workdir)
    moved = load_run(run.workdir, data_dir=str(tmp_path / "photos"))
    assert evaluate(moved, "test").metrics["count"] == 4
    shutil.copytree(tmp_path / "photos" / CLASSES[0], tmp_path / "photos" / "aster")
    with pytest.raises(ValueError, match="trained on other images: "):
        evaluate(moved, "test")


def test_joint_head_needs_the_splits_before_it_computes_features(run, monkeypatch):
    monkeypatch.setattr(Evaluator, "features", None)
    with pytest.raises(ValueError, match="has no 'validation' split here"):
        ensemble.joint_head([run, run], splits=("test",))


def test_top5_of_few_classes_is_no_metric(run, tmp_path):
    config = load_run(run.workdir).config
    config["metric"] = "top5"
    with pytest.raises(SettingsError, match="config.metric is 'top5'; .* only 3 class"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
