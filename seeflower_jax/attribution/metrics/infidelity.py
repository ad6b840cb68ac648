"""Infidelity: how badly a map predicts the change of the score under perturbations.

keys = jax.random.split(jax.random.key(0), len(images))
errors = infidelity(network, images, maps, keys, labels)      # [N], lower is better
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from seeflower_jax.attribution.chunks import map_over
from seeflower_jax.attribution.noise import metric_keys
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float

# (key, image) -> (perturbation, perturbed image), for one image [h, w, 3]. The
# perturbation has the shape of a map.
Perturb = Callable[[Key[Array, ""], Float[Array, "h w 3"]], tuple[Array, Array]]


def remove_square(window: int = 48, baseline: float = 127.5) -> Perturb:
    """Return a perturbation that removes a random square.

    Source: Yeh et al. 2019, arXiv 1901.09392, section 4.1, "square removal".

    Args:
      window: side of the square in pixels, smaller than a side of the image.
      baseline: value of removed pixels.

    Returns:
      A function for `infidelity`. Its perturbation is the mask of the square, [h, w].

    Raises:
      ValueError: when the function is called, if the square covers the whole image.

    Example:
      >>> mask, image = remove_square(4)(jax.random.key(0), jnp.zeros((8, 8, 3)))
      >>> int(mask.sum()), int((image == 127.5).sum())
      (16, 48)
    """
    check_ranges(window=window, baseline=baseline)

    def perturb(
        key: Key[Array, ""], image: Float[Array, "h w 3"]
    ) -> tuple[Bool[Array, "h w"], Float[Array, "h w 3"]]:
        def covered(key: Key[Array, ""], size: int) -> Bool[Array, " size"]:
            side = min(window, size)
            first = jax.random.randint(key, (), 0, size - side + 1, "int32")
            places = jnp.arange(size)
            return (first <= places) & (places < first + side)

        row_key, column_key = jax.random.split(key)
        height, width, _ = image.shape
        if window >= max(height, width):
            raise ValueError(
                f"window is {window}; expected less than {max(height, width)}, the "
                "side of the images, because the whole image would be removed"
            )
        mask = covered(row_key, height)[:, None] & covered(column_key, width)
        return mask, jnp.where(mask[..., None], baseline, image)

    return perturb


def infidelity(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    maps: Float[Array, "n h w"] | Float[Array, "n h w 3"],
    keys: Key[Array, "n"],
    targets: Targets = None,
    *,
    perturb: Perturb | None = None,
    samples: int = 32,
    normalise: bool = False,
    batch_size: int = 1,
) -> Float[Array, "n"]:
    """Compute the mean squared error of maps as a model of the score's change.

    The model is that a perturbation I of the image changes the score by the sum of I
    times the map. A mask as the perturbation, as in `remove_square`, suits maps that
    add up to a difference of scores: `integrated_gradients`, `deep_lift`, `occlusion`.
    Maps in other units, such as class activation maps, need `normalise`.

    Source: Yeh et al. 2019, arXiv 1901.09392, definition 2.1 and, for `normalise`, the
    authors' code. The value equals `captum.metrics.infidelity` for the same
    perturbations. captum takes the mask of a removal as `(input - perturbed) / (input -
    baseline)`.

    Args:
      network: see `seeflower_jax.attribution`.
      images: RGB in [0, 255].
      maps: maps of the images, with or without a channel axis.
      keys: one random key per image, so that the value does not depend on the batch.
      targets: the score, as for methods.
      perturb: perturbs an image; by default `remove_square()`, for images of less than
        96 pixels with a window of half their side.
      samples: number of perturbations of each image.
      normalise: whether to scale each map by the factor that fits the changes best.
      batch_size: number of perturbations of each image at once. Memory grows with this
        number, not with `samples`.

    Returns:
      Squared differences of scores, 0 or more.

    Raises:
      ValueError: the shape of a perturbation differs from the shape of a map, an
        option is out of its range, or there is not one key per image.

    Example:
      >>> square = remove_square(window=16)
      >>> errors = infidelity(network, images, maps, keys, perturb=square, samples=2)
      >>> bool((errors >= 0).all())
      True
    """
    check_ranges(samples=samples, batch_size=batch_size)
    keys = metric_keys(keys, images)
    half = max(images.shape[1:3]) // 2
    perturb = perturb or remove_square(min(48, max(half, 1)))
    images, maps = as_float(images), as_float(maps)
    if normalise:  # The squares of sums of the map could under- or overflow.
        largest = jnp.abs(maps).max(range(1, maps.ndim), keepdims=True)
        maps = maps / jnp.where(largest > 0, largest, 1)
    targets = resolve(network, images, targets)
    whole = score(network(images)[0], targets)

    def predict_and_measure(sample):
        sample_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, sample)
        perturbations, perturbed = jax.vmap(perturb)(sample_keys, images)
        if perturbations.shape != maps.shape:
            raise ValueError(
                f"perturbations have the shape {perturbations.shape}; expected the "
                f"shape of the maps, {maps.shape}"
            )
        products = (perturbations * maps).reshape(len(maps), -1)
        return products.sum(-1), whole - score(network(perturbed)[0], targets)

    predicted, measured = map_over(predict_and_measure, jnp.arange(samples), batch_size)
    if normalise:
        power = (predicted**2).mean(0)
        fit = (predicted * measured).mean(0) / jnp.where(power > 0, power, 1)
        predicted = fit * predicted
    return ((predicted - measured) ** 2).mean(0)
