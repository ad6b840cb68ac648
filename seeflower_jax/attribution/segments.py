"""Segments of images: parts that are hidden together, such as superpixels.

    segments = superpixels(images, count=50)      # int32 [n, h, w]
    maps = kernel_shap(network, images, targets, keys, segments=segments)

The segments of an image are numbered from 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def grid_segments(height: int, width: int, cells: int) -> Int[np.ndarray, "h w"]:
    """Return a grid of `cells` by `cells` segments.

    Example:
      >>> grid_segments(2, 4, cells=2).tolist()
      [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    rows, columns = (np.arange(side) * cells // side for side in (height, width))
    return (rows[:, None] * cells + columns).astype(np.int32)


def superpixels(
    images: Float[Array, "n h w 3"], count: int = 50, compactness: float = 10.0
) -> Int[np.ndarray, "n h w"]:
    """Return superpixels by SLIC: connected segments of similar colour.

    The function runs on the host, not inside `jit`. It needs scikit-image.

    Source: Achanta et al. 2012, "SLIC superpixels compared to state-of-the-art
    superpixel methods", IEEE TPAMI 34, in the implementation of scikit-image.

    Args:
      images: RGB in [0, 255].
      count: approximate number of segments of an image.
      compactness: weight of spatial distance relative to colour.

    Raises:
      ImportError: scikit-image is not installed.

    Example:
      >>> superpixels(images, count=16).shape == images.shape[:3]
      True
    """
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise ImportError(
            "superpixels need scikit-image, which is not installed; run "
            "pip install scikit-image"
        ) from None
    of_images = [
        slic(image / 255, count, compactness, start_label=0, channel_axis=-1)
        for image in np.asarray(images, np.float64)
    ]
    return np.stack(of_images).astype(np.int32)


def resolve(
    segments: Int[Array, "#n h w"] | None,
    num_segments: int | None,
    images: Float[Array, "n h w 3"],
    cells: int,
) -> tuple[Int[Array, "n h w"], int]:
    """Return the segments of all images, and the number of segments of an image.

    Args:
      segments: the segments, or None for a grid.
      num_segments: number of segments, needed if `segments` are traced by `jit`.
      images: see `seeflower_jax.attribution`.
      cells: number of segments along each side of the grid.

    Raises:
      ValueError: the segments have another shape or type, are negative, or are not
        below `num_segments`, or their number is not known.

    Example:
      >>> resolve(None, None, images, cells=4)[1]
      16
    """
    n, height, width, _ = images.shape
    if segments is None:
        segments, num_segments = grid_segments(height, width, cells)[None], cells**2
    if segments.shape not in ((n, height, width), (1, height, width)):
        raise ValueError(
            f"segments have the shape {segments.shape}; expected {(n, height, width)}, "
            "a number for each pixel"
        )
    if not jnp.issubdtype(segments.dtype, jnp.integer):
        raise ValueError(f"segments are {segments.dtype}; expected whole numbers")
    is_concrete = not isinstance(segments, jax.core.Tracer)
    if is_concrete:
        low, high = np.min(np.asarray(segments)), np.max(np.asarray(segments))
        num_segments = int(high) + 1 if num_segments is None else num_segments
        if not 0 <= low <= high < num_segments:
            raise ValueError(
                f"segments have values from {low} to {high}; expected whole numbers "
                f"from 0 to {num_segments - 1}"
            )
    elif num_segments is None:
        raise ValueError(
            "the number of segments is not known inside jit; pass num_segments"
        )
    segments = jnp.asarray(segments, "int32")  # of 8 bits, they could not be counted
    return jnp.broadcast_to(segments, (n, height, width)), num_segments


def present(segments: Int[Array, "n h w"], count: int) -> Bool[Array, "n m"]:
    """Return whether each image has each of the `count` segments.

    Example:
      >>> present(jnp.array([[[0, 2]], [[1, 1]]]), 3).astype(int).tolist()
      [[1, 0, 1], [0, 1, 0]]
    """
    rows = jnp.arange(len(segments))[:, None, None]
    return jnp.zeros((len(segments), count), bool).at[rows, segments].set(True)
