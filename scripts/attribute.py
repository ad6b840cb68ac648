r"""Compute attribution maps of many images.

    python -m scripts.attribute --workdir=runs/inception_seed0 --split=test \
        --methods=saliency,grad_cam --out=maps
    python -m scripts.attribute --workdir=runs/inception_seed0 --images=photos/ \
        --methods=finer_cam --target='sunflower' --overlays --out=maps
    python -m scripts.attribute --export=DIR --images=photos/ --out=maps
    python -m scripts.attribute --model=vgg16 --weights=FILE --images=photos/ --out=maps

--images takes a folder, a pattern or a .txt list of files. OUT gets a contact sheet for
each method and the maps in <method>/<shard>.npy. index.jsonl has the image, target,
prediction, calibrated probability, method, shard, row and scale, which divides the map.
--overlays adds PNGs. The same command continues an interrupted one. If images are
skipped, skipped.jsonl lists them and the exit status is 3. scripts.predict describes
--export, --model and --weights. --shard=2/4 computes the second of four parts, for one
of four machines. The part is the folder OUT/part_2_of_4, and scripts.merge_maps merges
the parts.

For class activation maps, --layer=mixed7,mixed10 adds up the maps of these layers, and
--layer=head adds up the maps of all layers that the head reads. Unless you pass
--noboxes, index.jsonl also has the box that the map highlights, in pixels of the
original image (left, top, right, bottom).
"""

import sys

from absl import flags

from scripts import console, image_flags, network_flags, process_flags
from seeflower_jax.attribution import registry
from seeflower_jax.explain import parts, together

flags.adopt_module_key_flags(network_flags)
flags.adopt_module_key_flags(image_flags)
flags.adopt_module_key_flags(process_flags)
_KNOWN = ", ".join(registry.METHODS)
_METHODS = flags.DEFINE_list("methods", ["grad_cam"], f"Any of {_KNOWN}.")
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_TARGET = flags.DEFINE_string(
    "target", "predicted", "The class to explain: predicted, true, a name or an index."
)
_LAYER = flags.DEFINE_string("layer", None, "Layers of class activation maps, or head.")
_OPTIONS = flags.DEFINE_list(
    "options", [], "Method options: integrated_gradients.steps=8,occlusion.window=64."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float16", "float32"], "Type of the maps."
)
_LIMIT = flags.DEFINE_integer("limit", None, "Explain only the first LIMIT images.", 1)
_OVERLAYS = flags.DEFINE_bool("overlays", False, "Also write overlays as PNGs.")
_BOXES = flags.DEFINE_bool("boxes", True, "Compute boxes of class activation maps.")
_SHARD = flags.DEFINE_string("shard", "1/1", "2/4 computes the second of four parts.")
flags.register_validator("out", lambda path: path != "", "expected a path")


def main(_: list[str]) -> None:
    process_flags.connect()
    part = parts.parse(_SHARD.value)
    network, images = image_flags.load_network_and_images()
    skipped = together.attribute(
        network,
        images,
        _METHODS.value,
        _OUT.value,
        target=_TARGET.value,
        layer=registry.parse_layer(_LAYER.value),
        options=registry.parse_options(_OPTIONS.value),
        batch_size=_BATCH_SIZE.value,
        dtype=_DTYPE.value,
        overlays=_OVERLAYS.value,
        boxes=_BOXES.value,
        part=part,
        limit=_LIMIT.value,
    )
    for line in skipped:
        print(f"skipped: {line['error']}", file=sys.stderr)
    console.show({"out": _OUT.value, "skipped": skipped}, _OUT.value)
    sys.exit(3 if skipped else 0)


if __name__ == "__main__":
    console.run(main)
