"""A new attribution method: XGrad-CAM.

    python -m scripts.attribute --methods=xgrad_cam ...

Source: Fu et al. 2020, arXiv 2008.02312, equation 8: a channel's weight is its
gradient's mean, weighted by its activations.
"""

import jax

from seeflower_jax.attribution import batch, cam


def xgrad_cam(network, images, targets=None, *, layer):
    """Where a layer speaks for the target, [N, H, W]."""
    activations, gradients = cam.layer_gradients(network, images, targets, layer)
    weighted = (activations * gradients).sum((1, 2), keepdims=True)
    weights = cam.divide(weighted, activations.sum((1, 2), keepdims=True))
    return cam.upsample(jax.nn.relu((weights * activations).sum(-1)), images)


batch.METHODS["xgrad_cam"] = batch.Method(xgrad_cam, layered=True)
