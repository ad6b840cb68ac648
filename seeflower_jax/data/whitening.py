"""Whiten images by ZCA, fitted on a training split.

    whitening = fit((cache[i] for i in train), seed=0)
    images = whitening(images)

ZCA whitening of whole images needs the covariance of all pairs of pixels, 288 GB at 299
pixels. Natural images have the same statistics everywhere, so the covariance of small
patches is enough. The ZCA matrix of the patches is W = V (L + e)^(-1/2) V', with the
eigenvectors V and eigenvalues L of the covariance. The row of W that belongs to the
centre pixel is a convolution kernel, which whitens images of any size.

Source: Coates, Ng and Lee 2011, section 3.2.2, which applies W to patches.
"""

import dataclasses
import pathlib
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from seeflower_jax import records

FILE_NAME = "whitening.npz"  # in a run directory and in an export
# Whitened values have variance 1; two standard deviations span the range of pixels.
_CENTER, _SCALE = 127.5, 63.75


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """A fitted whitening; calling it whitens images.

    Attributes:
      mean: mean colour of the patches, in [0, 255].
      kernel: kernel of the convolution that whitens images.
    """

    mean: Float[np.ndarray, "3"]
    kernel: Float[np.ndarray, "k k 3 3"]

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        """Whiten images in [0, 255]; the border pixels are repeated outside.

        Returns:
          float32 images with mean 127.5 and standard deviation about 64, not clipped.
        """
        before = (self.kernel.shape[0] - 1) // 2
        pad = (before, before)
        centered = jnp.pad(images - self.mean, ((0, 0), pad, pad, (0, 0)), mode="edge")
        whitened = lax.conv_general_dilated(
            centered,
            jnp.asarray(self.kernel),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return _CENTER + _SCALE * whitened

    def save(self, path: str | pathlib.Path) -> None:
        """Write the whitening to a .npz file, completely or not at all."""
        with records.replacing(path) as partial:
            np.savez(partial, mean=self.mean, kernel=self.kernel)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Whitening":
        """Read a whitening from a file that `save` wrote.

        Raises:
          DamagedFileError: if the file is damaged.
        """
        try:
            with np.load(path) as arrays:
                fitted = cls(arrays["mean"], arrays["kernel"])
            size = len(fitted.kernel)
            if fitted.mean.shape != (3,) or fitted.kernel.shape != (size, size, 3, 3):
                raise ValueError("its arrays do not have the shapes of a whitening")
        except Exception as error:  # NumPy and zipfile raise errors of many types.
            raise records.DamagedFileError(
                f"{path} is damaged: {error or type(error).__name__}"
            ) from error
        return fitted


def load_from(folder: pathlib.Path) -> Whitening | None:
    """Return the whitening of a run directory or an export; None if it has none."""
    path = folder / FILE_NAME
    return Whitening.load(path) if path.exists() else None


def fit(
    images: Iterable[UInt8[np.ndarray, "h w 3"]],
    seed: int,
    patch_size: int = 7,
    patches_per_image: int = 100,
    epsilon: float = 0.01,
) -> Whitening:
    """Fit a whitening to the covariance of random patches.

    The memory does not grow with the number of images.

    Args:
      images: images to draw patches from.
      seed: seed of the positions of the patches.
      patch_size: side of a patch in pixels, odd.
      patches_per_image: number of patches drawn from each image.
      epsilon: number added to the eigenvalues, as a share of their mean.
    """
    rng = np.random.default_rng(seed)
    offsets, length = np.arange(patch_size), 3 * patch_size**2
    # Sums of integers, which float64 represents exactly.
    count, total, products = 0, np.zeros(length), np.zeros((length, length))
    for image in images:
        room = np.array(image.shape[:2]) - patch_size + 1
        y, x = rng.integers(room, size=(patches_per_image, 2)).T
        rows = (y[:, None] + offsets)[:, :, None]
        columns = (x[:, None] + offsets)[:, None, :]
        patches = image[rows, columns].reshape(patches_per_image, -1).astype(np.float64)
        count += len(patches)
        total += patches.sum(0)
        products += patches.T @ patches
    mean = total.reshape(-1, 3).mean(0) / count
    center = np.tile(mean, patch_size**2)
    shift = np.outer(center, total / count)
    covariance = products / count - shift - shift.T + np.outer(center, center)
    values, vectors = np.linalg.eigh(covariance)
    matrix = vectors / np.sqrt(values + epsilon * values.mean()) @ vectors.T
    middle = 3 * (patch_size**2 // 2)
    kernel = matrix[:, middle : middle + 3].reshape(patch_size, patch_size, 3, 3)
    return Whitening(mean.astype(np.float32), kernel.astype(np.float32))
