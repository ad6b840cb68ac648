"""Writes attribution maps of many pictures.

    python -m scripts.attribute --workdir=runs/inception_seed0 --split=test \
        --methods=saliency,grad_cam --out=maps
    python -m scripts.attribute --workdir=runs/inception_seed0 --images=photos/ \
        --methods=finer_cam --target='sunflower' --overlays --out=maps

--images takes a folder, a pattern or a .txt list. OUT gets raw maps in
<method>/<shard>.npy, index.jsonl (image, prediction, probability, target, method,
shard, row), a contact sheet per method and, with --overlays, a PNG per picture and
method. Interrupted, the same command goes on. Exit status 3 says that pictures could
not be read; skipped.jsonl lists them.
"""

import sys

from absl import app, flags

from scripts import console
from seeflower_jax import experiment, explain
from seeflower_jax.attribution import batch

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_IMAGES = flags.DEFINE_string("images", None, "Folder, pattern or .txt list of files.")
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "Pictures of the run's data."
)
_METHODS = flags.DEFINE_list("methods", ["grad_cam"], f"Of {', '.join(batch.METHODS)}.")
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_TARGET = flags.DEFINE_string(
    "target", "predicted", "What is explained: predicted, true, a class name or index."
)
_LAYER = flags.DEFINE_string("layer", None, "Of class activation maps.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Pictures at once.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "Of the maps.")
_LIMIT = flags.DEFINE_integer("limit", None, "Only the first so many pictures.", 1)
_OVERLAYS = flags.DEFINE_bool("overlays", False, "Also a PNG per picture and method.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the run found it."
)


def main(_) -> None:
    if (_IMAGES.value is None) == (_SPLIT.value is None):
        raise app.UsageError("give one of --images and --split")
    run = experiment.load_run(_WORKDIR.value, _DATA_DIR.value)
    if _SPLIT.value:
        pictures = explain.split_pictures(run, _SPLIT.value)
    else:
        pictures = explain.photo_pictures(run, _IMAGES.value)
    skipped = explain.attribute(
        run,
        pictures[: _LIMIT.value],
        _METHODS.value,
        _OUT.value,
        target=_TARGET.value,
        layer=_LAYER.value,
        batch_size=_BATCH_SIZE.value,
        dtype=_DTYPE.value,
        overlays=_OVERLAYS.value,
    )
    for line in skipped:
        print(f"skipped {line['image']}: {line['error']}", file=sys.stderr)
    console.show({"out": _OUT.value, "skipped": skipped}, _OUT.value)
    sys.exit(3 if skipped else 0)


if __name__ == "__main__":
    console.run(main)
