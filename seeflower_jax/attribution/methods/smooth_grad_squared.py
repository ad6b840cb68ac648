"""SmoothGrad-Squared: the mean square of a method's maps over noisy copies.

Example:
    keys = jax.random.split(jax.random.key(0), len(images))
    maps = smooth_grad_squared(network, images, targets, keys)
"""

from jaxtyping import Array, Float, Key

from seeflower_jax.attribution.methods.saliency import saliency
from seeflower_jax.attribution.methods.smooth_grad import smooth_grad
from seeflower_jax.attribution.types import MethodFunction, NetworkFunction, Targets


def smooth_grad_squared(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets,
    keys: Key[Array, "n"],
    method: MethodFunction = saliency,
    samples: int = 16,
    noise: float = 0.15,
    batch_size: int = 1,
) -> Float[Array, "n h w"]:
    """Compute the mean square of a method's maps over copies with Gaussian noise.

    captum and the code of the authors of SmoothGrad square the gradient of each colour.
    Here, the map of `method` is squared, which has one value per pixel.

    Source: Hooker et al. 2019, arXiv 1806.10758, section 4.1 (SmoothGrad-Squared).

    See `smooth_grad` for arguments and errors.

    Example:
      >>> maps = smooth_grad_squared(network, images, labels, keys, samples=2)
      >>> maps.shape == images.shape[:3]
      True
    """

    def squared(network, noisy_images, targets):
        return method(network, noisy_images, targets) ** 2

    return smooth_grad(
        network, images, targets, keys, squared, samples, noise, batch_size
    )
