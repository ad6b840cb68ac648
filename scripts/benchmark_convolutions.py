"""Measure each convolution of a network, and compare it with XLA's.

    python -m scripts.benchmark_convolutions
    python -m scripts.benchmark_convolutions --model=vgg16 --size=224 --out=vgg16.json

The forward pass and the gradients of the images and of the kernel are measured in
float32 and in bfloat16. The table adds up all convolutions of the network. --out writes
the GFLOP/s of each convolution, and those of a product of large matrices.
"""

from absl import flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.comparison import convolution_speed

_MODEL = flags.DEFINE_string("model", "inception_v3", "Name of the network.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_SIZE = flags.DEFINE_integer("size", 224, "Side of the images in pixels.", 32)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed calls; the fastest counts.", 1)
_OUT = flags.DEFINE_string("out", None, "JSON file to write the results to.")
flags.register_validator("out", lambda path: path != "", "expected a JSON file")


def main(argv) -> None:
    table = convolution_speed.measure(
        _MODEL.value, _BATCH_SIZE.value, _SIZE.value, _ROUNDS.value
    )
    figures = {"model": _MODEL.value, "batch_size": _BATCH_SIZE.value}
    figures |= {"size": _SIZE.value, **table}
    if _OUT.value:
        records.write_measurements(_OUT.value, figures)
    console.show(figures, convolution_speed.text(table))


if __name__ == "__main__":
    console.run(main)
