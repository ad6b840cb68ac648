"""Metrics of attribution methods, for a tiny run."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from seeflower_jax import models, records
from seeflower_jax.attribution import completeness
from seeflower_jax.data import synthetic
from seeflower_jax.data.cache import open_cache
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.images import Images
from seeflower_jax.data.view import View
from seeflower_jax.experiment.images import of_run
from seeflower_jax.explain import score, score_table, scorer
from seeflower_jax.explain.masks import seen_masks
from seeflower_jax.inference.network import Network
from tests import harness
from tests.explain import small

pytestmark = pytest.mark.long


@pytest.fixture
def images(tiny_run) -> Images:
    """Return the training images of the tiny run."""
    return of_run(tiny_run).images("train")


@pytest.fixture
def examples(tiny_run, images) -> score.Examples:
    """Return correctly classified images with four different labels, as grids need.

    The tiny network classifies only one class correctly.
    """
    correct = score.choose_correct(tiny_run.network, images, 6, 4, seed=0)
    labels = np.array([0, 1, 2, 3, 0, 1], np.int32)
    return score.Examples(
        np.resize(correct.images, (6, 80, 80, 3)), labels, np.arange(6)
    )


def test_only_correctly_classified_images_are_chosen(tiny_run, images):
    network = tiny_run.network
    chosen = score.choose_correct(network, images, 6, 4, seed=0)
    assert 0 < len(chosen) <= 6
    labels = [images.labels[position] for position in chosen.positions]
    np.testing.assert_array_equal(labels, chosen.labels)
    seen = network.see(images.read(chosen.positions[0]))
    np.testing.assert_allclose(chosen.images[0], seen, atol=0.6)
    logits, _ = models.apply(network.spec, network.variables, chosen.images[:4])
    np.testing.assert_array_equal(logits.argmax(-1), chosen.labels[:4])
    assert not len(score.choose_correct(network, images[:0], 6, 4, seed=0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"methods": ["saliency"] * 2}, "'saliency' is given more than once"),
        ({"limit": 0}, "limit is 0; expected 1 or more"),
        ({"batch_size": -1}, "batch_size is -1; expected 1 or more"),
        ({"grid_size": -2}, "grid_size is -2; expected an even number"),
        ({"metrics": ["completeness"]}, r"none of the methods .saliency. has layers"),
        ({"options": {"saliency": {"steps": 3}}}, "saliency has no option 'steps'"),
    ],
)
def test_options_are_checked_first(tiny_run, images, tmp_path, options, message):
    options = {"methods": ["saliency"], "out": tmp_path / "out", **options}
    with pytest.raises(ValueError, match=message):
        score.score_methods(tiny_run, images, **options)
    assert not (tmp_path / "out").exists()


def test_scores(tiny_run, images, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "choose_correct", lambda *_: examples)
    methods = ["saliency", "eigen_cam"]
    table = score.score_methods(
        tiny_run,
        images,
        methods,
        tmp_path,
        limit=6,
        layer="block3",
        options={"saliency": {}, "eigen_cam": {"align": "stretch"}},
        grid_size=96,
        batch_size=4,
        results=tmp_path / "results",
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["pictures"] == result["grids"] == 6
    assert list(result["methods"]) == methods
    for scores in result["methods"].values():
        groups = [score_table.METRICS[name] for name in score_table.DEFAULT_METRICS]
        assert list(scores) == [column for group in groups for column in group]
        both = (scores["road_lerf"] - scores["road_morf"]) / 2
        assert scores["road_combined"] == pytest.approx(both, abs=1e-4)
        assert all(-1 <= value <= 1 for value in scores.values())
    levels = result["randomisation_by_level"]["saliency"]
    assert len(levels) == 6  # the head and five blocks
    assert all(-1 <= level <= 1 for level in levels)
    recorded = {
        name: json.loads((tmp_path / "results" / f"{name}.json").read_text())
        for name in ("pointing_game", "faithfulness")
    }
    rows = {
        "saliency": "saliency",
        "eigen_cam": "eigen_cam, layer=block3, align=stretch",
    }
    for method, scores in result["methods"].items():
        pointing = recorded["pointing_game"]["small"][rows[method]]
        assert (pointing["score"], pointing["grids"]) == (scores["pointing_game"], 6)
        assert pointing["grid_size"] == 96
        assert pointing["options"] == result["options"][method]
        faithful = recorded["faithfulness"]["small"][rows[method]]
        assert faithful["deletion"] == scores["deletion"] and faithful["pictures"] == 6
        assert faithful["layer"] == "block3"
    assert table.splitlines()[0].startswith("| method | pointing game ↑")
    assert (tmp_path / "table.md").read_text("utf-8") == table + "\n"
    assert (tmp_path / "table.png").exists()


def test_some_metrics(tiny_run, images, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "choose_correct", lambda *_: examples)

    def scores(*metrics, **options):
        return score.score_methods(
            tiny_run,
            images,
            ["eigen_cam"],
            tmp_path,
            metrics=metrics,
            limit=6,
            **options,
        )

    assert scores("pointing_game").startswith("| method | pointing game ↑ |\n")
    (columns,) = json.loads((tmp_path / "result.json").read_text())["methods"].values()
    assert set(columns) == {"pointing_game"}
    with pytest.raises(ValueError, match="known are .*did you mean 'faithfulness'"):
        scores("faithfullness")
    with pytest.raises(ValueError, match="no metric given; known are pointing_game"):
        scores()
    with pytest.raises(ValueError, match="grid_size is 75; expected an even number"):
        scores("pointing_game", grid_size=75)
    none = score.Examples(*(array[:0] for array in vars(examples).values()))
    monkeypatch.setattr(score, "choose_correct", lambda *_: none)
    with pytest.raises(ValueError, match="none of 16 images is classified correctly"):
        scores("faithfulness")


def test_completeness_of_methods_with_layers(
    tiny_run, images, examples, tmp_path, monkeypatch
):
    monkeypatch.setattr(score, "choose_correct", lambda *_: examples)
    monkeypatch.setattr(scorer.Scorer, "maps", None)  # are not needed
    variables = jax.tree.map(lambda array: array - 0.5, tiny_run.network.variables)
    network = dataclasses.replace(tiny_run.network, variables=variables)
    table = score.score_methods(
        dataclasses.replace(tiny_run, network=network),
        images,
        ["saliency", "grad_cam"],
        tmp_path,
        metrics=["completeness"],
        layer="block2",
        batch_size=4,
        results=tmp_path / "results",
    )
    assert table.splitlines()[2] == "| saliency |  |  |"
    recorded = json.loads((tmp_path / "results/completeness.json").read_text())
    (row,) = recorded["small"].items()
    assert row[0] == "grad_cam, layer=block2" and row[1]["pictures"] == 6
    share = completeness.completeness(
        network.bind(),
        examples.images.astype(np.float32),
        examples.labels,
        layer="block2",
    )
    assert abs(share - 1).min() > 0.01  # because of the biases above the layer
    for key, expected in (("", share), ("_error", abs(share - 1))):
        found = row[1][f"completeness{key}"]
        assert found == pytest.approx(float(expected.mean()), rel=1e-3)


def test_metrics_with_masks_and_perturbations(
    tiny_run, images, examples, tmp_path, monkeypatch
):
    noise = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3))
    noisy = dataclasses.replace(examples, images=noise.astype(np.float16))
    monkeypatch.setattr(score, "choose_correct", lambda *_: noisy)
    run = dataclasses.replace(tiny_run, network=small.baseline())
    left = np.arange(96) < np.full((96, 1), 48)

    def scores(mask, *metrics, run=run):
        score.score_methods(
            run,
            images,
            ["saliency"],
            tmp_path,
            metrics=metrics,
            masks=lambda _: mask,
            limit=6,
            batch_size=4,
            results=tmp_path / "results",
        )
        result = json.loads((tmp_path / "result.json").read_text())
        assert result["chance"] == {"localisation": pytest.approx(0.5)}
        return result["methods"]["saliency"]

    columns = scores(left, "infidelity", "sensitivity", "localisation")
    groups = ("infidelity", "sensitivity", "localisation")
    assert list(columns) == [
        key for name in groups for key in score_table.METRICS[name]
    ]
    assert columns["infidelity"] > 0 and columns["max_sensitivity"] > 0
    # Each half of the image equals its box, and each pixel is in one of the halves.
    assert columns["energy_in_box"] == columns["energy_in_mask"]
    right = scores(~left, "localisation")
    assert columns["energy_in_mask"] != right["energy_in_mask"]
    energy = columns["energy_in_mask"] + right["energy_in_mask"]
    assert energy == pytest.approx(1, abs=1e-3)
    assert columns["pointing_hit"] + right["pointing_hit"] == pytest.approx(1, abs=1e-3)
    for file, key in (("faithfulness", "infidelity"), ("localisation", "mask_iou")):
        recorded = json.loads((tmp_path / "results" / f"{file}.json").read_text())
        assert 0 <= recorded["baseline"]["saliency"][key]
    assert recorded["baseline"]["saliency"]["chance"] == pytest.approx(0.5)

    def of_faithfulness():
        text = (tmp_path / "results/faithfulness.json").read_text()
        return json.loads(text)["baseline"]["saliency"]

    before = of_faithfulness()
    scores(left, "localisation", "infidelity")
    after = of_faithfulness()
    assert after["max_sensitivity"] == before["max_sensitivity"]
    variables = jax.tree.map(lambda array: 2 * array, run.network.variables)
    network = dataclasses.replace(run.network, variables=variables)
    others = dataclasses.replace(noisy, positions=noisy.positions + 1)
    for changed_run, chosen in (
        (dataclasses.replace(run, network=network), noisy),
        (run, others),
    ):
        scores(left, "infidelity", "sensitivity")
        assert "max_sensitivity" in of_faithfulness()
        with monkeypatch.context() as patch:
            patch.setattr(score, "choose_correct", lambda *_, chosen=chosen: chosen)
            scores(left, "infidelity", run=changed_run)
        assert "max_sensitivity" not in of_faithfulness()
    with pytest.raises(ValueError, match="'localisation' need masks; give `masks`"):
        score.score_methods(tiny_run, images, ["saliency"], "", metrics=groups)


def test_repeats_that_fill_a_batch_do_not_count():
    noise = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3))
    labels = np.arange(3, dtype=np.int32)
    examples = score.Examples(noise.astype(np.float16), labels, labels)
    single = score.Scorer(small.baseline(), ["saliency"], None, None)
    levels, levels_with_repeats = (
        score._score_images(single, examples, None, ["faithfulness"], batch_size)[1]
        for batch_size in (3, 4)
    )
    np.testing.assert_allclose(
        levels["saliency"], levels_with_repeats["saliency"], atol=1e-4
    )


def test_random_scores_do_not_depend_on_the_batch():
    noise = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    labels = np.arange(4, dtype=np.int32)
    examples = score.Examples(noise.astype(np.float16), labels, labels)
    options = {"smooth_grad": {"samples": 2}}
    single = score.Scorer(small.baseline(), ["smooth_grad"], None, options)
    metrics, grids = ["infidelity", "sensitivity"], score.draw_grids(labels, 4, seed=0)
    (by_image, by_grid), (by_image_of_four, by_grid_of_four) = (
        (
            score._score_images(single, examples, None, metrics, images)[0],
            score._play(single, examples, grids, batch_size=4 * images),
        )
        for images in (2, 4)
    )
    for key, values in by_image["smooth_grad"].items():
        expected = by_image_of_four["smooth_grad"][key]
        np.testing.assert_allclose(values, expected, rtol=1e-3)
    grid_scores = by_grid["smooth_grad"], by_grid_of_four["smooth_grad"]
    np.testing.assert_allclose(*grid_scores, rtol=1e-3)


def test_masks_are_seen_as_images_are():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:45] = True  # the view is the central square, without its border
    (seen,) = seen_masks([mask], View(10, 40, crop=0.5))
    expected = np.ones((10, 10), bool)
    np.testing.assert_array_equal(seen, expected)
    (seen,) = seen_masks([mask], View(20, 40))
    expected = np.zeros((20, 20), bool)
    expected[5:15, 5:18] = True  # half of a pixel is not more than half
    expected[5:15, 17] = False
    np.testing.assert_array_equal(seen, expected)


def test_only_drawn_images_have_masks(tiny_run):
    with pytest.raises(ValueError, match="has no masks .* 'synthetic'"):
        of_run(tiny_run).masks("test")
    source = synthetic.load("target", 2, (0, 0, 3))
    masks = Dataset(source, open_cache).masks("test")
    index = source.indices("test")[4]
    np.testing.assert_array_equal(masks(4), source.mask(index))


def test_grids_have_four_classes():
    labels = np.repeat(np.arange(5), 6)
    rows = score.draw_grids(labels, 20, seed=0)
    assert rows.shape == (20, 4)
    assert all(len(set(labels[row])) == 4 for row in rows)
    np.testing.assert_array_equal(rows, score.draw_grids(labels, 20, seed=0))
    with pytest.raises(ValueError, match="have 3 classes; expected four"):
        score.draw_grids([0, 1, 2, 2], 1, seed=0)


def test_grids_of_unbalanced_classes_are_drawn_at_once():
    labels = [0] * 2000 + [1, 2, 3]
    rows = score.draw_grids(labels, 20, seed=0)
    assert [sorted(row[row >= 2000]) for row in rows] == [[2000, 2001, 2002]] * 20
    assert len(set(rows.min(1))) > 10  # of the many images of the first class


def test_table_is_utf8_and_complete(tmp_path, monkeypatch):
    write_text = pathlib.Path.write_text

    def write(self, text, encoding="ascii"):  # the default of some locales
        assert self.suffix != ".md" or self.name.startswith(records.PARTIAL)
        return write_text(self, text, encoding)

    monkeypatch.setattr(pathlib.Path, "write_text", write)
    result = {"methods": {"saliency": {"pointing_game": 0.5}}}
    table = score_table.write(tmp_path, result)
    assert "pointing game ↑" in table
    assert (tmp_path / "table.md").read_text("utf-8") == table + "\n"


def test_script(tiny_run, examples, tmp_path, monkeypatch):
    calls = []

    def choose(network: Network, images: Images, *_) -> score.Examples:
        calls.append((network.origin, len(images)))
        return examples

    monkeypatch.setattr(score, "choose_correct", choose)
    completed = harness.run_here(
        "attribute_eval",
        f"--workdir={tiny_run.workdir}",
        "--methods=eigen_cam",
        "--metrics=pointing_game",
        "--split=validation",
        "--limit=4",
        f"--out={tmp_path}",
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout == (tmp_path / "table.md").read_text()
    assert calls == [(tiny_run.network.origin, 12)]


def test_networks_of_flattened_features_have_grids_of_their_size(tiny_run):
    network = tiny_run.network
    flat = dataclasses.replace(
        network, spec=dataclasses.replace(network.spec, pooling="flatten")
    )
    make = score.Scorer
    assert make(network, ["saliency"], None, None).grid_size == 160
    assert make(network, ["saliency"], None, None, grid_size=96).grid_size == 96
    assert make(flat, ["saliency"], None, None, grid_size=96).grid_size == 80


def test_odd_side_of_flattened_features_is_refused_first(tiny_run, images, tmp_path):
    flat = small.baseline()
    odd = dataclasses.replace(flat, view=dataclasses.replace(flat.view, size=33))
    run = dataclasses.replace(tiny_run, network=odd)
    with pytest.raises(ValueError, match="baseline have a side of 33 pixels, .* even"):
        score.score_methods(run, images, ["saliency"], tmp_path / "out")


@pytest.mark.parametrize(
    "names, blocks",
    [
        (["conv1", "conv2"], [["conv2"], ["conv1"]]),
        (["stem", "layer10", "layer2_a"], [["layer10"], ["layer2_a"], ["stem"]]),
        (
            ["Conv2d_1a_3x3", "mixed10_b", "mixed9"],
            [["mixed10_b"], ["mixed9"], ["Conv2d_1a_3x3"]],
        ),
    ],
)
def test_layers_are_randomised_by_block(names, blocks):
    head, *groups = scorer.layer_groups({"backbone": dict.fromkeys(names)})
    assert head == ["head"]
    assert groups == [[f"backbone/{name}" for name in block] for block in blocks]
