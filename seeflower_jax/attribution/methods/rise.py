"""RISE: the mean score of randomly masked images in which a pixel is visible.

Example:
    keys = jax.random.split(jax.random.key(0), len(images))
    maps = rise(network, images, targets.probability(labels), keys)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.chunks import sum_over
from seeflower_jax.attribution.noise import image_keys
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.random_masks import draw_mask
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def rise(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    samples: int = 1024,
    cells: int = 7,
    visible: float = 0.5,
    baseline: float = 127.5,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute how far the score exceeds its mean if a pixel is visible, signed.

    The mean is over random masks. Each mask is a grid of visible and hidden cells,
    resized to smooth values from 0 to 1 and shifted at random, as in the authors' code.

    Differences from the source: the mean score of all masks is subtracted. This changes
    the expected map by a constant, and removes the noise of the masks' mean. The source
    explains a probability, see `targets.probability`; the default here is a logit.
    Beyond the outermost cells, masks keep their values; the authors' code reflects the
    masks there.

    Source: Petsiuk et al. 2018, arXiv 1806.07421, equation 6 and section 3.2.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      keys: one random key per image, so that a map does not depend on the batch.
      samples: number of masks, each a forward pass. Memory does not grow with it. The
        source uses 4,000 to 8,000.
      cells: number of cells along each side of the grid.
      visible: probability that a cell is visible.
      baseline: value of hidden pixels.
      batch_size: number of masks at once, for each image.

    Raises:
      ValueError: an option is out of its range, or there is not one key per image.

    Example:
      >>> rise(network, images, labels, keys, samples=8).shape == images.shape[:3]
      True
    """
    keys = image_keys(keys, images)
    check_ranges("rise", samples=samples, cells=cells, visible=visible)
    check_ranges(baseline=baseline, batch_size=batch_size)
    targets = resolve(network, images, targets)
    images = as_float(images)
    size = images.shape[1], images.shape[2]
    # Differences from a fixed score lose fewer digits.
    full_scores = score(network(images)[0], targets)

    def draw(key, sample):
        return draw_mask(jax.random.fold_in(key, sample), size, cells, visible)

    def moments(sample):
        masks = jax.vmap(draw, (0, None))(keys, sample)
        masked_images = baseline + (images - baseline) * masks[..., None]
        scores = score(network(masked_images)[0], targets) - full_scores
        return scores[:, None, None] * masks, scores, masks

    totals = sum_over(moments, jnp.arange(samples), batch_size)
    products, scores, masks = (total / samples for total in totals)
    covariance = (products - scores[:, None, None] * masks) * samples / (samples - 1)
    return covariance / visible
