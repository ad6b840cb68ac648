"""From a folder of your own images to all uses of a trained network."""

import csv
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.experiment import evaluate
from seeflower_jax.experiment.images import of_run
from seeflower_jax.experiment.train import train
from seeflower_jax.explain.attribute import attribute
from seeflower_jax.explain.store import MapStore
from seeflower_jax.inference import export
from seeflower_jax.inference.load import load
from seeflower_jax.inference.run import Run, load_run
from tests import tiny_config

CLASSES = ("rote Tulpe", "δάφνη", "薔薇")


@pytest.fixture(scope="module")
def run(tmp_path_factory, narrow_weights) -> Run:
    """Return a tiny run on three classes, one of which has a single image."""
    root = tmp_path_factory.mktemp("folder")
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
    evaluation = evaluate.evaluate(run, "test")
    class_names = run.network.class_names
    assert class_names == CLASSES and evaluation.logits.shape == (4, 3)
    evaluate.write(tmp_path, evaluation, class_names)
    with open(tmp_path / "per_class.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(CLASSES)
    assert [row["count"] for row in rows] == ["2", "2", "0"]
    with pytest.raises(ValueError, match="has no 'validation' split here"):
        evaluate.evaluate(run, "validation")


def test_attribution(run, tmp_path):
    methods = ["finer_cam", "saliency"]
    images = of_run(run).images("train")
    attribute(run.network, images, methods, tmp_path, layer="mixed2")
    maps = MapStore.open(tmp_path)
    lines = list(maps.lines())
    assert len(lines) == 2 * 11
    assert {line["prediction"] for line in lines} <= set(CLASSES)
    values = np.stack([maps.read(line) for line in lines])
    assert np.isfinite(values).all() and values.any()
    images = run.network.images(run.config["data"]["dir"])
    assert images.labels == [0] * 8 + [1] * 6 + [2]


def test_prediction_and_export(run, tmp_path):
    photo = f"{run.config['data']['dir']}/薔薇/0.webp"
    (expected,) = load(run.workdir).predict(photo)
    assert set(expected.classes) == set(CLASSES)
    export.save(tmp_path / "out", run.network, {})
    (prediction,) = load(tmp_path / "out").predict(photo)
    assert prediction.classes == expected.classes
    np.testing.assert_allclose(
        prediction.probabilities, expected.probabilities, rtol=1e-4, atol=1e-6
    )


def test_other_images_are_noticed(run, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(pathlib.Path(run.config["data"]["dir"]), photos)
    moved = load_run(run.workdir, str(photos))
    with pytest.raises(ValueError, match="config.data.dir: .* there, .* now"):
        train(moved.config, run.workdir)
    assert evaluate.evaluate(moved, "test").metrics["count"] == 4
    shutil.copytree(photos / CLASSES[0], photos / "aster")
    with pytest.raises(ValueError, match="trained on other images than there are now"):
        evaluate.evaluate(moved, "test")
