"""GradientSHAP: expected gradients along paths from random baselines to the image.

Example:
    keys = jax.random.split(jax.random.key(0), len(images))
    maps = gradient_shap(network, images, targets, keys, baselines=training_images)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.chunks import sum_over
from seeflower_jax.attribution.gradients import gradient
from seeflower_jax.attribution.noise import image_keys
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.random_points import draw
from seeflower_jax.attribution.targets import resolve
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def gradient_shap(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    baselines: float | Float[Array, "m #h #w #3"] = 127.5,
    samples: int = 32,
    noise: float = 0.0,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the expected contribution of each pixel, signed, summed over colours.

    For each sample, the method draws a baseline, adds noise to the image, and computes
    the gradient at a random point between the two. The sum of a map approximates the
    score of the image minus the mean score of the baselines. With one baseline and no
    noise, the method is a random form of Integrated Gradients.

    Difference from the source and from captum: the positions of the points are
    stratified. Sample i of s lies at a random position between i / s and (i + 1) / s of
    the path. This lowers the variance and keeps the expectation.

    Source: Erion et al. 2021, arXiv 1906.10670, equation 4; Lundberg and Lee 2017,
    arXiv 1705.07874, for the noise, as in captum.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      keys: one random key per image, so that a map does not depend on the batch.
      baselines: images to draw baselines from, such as training images, or one value
        for all pixels.
      samples: number of points. Memory does not grow with it.
      noise: standard deviation of the noise, as a share of the image's range of values.
      batch_size: number of points at once, for each image.

    Raises:
      ValueError: an option is out of its range, there is not one key per image, or
        there is no baseline.

    Example:
      >>> maps = gradient_shap(network, images, labels, keys, samples=2)
      >>> maps.shape == images.shape[:3]
      True
    """
    keys = image_keys(keys, images)
    check_ranges(
        baselines=baselines, samples=samples, noise=noise, batch_size=batch_size
    )
    images = as_float(images)
    choices = jnp.asarray(baselines, images.dtype)
    choices = choices if choices.ndim else choices.reshape(1, 1, 1, 1)
    if choices.ndim != 4 or not len(choices):
        raise ValueError(
            f"baselines have the shape {choices.shape}; expected [m, h, w, 3] with m "
            "of at least 1, or one number"
        )
    targets = resolve(network, images, targets)
    deviation = noise * jnp.ptp(images, axis=(1, 2, 3), keepdims=True)

    def contribution(sample):
        draws = jax.vmap(draw, (0, None, None, 0))
        shares, indices, unit_noise = draws(keys, sample, len(choices), images)
        shares = (sample + shares[:, None, None, None]) / samples
        starts = choices[indices]
        difference = images + deviation * unit_noise - starts
        gradients = gradient(network, starts + shares * difference, targets)
        return (gradients * difference).sum(-1)

    return sum_over(contribution, jnp.arange(samples), batch_size) / samples
