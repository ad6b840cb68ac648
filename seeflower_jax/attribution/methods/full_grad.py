"""FullGrad: the terms of the input and of all biases of a network, on the image.

Example:
    maps = full_grad(network, images, targets)
    maps, rest = full_gradients(network, images, targets)   # signed; sum is the score
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam, canvas
from seeflower_jax.attribution.types import NetworkFunction, Targets


def full_grad(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> Float[Array, "n h w"]:
    """Compute the sum of the terms of the input and of all biases, without signs.

    The terms of each operation are scaled to [0, 1] by their largest and smallest
    magnitude, and then resized to the image. So all operations have the same weight.

    Differences from the source: the biases of preprocessing belong to the input. Terms
    lie at the centres of their receptive fields. The authors' code has one term for
    each bias of a convolution or batch normalisation. Here, everything that is added
    before the next activation is one term. Activations other than ReLU have implicit
    biases. pytorch-grad-cam 1.5.7 scales each channel separately. On a small network,
    its maps of two images correlate with these maps at 0.86 and 0.88.

    Source: Srinivas and Fleuret 2019, arXiv 1905.00780, equation 6, and the authors'
    code for the scale. `rules.full_gradient` defines the terms.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Example:
      >>> full_grad(network, images, labels).shape == images.shape[:3]
      True
    """

    def draw(terms, rows, columns):
        terms = jnp.abs(terms)
        low, high = (f((1, 2, 3), keepdims=True) for f in (terms.min, terms.max))
        total = cam.divide(terms - low, high - low).sum(-1)
        return cam.upsample(total, images, (rows, columns))

    return canvas.draw_terms(network, images, targets, draw)[0]


def full_gradients(
    network: NetworkFunction, images: Float[Array, "n h w 3"], targets: Targets = None
) -> tuple[Float[Array, "n h w"], Float[Array, "n"]]:
    """Compute the terms of the input and of all biases, with signs and units.

    Source: Srinivas and Fleuret 2019, arXiv 1905.00780, proposition 1.

    Args:
      network, images, targets: see `seeflower_jax.attribution`.

    Returns:
      (maps, rest). The rest [n] is the score minus the sum of the map. It is the sum
      of the terms without a place in the image, such as the biases of the head.

    Example:
      >>> maps, rest = full_gradients(network, images, labels)
      >>> logits = jnp.take_along_axis(network(images)[0], labels[:, None], 1)[:, 0]
      >>> bool(jnp.allclose(maps.sum((1, 2)) + rest, logits, rtol=1e-3))
      True
    """

    def draw(terms, rows, columns):
        by_row, by_column = (
            canvas.cell_shares(size, centres)
            for size, centres in zip(images.shape[1:3], (rows, columns), strict=True)
        )
        total = terms.sum(-1)
        return jnp.einsum(
            "nrc,hr,wc->nhw", total, by_row, by_column, precision="highest"
        )

    maps, scores = canvas.draw_terms(network, images, targets, draw)
    return maps, scores - maps.sum((1, 2))
