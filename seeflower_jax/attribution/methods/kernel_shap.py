"""KernelSHAP: Shapley values of the segments of an image, by a weighted regression.

Example:
    keys = jax.random.split(jax.random.key(0), len(images))
    maps = kernel_shap(network, images, targets, keys, segments=superpixels(images))
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from seeflower_jax.attribution import shapley
from seeflower_jax.attribution.chunks import map_over
from seeflower_jax.attribution.noise import image_keys
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.segments import present
from seeflower_jax.attribution.segments import resolve as resolve_segments
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def kernel_shap(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    segments: Int[Array, "#n h w"] | None = None,
    num_segments: int | None = None,
    cells: int = 7,
    samples: int = 512,
    baseline: float = 127.5,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the Shapley value of the segment of each pixel, signed.

    The values of the segments of an image add up to the score of the image minus the
    score of the baseline. Numbers that no pixel of the image has get no value. If there
    are at most `samples` coalitions of segments, all are used, and the values are
    exact. If there are more, coalitions are drawn.

    Differences from the source and from captum: the sum is exact, whereas captum gives
    the empty and the full coalition a large weight. Coalitions are drawn in pairs, each
    with its complement, which lowers the variance (Covert and Lee 2021, arXiv
    2012.01536). The default baseline of captum is 0.

    Source: Lundberg and Lee 2017, arXiv 1705.07874, theorem 2.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      keys: one random key per image, so that a map does not depend on the batch, if
        `num_segments` is the same.
      segments: index of the segment of each pixel, from 0, such as
        `segments.superpixels(images)`. The default is a grid.
      num_segments: number of segments, needed if `segments` are traced by `jit`. The
        draws of coalitions depend on it. The default is the largest number of the batch
        plus 1.
      cells: number of segments along each side of the default grid.
      samples: number of coalitions, each a forward pass; an odd number is rounded up.
        Use several times as many samples as segments. Memory grows only by the arrays
        of the regression, about 16 bytes for each sample and segment of an image.
      baseline: value of pixels outside of the segments of a coalition.
      batch_size: number of coalitions at once, for each image.

    Raises:
      ValueError: an option is out of its range, there is not one key per image, or
        see `segments.resolve`.

    Example:
      >>> maps = kernel_shap(network, images, labels, keys, cells=2, samples=14)
      >>> maps.shape == images.shape[:3]
      True
    """
    keys = image_keys(keys, images)
    check_ranges(cells=cells, samples=samples, baseline=baseline, batch_size=batch_size)
    segments, count = resolve_segments(segments, num_segments, images, cells)
    targets = resolve(network, images, targets)
    images = as_float(images)
    flat_segments = segments.reshape(len(segments), math.prod(segments.shape[1:]))

    def score_of(coalitions):
        visible = jnp.take_along_axis(coalitions, flat_segments, 1)
        visible = visible.reshape(segments.shape)[..., None]
        return score(network(jnp.where(visible, images, baseline))[0], targets)

    nothing = jnp.zeros((len(images), count), bool)
    empty_scores = score_of(nothing)
    changes = score_of(~nothing) - empty_scores
    coalitions, weights = shapley.make_coalitions(keys, count, samples)
    scores = map_over(score_of, coalitions.swapaxes(0, 1), batch_size)
    fit = jax.vmap(shapley.fit_values, (0, 0, 0, 0, None))
    players, gains = present(segments, count), (scores - empty_scores).T
    values = fit(coalitions, players, gains, changes, weights)
    return jnp.take_along_axis(values, flat_segments, 1).reshape(segments.shape)
