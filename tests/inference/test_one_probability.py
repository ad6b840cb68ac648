"""One image has one probability, wherever it is computed.

Predictions of a run and of its export, the index of attribution maps and the logits of
an evaluation agree for images of odd shapes and orientations.
"""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import inception
from seeflower_jax.evaluation import metrics
from seeflower_jax.experiment.evaluate import evaluate, single_view
from seeflower_jax.experiment.images import of_run
from seeflower_jax.experiment.train import train
from seeflower_jax.inference import export
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.run import Run, load_run
from tests import harness

COLOURS = {
    "ant": (250, 40, 40),
    "bee": (40, 250, 40),
    "cat": (40, 40, 250),
    "dog": (200, 200, 40),
}
CLASSES = tuple(COLOURS)
# (width, height) before the image is rotated to be upright.
SIZES = [
    *((300, 100), (100, 300), (7, 5), (1, 1), (40, 64)),
    *((64, 64), (33, 65), (500, 40), (61, 122), (90, 31)),
]


def _write_image(
    path: pathlib.Path,
    size: tuple[int, int],
    orientation: int,
    colour: tuple[int, int, int] | None = None,
) -> None:
    """Write spots and noise as a JPEG with an EXIF orientation.

    Args:
      path: path of the file.
      size: (width, height) before the image is rotated to be upright.
      orientation: EXIF orientation, from 1 to 8.
      colour: colour of the spots; by default, each spot has a different colour.
    """
    rng = np.random.default_rng(sum(size))
    pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
    spots = rng.integers(0, 256, (4, 5, 3), np.uint8)
    if colour:
        spots = (0.5 * spots + 0.5 * np.array(colour)).astype(np.uint8)
    coarse = Image.fromarray(spots).resize(size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    mixed = Image.blend(coarse, Image.fromarray(pixels), 0.4)
    mixed.save(path, exif=exif, quality=95)


@pytest.fixture(scope="module", params=[True, False], ids=["cropped", "squashed"])
def run(request, tmp_path_factory) -> Run:
    """Return a run whose test images have odd shapes and all orientations."""
    root = tmp_path_factory.mktemp("odd")
    for name, colour in COLOURS.items():
        for number in range(8):
            path = (
                root / "photos" / ("train", "val")[number % 2] / name / f"{number}.jpg"
            )
            _write_image(path, (50 + number, 40 + number), 1, colour)
    for number, size in enumerate(SIZES):
        path = root / "photos" / "test" / CLASSES[number % 4] / f"{number}.jpg"
        _write_image(path, size, number % 8 + 1)
    config = inception.three_stages()
    config.model.update(name="baseline", hidden=(64,), dropout=0.0)
    config.init.weights = ""
    config.data.update(
        source="folder",
        dir=str(root / "photos"),
        cache_dir=str(root / "cache"),
        shortest_side=40,
    )
    config.eval.update(size=32, crop=0.8, keep_aspect=request.param, batch_size=4)
    config.test_time.update(views=((32, 0.8), (32, 1.0)), hflip=True)
    config.stage_order = ("head",)
    config.stages.head.update(
        epochs=40, batch_size=8, learning_rate=3e-4, validate_every=40
    )
    config.stages.head.augment.size = 32
    train(config, root / "run")
    return load_run(root / "run")


def _predict(network: Network, folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Return {file name: {class: probability}}."""
    predictions = network.predict(folder, top=4, batch_size=3)
    return {
        pathlib.Path(p.image).name: dict(zip(p.classes, p.probabilities, strict=True))
        for p in predictions
    }


def _attribute(*arguments: str, out: pathlib.Path) -> dict[str, tuple[str, float]]:
    """Return {file name: (predicted class, probability)} of an index."""
    completed = harness.run_here(
        "attribute", *arguments, "--methods=saliency", f"--out={out}"
    )
    assert completed.returncode == 0, completed.stderr
    lines = map(json.loads, (out / "index.jsonl").read_text().splitlines())
    return {
        pathlib.Path(line["image"]).name: (line["prediction"], line["probability"])
        for line in lines
    }


@pytest.mark.long
def test_one_image_has_one_probability(run, tmp_path):
    network, folder = run.network, pathlib.Path(run.config["data"]["dir"]) / "test"
    assert network.temperature != 1.0
    keys = [f"{number}.jpg" for number in range(len(SIZES))]
    expected = _predict(network, folder)
    assert set(expected) == set(keys)
    # The images and their shapes make a difference.
    largest = [max(probabilities.values()) for probabilities in expected.values()]
    assert np.ptp(largest) > 0.2, largest

    export.save(tmp_path / "export", network, {})
    exported = _predict(export.load(tmp_path / "export"), folder)

    evaluator = single_view(run)
    evaluation = evaluate(run, "test", evaluator)
    assert evaluation.temperature == network.temperature
    scaled = evaluation.logits / evaluation.temperature
    names = [pathlib.Path(name).name for name in of_run(run).images("test").names]
    evaluated = {
        name: dict(zip(CLASSES, row, strict=True))
        for name, row in zip(names, np.exp(metrics.log_softmax(scaled)), strict=True)
    }
    for key in keys:
        for name in CLASSES:
            for other in (exported, evaluated):
                assert other[key][name] == pytest.approx(expected[key][name], abs=1e-5)

    workdir = f"--workdir={run.workdir}"
    indices = {
        "files": _attribute(workdir, f"--images={folder}", out=tmp_path / "files"),
        "split": _attribute(workdir, "--split=test", out=tmp_path / "split"),
        "export": _attribute(
            f"--export={tmp_path / 'export'}",
            f"--images={folder}",
            out=tmp_path / "exported",
        ),
    }
    for kind, index in indices.items():
        assert set(index) == set(keys)
        for key, (name, probability) in index.items():
            best = max(expected[key].values())
            assert expected[key][name] == pytest.approx(best, abs=1e-5), (kind, key)
            assert probability == pytest.approx(best, abs=1e-5), (kind, key)
