"""Convolution and pooling against XLA's own operations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seeflower_jax.models import ops

CASES = [
    ((3, 3), (2, 2), "VALID", 15, 3, 8),
    ((3, 3), (2, 2), "VALID", 16, 20, 8),
    ((3, 3), (2, 2), "SAME", 16, 20, 8),
    ((3, 3), (1, 1), "VALID", 15, 5, 8),
    ((3, 3), (1, 1), "SAME", 80, 5, 6),
    ((5, 5), (1, 1), "SAME", 9, 5, 8),
    ((4, 4), (1, 1), "VALID", 9, 5, 8),
    ((1, 1), (1, 1), "VALID", 9, 5, 8),
    ((1, 7), (1, 1), "SAME", 9, 5, 8),
    ((7, 1), (1, 1), "SAME", 9, 5, 8),
]


def _reference(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("size,strides,padding,side,c_in,c_out", CASES)
def test_conv2d_value_and_gradients(size, strides, padding, side, c_in, c_out):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, side, side + 1, c_in)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*size, c_in, c_out)), jnp.float32)
    expected, expected_vjp = jax.vjp(
        lambda x, k: _reference(x, k, strides, padding), x, kernel
    )
    found, found_vjp = jax.vjp(
        lambda x, k: ops.conv2d(x, k, strides, padding), x, kernel
    )
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(found_vjp(cotangent), expected_vjp(cotangent), strict=True):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)


def test_conv2d_under_vmap_and_jit():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 2, 9, 9, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32)
    mapped = jax.jit(jax.vmap(lambda x: ops.conv2d(x, kernel, (1, 1), "VALID")))(x)
    each = jnp.stack([_reference(one, kernel, (1, 1), "VALID") for one in x])
    np.testing.assert_allclose(mapped, each, rtol=1e-4, atol=1e-4)


def test_conv2d_unknown_padding():
    with pytest.raises(ValueError, match="'SAME' or 'VALID'"):
        ops.conv2d(jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 1)), (1, 1), "FULL")


@pytest.mark.parametrize("window,stride,side", [(3, 2, 15), (3, 2, 16), (2, 2, 9)])
def test_max_pool_value_and_gradient_with_ties(window, stride, side):
    rng = np.random.default_rng(0)
    # Few distinct values, so that most windows have several maxima.
    x = jnp.asarray(rng.integers(0, 3, (2, side, side + 1, 4)), jnp.float32)
    expected, expected_vjp = jax.vjp(
        lambda x: nn.max_pool(x, (window, window), (stride, stride), "VALID"), x
    )
    found, found_vjp = jax.vjp(lambda x: ops.max_pool(x, window, stride), x)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        found_vjp(cotangent)[0], expected_vjp(cotangent)[0], atol=1e-6
    )


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_average_pool_value_and_gradient(count_include_pad):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, 8, 4)), jnp.float32)
    expected, expected_vjp = jax.vjp(
        lambda x: nn.avg_pool(
            x, (3, 3), (1, 1), "SAME", count_include_pad=count_include_pad
        ),
        x,
    )
    found, found_vjp = jax.vjp(lambda x: ops.average_pool(x, 3, count_include_pad), x)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        found_vjp(cotangent)[0], expected_vjp(cotangent)[0], atol=1e-6
    )


def test_gradients_lower_for_a_gpu():
    def loss(x, kernel):
        return ops.max_pool(ops.conv2d(x, kernel, (1, 1), "VALID"), 3, 2).sum()

    args = jnp.ones((1, 9, 9, 2)), jnp.ones((3, 3, 2, 2))
    traced = jax.jit(jax.grad(loss, (0, 1))).trace(*args)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # XLA's own pooling gradient is what runs there.
    assert "select_and_scatter" in text


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's CPU backend")
def test_input_gradient_in_a_loop_has_the_layout_that_a_cpu_is_fast_at():
    kernel = jnp.ones((3, 3, 16, 5))

    def gradient(x):
        return jax.grad(lambda x: ops.conv2d(x, kernel).sum())(x)

    @jax.jit
    def several(x):
        return jax.lax.scan(lambda x, _: (x + gradient(x), None), x, None, 3)[0]

    x = jnp.ones((1, 9, 9, 16))
    text = several.lower(x).compile().as_text()
    assert "while" in text
    assert "dim_labels=b01f_01io->b01f" in text
    assert "dim_labels=b01f_01oi->b01f" not in text
    np.testing.assert_allclose(several(x), x + 3 * gradient(x))
