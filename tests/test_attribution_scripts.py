"""Activation maximisation and the judgement of maps, for a tiny run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import explain, judgement, maximisation, models, paper_figures
from seeflower_jax.data.oxford_names import CLASS_NAMES


@pytest.fixture
def run(tiny_run):
    """A run that nothing here changes."""
    return tiny_run


def test_activation_maximisation(run, tmp_path):
    out = tmp_path / "out"
    result = maximisation.maximise_classes(
        run,
        out,
        ["7", "sunflower", "2"],
        size=75,
        steps=3,
        seeds=2,
        judge=run,
        results=tmp_path / "results",
    )
    recorded = json.loads((tmp_path / "results" / "activation_max.json").read_text())
    entry = recorded["inception_v3"]["robust"]
    assert entry["recognised"] == result["recognised"]["inception_v3"]
    assert (entry["classes"], entry["judge"]) == (3, "inception_v3")
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
    with pytest.raises(ValueError, match="needs the run of a judge"):
        maximisation.maximise_classes(run, out, ["2"], results=tmp_path)


def test_maximisation_that_does_not_stay_finite_writes_no_picture(run, tmp_path):
    head = jax.tree.map(lambda x: x * np.nan, run.variables["params"]["head"])
    params = run.variables["params"] | {"head": head}
    broken = dataclasses.replace(run, variables=run.variables | {"params": params})
    with pytest.raises(FloatingPointError, match="'canterbury bells'.*--form=plain"):
        maximisation.maximise_classes(
            broken, tmp_path, ["2"], "plain", size=75, steps=1
        )
    assert not list(tmp_path.glob("*.png"))


def test_judgement(run, tmp_path, monkeypatch):
    pictures = explain.split_pictures(run, "train")
    images, labels = judgement._correct(run, pictures, 6, "mixed2", 4)
    logits, _ = models.apply(run.spec, run.variables, images[:4])
    np.testing.assert_array_equal(logits.argmax(-1), labels[:4])

    # The network is right about one class alone; grids take four.
    labels = np.array([0, 1, 2, 3, 0, 1], np.int32)
    monkeypatch.setattr(
        judgement,
        "_correct",
        lambda *_: (np.resize(images, (6, *images.shape[1:])), labels),
    )
    methods = ["saliency", "eigen_cam"]
    table = judgement.judge_methods(
        run,
        pictures,
        methods,
        tmp_path,
        limit=6,
        layer="mixed2",
        options={"saliency": {}},
        grid_size=96,
        batch_size=4,
        results=tmp_path / "results",
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["pictures"] == result["grids"] == 6
    assert list(result["methods"]) == methods
    for own in result["methods"].values():
        assert own.keys() == judgement.COLUMNS.keys()
        assert all(-1 <= value <= 1 for value in own.values())
    levels = result["randomisation_by_level"]["saliency"]
    assert len(levels) == 13  # the head, 11 blocks, the stem
    assert all(-1 <= level <= 1 for level in levels)
    recorded = {
        name: json.loads((tmp_path / "results" / f"{name}.json").read_text())
        for name in ("pointing_game", "faithfulness")
    }
    for method, own in result["methods"].items():
        pointing = recorded["pointing_game"]["inception_v3"][method]
        assert (pointing["score"], pointing["grids"]) == (own["pointing_game"], 6)
        assert (pointing["grid_size"], pointing["options"]) == (96, {})
        faithful = recorded["faithfulness"]["inception_v3"][method]
        assert faithful["deletion"] == own["deletion"] and faithful["pictures"] == 6
        assert faithful["layer"] == "mixed2"
    assert table.splitlines()[0].startswith("| method | pointing game ↑")
    assert (tmp_path / "table.md").read_text() == table + "\n"
    assert (tmp_path / "table.png").exists()

    def alone(judge):
        return judgement.judge_methods(
            run, pictures, ["eigen_cam"], tmp_path, judges=[judge], limit=6
        )

    assert alone("pointing_game").startswith("| method | pointing game ↑ |\n")
    (scores,) = json.loads((tmp_path / "result.json").read_text())["methods"].values()
    assert set(scores) == {"pointing_game"}
    with pytest.raises(ValueError, match="known are .*did you mean 'faithfulness'"):
        alone("faithfullness")
    with pytest.raises(ValueError, match="no judge given; known are pointing_game"):
        judgement.judge_methods(run, pictures, ["eigen_cam"], tmp_path, judges=[])
    with pytest.raises(ValueError, match="a grid of 75 pixels has no halves"):
        judgement.judge_methods(run, pictures, ["eigen_cam"], tmp_path, grid_size=75)
    none = images[:0], labels[:0]
    monkeypatch.setattr(judgement, "_correct", lambda *_: none)
    with pytest.raises(ValueError, match="no picture is classified correctly"):
        alone("faithfulness")


def test_grids_have_four_classes():
    labels = np.repeat(np.arange(5), 6)
    rows = judgement.draw_grids(labels, 20, seed=0)
    assert rows.shape == (20, 4)
    assert all(len(set(labels[row])) == 4 for row in rows)
    np.testing.assert_array_equal(rows, judgement.draw_grids(labels, 20, seed=0))
    with pytest.raises(ValueError, match="four classes"):
        judgement.draw_grids([0, 1, 2, 2], 1, seed=0)


@pytest.mark.slow
def test_paper_figures(run, tmp_path):
    paper_figures.draw(run, tmp_path, [2, 0], steps=2, size=75)
    assert Image.open(tmp_path / "figure_4_5.png").size[0] > 400
    assert Image.open(tmp_path / "figure_4_6.png").size[0] > 400
    with pytest.raises(ValueError, match="no picture of class 7"):
        paper_figures.attribution_figure(run, tmp_path / "b.png", [2, 7])
    drawn = sorted(p.name for p in (tmp_path / "activation_max_plain").glob("0*.png"))
    assert drawn == ["000_pink_primrose.png", "002_canterbury_bells.png"]


def test_classes_of_the_paper_have_their_official_names():
    """The paper calls index 7 lotus, by an order of folders as texts."""
    names = [CLASS_NAMES[index] for index in paper_figures.PAPER_CLASSES]
    assert names == [
        *("tiger lily", "bird of paradise", "mexican aster", "trumpet creeper"),
        "rose",
    ]
    assert CLASS_NAMES[77] == "lotus"
    assert paper_figures.first_of_classes([3, 1, 7, 1, 5], [1, 5, 7]) == [1, 4, 2]
