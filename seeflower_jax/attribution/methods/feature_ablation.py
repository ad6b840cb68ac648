"""Feature ablation: the drop of the score when a segment of the image is hidden.

Example:
    segments = superpixels(images)
    maps = feature_ablation(network, images, targets, segments=segments)
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seeflower_jax.attribution.chunks import map_over
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.segments import resolve as resolve_segments
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def feature_ablation(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    segments: Int[Array, "#n h w"] | None = None,
    num_segments: int | None = None,
    cells: int = 7,
    baseline: float = 127.5,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the drop of the score when the segment of each pixel is hidden.

    Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2, with segments in place
    of windows.

    Differences: captum's FeatureAblation computes the same maps if its `feature_mask`
    has the segments. The default baseline of captum is 0. Without a `feature_mask`,
    captum hides each colour of each pixel alone.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      segments: index of the segment of each pixel, from 0, such as
        `segments.superpixels(images)`. The default is a grid.
      num_segments: number of segments, needed if `segments` are traced by `jit`.
      cells: number of segments along each side of the default grid.
      baseline: value of hidden pixels.
      batch_size: number of segments at once, for each image.

    Raises:
      ValueError: an option is out of its range, or see `segments.resolve`.

    Example:
      >>> maps = feature_ablation(network, images, labels, cells=4)
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(cells=cells, baseline=baseline, batch_size=batch_size)
    segments, count = resolve_segments(segments, num_segments, images, cells)
    targets = resolve(network, images, targets)
    images = as_float(images)
    full_scores = score(network(images)[0], targets)

    def score_drop(segment):
        is_hidden = (segments == segment)[..., None]
        hidden_images = jnp.where(is_hidden, baseline, images)
        return full_scores - score(network(hidden_images)[0], targets)

    drops = map_over(score_drop, jnp.arange(count), batch_size)
    flat_segments = segments.reshape(len(segments), math.prod(segments.shape[1:]))
    maps = jnp.take_along_axis(as_float(drops).T, flat_segments, 1)
    return maps.reshape(segments.shape)
