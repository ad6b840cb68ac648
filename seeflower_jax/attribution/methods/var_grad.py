"""VarGrad: the variance of a method's maps over noisy copies of the image.

Example:
    keys = jax.random.split(jax.random.key(0), len(images))
    maps = var_grad(network, images, targets, keys)
"""

import jax
from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.methods.saliency import saliency
from seeflower_jax.attribution.noise import mean_over_noise
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.targets import resolve
from seeflower_jax.attribution.types import MethodFunction, NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def var_grad(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    method: MethodFunction = saliency,
    samples: int = 16,
    noise: float = 0.15,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the variance of a method's maps over copies with Gaussian noise.

    The variance is the mean square minus the squared mean, as in captum. captum and the
    source take the variance for each colour. This function takes the variance of the
    map of `method`, which has one value per pixel.

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 2.2 (VarGrad).

    See `smooth_grad` for arguments and errors. Here, `samples` must be 2 or more, and
    `noise` above 0.

    Example:
      >>> maps = var_grad(network, images, labels, keys, samples=2)
      >>> bool((maps >= 0).all())
      True
    """
    check_ranges("var_grad", samples=samples, noise=noise)
    targets = resolve(network, images, targets)
    # Differences from a fixed map have the same variance, and lose fewer digits.
    clean_maps = method(network, as_float(images), targets)

    def moments(noisy_images):
        difference = method(network, noisy_images, targets) - clean_maps
        return difference, difference**2

    means, squares = mean_over_noise(
        moments, images, keys, samples=samples, noise=noise, batch_size=batch_size
    )
    return jax.nn.relu(squares - means**2)
