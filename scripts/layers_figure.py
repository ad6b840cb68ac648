r"""Draw the maps of several layers side by side, to choose a layer by looking.

    python -m scripts.layers_figure --workdir=runs/vgg16_seed0 --out=layers.png \
        --layers=block3_conv3,block4_conv3,block5_conv3,head IMAGE...

Each row of the figure shows an image, its predicted class, and the map of that class at
each layer. head stands for all layers that the head reads. IMAGE is a file, a folder, a
pattern or a .txt list of files. scripts.attribute_eval --metrics=pointing_game measures
how well the maps of a layer point. scripts.predict describes --export, --model and
--weights.
"""

from absl import flags

from scripts import console, network_flags
from seeflower_jax.attribution import registry
from seeflower_jax.explain import layers

flags.adopt_module_key_flags(network_flags)
_KNOWN = ", ".join(name for name, m in registry.METHODS.items() if m.layered)
_LAYERS = flags.DEFINE_list("layers", None, "Layers, or head.", required=True)
_METHOD = flags.DEFINE_string("method", "grad_cam", f"One of {_KNOWN}.")
_LIMIT = flags.DEFINE_integer("limit", 8, "Draw only the first LIMIT images.", 1)
_OUT = flags.DEFINE_string("out", None, "PNG file of the figure.", required=True)
flags.register_validator("out", lambda path: path != "", "expected a PNG file")


def main(argv: list[str]) -> None:
    network = network_flags.load_network()
    images = network.images(argv[1:])[: _LIMIT.value]
    layers.draw(network, images, _LAYERS.value, _OUT.value, _METHOD.value)
    console.show({"out": _OUT.value}, _OUT.value)


if __name__ == "__main__":
    console.run(main, takes="the paths of images")
