"""Activation maximisation and the judgement of maps, for a tiny run."""

import json

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import experiment, explain, judgement, maximisation
from tests import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory, flowers, narrow_weights):
    """A trained tiny run."""
    config = tiny_config.get_config()
    config.data.dir, config.init.weights = str(flowers), str(narrow_weights)
    config.data.cache_dir = str(tmp_path_factory.mktemp("cache"))
    config.stages.head.update(epochs=40, learning_rate=0.05, validate_every=40)
    config.stages.finetune.epochs = 0
    workdir = tmp_path_factory.mktemp("run")
    experiment.train(config, workdir)
    return experiment.load_run(workdir)


def test_activation_maximisation(run, tmp_path):
    out = tmp_path / "out"
    result = maximisation.maximise_classes(
        run, out, ["7", "sunflower", "2"], size=75, steps=3, seeds=2, judge=run
    )
    assert result == json.loads((out / "result.json").read_text())
    assert result["classes"] == 3 and result["judge"] == "inception_v3"
    assert 0 <= result["recognised"]["inception_v3"] <= 3
    assert set(result["scores"]) == {
        *("bird of paradise", "sunflower", "canterbury bells")
    }
    assert Image.open(out / "007_bird_of_paradise.png").size == (75, 75)
    assert len(list(out.glob("0*.png"))) == 3
    assert (out / "sheet.png").exists() and (out / "curves.png").exists()
    with pytest.raises(ValueError, match="classes 0 to 101"):
        maximisation.maximise_classes(run, out, ["102"])


def test_judgement(run, tmp_path):
    pictures = explain.split_pictures(run, "train")
    methods = ["saliency", "eigen_cam"]
    table = judgement.judge_methods(
        run, pictures, methods, tmp_path, limit=6, layer="mixed2", batch_size=4
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["pictures"] == result["grids"] == 6
    assert list(result["methods"]) == methods
    for own in result["methods"].values():
        assert own.keys() == judgement.COLUMNS.keys()
        assert all(-1 <= value <= 1 for value in own.values())
    levels = result["randomisation_by_level"]["saliency"]
    assert len(levels) == 13 and levels[-1] < 0.9  # the head, 11 blocks, the stem
    assert table.splitlines()[0].startswith("| method | pointing game ↑")
    assert (tmp_path / "table.md").read_text() == table + "\n"
    assert (tmp_path / "table.png").exists()


def test_grids_have_four_classes():
    labels = np.repeat(np.arange(5), 6)
    rows = judgement.draw_grids(labels, 20, seed=0)
    assert rows.shape == (20, 4)
    assert all(len(set(labels[row])) == 4 for row in rows)
    np.testing.assert_array_equal(rows, judgement.draw_grids(labels, 20, seed=0))
    with pytest.raises(ValueError, match="four classes"):
        judgement.draw_grids([0, 1, 2, 2], 1, seed=0)
