"""Test objects and parts without labels, and heads that read their crops."""

import concurrent.futures
import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import records
from seeflower_jax.data.images import Images
from seeflower_jax.experiment.settings import derive
from seeflower_jax.studies import directions, discovery, record
from tests import harness


def _scene(rng, left, top):
    """Return features [12, 12, 6] of an object of 6 x 4 positions with two parts.

    All scenes have the same border and grid.
    """
    features = rng.normal(0, 0.1, (12, 12, 6)) + [1, 0, 0, 0, 0, 0]
    features[[0, -1]] += [0, 0, 0, 0, 0, 3]
    features[::2, ::2] += [0, 0, 0, 0, 0, 3]
    features[top : top + 3, left : left + 4] += [0, 3, 3, 2, 0, 0]
    features[top + 3 : top + 6, left : left + 4] += [0, 3, 3, 0, 2, 0]
    return features


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    places = [(int(x), int(y)) for x, y in rng.integers(1, (8, 6), (80, 2))]
    return places, np.stack([_scene(rng, *place) for place in places])


@pytest.fixture(scope="module")
def components(scenes):
    return discovery.fit(np.split(scenes[1], 4), (2,))


def test_objects_are_found_without_labels(scenes, components):
    for (left, top), features in zip(*scenes, strict=True):
        y, x, half = discovery.object_box(components.object_map(features))
        # The longer side and a margin. The blur adds up to a position on each side.
        assert 6 / 12 * 1.1 - 1e-6 <= half <= 8 / 12 * 1.1 + 1e-6
        for center, start, length in ((y, top, 6), (x, left, 4)):
            wanted = 2 * (start + length / 2) / 12 - 1
            wanted = np.clip(wanted, half - 1, 1 - half)
            assert center == pytest.approx(wanted, abs=2 / 12 + 1e-6)


def test_an_image_without_an_object_is_taken_whole():
    assert discovery.object_box(np.full((4, 4), -1.0)).tolist() == [0, 0, 1]


def test_parts_are_found_without_labels(scenes, components):
    order = set()
    for (left, top), features in zip(*scenes, strict=True):
        region = discovery.object_region(components.object_map(features))
        boxes = components.part_boxes(features, region, 2)
        assert (boxes[:, 2] == discovery.PART).all()
        order.add(boxes[0, 0] < boxes[1, 0])
        upper, lower = sorted(boxes.tolist())
        for (y, x, _), first in ((upper, top), (lower, top + 3)):
            for center, start, length in ((y, first, 3), (x, left, 4)):
                low, high = (2 * (start + n) / 12 - 1 for n in (0.5, length - 0.5))
                limit = 1 - discovery.PART
                assert np.clip(low, -limit, limit) - 1e-9 <= center
                assert center <= np.clip(high, -limit, limit) + 1e-9
    assert len(order) == 1  # each centre is always the same part


def test_runs_that_do_not_fit(linear_run):
    with pytest.raises(ValueError, match="is not finished: .* no complete result"):
        directions.Study(dataclasses.replace(linear_run, result={}))
    for section, changes in {
        "init": {"pretraining": {"seed": 1}},
        "stages": {"linear": {"solver": "gradient", "partition": [[".*", 1.0]]}},
    }.items():
        config = derive(linear_run.config, {section: changes})
        (key,) = changes
        with pytest.raises(ValueError, match=f"its network in config.{section}.{key};"):
            directions.Study(dataclasses.replace(linear_run, config=config))


@pytest.mark.long
def test_rows_of_a_run_and_their_record(linear_run, tmp_path):
    out = [f"--results={tmp_path}", f"--figure={tmp_path / 'parts.png'}"]
    only = ["--only=whole image,whole image and 2 parts", "--test=whole image"]
    completed = harness.run_here(
        "directions", f"--workdir={linear_run.workdir}", *only, *out
    )
    assert completed.returncode == 0, completed.stderr
    rows = json.loads((tmp_path / "directions.json").read_text())["rows"]
    result = json.loads((linear_run.workdir / "result.json").read_text())
    # The run's own head reads the whole image alone.
    for split in ("validation", "test"):
        assert rows["whole image"][split]["top1"] == result[split]["top1"]
    assert rows["whole image and 2 parts"].keys() == {"validation"}
    assert Image.open(tmp_path / "parts.png").width > 500
    with pytest.raises(ValueError, match="'mixed7' is unknown; layers are"):
        directions.Study(linear_run, "mixed7")
    study = directions.Study(linear_run)
    added = {"object": {"validation": {"top1": 0.5}}}
    directions.record(study, added, tmp_path, "another command")
    merged = directions.load_rows(tmp_path)["rows"]
    assert merged.keys() == {*rows, "object"}
    assert merged["object"]["validation"]["command"] == "another command"
    assert all(merged[name] == row for name, row in rows.items())
    assert "--only=" in rows["whole image"]["test"]["command"]
    record.write_results(tmp_path, tmp_path / "RESULTS.md")
    assert "| object | .5000 |" in (tmp_path / "RESULTS.md").read_text()
    config = records.plain(linear_run.config)
    config["device"]["matmul_precision"] = "float32"
    study.run = dataclasses.replace(linear_run, config=config)
    directions.record(study, added, tmp_path, "another command")
    row = directions.load_rows(tmp_path)["rows"]["object"]["validation"]
    assert row["matmul_precision"] == "float32"


def test_box_of_the_whole_image_reaches_its_edges(tmp_path, monkeypatch):
    rows = {}
    monkeypatch.setattr(directions.maps, "write_rows", lambda _, r, __: rows.update(r))
    black = np.zeros((80, 80, 3), np.uint8)
    photos = Images(["a.png"], [None], lambda _: black, lambda _: (80, 80))
    study = types.SimpleNamespace(
        dataset=types.SimpleNamespace(images=lambda _: photos),
        run=types.SimpleNamespace(network=types.SimpleNamespace(see=lambda x: x)),
        boxes=lambda *_: np.array([discovery.WHOLE]),
    )
    directions.draw(study, tmp_path / "parts.png", count=1)
    (marked,) = rows["image"]
    assert (marked[[0, -1]] == (0, 255, 255)).all()
    assert (marked[:, [0, -1]] == (0, 255, 255)).all()


@pytest.mark.long
def test_rows_that_are_entered_at_the_same_time_are_all_there(
    linear_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(directions.evaluate, "provenance", lambda *_: {})
    study = types.SimpleNamespace(run=linear_run, layer="block5")
    names = [str(number) for number in range(40)]

    def enter(name):
        rows = {name: {"validation": {"top1": 0.5}}}
        directions.record(study, rows, tmp_path / "new", "command")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, names))
    assert directions.load_rows(tmp_path / "new")["rows"].keys() == set(names)


@pytest.mark.long
def test_logits_of_several_heads_are_averaged(linear_run, monkeypatch):
    monkeypatch.setattr(directions.metrics, "compute", lambda logits, _: logits)
    study = directions.Study(linear_run)
    names = ("whole image", "object", "mean of whole image and object")
    whole, crop, both = (study.row(name, "validation") for name in names)
    assert np.abs(whole - crop).max() > 0.1
    np.testing.assert_allclose(both, (whole + crop) / 2, rtol=1e-5)
