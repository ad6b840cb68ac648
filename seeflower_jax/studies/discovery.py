"""Find objects and their parts in images without labels, from a network's features.

    components = fit(batches, counts=(2, 4, 8))           # features of training images
    values = components.object_map(features)              # features [h, w, c]
    box = object_box(values)
    components.part_boxes(features, object_region(values), 4)     # [4, 3]

A descriptor is the feature vector at one position of a layer, divided by its length,
minus the mean of these vectors at the same position of all images. Without this mean,
the first principal component shows the padding of the convolutions and the grid of
their strides, which are the same in all images. A box is a square (y, x, half the side)
in the coordinates of a view, which extends from -1 to 1.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.cluster.vq
import scipy.ndimage
from jaxtyping import Bool, Float

METHOD = "descriptors minus their mean at each position"
WHOLE = (0.0, 0.0, 1.0)  # the box of a whole view
# Half the side of a part, in a view that extends from -1 to 1.
PART = 0.4
_MARGIN = 1.1  # the factor on the side of an object's box
_SMALLEST = 0.3  # half the side of the smallest box of an object
_HIGH = 0.2  # share of the maximum of an object's map
_BLUR = 1.0  # standard deviation of the blur of an object's map, in positions
_SAMPLES = 32  # descriptors of each training image

Box = Float[np.ndarray, "3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
    """The components of the descriptors of many images.

    Attributes:
      mean: mean of the unit feature vectors at each position.
      direction: first principal component, with positive values on objects.
      centres: {k: unit vectors [k, c]}, the cluster centres of objects' descriptors.
    """

    mean: Float[np.ndarray, "h w c"]
    direction: Float[np.ndarray, " c"]
    centres: dict[int, Float[np.ndarray, "k c"]]

    def object_map(
        self, features: Float[np.ndarray, "h w c"]
    ) -> Float[np.ndarray, "h w"]:
        """Return a map that is positive at the object.

        Source: deep descriptor transforming, Wei et al. 2017, arXiv 1705.02758,
        equations 2 and 3, with the descriptors of this module and a blur.
        """
        values = (unit(features) - self.mean) @ self.direction
        return scipy.ndimage.gaussian_filter(values, _BLUR)

    def part_boxes(
        self,
        features: Float[np.ndarray, "h w c"],
        region: Bool[np.ndarray, "h w"],
        count: int,
    ) -> Float[np.ndarray, "k 3"]:
        """Return a box around the position that is most similar to each cluster centre.

        Args:
          features: features of an image.
          region: the positions that are compared, see `object_region`.
          count: number of parts, a key of `centres`.
        """
        height, width, _ = features.shape
        descriptors = unit(features) - self.mean
        similarity = unit(descriptors) @ self.centres[count].T
        similarity[~region] = -np.inf
        places = similarity.reshape(height * width, count).argmax(0)
        rows, columns = np.divmod(places, width)
        y, x = 2 * (rows + 0.5) / height - 1, 2 * (columns + 0.5) / width - 1
        centers = np.stack([y, x], 1).clip(PART - 1, 1 - PART)
        return np.c_[centers, np.full(count, PART)]


def unit(vectors: Float[np.ndarray, "... c"]) -> Float[np.ndarray, "... c"]:
    """Divide vectors by their lengths."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6)


def fit(
    batches: Iterable[Float[np.ndarray, "b h w c"]],
    counts: Sequence[int],
    seed: int = 0,
) -> Components:
    """Return the components of random descriptors of many images.

    Args:
      batches: features of the images.
      counts: numbers of parts.
      seed: seed of the random positions and of the clustering.
    """
    rng = np.random.default_rng(seed)
    vectors: list[np.ndarray] = []
    places: list[np.ndarray] = []
    total, images = np.zeros(()), 0
    for batch in batches:
        count, height, width, channels = batch.shape
        features = unit(batch)
        total, images = total + features.sum(0, dtype=float), images + count
        y, x = rng.integers(0, (height, width), (count, _SAMPLES, 2)).T
        vectors.append(features[np.arange(count), y, x].reshape(-1, channels))
        places.append(np.stack([y.ravel(), x.ravel()]))
    mean = (total / images).astype(np.float32)
    y, x = np.concatenate(places, 1)
    centred = np.concatenate(vectors) - mean[y, x]
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    # Objects are more often in the centre, which decides the sign of the component.
    y, x = (
        np.abs((np.arange(side) + 0.5) / side - 0.5) <= 0.25 for side in (height, width)
    )
    prior = mean @ direction
    if prior[np.outer(y, x)].mean() < prior.mean():
        direction = -direction
    projected = centred @ direction
    objects = unit(centred[projected > 0])
    centres = {
        count: unit(
            scipy.cluster.vq.kmeans2(objects, count, minit="++", rng=seed, iter=50)[0]
        )
        for count in counts
    }
    return Components(mean, direction, centres)


def object_region(values: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the largest connected region of high values of an object's map.

    The region is the whole map if no value is positive.

    Source: Zhou et al. 2016, "Learning deep features for discriminative localization",
    section 3.2, for the share of the maximum that counts as high.
    """
    if values.max() <= 0:
        return np.ones(values.shape, bool)
    labels, _ = scipy.ndimage.label(values > _HIGH * values.max())
    return labels == np.bincount(labels[labels > 0]).argmax()


def object_box(values: Float[np.ndarray, "h w"]) -> Box:
    """Return the box of the object in an object's map, with a margin."""
    (region,) = scipy.ndimage.find_objects(object_region(values).astype(int))
    edges = np.array(
        [
            (2 * s.start / n - 1, 2 * s.stop / n - 1)
            for s, n in zip(region, values.shape, strict=True)
        ]
    )
    half = np.clip(np.ptp(edges, 1).max() / 2 * _MARGIN, _SMALLEST, 1)
    center = edges.mean(1).clip(half - 1, 1 - half)
    return np.array([*center, half])
