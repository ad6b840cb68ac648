"""Find objects and their parts in images without labels, from a network's features.

    components = fit(descriptors, counts=(2, 4, 8))       # [n, c], of training images
    box = object_box(components.object_map(features))     # features [h, w, c]
    components.part_boxes(features, 4)                    # [4, 3]

A descriptor is the feature vector at one position of a layer. A box is a square (y, x,
half the side) in the coordinates of a view, which extends from -1 to 1.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.cluster.vq
import scipy.ndimage
from jaxtyping import Float

WHOLE = (0.0, 0.0, 1.0)  # the box of a whole view
# Half the side of a part, in a view that extends from -1 to 1.
PART = 0.4
_MARGIN = 1.1  # the factor on the side of an object's box
_SMALLEST = 0.3  # half the side of the smallest box of an object

Box = Float[np.ndarray, "3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
    """The components of the descriptors of many images.

    Attributes:
      mean: mean of the descriptors.
      direction: first principal component, with positive values on objects.
      centres: {k: unit vectors [k, c]}, the cluster centres of objects' descriptors.
    """

    mean: Float[np.ndarray, " c"]
    direction: Float[np.ndarray, " c"]
    centres: dict[int, Float[np.ndarray, "k c"]]

    def object_map(
        self, features: Float[np.ndarray, "h w c"]
    ) -> Float[np.ndarray, "h w"]:
        """Return a map that is positive at the object.

        Source: deep descriptor transforming, Wei et al. 2017, arXiv 1705.02758,
        equations 2 and 3.
        """
        return (features - self.mean) @ self.direction

    def part_boxes(
        self, features: Float[np.ndarray, "h w c"], count: int
    ) -> Float[np.ndarray, "k 3"]:
        """Return a box around the position that is most similar to each cluster centre.

        Args:
          features: features of an image.
          count: number of parts, a key of `centres`.
        """
        height, width, _ = features.shape
        similarity = unit(features) @ self.centres[count].T
        places = similarity.reshape(height * width, count).argmax(0)
        rows, columns = np.divmod(places, width)
        y, x = 2 * (rows + 0.5) / height - 1, 2 * (columns + 0.5) / width - 1
        centers = np.stack([y, x], 1).clip(PART - 1, 1 - PART)
        return np.c_[centers, np.full(count, PART)]


def unit(vectors: Float[np.ndarray, "... c"]) -> Float[np.ndarray, "... c"]:
    """Divide vectors by their lengths."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6)


def fit(
    descriptors: Float[np.ndarray, "n c"],
    central: Float[np.ndarray, "n"],
    counts: Sequence[int],
    seed: int = 0,
) -> Components:
    """Return the components of the descriptors of many images.

    Args:
      descriptors: descriptors at random positions of the images.
      central: whether each position is in the centre of its image, 0 or 1. Objects are
        more often in the centre, which determines the sign of the principal component.
      counts: numbers of parts.
      seed: seed of the clustering.
    """
    mean = descriptors.mean(0)
    centred = descriptors - mean
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    projected = centred @ direction
    if projected[central > 0].mean() < projected[central == 0].mean():
        direction, projected = -direction, -projected
    objects = unit(descriptors[projected > 0])
    centres = {
        count: unit(
            scipy.cluster.vq.kmeans2(objects, count, minit="++", rng=seed, iter=50)[0]
        )
        for count in counts
    }
    return Components(mean, direction, centres)


def object_box(values: Float[np.ndarray, "h w"]) -> Box:
    """Return the box of the largest connected region of positive values.

    The whole view is returned if no value is positive.
    """
    labels, count = scipy.ndimage.label(values > 0)
    if not count:
        return np.array(WHOLE)
    largest = np.bincount(labels.ravel())[1:].argmax()
    region = scipy.ndimage.find_objects(labels)[largest]
    edges = np.array(
        [
            (2 * s.start / n - 1, 2 * s.stop / n - 1)
            for s, n in zip(region, values.shape, strict=True)
        ]
    )
    half = np.clip(np.ptp(edges, 1).max() / 2 * _MARGIN, _SMALLEST, 1)
    center = edges.mean(1).clip(half - 1, 1 - half)
    return np.array([*center, half])
