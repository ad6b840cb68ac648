"""SmoothGrad: the mean of a method's maps over noisy copies of the image.

Example:
    keys = jax.random.split(jax.random.key(0), len(images))
    maps = smooth_grad(network, images, targets, keys)
"""

from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.methods.saliency import saliency
from seeflower_jax.attribution.noise import mean_over_noise
from seeflower_jax.attribution.targets import resolve
from seeflower_jax.attribution.types import MethodFunction, NetworkFunction, Targets


def smooth_grad(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    method: MethodFunction = saliency,
    samples: int = 16,
    noise: float = 0.15,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the mean map of a method over copies of the image with Gaussian noise.

    Memory does not grow with the number of copies.

    The source averages signed gradients, and the authors' code by default averages
    their squares. The default here averages their largest magnitude over the colours.
    captum averages the maps of each colour, and takes noise in units of the input.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 3.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.
      keys: one random key per image, so that a map does not depend on the batch.
      method: called as (network, images, targets) -> maps.
      samples: number of noisy copies.
      noise: standard deviation of the noise, as a share of the image's range of values.
      batch_size: number of copies at once, for each image.

    Raises:
      ValueError: an option is out of its range, or there is not one key per image.

    Example:
      >>> maps = smooth_grad(network, images, labels, keys, samples=2)
      >>> maps.shape == images.shape[:3]
      True
    """
    targets = resolve(network, images, targets)

    def noisy_maps(noisy_images):
        return method(network, noisy_images, targets)

    return mean_over_noise(
        noisy_maps, images, keys, samples=samples, noise=noise, batch_size=batch_size
    )
