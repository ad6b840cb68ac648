"""From a folder of pictures of one's own to all that is done with a trained network."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import classify, experiment, explain, exported
from seeflower_jax.attribution.store import MapStore
from seeflower_jax.report import evaluation
from tests import tiny_config

CLASSES = ("rote Tulpe", "δάφνη", "薔薇")


@pytest.fixture(scope="module")
def run(tmp_path_factory, narrow_weights):
    """A tiny run on three classes, one of which has a single picture."""
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
    result = experiment.train(config, root / "run")
    assert "validation" not in result and result["split"] == "70/0/30"
    assert result["test"]["count"] == 4 and result["test"]["top5"] == 1.0
    return experiment.load_run(root / "run")


def test_evaluation(run, tmp_path):
    metrics, logits, labels = experiment.evaluate(run, "test")
    assert run.class_names == CLASSES and logits.shape == (4, 3)
    evaluation.write(tmp_path, metrics, logits, labels, run.class_names, 1.0)
    with open(tmp_path / "per_class.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(CLASSES)
    assert [row["count"] for row in rows] == ["2", "2", "0"]
    with pytest.raises(ValueError, match="has no 'validation' part here"):
        experiment.evaluate(run, "validation")


def test_attribution(run, tmp_path):
    methods = ["finer_cam", "saliency"]
    explain.attribute(
        run, explain.split_pictures(run, "train"), methods, tmp_path, layer="mixed2"
    )
    lines = list(MapStore.open(tmp_path).lines())
    assert len(lines) == 2 * 11 and {line["prediction"] for line in lines} <= set(
        CLASSES
    )
    values = np.stack([MapStore.open(tmp_path).read(line) for line in lines])
    assert np.isfinite(values).all() and values.any()
    pictures = explain.photo_pictures(run, run.config.data.dir)
    assert pictures.labels == [0] * 8 + [1] * 6 + [2]


def test_prediction_and_export(run, tmp_path):
    photo = f"{run.config.data.dir}/薔薇/0.webp"
    ((_, top),) = classify.from_run(run.workdir).predict([photo])
    assert {name for name, _ in top} == set(CLASSES)
    exported.save(tmp_path / "out", run, {})
    ((_, again),) = classify.from_export(tmp_path / "out").predict([photo])
    assert [name for name, _ in again] == [name for name, _ in top]
    np.testing.assert_allclose(
        [p for _, p in again], [p for _, p in top], rtol=1e-4, atol=1e-6
    )


def test_other_pictures_are_noticed(run, tmp_path):
    shutil.copytree(run.config.data.dir, tmp_path / "photos")
    config = experiment.load_run(run.workdir).config
    config.data.dir = str(tmp_path / "photos")
    with pytest.raises(ValueError, match="config.data.dir: .* there, .* now"):
        experiment.train(config, run.workdir)
    moved = experiment.load_run(run.workdir)
    moved.config.data.dir = config.data.dir
    assert experiment.evaluate(moved, "test")[0]["count"] == 4
    shutil.copytree(tmp_path / "photos" / CLASSES[0], tmp_path / "photos" / "aster")
    with pytest.raises(
        ValueError, match="trained on other pictures than there are now"
    ):
        experiment.evaluate(moved, "test")
