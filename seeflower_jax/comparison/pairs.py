"""A network in JAX and in PyTorch, with the same variables and images.

pair = make_pair(spec, variables, images, targets)
scores = pair.score(pair.tensor())    # PyTorch's scores of the targets
"""

import dataclasses
import functools

import jax
import numpy as np
import torch
from jaxtyping import Array, Float, Int, Key

from seeflower_jax import models
from seeflower_jax.attribution.types import NetworkFunction
from seeflower_jax.comparison import torch_networks
from seeflower_jax.pretrained.types import Variables


@dataclasses.dataclass(frozen=True)
class Pair:
    """What a method of this package and its reference get.

    Attributes:
      network: the network function, a pytree with the variables as leaves. `jit` takes
        it as an argument, because XLA folds constants slowly.
      layer: the name of its layer for class activation maps.
      torch_network: the same network in PyTorch.
      torch_layer: the same layer, one of `torch_network.layers`.
      images: RGB in [0, 255], float32 or float64. The networks compute in their dtype.
      targets: class indices.
    """

    network: NetworkFunction
    layer: str
    torch_network: torch_networks.TorchNetwork
    torch_layer: torch.nn.Module
    images: Float[np.ndarray, "n h w 3"]
    targets: Int[np.ndarray, "n"]

    @property
    def keys(self) -> Key[Array, "n"]:
        """One random key per image."""
        return jax.random.split(jax.random.key(0), len(self.images))

    @property
    def torch_targets(self) -> torch.Tensor:
        """The class indices, for PyTorch."""
        return torch.tensor(self.targets)

    def tensor(self) -> torch_networks.Images:
        """Return the images for PyTorch; they require gradients."""
        return to_torch(self.images).requires_grad_()

    def score(self, images: torch_networks.Images) -> Float[torch.Tensor, "n"]:
        """Return PyTorch's scores of the targets."""
        return self._of_targets(self.torch_network(images))

    def activations(self) -> Float[torch.Tensor, "n k h w"]:
        """Return PyTorch's output of the layer, which requires gradients."""
        layers, end = self.torch_network.layers, self._end
        with torch.no_grad():
            x = layers[:end](self.torch_network.preprocess(self.tensor()))
        return x.requires_grad_()

    def logits_from(
        self, activations: Float[torch.Tensor, "n k h w"]
    ) -> Float[torch.Tensor, "n c"]:
        """Return PyTorch's logits, computed from an output of the layer."""
        x = self.torch_network.layers[self._end :](activations)
        return self.torch_network.head(x.mean((2, 3)))

    def score_from(
        self, activations: Float[torch.Tensor, "n k h w"]
    ) -> Float[torch.Tensor, "n"]:
        """Return PyTorch's scores of the targets, from an output of the layer."""
        return self._of_targets(self.logits_from(activations))

    @property
    def _end(self) -> int:
        return list(self.torch_network.layers).index(self.torch_layer) + 1

    def _of_targets(self, logits):
        return logits.gather(1, self.torch_targets[:, None])[:, 0]


def make_pair(
    spec: models.ModelSpec,
    variables: Variables,
    images: Float[np.ndarray, "n h w 3"],
    targets: Int[np.ndarray, "n"],
) -> Pair:
    """Return a network of this package and its twin in PyTorch.

    The networks compute in the dtype of the images.

    Raises:
      ValueError: as of `torch_networks.torch_network`.
    """
    spec = dataclasses.replace(spec, dtype=str(images.dtype))
    variables = jax.tree.map(lambda array: np.asarray(array, images.dtype), variables)
    network, layer = torch_networks.torch_network(spec, variables)
    apply = functools.partial(models.apply, spec)
    function = jax.tree_util.Partial(apply, variables)
    network.to(to_torch(images).dtype)
    return Pair(function, spec.cam_layer, network, layer, images, targets)


def to_torch(images: Float[np.ndarray, "n h w 3"]) -> torch_networks.Images:
    """Return images with the channels first, in the same dtype."""
    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())


def resize(
    maps: Float[torch.Tensor, "n lh lw"], pair: Pair
) -> Float[torch.Tensor, "n h w"]:
    """Stretch maps over the images, linearly."""
    return torch_networks.stretch(maps, pair.images.shape[1:3])
