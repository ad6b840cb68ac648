"""Names what is in pictures.

    python -m scripts.predict --model=vgg16 --weights=FILE IMAGE...
    python -m scripts.predict --workdir=runs/inception_seed0 IMAGE...
    python -m scripts.predict --export=DIR IMAGE...

`DIR` is of scripts.export. `FILE` is a weight file with its classifier, of Keras or
torchvision: the classes are ImageNet's. `--weights=imagenet:top` downloads Keras'.
--json prints one JSON object a picture.
"""

import json
import logging

from absl import app, flags

from seeflower_jax import classify

_MODEL = flags.DEFINE_string("model", None, "The network of --weights.")
_WEIGHTS = flags.DEFINE_string("weights", None, "A weight file with a classifier.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The directory of a trained run.")
_EXPORT = flags.DEFINE_string("export", None, "A folder of scripts.export.")
_TOP = flags.DEFINE_integer("top", 5, "How many classes of each picture.", 1)
_JSON = flags.DEFINE_bool("json", False, "Prints JSON.")


def _classifier() -> classify.Classifier:
    given = [_WORKDIR.value, _WEIGHTS.value, _EXPORT.value]
    if given.count(None) != 2:
        raise app.UsageError("expected one of --workdir, --weights and --export")
    if _EXPORT.value is not None:
        return classify.from_export(_EXPORT.value)
    if _WORKDIR.value is not None:
        return classify.from_run(_WORKDIR.value)
    if _MODEL.value is None:
        raise app.UsageError("--weights needs --model")
    return classify.from_weights(_MODEL.value, _WEIGHTS.value)


def main(argv) -> None:
    logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax tells its every step
    if not argv[1:]:
        raise app.UsageError("expected the paths of pictures")
    for path, top in _classifier().predict(argv[1:], _TOP.value):
        if _JSON.value:
            classes = [{"name": name, "probability": p} for name, p in top]
            print(json.dumps({"image": path, "classes": classes}), flush=True)
        else:
            print(path, flush=True)
            for name, probability in top:
                print(f"  {probability:.4f}  {name}", flush=True)


if __name__ == "__main__":
    app.run(main)
