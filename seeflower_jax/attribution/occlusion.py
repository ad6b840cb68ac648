"""Occlusion: how much the score falls when a window of the picture is covered.

    maps = occlusion(network, images, targets, window=48, stride=24)

Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from seeflower_jax.attribution.targets import Targets, resolve, score


def _covers(size: int, window: int, stride: int) -> np.ndarray:
    """bool [windows, size]: which pixels of a side each window covers."""
    starts = np.arange(0, max(size - window, 0) + stride, stride)[:, None]
    pixels = np.arange(size)
    covers = (starts <= pixels) & (pixels < starts + window)
    return covers[covers.any(1)]


def occlusion(
    network: Callable,
    images: jax.Array,
    targets: Targets = None,
    window: int = 48,
    stride: int = 24,
    baseline: float = 127.5,
) -> jax.Array:
    """Fall of the score, averaged over the windows that cover a pixel, [N, H, W].

    Args:
      network, images, targets: see the package.
      window: side of the covered square in pixels.
      stride: between windows, in pixels, at most `window`.
      baseline: value of covered pixels. The windows run one after the other, so memory
        does not grow with their number.

    Raises:
      ValueError: for a stride that leaves pixels uncovered.
    """
    if not 0 < stride <= window:
        raise ValueError(
            f"occlusion with stride {stride} and window {window} leaves pixels "
            "uncovered; the stride must be from 1 to the window"
        )
    targets = resolve(network, images, targets)
    rows = _covers(images.shape[1], window, stride)
    columns = _covers(images.shape[2], window, stride)
    whole = score(network(images)[0], targets)

    def fall(place):
        row, column = place
        covered = (row[:, None] & column)[..., None]
        return whole - score(network(jnp.where(covered, baseline, images))[0], targets)

    places = [(r, c) for r in range(len(rows)) for c in range(len(columns))]
    picked = np.array(places).T
    falls = jax.lax.map(
        fall, (jnp.array(rows)[picked[0]], jnp.array(columns)[picked[1]])
    )
    falls = falls.reshape(len(rows), len(columns), -1)
    total = jnp.einsum("rcn,rh,cw->nhw", falls, rows.astype(np.float32), columns)
    return total / np.outer(rows.sum(0), columns.sum(0))
