"""ZCA whitening of pictures, fitted on a training split.

    whitening = fit((cache[i] for i in train), seed=0)
    images = apply(whitening, images)

ZCA whitening of whole pictures needs the covariance of all pairs of pixels, 288 GB at
299 pixels. Natural pictures look alike everywhere, so the covariance of small patches
says the same: the row of the patches' ZCA matrix W = V (L + e)^(-1/2) V' that belongs
to the centre pixel, with V and L the eigenvectors and eigenvalues of that covariance,
is a convolution kernel that whitens pictures of any size (Coates, Ng and Lee 2011,
section 3.2.2, where W is applied to patches).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np
from jax import lax

FILE_NAME = "whitening.npz"  # in a run directory and in an export
# Whitened values have variance 1; two standard deviations span the range of pixels.
_CENTER, _SCALE = 127.5, 63.75


@dataclasses.dataclass(frozen=True)
class Whitening:
    """A fitted whitening: `mean` [3] in [0, 255], `kernel` [k, k, 3, 3]."""

    mean: np.ndarray
    kernel: np.ndarray

    def save(self, path: str | os.PathLike) -> None:
        """Writes a .npz file."""
        np.savez(path, mean=self.mean, kernel=self.kernel)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Whitening":
        """Reads what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["mean"], arrays["kernel"])


def fit(
    pictures: Iterable[np.ndarray],
    seed: int,
    patch_size: int = 7,
    patches_per_picture: int = 100,
    epsilon: float = 0.01,
) -> Whitening:
    """Fits the covariance of random patches.

    Args:
      pictures: uint8 [h, w, 3] each.
      seed: of the places of the patches.
      patch_size: odd, in pixels.
      patches_per_picture: how many are drawn of each.
      epsilon: added to the eigenvalues, as a share of their mean.
    """
    rng = np.random.default_rng(seed)
    offsets = np.arange(patch_size)
    patches = []
    for picture in pictures:
        room = np.array(picture.shape[:2]) - patch_size + 1
        y, x = rng.integers(room, size=(patches_per_picture, 2)).T
        rows = (y[:, None] + offsets)[:, :, None]
        columns = (x[:, None] + offsets)[:, None, :]
        patches.append(picture[rows, columns].reshape(patches_per_picture, -1))
    patches = np.concatenate(patches).astype(np.float32)
    mean = patches.reshape(-1, 3).mean(0)
    patches -= np.tile(mean, patch_size**2)
    covariance = patches.T @ patches / len(patches)
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    matrix = vectors / np.sqrt(values + epsilon * values.mean()) @ vectors.T
    middle = 3 * (patch_size**2 // 2)
    kernel = matrix[:, middle : middle + 3].reshape(patch_size, patch_size, 3, 3)
    return Whitening(mean, kernel.astype(np.float32))


def apply(whitening: Whitening, images):
    """Whitens images [N, H, W, 3] in [0, 255]; beyond the border, pixels are repeated.

    Returns:
      float32 [N, H, W, 3], mean 127.5, standard deviation about 64, not clipped.
    """
    before = (whitening.kernel.shape[0] - 1) // 2
    pad = (before, before)
    centered = jnp.pad(images - whitening.mean, ((0, 0), pad, pad, (0, 0)), mode="edge")
    whitened = lax.conv_general_dilated(
        centered,
        jnp.asarray(whitening.kernel),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return _CENTER + _SCALE * whitened


def load(path: str | os.PathLike) -> Callable:
    """What `Whitening.save` wrote, as a function of images, as `apply`."""
    return functools.partial(apply, Whitening.load(path))
