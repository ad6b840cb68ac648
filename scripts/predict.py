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
import pathlib

from absl import flags
from PIL import Image

from scripts import console, network_flags
from seeflower_jax import classify

flags.adopt_module_key_flags(network_flags)
_TOP = flags.DEFINE_integer("top", 5, "How many classes of each picture.", 1)
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
    taken = set()
    classifier = network_flags.load(
        classify.from_run, classify.from_weights, classify.from_export
    )
    for path, top in classifier.predict(argv[1:], _TOP.value):
        classes = [{"name": name, "probability": p} for name, p in top]
        found = {"image": path, "classes": classes}
        lines = [path, *(f"  {p:.4f}  {name}" for name, p in top)]
        if _EXPLAIN.value:
            found["grad_cam"] = _explain(classifier, path, taken)
            lines.append(f"  Grad-CAM: {found['grad_cam']}")
        console.show(found, "\n".join(lines), indent=None)


if __name__ == "__main__":
    console.run(main, takes="the paths of images")
