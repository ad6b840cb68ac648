"""Intact things of the stress test: images, a run, its export, weight files.

    python -m tests.stress.world FOLDER     # builds them

world = World(folder)       # read by all cases
world.probabilities(path)   # of an image, from the intact export
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from seeflower_jax import records
from tests import fixtures, harness

CONFIG = f"--config={harness.ROOT}/tests/stress/config.py"
CLASSES = ("daisy", "poppy", "rose")


@dataclasses.dataclass(frozen=True)
class World:
    """The folder of the intact things; `build` fills it.

    Attributes:
      folder: photos/, flowers/, run/, export/, weights/, cache/.
    """

    folder: pathlib.Path

    def build(self) -> None:
        """Make everything, unless it is there and of this commit.

        What is there of another commit is removed, with the outcomes.
        """
        self.enter()
        built = self.folder / "built"
        commit = str(records.provenance("")["git_commit"])
        if built.exists() and built.read_text() == commit:
            return
        built.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name not in ("stress_test", "compiled"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_photos(self.folder / "photos")
        fixtures.write_flowers(self.folder / "flowers", side=40)
        must("train", CONFIG, f"--workdir={self.run}")
        must("export", f"--workdir={self.run}", f"--out={self.folder / 'export'}")
        write_weights(self.folder / "weights")
        built.write_text(commit)

    def enter(self) -> None:
        """Let the config of the stress test find the photos."""
        os.environ["STRESS_DATA"] = str(self.folder / "photos")
        os.environ["STRESS_CACHE"] = str(self.folder / "cache")

    @property
    def run(self) -> pathlib.Path:
        return self.folder / "run"

    @property
    def photo(self) -> pathlib.Path:
        return self.folder / "photos" / CLASSES[0] / "0.png"

    @functools.cached_property
    def network(self):
        """Return the network of the intact export."""
        from seeflower_jax.inference import export

        return export.load(self.folder / "export")

    @functools.cached_property
    def result(self) -> dict:
        """Return the result of the intact run."""
        return json.loads((self.run / "result.json").read_text())

    def pixels(self, path: pathlib.Path) -> np.ndarray:
        """Return what the project reads from an image file."""
        return np.asarray(self.network.images([path]).read(0), np.float64)

    def probabilities(self, path: pathlib.Path) -> dict[str, float]:
        """Return {class: probability} of an image."""
        (prediction,) = self.network.predict(path, top=len(CLASSES))
        return dict(zip(prediction.classes, prediction.probabilities, strict=True))


def must(script: str, *arguments: object) -> harness.Completed:
    """Run a script that has to succeed."""
    completed = harness.run_here(script, *arguments)
    if completed.returncode:
        raise RuntimeError(f"{script} {arguments}: {completed.stderr}")
    return completed


def photo(label: int, number: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Return a smooth image whose colour tells its class."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.empty((height, width, 3))
    pixels[..., 0] = 30 + 100 * x / width
    pixels[..., 1] = 40 + 60 * y / height + 3 * number
    pixels[..., 2] = 90 - 50 * x / width
    pixels[..., label] += 70
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_photos(folder: pathlib.Path, count: int = 8) -> None:
    """Write a folder of images for each class."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            photo(label, number).save(folder / name / f"{number}.png")


def vgg_variables() -> dict:
    """Return variables of a narrow VGG16 with a classifier of 5 classes."""
    from seeflower_jax import models

    spec = models.get_spec(
        "vgg16", num_classes=5, width=0.05, hidden=(12, 10), pooling="flatten"
    )
    return fixtures.random_variables(spec, 0)


def write_weights(folder: pathlib.Path) -> None:
    """Write the variables of a narrow VGG16 in each format."""
    import safetensors.numpy
    import torch

    from seeflower_jax.pretrained import keras_h5, torch_state

    folder.mkdir(parents=True)
    variables = vgg_variables()
    keras_h5.write(folder / "v.h5", keras_h5.to_layers("vgg16", variables))
    state = torch_state.state_dict("vgg16", variables)
    safetensors.numpy.save_file(state, folder / "v.safetensors")
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(tensors, folder / "v.pth")
    write_keras_archive(folder / "v.keras", keras_h5.to_layers("vgg16", variables))


def write_keras_archive(path: pathlib.Path, layers: Sequence) -> None:
    """Write layers as Keras 3's `.keras`, with `.weights.h5` beside it."""
    import zipfile

    import h5py

    weights = path.with_suffix(".weights.h5")
    with h5py.File(weights, "w") as file:
        for number, (name, arrays) in enumerate(layers):
            group = file.create_group(f"layers/conv2d_{number}/vars")
            group.attrs["name"] = name
            for index, array in enumerate(arrays.values()):
                group.create_dataset(str(index), data=array)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.5.0"}')
        archive.writestr("config.json", "{}")
        archive.write(weights, "model.weights.h5")


if __name__ == "__main__":
    World(pathlib.Path(sys.argv[1])).build()
