"""Networks in PyTorch with the variables of this package.

    network, layer = torch_network(spec, variables)
    logits = network(images)   # RGB [N, 3, H, W] in [0, 255]

torchvision's layers hold the variables.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torchvision
from jaxtyping import Float

from seeflower_jax import models
from seeflower_jax.comparison import attribution_speed
from seeflower_jax.pretrained import torch_state
from seeflower_jax.pretrained.types import Variables

# RGB in [0, 255].
Images: TypeAlias = Float[torch.Tensor, "n 3 h w"]
# The modules of torchvision's Inception-v3 that are not between input and last block.
_INCEPTION_REST = ("AuxLogits", "avgpool", "dropout", "fc")


class TorchNetwork(torch.nn.Module):
    """A network of layers in a row, an average over positions, and a linear head.

    Attributes:
      preprocess: maps images to what the first layer takes.
      layers: the layers.
      head: maps the mean over positions to logits.
      root_average: whether the head reads roots of means, of a fixed length.
      pooled: which max poolings the head reads, counted from 0; empty for the output of
        the last layer.
    """

    def __init__(
        self,
        preprocess: Callable[[Images], Images],
        layers: Sequence[torch.nn.Module],
        head: torch.nn.Linear,
        root_average: bool = False,
        pooled: Sequence[int] = (),
    ):
        super().__init__()
        self.preprocess = preprocess
        self.layers, self.head = torch.nn.Sequential(*layers), head
        self.root_average, self.pooled = root_average, tuple(pooled)

    def forward(self, images: Images) -> Float[torch.Tensor, "n c"]:
        x, blocks = self.preprocess(images), []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, torch.nn.MaxPool2d):
                blocks.append(x)
        maps = [blocks[index] for index in self.pooled] or [x]
        means = [x.mean((2, 3)) for x in maps]
        if self.root_average:
            roots = [(mean + 0.25).sqrt() for mean in means]
            means = [x * x.square().mean(1, True).rsqrt() for x in roots]
        return self.head(torch.cat(means, 1))


class Modules(torch.nn.Module):
    """The network of preprocessed images, of modules only, which captum's LRP needs."""

    def __init__(self, network: TorchNetwork):
        super().__init__()
        self.layers, self.head = network.layers, network.head
        self.pool = torch.nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Images) -> Float[torch.Tensor, "n c"]:
        return self.head(self.pool(self.layers(x)).flatten(1))


def torch_network(
    spec: models.ModelSpec, variables: Variables
) -> tuple[TorchNetwork, torch.nn.Module]:
    """Return a network in PyTorch with the same variables.

    Returns:
      (network, layer): the network takes RGB images [N, 3, H, W] in [0, 255]; the layer
      is `spec.cam_layer`.

    Raises:
      ValueError: if torchvision's network has other variables, or the preprocessing or
        the head is not supported.
    """
    if spec.preprocess not in _PREPROCESS:
        raise ValueError(
            f"preprocessing {spec.preprocess!r} is not supported in PyTorch; expected "
            f"{' or '.join(map(repr, _PREPROCESS))}"
        )
    attribution_speed.check_head(spec.to_dict(), spec.name)
    layers, layer = _torch_layers(spec, variables)
    head = variables["params"]["head"]["logits"]
    linear = torch.nn.Linear(*head["kernel"].shape)
    linear.weight.data = torch.tensor(np.array(head["kernel"]).T)
    linear.bias.data = torch.tensor(np.array(head["bias"]))
    network = TorchNetwork(
        _PREPROCESS[spec.preprocess],
        layers,
        linear,
        root_average=spec.pooling == "root_average",
        pooled=[int(name[len("block")]) - 1 for name in spec.pooled],
    )
    return network.eval(), layer


def stretch(
    maps: Float[torch.Tensor, "n lh lw"], size: Sequence[int]
) -> Float[torch.Tensor, "n h w"]:
    """Stretch maps to a height and a width, linearly."""
    resized = torch.nn.functional.interpolate(maps[:, None], size, mode="bilinear")
    return resized[:, 0]


def _torch_layers(
    spec: models.ModelSpec, variables: Variables
) -> tuple[list[torch.nn.Module], torch.nn.Module]:
    """Return torchvision's layers below the head, and the layer `spec.cam_layer`."""
    network = getattr(torchvision.models, spec.name)(weights=None, init_weights=False)
    backbone = {
        name: torch.tensor(array)
        for name, array in torch_state.state_dict(spec.name, variables).items()
        if not name.startswith(("fc.", "classifier."))
    }
    missing, unexpected = network.load_state_dict(backbone, strict=False)
    optional = ("fc.", "classifier.", "AuxLogits")
    missing = [
        name
        for name in missing
        if not name.startswith(optional) and not name.endswith("num_batches_tracked")
    ]
    if missing or unexpected:
        raise ValueError(
            f"torchvision's {spec.name} does not fit the variables: {missing} are "
            f"missing, {unexpected} are not expected"
        )
    if spec.name == "inception_v3":
        children = network.named_children()
        layers = [layer for name, layer in children if name not in _INCEPTION_REST]
        return layers, network.Mixed_7c
    # torchvision's ReLUs work in place, which captum's hooks do not allow.
    layers = [
        torch.nn.ReLU() if isinstance(layer, torch.nn.ReLU) else layer
        for layer in network.features
    ]
    return layers, layers[-2]


def _caffe(images: Images) -> Images:
    means = (103.939, 116.779, 123.68)
    mean = torch.tensor(means, dtype=images.dtype, device=images.device)
    return images.flip(1) - mean[:, None, None]


# Functions of `models.PREPROCESS`.
_PREPROCESS: dict[str, Callable[[Images], Images]] = {
    "tf": lambda images: images / 127.5 - 1,
    "caffe": _caffe,
}
