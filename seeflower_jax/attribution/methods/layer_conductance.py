"""Layer conductance: Integrated Gradients at the positions of a layer.

Example:
    maps = layer_conductance(network, images, targets, layer="mixed10")
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam, layers
from seeflower_jax.attribution.chunks import sum_over_steps
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.targets import resolve
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def layer_conductance(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    baseline: float | Float[Array, "#n #h #w #3"] = 127.5,
    steps: int = 32,
    spacing: float = 2.0,
    batch_size: int = 1,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute the contribution of each layer position to the score, signed.

    The contribution is an integral along the straight path from the baseline to the
    image. The integrand is the gradient at the layer times the change of the layer,
    summed over channels. The sum over all positions and layers approximates the score
    of the image minus the score of the baseline, if all evidence passes through the
    layers.

    Difference from captum: each step uses the mean of the gradients at its two ends
    (trapezoidal rule). captum uses the gradient at its start, which is less accurate.
    The default baseline of captum is 0.

    Source: Dhamdhere et al. 2018, arXiv 1805.12233, equation 3, and Shrikumar et al.
    2018, arXiv 1807.09946, for the sum over changes of the layer.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      layer: name of an endpoint, several names, or "head".
      baseline: an image without information, or one value for all pixels.
      steps: number of steps along the path. Memory does not grow with this number.
      spacing: after the share u of the steps, the weight of the image is u**spacing.
        Above 1, the steps are smaller near the baseline, where scores change fastest.
      batch_size: number of steps at once, for each image.
      align: "receptive_field" or "stretch".

    Raises:
      ValueError: an option is out of its range, or see `cam.class_activation_map`,
        which explains `layer` and `align`.

    Example:
      >>> maps = layer_conductance(network, images, labels, layer="block5_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(baseline=baseline, steps=steps, spacing=spacing, align=align)
    check_ranges(batch_size=batch_size)
    targets = resolve(network, images, targets)
    names = layers.resolve(network, images, layer)
    difference = as_float(images) - baseline

    def at(share):
        return layers.gradients(network, baseline + share * difference, targets, names)

    def trapezoid(before, after):
        (activations, gradients), (next_activations, next_gradients) = before, after
        change = next_activations - activations
        return (change * (gradients + next_gradients) / 2).sum(-1)

    def trapezoids(before, after):
        return {name: trapezoid(before[name], after[name]) for name in names}

    shares = jnp.array(np.linspace(0, 1, steps + 1) ** spacing, difference.dtype)
    totals = sum_over_steps(at, trapezoids, shares, batch_size)
    return cam.place_maps(totals, network, images, align=align, relu=False)
