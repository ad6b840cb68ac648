"""LRP: relevance that each layer distributes to the layer below it.

Example:
    maps = lrp(network, images, targets)
    maps = lrp(network, images, targets, rule=alpha_beta(2.0, 1.0))
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution.gradients import gradient
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.rules import LRP, layer_rules
from seeflower_jax.attribution.rules.interpreter import with_rules
from seeflower_jax.attribution.types import NetworkFunction, Targets


def lrp(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    rule: layer_rules.LayerRule | None = None,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    depth: float = 0.5,
) -> Float[Array, "n h w"]:
    """Compute the relevance of each pixel to the score, signed, summed over colours.

    The sum of a map is the score, minus the relevance of biases and the small share
    that epsilon absorbs. The default is a composite of the gamma rule in the layers
    next to the image and the epsilon rule in the others.

    Difference from the sources: there is no special rule for pixels. Their relevance is
    the relevance of their preprocessed values. `rules.lrp` defines the rule of each
    function. As in the sources, the gamma rule also changes biases. In captum 0.9, it
    does not.

    Limit: preprocessing may scale, shift and move values. If it resizes, clips or pools
    pixels before it subtracts a mean, the mean is a bias, whose relevance does not
    reach the image. So resize images before `lrp`, or after the subtraction.

    Sources: Bach et al. 2015, doi 10.1371/journal.pone.0130140, equations 58 and 60;
    Montavon et al. 2019, doi 10.1007/978-3-030-28954-6_10, for gamma and composites.

    Args:
      network, images, targets: see `seeflower_jax.attribution`. A score that is not
        linear in the logits distributes its gradient to them.
      rule: rule of all layers, see `rules.layer_rules`. If given, the other options
        have no effect.
      epsilon: value of the epsilon rule.
      gamma: value of the gamma rule.
      depth: share of the convolutions and matrix products that use the gamma rule.

    Raises:
      ValueError: an option is out of its range, or a primitive of the network has no
        rule.

    Example:
      >>> lrp(network, images, labels, gamma=0.1).shape == images.shape[:3]
      True
    """
    check_ranges(epsilon=epsilon, gamma=gamma, depth=depth)
    if rule is None:
        below, above = layer_rules.gamma(gamma), layer_rules.epsilon(epsilon)
        rule = layer_rules.by_depth((depth, below), (1.0, above))

    def logits_alone(x):
        # A layer that is also an output would not be merged with what follows it, such
        # as batch normalisation.
        return network(x)[0], {}

    return gradient(with_rules(logits_alone, LRP(rule)), images, targets).sum(-1)
