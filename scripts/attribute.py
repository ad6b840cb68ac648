r"""Writes attribution maps of many pictures.

    python -m scripts.attribute --workdir=runs/inception_seed0 --split=test \
        --methods=saliency,grad_cam --out=maps
    python -m scripts.attribute --workdir=runs/inception_seed0 --images=photos/ \
        --methods=finer_cam --target='sunflower' --overlays --out=maps
    python -m scripts.attribute --export=DIR --images=photos/ --out=maps
    python -m scripts.attribute --model=vgg16 --weights=FILE --images=photos/ --out=maps

--images takes a folder, a pattern or a .txt list; --export, --model and --weights are
as of scripts.predict. OUT gets raw maps in <method>/<shard>.npy, index.jsonl (image,
prediction, its calibrated probability, target, method, shard, row), a contact sheet per
method and, with --overlays, a PNG per picture and method. Of class activation maps, the
index also has the box of what they point at, in pixels of the picture (left, top,
right, bottom), and overlays show it; --noboxes leaves it out. Interrupted, the same
command goes on. Exit status 3 says that pictures could not be read; skipped.jsonl lists
them.
"""

import sys

from absl import app, flags

from scripts import console, network_flags
from seeflower_jax import experiment, explain, network
from seeflower_jax.attribution import registry

flags.adopt_module_key_flags(network_flags)
_IMAGES = flags.DEFINE_string("images", None, "Folder, pattern or .txt list of files.")
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "Pictures of the run's data."
)
_METHODS = flags.DEFINE_list(
    "methods", ["grad_cam"], f"Of {', '.join(registry.METHODS)}."
)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_TARGET = flags.DEFINE_string(
    "target", "predicted", "What is explained: predicted, true, a class name or index."
)
_LAYER = flags.DEFINE_string("layer", None, "Of class activation maps.")
_OPTIONS = flags.DEFINE_list(
    "options", [], "Of methods: integrated_gradients.steps=8,occlusion.window=64."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Pictures at once.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "Of the maps.")
_LIMIT = flags.DEFINE_integer("limit", None, "Only the first so many pictures.", 1)
_OVERLAYS = flags.DEFINE_bool("overlays", False, "Also a PNG per picture and method.")
_BOXES = flags.DEFINE_bool("boxes", True, "Boxes of class activation maps.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the run found it."
)


def main(_) -> None:
    if (_IMAGES.value is None) == (_SPLIT.value is None):
        raise app.UsageError("give one of --images and --split")
    if _SPLIT.value and network_flags.WORKDIR.value is None:
        raise app.UsageError("--split is of a run's data: give --workdir, or --images")
    loaded = network_flags.load(
        lambda workdir: experiment.load_run(workdir, _DATA_DIR.value),
        network.from_weights,
        network.from_export,
    )
    if _SPLIT.value:
        pictures = explain.split_pictures(loaded, _SPLIT.value)
    else:
        pictures = explain.photo_pictures(loaded, _IMAGES.value)
    skipped = explain.attribute(
        loaded,
        pictures[: _LIMIT.value],
        _METHODS.value,
        _OUT.value,
        target=_TARGET.value,
        layer=_LAYER.value,
        options=registry.parse_options(_OPTIONS.value),
        batch_size=_BATCH_SIZE.value,
        dtype=_DTYPE.value,
        overlays=_OVERLAYS.value,
        boxes=_BOXES.value,
    )
    for line in skipped:
        print(f"skipped {line['image']}: {line['error']}", file=sys.stderr)
    console.show({"out": _OUT.value, "skipped": skipped}, _OUT.value)
    sys.exit(3 if skipped else 0)


if __name__ == "__main__":
    console.run(main)
