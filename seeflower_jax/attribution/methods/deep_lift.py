"""DeepLIFT: contributions to the difference between the scores of image and baseline.

Example:
    maps = deep_lift(network, images, targets)
"""

import jax
from jaxtyping import Array, Float

from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.rules.deep_lift import DeepLift
from seeflower_jax.attribution.rules.interpreter import with_rules
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def deep_lift(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    baseline: float | Float[Array, "#n #h #w #3"] = 127.5,
) -> Float[Array, "n h w"]:
    """Compute the contribution of each pixel to the score, signed, summed over colours.

    The sum of a map is exactly the score of the image minus the score of the baseline.
    For Integrated Gradients, the sum is only approximate. The cost is two forward
    passes and one backward pass.

    Differences from the source: the rescale rule only, not RevealCancel. `rules.
    deep_lift` lists the rules of functions that the source does not treat. In captum
    0.9, the rule for max pooling has no effect after a ReLU, so its maps do not add up
    to the difference of the scores. The default baseline of captum is 0.

    Source: Shrikumar et al. 2017, arXiv 1704.02685, section 3.5.2.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      baseline: an image without information, or one value for all pixels.

    Raises:
      ValueError: the baseline is not finite, or a primitive of the network or of the
        score has no rule.

    Example:
      >>> deep_lift(network, images, labels).shape == images.shape[:3]
      True
    """
    check_ranges(baseline=baseline)
    targets, images = resolve(network, images, targets), as_float(images)
    scores = with_rules(lambda x: score(network(x)[0], targets), DeepLift(baseline))
    multipliers = jax.grad(lambda x: scores(x).sum())(images)
    return (multipliers * (images - baseline)).sum(-1)
