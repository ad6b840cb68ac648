r"""Compute attribution maps of many images.

    python -m scripts.attribute --workdir=runs/inception_seed0 --split=test \
        --methods=saliency,grad_cam --out=maps
    python -m scripts.attribute --workdir=runs/inception_seed0 --images=photos/ \
        --methods=finer_cam --target='sunflower' --overlays --out=maps
    python -m scripts.attribute --export=DIR --images=photos/ --out=maps
    python -m scripts.attribute --model=vgg16 --weights=FILE --images=photos/ --out=maps

--images takes a folder, a pattern or a .txt list of files. OUT gets a contact sheet for
each method and the maps in <method>/<shard>.npy. Its index.jsonl has the image, target,
prediction, calibrated probability, method, shard, row and scale, which divides the map.
--overlays adds PNGs. The same command continues an interrupted one. Status 3: images
without maps, in skipped.jsonl. scripts.predict describes --export, --model, --weights.

For class activation maps, --layer=mixed7,mixed10 adds the maps of layers, --layer=head
those of all layers that the head reads. Unless --noboxes, the index also has the box
that the map highlights, in pixels of the original image (left, top, right, bottom).
"""

import sys

from absl import app, flags

from scripts import console, network_flags
from seeflower_jax.attribution import registry
from seeflower_jax.data.images import Images
from seeflower_jax.explain import attribute
from seeflower_jax.inference.network import Network

flags.adopt_module_key_flags(network_flags)
_IMAGES = flags.DEFINE_string("images", None, "A folder, a pattern or a .txt list.")
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "A split of the run's images."
)
_KNOWN = ", ".join(registry.METHODS)
_METHODS = flags.DEFINE_list("methods", ["grad_cam"], f"Any of {_KNOWN}.")
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_TARGET = flags.DEFINE_string(
    "target", "predicted", "The class to explain: predicted, true, a name or an index."
)
_LAYER = flags.DEFINE_string("layer", None, "Of class activation maps: names, or head.")
_OPTIONS = flags.DEFINE_list(
    "options",
    [],
    "Options of methods: integrated_gradients.steps=8,occlusion.window=64.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "Of the maps.")
_LIMIT = flags.DEFINE_integer("limit", None, "Only this many of the first images.", 1)
_OVERLAYS = flags.DEFINE_bool("overlays", False, "Also write overlays as PNGs.")
_BOXES = flags.DEFINE_bool("boxes", True, "Compute boxes of class activation maps.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the run's images are now.")
for _name in ("out", "images"):
    flags.register_validator(_name, lambda path: path != "", "expected a path")


def main(_: list[str]) -> None:
    network, images = _load()
    skipped = attribute.attribute(
        network,
        images[: _LIMIT.value],
        _METHODS.value,
        _OUT.value,
        target=_TARGET.value,
        layer=registry.parse_layer(_LAYER.value),
        options=registry.parse_options(_OPTIONS.value),
        batch_size=_BATCH_SIZE.value,
        dtype=_DTYPE.value,
        overlays=_OVERLAYS.value,
        boxes=_BOXES.value,
    )
    for line in skipped:
        print(f"skipped: {line['error']}", file=sys.stderr)
    console.show({"out": _OUT.value, "skipped": skipped}, _OUT.value)
    sys.exit(3 if skipped else 0)


def _load() -> tuple[Network, Images]:
    """Load the network and the images that the command line names."""
    split = _SPLIT.value
    if (_IMAGES.value is None) == (split is None):
        raise app.UsageError("give one of --images and --split")
    if split is None:
        network = network_flags.load_network()
        return network, network.images(str(_IMAGES.value))
    network_flags.check()
    if network_flags.WORKDIR.value is None:
        raise app.UsageError("--split is of a run's data: give --workdir, or --images")
    # Only a run needs optax and orbax.
    from seeflower_jax.experiment.images import of_run
    from seeflower_jax.inference.run import load_run

    run = load_run(network_flags.WORKDIR.value, _DATA_DIR.value)
    return run.network, of_run(run).images(split)


if __name__ == "__main__":
    console.run(main)
