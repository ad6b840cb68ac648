"""Ablation-CAM: a layer's channels, weighted by the drop of the score without them.

Example:
    maps = ablation_cam(network, images, targets, layer="block5_conv3")
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from seeflower_jax.attribution import cam, layers
from seeflower_jax.attribution.chunks import map_over
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.targets import resolve, score
from seeflower_jax.attribution.types import Layer, NetworkFunction, Targets
from seeflower_jax.models.dtypes import as_float


def ablation_cam(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    targets: Targets = None,
    *,
    layer: Layer,
    batch_size: int = 1,
    align: str = "receptive_field",
) -> Float[Array, "n h w"]:
    """Compute where a layer's activations raise the score, without gradients.

    The weight of a channel is the drop of the score if the channel is 0, divided by the
    magnitude of the score. The layers above run once per channel. The layers below run
    only once.

    Differences: the source derives the weight as the drop divided by the norm of the
    channel, and puts the score in the place of the norm. A negative score would turn
    the map around, so the magnitude is used here. For positive scores, pytorch-grad-cam
    1.5.7 has the same maps. For negative scores, it has maps with the other sign. It
    sets channels to -1e7 rather than 0 if a layer has negative values.

    Source: Desai and Ramaswamy 2020, "Ablation-CAM", WACV, equations 4 and 5.

    Args:
      network, images, targets: see `seeflower_jax.attribution`. The network must add
        taps by `+`.
      layer: name of an endpoint, or "head" if the head reads a single layer. The
        channels of other layers would change with the channels of this layer.
      batch_size: number of channels at once, for each image.
      align: "receptive_field" or "stretch", see `receptive_field.cell_centres`.

    Raises:
      ValueError: an option is out of its range, the score does not depend on the
        layer, or see `layers.resolve_one`.

    Example:
      >>> maps = ablation_cam(network, images, labels, layer="block5_conv3")
      >>> maps.shape == images.shape[:3]
      True
    """
    check_ranges(batch_size=batch_size, align=align)
    targets = resolve(network, images, targets)
    name = layers.resolve_one(network, images, layer, "ablation_cam")
    layers.check_read(network, images, [name], through_stops=True)
    logits, endpoints = network(images)
    activations = endpoints[name]
    full_scores = score(logits, targets)

    def score_drop(channel):
        is_kept = jnp.arange(activations.shape[-1]) != channel
        # Replacing the layer avoids a new computation of the layers below.
        cut = layers.Cut(jnp.where(is_kept, activations, 0), replaces=True)
        return full_scores - score(network(images, {name: cut})[0], targets)

    drops = map_over(score_drop, jnp.arange(activations.shape[-1]), batch_size)
    weights = cam.divide(drops, jnp.broadcast_to(jnp.abs(full_scores), drops.shape))
    maps = jnp.einsum(
        "nhwc,cn->nhw", as_float(activations), weights, precision="highest"
    )
    return cam.place_maps({name: maps}, network, images, align=align)
