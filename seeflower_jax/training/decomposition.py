"""Decompose scaled features, which may be far larger than their kernel or covariance.

    spectrum = decompose(Design(features, mean, scales, roots))
    projected = spectrum.project(targets)           # left.T @ targets
    kernel = spectrum.coefficients(projected, penalty)

The computation runs in blocks. The memory is a few times the smaller of the kernel
matrix [m, m] and the covariance [d, d].
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import scipy.linalg
from jaxtyping import Float

_BLOCK = 1024  # features or rows at a time

Features = Float[np.ndarray, "m d"]


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """The standardised features, each row times the root of its image's weight.

    Attributes:
      features: the features, in memory or mapped from a file.
      mean: mean of each feature.
      scales: factor of each feature after its mean is subtracted.
      roots: root of the weight of each row.
    """

    features: Features
    mean: Float[np.ndarray, " d"]
    scales: Float[np.ndarray, " d"]
    roots: Float[np.ndarray, " m"]

    def rows(self, part: slice) -> Features:
        """Return some rows of the design."""
        return self.roots[part, None] * (self.features[part] - self.mean) * self.scales

    def columns(self, part: slice) -> Features:
        """Return some columns of the design."""
        block = (self.features[:, part] - self.mean[part]) * self.scales[part]
        return self.roots[:, None] * block


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """The singular value decomposition of a design with at least as many columns.

    Attributes:
      design: the design [m, d], which is `left * sqrt(d * values) * right`.
      values: squared singular values divided by d.
      left: left singular vectors.
    """

    design: Design
    values: Float[np.ndarray, " m"]
    left: Float[np.ndarray, "m m"]

    def rows(self, part: slice) -> Float[np.ndarray, "b m"]:
        """Return rows of the left singular vectors."""
        return self.left[part]

    def project(self, targets: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
        """Return the product of the left singular vectors and targets."""
        return self.left.T @ targets

    def coefficients(
        self, projected: Float[np.ndarray, "m c"], penalty: float
    ) -> Float[np.ndarray, "d c"]:
        """Return the ridge regression's coefficients of the standardised features."""
        width = self.design.features.shape[1]
        dual = self.left @ (projected / (self.values + penalty)[:, None]) / width
        blocks = (self.design.columns(part) for part in parts(width))
        return np.concatenate([block.T @ dual for block in blocks])


@dataclasses.dataclass(frozen=True, eq=False)
class Covariance:
    """The singular value decomposition of a design with fewer columns than rows.

    The left singular vectors are as large as the design, so they are not kept.

    Attributes:
      design, values: as for `Kernel`.
      right: right singular vectors.
    """

    design: Design
    values: Float[np.ndarray, " d"]
    right: Float[np.ndarray, "d d"]

    @property
    def _singular_values(self) -> Float[np.ndarray, " d"]:
        return np.sqrt(np.maximum(self.values * len(self.values), 1e-12))

    def rows(self, part: slice) -> Float[np.ndarray, "b d"]:
        """Return rows of the left singular vectors."""
        return self.design.rows(part) @ self.right / self._singular_values

    def project(self, targets: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "d c"]:
        """Return the product of the left singular vectors and targets."""
        products = (self.design.rows(p).T @ targets[p] for p in parts(len(targets)))
        total = functools.reduce(np.add, products)
        return self.right.T @ total / self._singular_values[:, None]

    def coefficients(
        self, projected: Float[np.ndarray, "d c"], penalty: float
    ) -> Float[np.ndarray, "d c"]:
        """Return the ridge regression's coefficients of the standardised features."""
        scales = np.sqrt(self.values / len(self.values)) / (self.values + penalty)
        return self.right @ (scales[:, None] * projected)


def parts(size: int, multiple: int = 1) -> Iterator[slice]:
    """Return slices of rows or columns; each length but the last is such a multiple."""
    length = max(_BLOCK // multiple, 1) * multiple
    return (slice(start, start + length) for start in range(0, size, length))


def decompose(design: Design) -> Kernel | Covariance:
    """Return the singular value decomposition of a design."""
    count, width = design.features.shape
    if count <= width:
        blocks = (design.columns(part) for part in parts(width))
        gram = sum((b @ b.T for b in blocks), np.zeros((count, count)))
        values, left = scipy.linalg.eigh(gram / width, overwrite_a=True)
        return Kernel(design, np.maximum(values, 0), left)
    blocks = (design.rows(part) for part in parts(count))
    gram = sum((b.T @ b for b in blocks), np.zeros((width, width)))
    values, right = scipy.linalg.eigh(gram / width, overwrite_a=True)
    return Covariance(design, np.maximum(values, 0), right)
