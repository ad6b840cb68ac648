"""Names what is in pictures.

    python -m scripts.predict --model=vgg16 --weights=FILE IMAGE...
    python -m scripts.predict --workdir=runs/inception_seed0 IMAGE...
    python -m scripts.predict --export=DIR IMAGE...

`DIR` is of scripts.export. `FILE` is a weight file with its classifier, of Keras or
torchvision: the classes are ImageNet's. `--weights=imagenet:top` downloads Keras'.
--json prints one JSON object a picture. --explain also writes each picture beside its
Grad-CAM, as <name>_grad_cam.png in this folder or in --out.
"""

import itertools
import json
import pathlib
import sys

from absl import app, flags
from PIL import Image

from scripts import console, network_flags
from seeflower_jax import classify

_TOP = flags.DEFINE_integer("top", 5, "How many classes of each picture.", 1)
_JSON = flags.DEFINE_bool("json", False, "Prints JSON.")
_EXPLAIN = flags.DEFINE_bool("explain", False, "Also writes what was looked at.")
_OUT = flags.DEFINE_string("out", ".", "The folder for --explain.")


def _explain(classifier: classify.Classifier, path: str, taken: set) -> str:
    """Writes a picture beside its Grad-CAM; pictures of one name get numbers."""
    out, stem = pathlib.Path(_OUT.value).expanduser(), pathlib.Path(path).stem
    names = (f"{stem}_{n}" if n else stem for n in itertools.count())
    name = next(name for name in names if name not in taken)
    taken.add(name)
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{name}_grad_cam.png"
    Image.fromarray(classifier.explain(path)).save(target)
    return str(target)


def main(argv) -> None:
    if not argv[1:]:
        raise app.UsageError("expected the paths of pictures")
    taken = set()
    classifier = network_flags.load(
        classify.from_run, classify.from_weights, classify.from_export
    )
    for path, top in classifier.predict(argv[1:], _TOP.value):
        classes = [{"name": name, "probability": p} for name, p in top]
        line = {"image": path, "classes": classes}
        if _EXPLAIN.value:
            line["grad_cam"] = _explain(classifier, path, taken)
        if _JSON.value:
            print(json.dumps(line), flush=True)
            continue
        print(path)
        for name, probability in top:
            print(f"  {probability:.4f}  {name}")
        if _EXPLAIN.value:
            print(f"  Grad-CAM: {line['grad_cam']}")
        sys.stdout.flush()


if __name__ == "__main__":
    console.run(main)
