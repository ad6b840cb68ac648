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


def _root_average(x):
    """Square root of each channel's mean, of root mean square 1; of what ReLUs give.

    The features of a network without normalisation are of any size, up to hundreds for
    VGG, and a few channels outweigh all others: a linear head on them as they are
    hardly converges. Roots before the norm are the Hellinger kernel (Arandjelovic and
    Zisserman 2012, "Three things everyone should know to improve object retrieval").
    """
    x = nn.relu(jnp.mean(x, (1, 2)))  # a tap may be negative
    x = jnp.sqrt(x + 0.25)  # bounds the root's slope near 0
    return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True))


def _bilinear(x):
    """Products of all pairs of channels, averaged over places; [N, C * C], norm 1.

    Lin, RoyChowdhury and Maji 2015, "Bilinear CNN models for fine-grained visual
    recognition", of one network with itself: signed roots, then the L2 norm.
    """
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    products = jnp.einsum("npc,npd->ncd", x, x) / x.shape[1]
    roots = products * lax.rsqrt(jnp.abs(products) + 1e-3)  # bounds the slope at 0
    roots = roots.reshape(x.shape[0], -1)
    return roots * lax.rsqrt(jnp.sum(roots**2, -1, keepdims=True) + 1e-12)


POOLING = {
    "average": lambda x: jnp.mean(x, (1, 2)),
    "root_average": _root_average,
    "bilinear": _bilinear,
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
    """Backbone, pooling of its last endpoint or of several, head.

    Args:
      backbone: (images, taps) -> {endpoint: [N, H, W, C]}.
      num_classes, dropout, hidden: of the head.
      pooling: key of `POOLING`.
      pooled: the endpoints that are pooled, for the head side by side; the last one
        alone if empty.
    """

    backbone: nn.Module
    num_classes: int
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()
    pooling: str = "average"
    pooled: tuple[str, ...] = ()

    def setup(self):
        self.head = Head(self.num_classes, self.dropout, self.hidden, self.backbone.act)

    def features(self, x, taps=None):
        """Preprocessed images [N, H, W, 3] -> (features [N, C] float32, endpoints)."""
        endpoints = self.backbone(x, taps)
        pool = POOLING[self.pooling]
        names = self.pooled or (list(endpoints)[-1],)
        pooled = [pool(endpoints[name].astype(jnp.float32)) for name in names]
        return jnp.concatenate(pooled, -1), endpoints

    def classify(self, features):
        """Features [N, C] -> logits [N, num_classes]."""
        return self.head(features)

    def __call__(self, x, taps=None):
        """Preprocessed images -> (logits [N, num_classes], endpoints)."""
        features, endpoints = self.features(x, taps)
        return self.classify(features), endpoints
