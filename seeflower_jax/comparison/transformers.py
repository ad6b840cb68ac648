"""A small vision transformer in Keras and in PyTorch, and maps of its attention.

    model = keras_transformer(Sizes(height=112, width=112))
    for name, figures in compare(images):    # attention_rollout, attention_relevance
        figures["relative_difference"]

The weights are random. PyTorch computes the network again from the weights of Keras.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from jaxtyping import Float, Int, Num

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import registry
from seeflower_jax.attribution.adapters.network import AdaptedNetwork
from seeflower_jax.comparison import attribution_parity, torch_networks


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a transformer; `dim` is the length of a token."""

    height: int
    width: int
    patch: int = 16
    dim: int = 96
    heads: int = 3
    blocks: int = 4
    classes: int = 10

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of patches."""
        return self.height // self.patch, self.width // self.patch


class _Prefix(keras.layers.Layer):
    """Puts a class token before the patches."""

    def build(self, shape):
        initializer = keras.initializers.RandomNormal(0, 1)
        self.token = self.add_weight((1, 1, shape[-1]), initializer, name="token")

    def call(self, x):
        shape = (keras.ops.shape(x)[0], 1, x.shape[-1])
        return keras.ops.concatenate([keras.ops.broadcast_to(self.token, shape), x], 1)


def keras_transformer(sizes: Sizes) -> keras.Model:
    """Return a transformer with random weights, which returns logits.

    It takes images [n, height, width, 3] of about unit variance.
    """
    layers, dim = keras.layers, sizes.dim
    inputs = keras.Input((sizes.height, sizes.width, 3))
    x = layers.Conv2D(dim, sizes.patch, sizes.patch, name="patches")(inputs)
    x = _Prefix(name="prefix")(layers.Reshape((-1, dim))(x))
    for block in range(sizes.blocks):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{block}")(x)
        attention = layers.MultiHeadAttention(
            sizes.heads, dim // sizes.heads, name=f"attention_{block}"
        )
        x = layers.Add(name=f"residual_{block}")([x, attention(y, y)])
        y = layers.Dense(2 * dim, activation="gelu", name=f"dense_{block}")(x)
        x = x + layers.Dense(dim, name=f"project_{block}")(y)
    model = keras.Model(inputs, layers.Dense(sizes.classes, name="head")(x[:, 0]))
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.normal(0, w.size**-0.25, w.shape)
            if w.ndim > 1
            else w + rng.normal(0, 0.1, w.shape)
            for w in model.get_weights()
        ]
    )
    return model


def torch_attention(
    model: keras.Model,
    sizes: Sizes,
    images: Float[np.ndarray, "n h w 3"],
    labels: Int[np.ndarray, "n"],
) -> list[tuple[Float[np.ndarray, "n k t t"], Float[np.ndarray, "n k t t"]]]:
    """Return the attention weights of each block and their gradients, from PyTorch.

    Args:
      model, sizes: of `keras_transformer`.
      images: what the model takes.
      labels: class indices. The gradients are those of their logits.
    """

    def arrays(name):
        return map(torch.tensor, model.get_layer(name).get_weights())

    kernel, bias = arrays("patches")
    x = torch.tensor(np.array(images)).permute(0, 3, 1, 2)
    x = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, sizes.patch)
    x = x.flatten(2).transpose(1, 2)
    (token,) = arrays("prefix")
    x = torch.cat([token.expand(len(x), 1, sizes.dim), x], 1)
    attentions = []
    for block in range(sizes.blocks):
        scale, shift = arrays(f"norm_{block}")
        y = torch.nn.functional.layer_norm(x, (sizes.dim,), scale, shift, 1e-6)
        wq, bq, wk, bk, wv, bv, wo, bo = arrays(f"attention_{block}")
        query, key, value = (
            torch.einsum("ntd,dhk->nhtk", y, w) + b[:, None]
            for w, b in ((wq, bq), (wk, bk), (wv, bv))
        )
        width = sizes.dim // sizes.heads
        attention = (query @ key.transpose(2, 3) / width**0.5).softmax(-1)
        attention.requires_grad_()  # The first one has no gradient function.
        attention.retain_grad()
        attentions.append(attention)
        x = x + torch.einsum("nhtk,hkd->ntd", attention @ value, wo) + bo
        (w1, b1), (w2, b2) = arrays(f"dense_{block}"), arrays(f"project_{block}")
        x = x + torch.nn.functional.gelu(x @ w1 + b1) @ w2 + b2
    kernel, bias = arrays("head")
    logits = x[:, 0] @ kernel + bias
    logits[range(len(labels)), np.array(labels)].sum().backward()
    return [(a.detach().numpy(), a.grad.numpy()) for a in attentions]


def rollout(attentions: list) -> Float[np.ndarray, "n t t"]:
    """Abnar and Zuidema 2020, equation 1, of what `torch_attention` returns."""
    total = np.eye(attentions[0][0].shape[-1])
    for weights, _ in attentions:
        total = (0.5 * weights.mean(1) + 0.5 * np.eye(len(total[-1]))) @ total
    return total


def relevance(attentions: list) -> Float[np.ndarray, "n t t"]:
    """Chefer et al. 2021, equations 5 and 6, of what `torch_attention` returns."""
    total = np.eye(attentions[0][0].shape[-1])
    for weights, gradients in attentions:
        total = total + np.maximum(weights * gradients, 0).mean(1) @ total
    return total


EQUATIONS = {"attention_rollout": rollout, "attention_relevance": relevance}


def token_maps(
    tokens: Float[np.ndarray, "n t"], sizes: Sizes
) -> Float[np.ndarray, "n h w"]:
    """Return values of the class token and the patches at the size of the images."""
    grid = torch.tensor(tokens[:, 1:]).reshape(-1, *sizes.grid)
    return torch_networks.stretch(grid, (sizes.height, sizes.width)).numpy()


def attention_layers(network: AdaptedNetwork) -> tuple[str, ...]:
    """Return the attention weights, which Keras names `softmax_1` or the like."""
    return tuple(name for name in network.layers if "/softmax" in name)


def compare(images: Num[np.ndarray, "n h w 3"]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, figures) of the methods of transformers, as `attribution_parity`.

    Args:
      images: RGB in [0, 255], of whole patches of 16 pixels. The maps explain the first
        classes of a random transformer.
    """
    floats = images.astype(np.float32)
    labels, sizes = np.arange(len(images)), Sizes(*images.shape[1:3])
    model = keras_transformer(sizes)
    network = attr.from_keras(model, preprocess=_preprocess)
    attentions = torch_attention(model, sizes, _preprocess(floats), labels)
    for name, equation in EQUATIONS.items():
        method = functools.partial(
            registry.ATTENTION_METHODS[name].function, layers=attention_layers(network)
        )
        maps = jax.jit(method)(network, jnp.array(floats), jnp.array(labels))
        expected = token_maps(equation(attentions)[:, 0], sizes)
        yield (
            name,
            attribution_parity.of_maps(
                np.asarray(maps),
                expected,
                attribution_parity.FORMULA,
                f"Keras transformer of {sizes.blocks} blocks, random weights",
            ),
        )


def _preprocess(images):
    return images / 127.5 - 1
