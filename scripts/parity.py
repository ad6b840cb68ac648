"""Compare every block of the networks with Keras and torchvision.

    python -m scripts.parity --weights=DIR --out=results/parity.json IMAGE IMAGE IMAGE

Keras and torchvision run each network and save its weights. This package then runs the
network from the saved file. The table has max |difference| / max |reference| over all
blocks, and for the logits. `DIR` holds Keras' `notop` files. Without --weights, the
rows of these files are left out. The other rows use random variables, including random
batch statistics. The script needs `pip install -e .[peers]`.
"""

import pathlib
import sys
import tempfile

import numpy as np
from absl import flags

from scripts import console
from seeflower_jax import models, records
from seeflower_jax.comparison import parity
from seeflower_jax.data import decode, loader
from seeflower_jax.data.images import Images
from seeflower_jax.data.view import View

_WEIGHTS = flags.DEFINE_string("weights", "", "Folder of Keras' weight files.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the values of all blocks.")
_MODELS = flags.DEFINE_list("models", ["inception_v3", "vgg16", "vgg19"], "Which.")
_SIZE = flags.DEFINE_integer("size", 0, "Side of the images; 0 is the networks'.", 0)


def _load(paths: list[str], side: int) -> np.ndarray:
    """Return the central squares of images, uint8 [n, side, side, 3]."""
    view = View(side, round(side / 0.875), crop=0.875)
    images = Images.of_files(paths, view.shortest_side)
    batch = loader.to_canvas(
        [images.read(i) for i in range(len(images))],
        *2 * (decode.longest_side(view.shortest_side),),
    )
    return np.asarray(view(batch["canvas"], batch["sizes"])).round().astype(np.uint8)


def main(argv) -> None:
    table, lines = [], ["| network | weights | blocks | logits |", "|---|---|---|---|"]
    for model in _MODELS.value:
        side = _SIZE.value or models.get_spec(model).input_size
        images = _load(argv[1:], side)
        with tempfile.TemporaryDirectory() as folder:
            for source, errors in parity.compare(model, images, folder, _WEIGHTS.value):
                table.append({"model": model, "source": source, "errors": errors})
                logits = f"{errors['logits']:.1e}" if "logits" in errors else ""
                blocks = max(v for k, v in errors.items() if k != "logits")
                lines.append(f"| {model} | {source} | {blocks:.1e} | {logits} |")
                print(f"compared {model}, {source}", file=sys.stderr)
    if _OUT.value:
        record = {"parity": table, **records.provenance(records.typed_command())}
        records.write_json(pathlib.Path(_OUT.value).expanduser(), record)
    console.show({"parity": table}, "\n".join(lines))


if __name__ == "__main__":
    console.run(main, takes="the paths of images")
