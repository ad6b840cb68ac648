"""Draw the maps of several layers of a network side by side.

draw(network, network.images("photos/"), ["block5_conv3", "head"], "layers.png")
"""

import os
from collections.abc import Sequence

from seeflower_jax.attribution import registry
from seeflower_jax.data.images import Images
from seeflower_jax.figures import maps
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.network import Network


def draw(
    network: Network,
    images: Images,
    layers: Sequence[str],
    path: str | os.PathLike,
    method: str = "grad_cam",
) -> None:
    """Draw images in rows, and the maps of their predicted classes for each layer.

    Args:
      network: the network to explain.
      images: up to a few dozen images.
      layers: layers of the network, or "head" for all layers that the head reads.
      path: path of the PNG.
      method: a class activation map, a key of `attribution.registry.METHODS`.

    Raises:
      UnreadableImage: if a file is not an image.
      ValueError: if the method does not take a layer, if a layer has no map, or if
        `layers` is empty.
    """
    if not layers:
        raise ValueError("expected at least one layer, such as head")
    if not registry.find(method).layered:
        layered = [name for name, known in registry.METHODS.items() if known.layered]
        raise ValueError(f"{method} has no layer; expected one of {', '.join(layered)}")
    is_signed = registry.find(method).signed
    positions = range(len(images))
    pixels = [images.read(position) for position in positions]
    columns = []
    for layer in layers:
        explainer = Explainer(network, [method], layer, batch_size=len(pixels))
        explained = explainer(positions, pixels, [registry.PREDICTED] * len(pixels))
        pairs = zip(explained.images, explained.maps[method], strict=True)
        columns.append([maps.overlay(*pair, signed=is_signed) for pair in pairs])
    rows = {
        f"{row + 1}. {network.class_names[label]}": [image, *overlays]
        for row, (label, image, *overlays) in enumerate(
            zip(explained.targets, explained.images, *columns, strict=True)
        )
    }
    maps.write_rows(path, rows, ["image", *layers])
