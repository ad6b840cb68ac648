r"""Compare blocks of networks, or attribution maps, with other frameworks.

    python -m scripts.parity --weights=DIR --out=results/parity.json IMAGE IMAGE IMAGE
    python -m scripts.parity --attribution --weights=DIR --size=112 \
        --out=results/attribution_parity.json IMAGE IMAGE IMAGE IMAGE

Keras and torchvision run each network and save its weights. This package then runs the
network from that file. The table has max |difference| / max |reference| over all blocks
and of the logits. `DIR` holds Keras' `notop` files; without it, their rows are left
out. The other rows use random variables, including random batch statistics.

`--attribution` compares the maps of attribution methods of VGG16 with captum, or with
an equation in PyTorch. The weights come from `DIR`, or are random. The classifier is
random, and the maps explain the predicted classes. The table has the least correlation
in float32, and the largest max |difference| / max |reference| of a map in float32 and
in float64. In float32, rounding decides which value is the maximum of a pooling. The
methods of transformers run on a small transformer of Keras with random weights.

The script needs `pip install -e .[peers]`.
"""

import sys
import tempfile
import warnings
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from scripts import console
from seeflower_jax import models, records
from seeflower_jax.comparison import squares
from seeflower_jax.data.images import Images

_WEIGHTS = flags.DEFINE_string("weights", "", "Folder of Keras' weight files.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write the figures to.")
_MODELS = flags.DEFINE_list("models", ["inception_v3", "vgg16", "vgg19"], "Which.")
_SIZE = flags.DEFINE_integer("size", 0, "Side of the images; 0 is the networks'.", 0)
_ATTRIBUTION = flags.DEFINE_bool("attribution", False, "Compare attribution maps.")


def _load(paths: Sequence[str], model: str) -> np.ndarray:
    """Return the central squares of images, uint8 [n, side, side, 3]."""
    view = squares.view_of(_SIZE.value or models.get_spec(model).input_size)
    images = Images.of_files(paths, view.shortest_side)
    return squares.cut([images.read(i) for i in range(len(images))], view)


def _blocks(paths: Sequence[str]) -> tuple[dict, str]:
    from seeflower_jax.comparison import parity

    table, lines = [], ["| network | weights | blocks | logits |", "|---|---|---|---|"]
    for model in _MODELS.value:
        images = _load(paths, model)
        with tempfile.TemporaryDirectory() as folder:
            for source, errors in parity.compare(model, images, folder, _WEIGHTS.value):
                table.append({"model": model, "source": source, "errors": errors})
                logits = f"{errors['logits']:.1e}" if "logits" in errors else ""
                blocks = max(v for k, v in errors.items() if k != "logits")
                lines.append(f"| {model} | {source} | {blocks:.1e} | {logits} |")
                print(f"compared {model}, {source}", file=sys.stderr)
    return {"parity": table}, "\n".join(lines)


def _attribution(paths: Sequence[str]) -> tuple[dict, str]:
    from seeflower_jax.comparison import attribution_parity, transformers

    warnings.filterwarnings("ignore", module="captum")  # that it sets hooks
    images = _load(paths, "vgg16")
    pair, weights = attribution_parity.load_pair(images, _WEIGHTS.value)
    figures = {}
    for name, row in attribution_parity.compare(pair):
        figures[name] = row
        print(f"compared {name}", file=sys.stderr)
    with jax.enable_x64(True):
        pair, _ = attribution_parity.load_pair(images.astype(float), _WEIGHTS.value)
        for name, row in attribution_parity.compare(pair):
            figures[name]["relative_difference_float64"] = row["relative_difference"]
            print(f"compared {name} in float64", file=sys.stderr)
    figures |= dict(transformers.compare(images))
    network = {"network": "vgg16", "size": images.shape[1], "weights": weights}
    return network | {"methods": figures}, attribution_parity.text(figures)


@jax.default_matmul_precision("float32")  # GPUs round to TensorFloat-32 otherwise.
def main(argv) -> None:
    try:
        figures, text = (_attribution if _ATTRIBUTION.value else _blocks)(argv[1:])
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; run pip install -e .[peers]"
        raise ModuleNotFoundError(message, name=error.name) from error
    if _OUT.value:
        records.write_measurements(_OUT.value, figures)
    console.show(figures, text)


if __name__ == "__main__":
    console.run(main, takes="the paths of images")
