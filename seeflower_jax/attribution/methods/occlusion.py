"""Occlusion: the drop of the score when a window of the image is covered.

Example:
    maps = occlusion(network, images, targets, window=48, stride=24)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seeflower_jax.attribution.chunks import map_over
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def _window_masks(size: int, window: int, stride: int) -> Bool[np.ndarray, "k size"]:
    """Return the pixels of one side that each of the k windows covers."""
    starts = np.arange(0, max(size - window, 0) + stride, stride)[:, None]
    pixels = np.arange(size)
    masks = (starts <= pixels) & (pixels < starts + window)
    return masks[masks.any(1)]


def occlusion(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    window: int = 48,
    stride: int = 24,
    baseline: float = 127.5,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the mean drop of the score over the windows that cover each pixel.

    Memory does not grow with the number of windows.

    The source shows the probability of the class for each position of a grey window.
    captum computes the same maps if its windows cover all colours. The defaults of
    captum are the baseline 0 and the stride 1.

    Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      window: side of the covered square in pixels, less than the longer side of the
        images. The defaults suit images of 224 pixels.
      stride: distance between windows in pixels, at most `window`.
      baseline: value of covered pixels.
      batch_size: number of windows at once, for each image.

    Raises:
      ValueError: the stride leaves pixels uncovered, the window covers whole images, or
        an option is out of its range.

    Example:
      >>> maps = occlusion(network, images, labels, window=32, stride=32)
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(window=window, stride=stride, baseline=baseline, batch_size=batch_size)
    if stride > window:
        raise ValueError(
            f"occlusion with stride {stride} and window {window} leaves pixels "
            "uncovered; the stride must be from 1 to the window"
        )
    height, width = images.shape[1:3]
    side = max(height, width)
    if window >= side:
        raise ValueError(
            f"occlusion with window {window} covers whole images of {height} x {width} "
            "pixels, so its maps would be constant; pass smaller values, such as "
            f"window={side // 2}, stride={-(-side // 4)}"
        )
    targets = resolve(network, images, targets)
    images = as_float(images)
    rows = _window_masks(height, window, stride)
    columns = _window_masks(width, window, stride)
    full_score = score(network(images)[0], targets)

    def score_drop(masks):
        row_mask, column_mask = masks
        covered = (row_mask[:, None] & column_mask)[..., None]
        occluded_images = jnp.where(covered, baseline, images)
        return full_score - score(network(occluded_images)[0], targets)

    pairs = [(r, c) for r in range(len(rows)) for c in range(len(columns))]
    row_indices, column_indices = np.array(pairs).T
    masks = jnp.array(rows)[row_indices], jnp.array(columns)[column_indices]
    drops = map_over(score_drop, masks, batch_size)
    drops = drops.reshape(len(rows), len(columns), -1)
    total = jnp.einsum(
        "rcn,rh,cw->nhw",
        *(drops, rows.astype(np.float32), columns),
        precision="highest",
    )
    return total / np.outer(rows.sum(0), columns.sum(0))
