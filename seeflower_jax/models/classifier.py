"""A network of convolutions with a classifier on top.

    model = Classifier(InceptionV3(), num_classes=102, dropout=0.2)
    logits, endpoints = model.apply(variables, images)
    features, _ = model.apply(variables, images, method="features")
    logits = model.apply(variables, features, method="classify")

The parameters are `backbone/...` and `head/...`. Dropout is active when `apply` gets a
`dropout` random key.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import lax


def _normalized_average_max(x):
    """Mean and maximum of each channel, together of root mean square 1.

    The features of a network without normalisation are of any size, up to hundreds for
    VGG; a linear head on them as they are hardly converges.
    """
    x = jnp.concatenate([jnp.mean(x, (1, 2)), jnp.max(x, (1, 2))], -1)
    return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


POOLING = {
    "average": lambda x: jnp.mean(x, (1, 2)),
    "normalized_average_max": _normalized_average_max,
    "flatten": lambda x: x.reshape(x.shape[0], -1),
}


class Head(nn.Module):
    """Dense layers on features, in float32.

    Args:
      num_classes: width of the last layer.
      dropout: rate after each hidden layer or, without any, in front of the last layer.
      hidden: widths of the layers in between, with ReLU.
      act: their activation function.
    """

    num_classes: int
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()
    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        dropout = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        for number, features in enumerate(self.hidden, start=1):
            x = dropout(self.act(nn.Dense(features, name=f"fc{number}")(x)))
        if not self.hidden:
            x = dropout(x)
        return nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.glorot_uniform(),
            name="logits",
        )(x)


class Classifier(nn.Module):
    """Backbone, pooling of its last endpoint, head.

    Args:
      backbone: (images, taps) -> {endpoint: [N, H, W, C]}.
      num_classes, dropout, hidden: of the head.
      pooling: key of `POOLING`.
    """

    backbone: nn.Module
    num_classes: int
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()
    pooling: str = "average"

    def setup(self):
        self.head = Head(self.num_classes, self.dropout, self.hidden, self.backbone.act)

    def features(self, x, taps=None):
        """Preprocessed images [N, H, W, 3] -> (features [N, C] float32, endpoints)."""
        endpoints = self.backbone(x, taps)
        last = list(endpoints.values())[-1]
        return POOLING[self.pooling](last.astype(jnp.float32)), endpoints

    def classify(self, features):
        """Features [N, C] -> logits [N, num_classes]."""
        return self.head(features)

    def __call__(self, x, taps=None):
        """Preprocessed images -> (logits [N, num_classes], endpoints)."""
        features, endpoints = self.features(x, taps)
        return self.classify(features), endpoints
