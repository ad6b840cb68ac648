"""The command that writes attribution maps, on real files of every kind."""

import dataclasses
import gc
import json
import shutil
import tracemalloc

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import classify, experiment, explain, exported, models
from seeflower_jax import network as networks
from seeflower_jax.attribution import batch, registry, store
from seeflower_jax.data import photos
from seeflower_jax.report import attribution as figures
from tests import fixtures, harness


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
        run, pictures, METHODS, out, batch_size=4, overlays=True
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
        assert ("box" in line) == (line["method"] == "grad_cam")
    settings = json.loads((out / "state.json").read_text())["settings"]
    assert settings["layer"] == "mixed7"  # mixed10 has one pixel here
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
    head = jax.tree.map(lambda x: x + 1, run.variables["params"]["head"])
    params = run.variables["params"] | {"head": head}
    trained = dataclasses.replace(run, variables=run.variables | {"params": params})
    with pytest.raises(ValueError, match="variables: [0-9a-f]{12} there"):
        explain.attribute(trained, pictures, METHODS, parts, target="true", **options)


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

    assert labels("predicted") == {registry.PREDICTED}
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
    whole = explain.make_crop_predictor(run, whole=1.0)
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


def _baseline(variables=None, **options) -> networks.Network:
    """The baseline network as one of its own size, which is quick."""
    spec = models.get_spec("baseline", num_classes=4, hidden=(8,))
    options = {"crop": 1.0, "shortest_side": 32, "temperature": 0.5} | options
    return networks.Network(
        class_names=tuple("abcd"),
        size=32,
        origin="here",
        spec=spec,
        variables=variables or fixtures.random_variables(spec, 0),
        **options,
    )


def test_export(tmp_path):
    exported.save(tmp_path / "export", _baseline(), {})
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(3):
        _noise((32, 32), seed=number).save(place / f"{number}.png")
    (place / "broken.jpg").write_bytes(b"no picture")
    arguments = [f"--export={tmp_path / 'export'}", f"--images={place}", "--overlays"]
    done = harness.run_apart(
        "attribute",
        *arguments,
        "--methods=saliency,eigen_cam",
        f"--out={tmp_path / 'o'}",
    )
    assert done.returncode == 3, done.stderr
    assert f"skipped {place / 'broken.jpg'}: " in done.stderr
    assert "maps/s" in done.stderr

    maps = store.MapStore.open(tmp_path / "o")
    lines = [line for line in maps.lines() if line["method"] == "eigen_cam"]
    classifier = classify.from_export(tmp_path / "export")
    predicted = classifier.predict([line["image"] for line in lines], top=1)
    for line, (_, [(name, probability)]) in zip(lines, predicted, strict=True):
        assert line["prediction"] == name
        assert line["probability"] == pytest.approx(probability, abs=1e-5)
        left, top, right, bottom = line["box"]
        assert 0 <= left < right <= 32 and 0 <= top < bottom <= 32
    assert len(list((tmp_path / "o/overlays/saliency").iterdir())) == 3

    again = networks.from_export(tmp_path / "export")
    out = tmp_path / "unboxed"
    pictures = explain.photo_pictures(again, place / "0.png")
    explain.attribute(again, pictures, ["eigen_cam"], out, boxes=False)
    (line,) = store.MapStore.open(out).lines()
    assert line == {k: v for k, v in lines[0].items() if k != "box"}


def test_networks_that_have_no_splits(tmp_path):
    wrong = harness.run_apart(
        "attribute", "--export=x", "--split=test", f"--out={tmp_path}"
    )
    assert "--split is of a run's data: give --workdir" in wrong.stderr
    wrong = harness.run_apart(
        "attribute", "--export=x", "--workdir=y", "--images=z", f"--out={tmp_path}"
    )
    assert "expected one of --workdir, --weights and --export" in wrong.stderr


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_box_encloses_what_the_map_points_at(tmp_path, keep_aspect):
    """A network of equal parameters, whose Grad-CAM is the picture's brightness."""
    equal = jax.tree.map(
        lambda x: np.full_like(x, 0.01 if x.ndim > 1 else 0),
        _baseline().variables,
    )
    network = _baseline(equal, keep_aspect=keep_aspect)
    box = [330, 90, 420, 210]
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned by 90 degrees
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "turned.jpg", exif=exif)
    pictures = explain.photo_pictures(network, tmp_path)
    out = tmp_path / "out"
    explain.attribute(network, pictures, ["grad_cam"], out, overlays=True)
    # The convolutions and the pooling reach about four pixels of the view further.
    reach = 5.5 * np.array([400 if keep_aspect else 600, 400] * 2) / 32
    for line in store.MapStore.open(out).lines():
        beyond = np.subtract(line["box"], box) * [-1, -1, 1, 1]
        assert (beyond >= 0).all() and (beyond <= reach).all(), (line["box"], beyond)
    shown = np.asarray(Image.open(out / "overlays/grad_cam/000001_upright.png"))
    assert (shown == (0, 255, 255)).all(-1).sum() > 20  # the box


def test_long_titles_of_a_contact_sheet_are_whole(tmp_path):
    image, values, path = np.zeros((60, 60, 3)), np.zeros((60, 60)), tmp_path / "s.png"
    title = "alpine sea holly 81%; map of alpine sea holly"
    figures.write_contact_sheet(path, [image] * 4, [values] * 4, [title] * 4, False)
    edge = np.asarray(Image.open(path).convert("L"))[:3]
    assert (edge == 255).all()


def test_memory_does_not_grow_with_the_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_SIZE", 32)
    # Of a fixed number of pictures; Matplotlib leaves its figures to the collector.
    monkeypatch.setattr(explain, "_write_sheets", lambda *_: None)
    network = _baseline()
    rng = np.random.default_rng(0)

    def peak(count):
        pictures = explain.PictureList(
            [f"{i}.png" for i in range(count)],
            [None] * count,
            lambda position: rng.integers(0, 256, (32, 40, 3), np.uint8),
            lambda position: (40, 32),
        )
        out = tmp_path / str(count)
        gc.collect()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        arrays = len(jax.live_arrays())
        explain.attribute(network, pictures, ["saliency", "grad_cam"], out)
        assert len(jax.live_arrays()) - arrays < 100
        assert sum(1 for _ in store.MapStore.open(out).lines()) == 2 * count
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    peak(32)  # what is imported and compiled
    few, many = peak(64), peak(512)
    tracemalloc.stop()
    # Maps of one shard take 256 KiB, those of all pictures 2 MiB.
    assert many < few + 2**19, (few, many)
