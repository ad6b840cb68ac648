"""Saliency by the deconvnet: each rectifier is applied to the gradient.

Example:
    maps = deconvnet_saliency(network, images, targets)
"""

from jaxtyping import Array, Float

from seeflower_jax.attribution.methods.saliency import saliency
from seeflower_jax.attribution.rules.activations import Deconvnet
from seeflower_jax.attribution.rules.interpreter import with_rules
from seeflower_jax.attribution.types import NetworkFunction, Targets


def deconvnet_saliency(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute saliency by the deconvnet.

    In the backward pass, each rectifier, max(x, 0), is applied to the gradient in place
    of its derivative. Max pooling passes the gradient to its maximum, which is the
    switch of the deconvnet.

    The source projects one activation of a layer to the pixels. This function projects
    the score, as captum does. captum returns signed gradients for each colour, and
    changes only modules `torch.nn.ReLU`. Here, every rectifier counts, and a map is the
    largest magnitude over the colours.

    Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 2.1; as a gradient in
    Simonyan et al. 2014, arXiv 1312.6034, section 4.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Raises:
      ValueError: the network has no rectifier, but other activation functions.

    Example:
      >>> deconvnet_saliency(network, images, labels).shape == images.shape[:3]
      True
    """
    return saliency(with_rules(network, Deconvnet()), images, targets)
