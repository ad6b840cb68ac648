"""Compares every block of the networks with the frameworks that their weights are from.

    python -m scripts.parity --weights=DIR --out=results/parity.json IMAGE IMAGE IMAGE

Keras and torchvision run each network, and so does this package with the file that they
saved; the table has max |difference| / max |reference| over blocks, and of the logits.
`DIR` holds Keras' `notop` files, without which those rows are left out; the other rows
are on random variables, batch statistics among them. It takes pip install -e .[dev].
"""

import pathlib
import sys
import tempfile

import numpy as np
from absl import flags

from scripts import console
from seeflower_jax import classify, models, records
from seeflower_jax.comparison import parity

_WEIGHTS = flags.DEFINE_string("weights", "", "Folder of Keras' weight files.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write every block's figure to.")
_MODELS = flags.DEFINE_list("models", ["inception_v3", "vgg16", "vgg19"], "Which.")
_SIZE = flags.DEFINE_integer("size", 0, "Side of the pictures; 0 is the networks'.", 0)


def main(argv) -> None:
    table, lines = [], ["| network | weights | blocks | logits |", "|---|---|---|---|"]
    for model in _MODELS.value:
        side = _SIZE.value or models.get_spec(model).input_size
        images = np.stack([classify.load_picture(path, side) for path in argv[1:]])
        with tempfile.TemporaryDirectory() as folder:
            for source, found in parity.compare(model, images, folder, _WEIGHTS.value):
                table.append({"model": model, "source": source, "errors": found})
                logits = found.get("logits")
                last = "" if logits is None else f"{logits:.1e}"
                blocks = max(v for k, v in found.items() if k != "logits")
                lines.append(f"| {model} | {source} | {blocks:.1e} | {last} |")
                print(f"compared {model}, {source}", file=sys.stderr)
    if _OUT.value:
        ran = records.provenance(records.typed_command())
        record = {"parity": table, **ran}
        records.write_json(pathlib.Path(_OUT.value).expanduser(), record)
    console.show({"parity": table}, "\n".join(lines))


if __name__ == "__main__":
    console.run(main, takes="the paths of images")
