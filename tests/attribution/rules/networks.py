"""A network that is written by hand, and the wrappers that hide its ReLU."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def arrays(seed=0, side=12, channels=6, classes=4, bias=1.0):
    """Return (parameters, images) of `convolutional`."""
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        return jnp.array(rng.normal(0, scale, shape), jnp.float32)

    parameters = {
        "first": (draw(3, 3, 3, channels, scale=0.3), bias * draw(channels)),
        "second": (draw(3, 3, channels, channels, scale=0.2), bias * draw(channels)),
        "head": (draw(channels, classes), bias * draw(classes)),
    }
    return parameters, draw(2, side, side, 3)


def convolve(x, kernel, bias, strides=(1, 1)):
    layout = ("NHWC", "HWIO", "NHWC")
    return (
        lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)
        + bias
    )


def convolutional(act, parameters, images):
    """Compute logits by two convolutions, max pooling and an average."""
    x = act(convolve(images, *parameters["first"]))
    window = (1, 2, 2, 1)
    x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    x = act(convolve(x, *parameters["second"]))
    kernel, bias = parameters["head"]
    return x.mean((1, 2)) @ kernel + bias


def straight_through(x, round=jnp.round):
    """Round x, with the derivative 1."""

    @jax.custom_vjp
    def function(x):
        return round(x)

    function.defvjp(lambda x: (function(x), None), lambda _, g: (g,))
    return function(x)


def rounded_by_numpy(x):
    """Round x outside of JAX, with the derivative 1."""
    return straight_through(x, lambda x: jax.pure_callback(np.round, x, x))


def in_custom_vjp(x):
    @jax.custom_vjp
    def function(x):
        return jnp.maximum(x, 0)

    function.defvjp(lambda x: (function(x), None), lambda _, g: (g,))
    return function(x)


def in_scan(x):
    """Compute max(x, 0) by a loop over pairs of images, with a carry."""

    def body(total, x):
        rectified = jax.nn.relu(x)
        return total + rectified.sum(), rectified

    return lax.scan(body, 0.0, x)[1]


def in_carry(x):
    """Compute max(x, 0) in the carry of a loop, which begins as a constant."""

    def body(carry, _):
        return jax.nn.relu(carry + x) - carry, None

    return lax.scan(body, jnp.zeros_like(x), length=1)[0]


RELUS = {
    "relu": jax.nn.relu,
    "jit": jax.jit(lambda x: jax.jit(jax.nn.relu)(x)),
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum_of_zeros": lambda x: jnp.maximum(jnp.zeros_like(x), x),
    "clip": lambda x: jnp.clip(x, 0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "product": lambda x: x * (x > 0),
    "jit_of_product": jax.jit(lambda x: x * (x > 0)),
    "where_not": lambda x: jnp.where(x <= 0, 0, x),
    "custom_vjp": in_custom_vjp,
    "checkpoint": jax.checkpoint(jax.nn.relu),
    "scan": in_scan,
    "carry": in_carry,
    "cond": lambda x: lax.cond(True, jax.nn.relu, jnp.sin, x),
}
