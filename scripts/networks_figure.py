"""Draw five networks of four frameworks, explained side by side.

    python -m scripts.networks_figure --weights=DIR --data_dir=DATA --out=figure.jpg

`DIR` holds Keras' `notop` files of VGG16, VGG19 and Inception-v3. `DATA` holds Oxford
102 Flowers. A linear head is fitted to the training images of eight classes. The
networks run in Flax Linen, Flax NNX, Equinox and Keras, which `pip install -e .[peers]`
installs.
"""

from absl import flags

from scripts import console
from seeflower_jax.data import oxford_flowers

_WEIGHTS = flags.DEFINE_string(
    "weights", None, "Folder of Keras' weight files.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the images; the default downloads them."
)
_OUT = flags.DEFINE_string("out", None, "JPEG file of the figure.", required=True)
_SIZE = flags.DEFINE_integer("size", 0, "Side of the images; 0 is the networks'.", 0)
# In smaller images, the last block of Inception-v3 has a single position.
flags.register_validator(
    "size", lambda size: size == 0 or size >= 107, "expected 0, or at least 107 pixels"
)
flags.register_validator("out", lambda path: path != "", "expected a JPEG file")


def main(_) -> None:
    from seeflower_jax.comparison import five_networks

    source = oxford_flowers.load(_DATA_DIR.value)
    five_networks.draw(_WEIGHTS.value, source, _OUT.value, _SIZE.value)
    console.show({"out": _OUT.value}, _OUT.value)


if __name__ == "__main__":
    console.run(main)
