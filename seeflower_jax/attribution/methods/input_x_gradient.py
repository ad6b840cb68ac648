"""Input x gradient: each pixel's difference from a baseline times its gradient.

Example:
    maps = input_x_gradient(network, images, targets)
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution.gradients import gradient
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def input_x_gradient(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    baseline: float | Float[Array, "#n #h #w #3"] = 127.5,
) -> Float[Array, "n h w"]:
    """Compute what each pixel adds to the score to first order, summed over colours.

    Sources: Shrikumar et al. 2016, arXiv 1605.01713, section 2; Ancona et al. 2018,
    arXiv 1711.06104, section 2.

    Difference from the sources and from captum, which multiply by the preprocessed
    image: here, networks preprocess images in [0, 255] themselves. The maps are equal
    if `baseline` is the pixel value that preprocessing maps to 0: 127.5 for `x / 127.5
    - 1`, 0 for `x / 255`, the mean colour for `x - mean`.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      baseline: an image without information, or one value for all pixels.

    Raises:
      ValueError: the baseline is not finite.

    Example:
      >>> maps = input_x_gradient(network, images, labels, baseline=0.0)
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(baseline=baseline)
    difference = as_float(images) - baseline
    return (gradient(network, images, targets) * difference).sum(-1)
