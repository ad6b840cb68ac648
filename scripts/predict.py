"""Predict the classes of images.

    python -m scripts.predict --model=vgg16 --weights=FILE IMAGE...
    python -m scripts.predict --workdir=runs/inception_seed0 IMAGE...
    python -m scripts.predict --export=DIR IMAGE...

IMAGE is a file, a folder, a pattern or a .txt list of files. DIR is a folder that
scripts.export wrote. FILE is a weight file of Keras or torchvision with its classifier,
which predicts the classes of ImageNet. --weights=imagenet:top downloads the file of
Keras. The probabilities are calibrated if the run has a validation split.

--json prints a JSON object for each image, one a line. --explain also writes each image
next to its Grad-CAM, as <name>_grad_cam.png, to the current folder or to --out. It
never overwrites one of the images that it predicts: the new file gets a number. If you
give a folder, choose an --out elsewhere, because the next call would predict these
files too. If files are not readable images, the script skips them, reports them on
stderr and exits with status 3.
"""

import itertools
import os
import pathlib
import sys

import numpy as np
from absl import app, flags

from scripts import console, network_flags
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.figures import maps, text
from seeflower_jax.inference import predict
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.predict import Prediction

flags.adopt_module_key_flags(network_flags)
_TOP = flags.DEFINE_integer("top", 5, "Number of classes to print for each image.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_EXPLAIN = flags.DEFINE_bool("explain", False, "Also write the Grad-CAM of each image.")
_OUT = flags.DEFINE_string(
    "out", None, "The folder that --explain writes to, by default the current folder."
)


def main(argv: list[str]) -> None:
    if _OUT.value is not None and not _EXPLAIN.value:
        raise app.UsageError("--out is where --explain writes; give --explain too")
    network = network_flags.load_network()
    status = 0
    images = network.images(argv[1:])
    # Explanations overwrite neither the images nor each other.
    taken = set().union(*map(_places, images.names)) if _EXPLAIN.value else set()
    for prediction in predict.stream(network, images, _TOP.value, _BATCH_SIZE.value):
        if isinstance(prediction, UnreadableImage):
            print(f"skipped: {prediction}", file=sys.stderr)
            status = 3
        else:
            _show(network, prediction, taken)
    sys.exit(status)


def _show(network: Network, prediction: Prediction, taken: set[str]) -> None:
    """Print a prediction, and write its explanation if the command line asks for it."""
    top = list(zip(prediction.classes, prediction.probabilities, strict=True))
    classes = [{"name": name, "probability": value} for name, value in top]
    result = {"image": prediction.image, "classes": classes}
    lines = [prediction.image, *(f"  {value:.4f}  {name}" for name, value in top)]
    if _EXPLAIN.value:
        result["grad_cam"] = _explain(network, prediction.image, taken)
        lines.append(f"  Grad-CAM: {result['grad_cam']}")
    console.show(result, "\n".join(lines), indent=None)


def _places(path: str) -> tuple[str, str]:
    """Return the path of a file and, if it is a link, of the link, in real folders."""
    folder, name = os.path.split(path)
    return os.path.realpath(path), os.path.join(os.path.realpath(folder), name)


def _explain(network: Network, image: str, taken: set[str]) -> str:
    """Write an image next to its Grad-CAM; the name gets a number if it is taken."""
    out = pathlib.Path(_OUT.value or ".").expanduser()
    stem = text.file_stem(pathlib.Path(image).stem)
    names = (f"{stem}_{n}" if n else stem for n in itertools.count())
    out.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(out)
    paths = (os.path.join(real, f"{name}_grad_cam.png") for name in names)
    free = next(path for path in paths if path not in taken)
    taken.add(free)
    path = out / os.path.basename(free)
    explanation = network.explain(image, "grad_cam")
    pair = np.concatenate([explanation.image, np.asarray(explanation.overlay())], 1)
    maps.write_png(path, pair)
    return str(path)


if __name__ == "__main__":
    console.run(main, takes="the paths of images")
