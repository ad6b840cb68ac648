"""Naming what is in pictures from the command line."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import classify, explain, exported, models, network
from seeflower_jax.attribution import store
from seeflower_jax.pretrained import imagenet
from tests import fixtures
from tests.pretrained import networks

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _predict(*arguments):
    command = [sys.executable, "-m", "scripts.predict", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(networks.IMAGES[0]).save(path)
    return path


def test_imagenet_names():
    names = imagenet.class_names()
    assert len(names) == 1000
    assert (names[0], names[985], names[999]) == ("tench", "daisy", "toilet tissue")


def test_weight_file_with_its_classifier(picture, tmp_path):
    original = networks.keras_vgg()
    original.save_weights(tmp_path / "v.weights.h5")
    classifier = classify.from_weights("vgg16", str(tmp_path / "v.weights.h5"))
    (path, top), *_ = classifier.predict([picture], top=7)
    image = classify.load_picture(picture, 224)
    logits = networks.keras_logits(original, image[None])[0]
    expected = np.exp(logits - logits.max())
    expected = expected / expected.sum()
    order = np.argsort(-expected)
    assert path == str(picture) and [n for n, _ in top] == [f"class {i}" for i in order]
    np.testing.assert_allclose([p for _, p in top], expected[order], rtol=1e-4)

    done = _predict(
        "--model=vgg16", f"--weights={tmp_path / 'v.weights.h5'}", "--json", picture
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["image"] == str(picture) and len(found["classes"]) == 5
    assert found["classes"][0]["name"] == top[0][0]
    assert found["classes"][0]["probability"] == pytest.approx(top[0][1], rel=1e-4)

    published = network.from_weights("vgg16", str(tmp_path / "v.weights.h5"))
    y, x = np.mgrid[:256, :300]  # smooth: it is resized in two steps, not in one
    smooth = np.stack([y * 0.8, x * 0.7, 250 - y / 2], -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "smooth.png")
    pictures = explain.photo_pictures(published, tmp_path / "smooth.png")
    out = tmp_path / "maps"
    explain.attribute(published, pictures, ["grad_cam"], out, batch_size=1)
    (line,) = store.MapStore.open(out).lines()
    ((_, [(name, probability)]),) = classifier.predict([tmp_path / "smooth.png"], 1)
    assert line["prediction"] == line["target"] == name
    assert line["probability"] == pytest.approx(probability, abs=0.05)

    shown = classifier.explain(picture)
    assert shown.shape == (224, 448, 3)
    np.testing.assert_array_equal(shown[:, :224], image)
    assert (shown[:, 224:] != image).any()


def test_run_gives_calibrated_probabilities(tiny_run, picture):
    classifier = classify.from_run(tiny_run.workdir)
    assert classifier.interface.temperature == tiny_run.temperature != 1.0
    image = classify.load_picture(picture, 80, crop=1.0)
    logits = models.apply(tiny_run.spec, tiny_run.variables, image[None])[0][0]
    expected = np.sort(jax.nn.softmax(logits / tiny_run.temperature))[::-1]
    (_, top), *_ = classifier.predict([picture], top=3)
    np.testing.assert_allclose([p for _, p in top], expected[:3], rtol=1e-4)
    assert classifier.explain(picture).shape == (80, 160, 3)


def test_central_square_of_a_picture(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = classify.load_picture(tmp_path / "wide.png", 40, crop=0.8)
    assert found.shape == (40, 40, 3) and found.min() > 190


def test_bad_arguments_and_pictures(picture, tmp_path):
    assert "paths of pictures" in _predict("--workdir=runs/x").stderr
    with pytest.raises(FileNotFoundError, match="no run directory"):
        classify.from_run(tmp_path)
    (tmp_path / "page.jpg").write_text("<html>")
    for name in ("page.jpg", "absent.jpg"):
        with pytest.raises(classify.PictureError, match=f"{name} cannot be read"):
            classify.load_picture(tmp_path / name, 32)


def test_prediction_and_its_map_are_of_the_same_squashed_picture(tmp_path):
    spec = models.get_spec("baseline", num_classes=4)
    folder = tmp_path / "export"
    squashing = network.Network(
        class_names=tuple("abcd"),
        size=spec.input_size,
        crop=1.0,
        keep_aspect=False,
        shortest_side=spec.input_size,
        origin="here",
        spec=spec,
        variables=fixtures.random_variables(spec, 0),
    )
    exported.save(folder, squashing, {})
    wide = np.zeros((40, 90, 3), np.uint8)
    wide[:, :20] = 255  # lost where the centre is cropped
    Image.fromarray(wide).save(tmp_path / "wide.png")
    shown = classify.from_export(folder).explain(tmp_path / "wide.png")
    whole = classify.load_picture(tmp_path / "wide.png", 32, 1.0, keep_aspect=False)
    np.testing.assert_array_equal(shown[:, :32], whole)
