"""Classify images by two views: the whole view, and the part that Grad-CAM highlights.

    compute = make_closer_look(run.network)
    evaluator = single_view(run)
    evaluation = evaluate(run, "validation", evaluator, compute)

`single_view` and `evaluate` come from `seeflower_jax.experiment.evaluate`.
"""

import jax
from jaxtyping import Array, Float

from seeflower_jax.attribution import batch as attribution_batch
from seeflower_jax.attribution import grad_cam, regions
from seeflower_jax.attribution.types import Layer
from seeflower_jax.data.loader import Batch
from seeflower_jax.evaluation.evaluator import Compute
from seeflower_jax.inference.network import Network


def make_closer_look(
    network: Network,
    layer: Layer | None = None,
    threshold: float = regions.THRESHOLD,
    whole: float = 0.5,
) -> Compute:
    """Return a jitted function that computes logits from two views of each image.

    The box comes from the Grad-CAM of the predicted class, so no labelled boxes are
    needed. The network then sees this part of the image, enlarged to the size of the
    view.

    Source: the See-Flower paper, which proposes it as future work.

    Args:
      network: the network that classifies.
      layer: layer of the Grad-CAM, several layers, or "head". The default is
        `attribution.batch.map_layer`.
      threshold: share of the map's maximum that the box encloses.
      whole: weight of the logits of the whole view, in [0, 1]. The logits of the part
        have the remaining weight.

    Returns:
      compute(variables, batch) -> logits [n, num_classes], for `Evaluator.stream`.
    """
    view = network.view
    layer = layer or attribution_batch.map_layer(network.spec, view.size)

    @jax.jit
    def compute(variables: dict, batch: Batch) -> Float[Array, "n c"]:
        canvas, sizes = batch["canvas"], batch["sizes"]
        bound = network.bind(variables)
        images = view(canvas, sizes)
        maps = grad_cam(bound, images, layer=layer)
        boxes = regions.bounding_boxes(maps, threshold)
        centers, halves = regions.squares(boxes, view.size)
        parts = view.zoom(canvas, sizes, centers, halves)
        return whole * bound(images)[0] + (1 - whole) * bound(parts)[0]

    return compute
