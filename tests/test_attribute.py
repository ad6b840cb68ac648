"""The command that writes attribution maps, on real files of every kind."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import experiment, explain
from seeflower_jax.attribution import batch, store
from seeflower_jax.data import photos


@pytest.fixture
def run(tiny_run):
    """A run that nothing here changes."""
    return tiny_run


def _noise(size, mode="RGB", seed=0):
    bands = [
        Image.fromarray(values)
        for values in np.random.default_rng(seed).integers(
            0, 255, (len(Image.new(mode, (1, 1)).getbands()), *size[::-1]), np.uint8
        )
    ]
    return Image.merge(mode, bands)


@pytest.fixture
def folder(tmp_path):
    """Pictures of every mode that files have, and one that is none."""
    path = tmp_path / "photos"
    path.mkdir()
    _noise((90, 120)).save(path / "colour.jpg")
    _noise((90, 120), "L").save(path / "grey.png")
    _noise((90, 120), "RGBA").save(path / "transparent.png")
    _noise((90, 120), "CMYK").save(path / "print.jpg")
    deep = np.random.default_rng(0).integers(0, 2**16, (90, 90), np.uint16)
    Image.fromarray(deep).save(path / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    _noise((120, 90)).save(path / "turned.jpg", exif=exif)
    _noise((1, 1)).save(path / "one_pixel.png")
    _noise((400, 40)).save(path / "panorama.webp")
    (path / "broken.jpg").write_bytes((path / "colour.jpg").read_bytes()[:700])
    (path / "notes.md").write_text("no picture")
    return path


METHODS = ("signed_saliency", "grad_cam", "smooth_grad")


def test_pictures_of_every_kind(run, folder, tmp_path):
    pictures = explain.photo_pictures(run, folder)
    assert len(pictures) == 9
    out = tmp_path / "maps"
    skipped = explain.attribute(
        run, pictures, METHODS, out, batch_size=4, overlays=True, layer="mixed2"
    )
    assert [line["image"] for line in skipped] == [str(folder / "broken.jpg")]
    maps = store.MapStore.open(out)
    lines = list(maps.lines())
    assert len(lines) == 8 * len(METHODS)
    assert {line["method"] for line in lines} == set(METHODS)
    for line in lines:
        values = maps.read(line)
        assert values.shape == (80, 80) and values.dtype == np.float16
        assert np.isfinite(values).all()
        assert line["prediction"] == line["target"] in run.class_names
        assert 0 < line["probability"] <= 1
    for name in METHODS:
        assert Image.open(out / f"{name}.png").size[0] > 400
        assert len(list((out / "overlays" / name).iterdir())) == 8
    upright = photos.read(folder / "turned.jpg", 80)
    assert upright.shape[0] > upright.shape[1]


def test_interrupted_goes_on_with_the_same_maps(run, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_SIZE", 8)
    pictures = explain.split_pictures(run, "test")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"batch_size": 4, "layer": "mixed2"}
    explain.attribute(run, pictures, METHODS, whole, target="true", **options)
    reads = []

    def breaking(position):
        reads.append(position)
        if len(reads) > 13:
            raise KeyboardInterrupt
        return pictures.read(position)

    broken = dataclasses.replace(pictures, read=breaking)
    with pytest.raises(KeyboardInterrupt):
        explain.attribute(run, broken, METHODS, parts, target="true", **options)
    (parts / "index.jsonl").open("a").write('{"image": "half a li')
    explain.attribute(run, pictures, METHODS, parts, target="true", **options)
    assert (parts / "index.jsonl").read_text() == (whole / "index.jsonl").read_text()
    shards = sorted(p.relative_to(whole) for p in whole.rglob("*.npy"))
    assert len(shards) == 3 * len(METHODS)
    for shard in shards:
        np.testing.assert_array_equal(np.load(parts / shard), np.load(whole / shard))
    with pytest.raises(ValueError, match="target: true there, predicted now"):
        explain.attribute(run, pictures, METHODS, parts, **options)


def test_split_has_the_labels_and_logits_of_the_evaluation(run, tmp_path):
    pictures = explain.split_pictures(run, "validation")
    _, logits, labels = experiment.evaluate(run, "validation")
    np.testing.assert_array_equal(pictures.labels, labels)
    explainer = explain.make_explainer(run, ["eigen_cam"], "mixed2", len(labels))
    pixels = [pictures.read(i) for i in range(len(labels))]
    _, found, targets, _ = explainer(range(len(labels)), pixels, labels)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(targets, labels)
    with pytest.raises(ValueError, match="has no 'tset' part"):
        explain.split_pictures(run, "tset")


def test_targets(run, folder):
    pictures = explain.photo_pictures(run, folder)
    names = run.class_names

    def labels(target):
        return set(explain.target_labels(target, pictures, names).tolist())

    assert labels("predicted") == {batch.PREDICTED}
    assert labels(names[7]) == labels("7") == {7}
    with pytest.raises(ValueError, match="102 is out of range.*0 to 101"):
        labels("102")
    with pytest.raises(ValueError, match="did you mean 'sunflower'"):
        labels("sunflowr")
    with pytest.raises(ValueError, match="the true class of .*broken.jpg is not known"):
        labels("true")


def test_folder_of_a_class_is_the_true_class(run, folder):
    shutil.copytree(folder, folder / "bird of paradise")
    pictures = explain.photo_pictures(run, folder / "bird of paradise")
    assert set(explain.target_labels("true", pictures, run.class_names)) == {7}


def test_finding_pictures(folder):
    assert [p.name for p in photos.find(folder / "*.jpg")] == [
        *("broken.jpg", "colour.jpg", "print.jpg", "turned.jpg")
    ]
    listed = folder / "list.txt"
    listed.write_text("turned.jpg\n\ncolour.jpg\n")
    assert photos.find(listed) == [folder / "turned.jpg", folder / "colour.jpg"]
    assert photos.find(folder / "grey.png") == [folder / "grey.png"]
    empty = folder / "empty"
    empty.mkdir()
    for nothing in (empty, folder / "*.xyz", folder / "absent"):
        with pytest.raises(FileNotFoundError, match="no picture found in"):
            photos.find(nothing)


def test_predictor_with_a_crop_looks_twice(run):
    whole = explain.make_crop_predictor(run, "mixed2", whole=1.0)
    metrics, logits, labels = experiment.evaluate(run, "validation", whole)
    expected = experiment.evaluate(run, "validation")
    np.testing.assert_allclose(logits, expected[1], rtol=1e-4, atol=1e-4)
    closer = explain.make_crop_predictor(run, "mixed0", threshold=0.9, whole=0.0)
    assert np.abs(experiment.evaluate(run, "validation", closer)[1] - logits).max() > 0
    assert metrics["count"] == len(labels)


def test_image_with_nan_is_refused(run):
    explainer = batch.make_explainer(run.spec, ["saliency"])
    images = np.full((3, 80, 80, 3), 100.0, np.float32)
    images[1, 4, 5, 2] = np.nan
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="image 1 .*not finite.*0 to 255"):
        explainer(run.variables, images, np.zeros(3, np.int32), keys)
