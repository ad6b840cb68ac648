"""Build a network of convolutions with a classifier on top.

    model = Classifier(InceptionV3(), num_classes=102, dropout=0.2)
    logits, endpoints = model.apply(variables, images)
    features, _ = model.apply(variables, images, method="features")
    logits = model.apply(variables, features, method="apply_head")

The parameters are `backbone/...` and `head/...`. Dropout is active when `apply` gets a
random key `dropout`.
"""

import re
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from seeflower_jax import hints
from seeflower_jax.models.dtypes import at_least_float32
from seeflower_jax.models.layers import Endpoints, Features, Taps

STANDARDIZE_EPSILON = 1e-5  # added to the variance of a feature

Pooled = Float[Array, "n features"]
Logits = Float[Array, "n classes"]


def _average(x: Features) -> Pooled:
    return jnp.mean(x, (1, 2))


def _hellinger(x: Pooled) -> Pooled:
    """Compute square roots, scaled to root mean square 1.

    Without normalisation, the features of a network can be large, up to hundreds for
    VGG. A few channels then outweigh all others, and a linear head hardly converges.
    Square roots before the norm are the Hellinger kernel.

    Source: Arandjelovic and Zisserman 2012, "Three things everyone should know to
    improve object retrieval".
    """
    # The bound keeps the root's slope finite near 0. It is not written as a ReLU of the
    # features, because guided backpropagation changes the derivative of every ReLU.
    x = jnp.sqrt(jnp.maximum(x + 0.25, 0.25))
    return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True))


def _root_average(x: Features) -> Pooled:
    return _hellinger(jnp.mean(x, (1, 2)))


def _root_moments(x: Features) -> Pooled:
    """Compute the roots of each channel's mean and standard deviation; [n, 2 * c]."""
    mean = jnp.mean(x, (1, 2))
    variance = jnp.mean((x - mean[:, None, None]) ** 2, (1, 2))
    deviation = jnp.sqrt(variance + 1e-6)  # bounds the root's slope at 0
    return jnp.concatenate([_hellinger(mean), _hellinger(deviation)], -1)


def _bilinear(x: Features) -> Pooled:
    """Average the products of all pairs of channels; [n, c * c], norm 1.

    Source: Lin, RoyChowdhury and Maji 2015, "Bilinear CNN models for fine-grained
    visual recognition", for two equal networks: signed square roots, then the L2 norm.
    """
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    products = jnp.einsum("npc,npd->ncd", x, x) / x.shape[1]
    roots = products * lax.rsqrt(jnp.abs(products) + 1e-3)  # bounds the slope at 0
    roots = roots.reshape(x.shape[0], -1)
    return roots * lax.rsqrt(jnp.sum(roots**2, -1, keepdims=True) + 1e-12)


def _flatten(x: Features) -> Pooled:
    return x.reshape(x.shape[0], -1)


POOLING: dict[str, Callable[[Features], Pooled]] = {
    "average": _average,
    "root_average": _root_average,
    "root_moments": _root_moments,
    "bilinear": _bilinear,
    "flatten": _flatten,
}


class Head(nn.Module):
    """Compute logits of features by dense layers, in float32.

    Attributes:
      num_classes: width of the last layer.
      standardize: whether each feature is standardised first, by the mean and the
        variance in `batch_stats`. Training does not update them; a closed-form head
        sets them.
      dropout: rate after each hidden layer. Without hidden layers, the rate before the
        last layer.
      hidden: widths of the layers before the last.
    """

    num_classes: int
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()
    standardize: bool = False

    @nn.compact
    def __call__(self, x: Pooled) -> Logits:
        if self.standardize:
            x = nn.BatchNorm(
                use_running_average=True,
                epsilon=STANDARDIZE_EPSILON,
                use_scale=False,
                use_bias=False,
                name="norm",
            )(x)
        dropout = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        for number, features in enumerate(self.hidden, start=1):
            x = dropout(nn.relu(nn.Dense(features, name=f"fc{number}")(x)))
        if not self.hidden:
            x = dropout(x)
        return nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.glorot_uniform(),
            name="logits",
        )(x)


def pooled_endpoints(pooled: Sequence[str], endpoints: Sequence[str]) -> list[str]:
    """Return the names of the endpoints that a head reads.

    Args:
      pooled: regular expressions that match whole names; if empty, the head reads only
        the last endpoint.
      endpoints: the names of all endpoints, in the order of the computation.

    Raises:
      ValueError: if an expression matches no endpoint.

    Example:
      >>> pooled_endpoints(["b[12]"], ["b1", "b2", "b3"])
      ['b1', 'b2']
    """
    if not pooled:
        return [endpoints[-1]]
    names: dict[str, None] = {}
    for rule in pooled:
        matches = [name for name in endpoints if re.fullmatch(rule, name)]
        if not matches:
            hint = hints.did_you_mean(rule, endpoints)
            raise ValueError(
                f"unknown endpoint {rule!r} in pooled: known are "
                f"{list(endpoints)}{hint}"
            )
        names |= dict.fromkeys(matches)
    return list(names)


class Classifier(nn.Module):
    """Compute a backbone, pool one or several endpoints, apply a head.

    Attributes:
      backbone: module of (images, taps) that returns {endpoint: [n, h, w, c]}.
      num_classes: number of logits.
      dropout: rate in the head, see `Head`.
      hidden: widths of the head's layers before the last.
      pooling: key of `POOLING`.
      pooled: regular expressions on the names of the endpoints that are pooled and
        concatenated; if empty, only the last endpoint is pooled.
      standardize: whether the head standardises its features first.
    """

    backbone: nn.Module
    num_classes: int
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()
    pooling: str = "average"
    pooled: tuple[str, ...] = ()
    standardize: bool = False

    def setup(self) -> None:
        self.head = Head(self.num_classes, self.dropout, self.hidden, self.standardize)

    def features(
        self, x: Float[Array, "n h w 3"], taps: Taps | None = None
    ) -> tuple[Pooled, Endpoints]:
        """Compute (features in float32, endpoints) of preprocessed images.

        Raises:
          ValueError: if one of `pooled` matches no endpoint of the backbone.
        """
        endpoints = self.backbone(x, taps)
        pool = POOLING[self.pooling]
        names = pooled_endpoints(self.pooled, list(endpoints))
        dtype = at_least_float32(endpoints[names[0]].dtype)
        pooled = [pool(endpoints[name].astype(dtype)) for name in names]
        return jnp.concatenate(pooled, -1), endpoints

    def apply_head(self, features: Pooled) -> Logits:
        """Compute the logits of features."""
        return self.head(features)

    def __call__(
        self, x: Float[Array, "n h w 3"], taps: Taps | None = None
    ) -> tuple[Logits, Endpoints]:
        """Compute (logits, endpoints) of preprocessed images."""
        features, endpoints = self.features(x, taps)
        return self.apply_head(features), endpoints
