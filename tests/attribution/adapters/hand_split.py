"""Compare an adapted network with the same network, split by hand at a layer."""

import jax
import numpy as np

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import layers
from seeflower_jax.attribution.targets import score


def assert_close(actual, expected, tolerance=1e-5):
    """Compare arrays, within a tolerance relative to the largest magnitude."""
    largest = np.abs(expected).max()
    assert largest > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)


def check(network, images, targets, layer, lower, upper):
    """Check a layer's activations and gradients, and the Grad-CAM from them.

    Args:
      network: an adapted network.
      images, targets: of the network.
      layer: a layer with places.
      lower: maps images to activations [n, h, w, c].
      upper: maps activations to logits.
    """

    @jax.jit
    def compute(network, images):
        options = {"layer": layer, "relu": False, "align": "stretch"}
        maps = attr.grad_cam(network, images, targets, **options)
        return layers.gradients(network, images, targets, [layer])[layer], maps

    activations = lower(images)
    gradients = jax.jit(jax.grad(lambda x: score(upper(x), targets).sum()))(activations)
    layer_gradients, maps = compute(network, images)
    assert_close(layer_gradients[0], activations)
    assert_close(layer_gradients[1], gradients)
    small = np.einsum("nhwc,nc->nhw", activations, np.mean(gradients, (1, 2)))
    assert_close(maps, jax.image.resize(small, images.shape[:3], "bilinear"))
