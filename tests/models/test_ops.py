"""Test convolution and pooling against XLA's own operations."""

import collections
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from seeflower_jax import models
from seeflower_jax.models import convolution, ops, winograd
from seeflower_jax.models.windows import Windows
from tests import harness

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
    ((3, 3), (2, 2), "VALID", 15, 48, 8),
    ((3, 3), (1, 1), "VALID", 40, 48, 8),
    ((3, 3), (1, 1), "SAME", 20, 48, 8),
    ((3, 3), (1, 1), "VALID", 90, 3, 4),
    ((3, 3), (1, 1), "SAME", 90, 3, 4),
    ((3, 3), (1, 1), "SAME", 28, 80, 8),
    ((3, 3), (1, 1), "VALID", 31, 80, 80),
    ((7, 1), (1, 1), "SAME", 17, 48, 8),
    ((1, 7), (1, 1), "VALID", 16, 48, 8),
    ((1, 5), (1, 1), "SAME", 9, 48, 8),
    ((3, 1), (1, 1), "SAME", 8, 48, 8),
    ((1, 2), (1, 1), "SAME", 8, 48, 8),
    ((5, 5), (1, 1), "SAME", 15, 48, 8),
    ((4, 6), (1, 1), "VALID", 15, 48, 8),
    ((4, 5), (3, 2), "SAME", 16, 3, 8),
    ((2, 2), (1, 3), "VALID", 16, 3, 8),
]


@pytest.fixture(autouse=True)
def _minimal_filtering_of_small_images(monkeypatch):
    monkeypatch.setattr(convolution, "_SOME_MULTIPLICATIONS", 0)


def _reference(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# Only compiled functions of one device loop over the images.
@pytest.mark.parametrize(
    "dtype,tolerance,compiled",
    [("float32", 1e-5, True), ("float32", 1e-5, False), ("bfloat16", 1e-2, True)],
)
@pytest.mark.parametrize("size,strides,padding,side,c_in,c_out", CASES)
def test_conv2d_value_and_gradients(
    size, strides, padding, side, c_in, c_out, dtype, tolerance, compiled
):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, side + 1, c_in)).astype(dtype)
    kernel = rng.normal(size=(*size, c_in, c_out)).astype(dtype)

    def value_and_gradients(convolve, dtype):
        value, vjp = jax.vjp(
            convolve, jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
        )
        g = np.random.default_rng(1).normal(size=value.shape).astype(x.dtype)
        return value, *vjp(jnp.asarray(g, dtype))

    def convolve(x, kernel):
        return ops.conv2d(x, kernel, strides, padding)

    found = value_and_gradients(jax.jit(convolve) if compiled else convolve, x.dtype)
    expected = value_and_gradients(
        lambda x, k: _reference(x, k, strides, padding), jnp.float32
    )
    if dtype == "float32":
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == x.dtype
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), theirs, atol=tolerance * scale
        )


def _check_value_and_gradients(size, strides, padding, x_shape, c_out):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=x_shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*size, x_shape[-1], c_out)), jnp.float32)

    def value_and_gradients(convolve):
        value, pull = jax.vjp(lambda *a: convolve(*a, strides, padding), x, kernel)
        g = np.random.default_rng(1).normal(size=value.shape)
        return value, *pull(jnp.asarray(g, jnp.float32))

    found = jax.jit(lambda: value_and_gradients(ops.conv2d))()
    _assert_close(found, value_and_gradients(_reference))


UNSTRIDED = [case for case in CASES if case[1] == (1, 1) and case[4] >= 32]


@pytest.mark.parametrize("size,strides,padding,side,c_in,c_out", UNSTRIDED)
def test_conv2d_with_few_multiplications(
    size, strides, padding, side, c_in, c_out, monkeypatch
):
    monkeypatch.undo()
    shape = (2, side, side + 1, c_in)
    _check_value_and_gradients(size, strides, padding, shape, c_out)


@pytest.mark.parametrize(
    "size,strides,padding,side,c_in,c_out",
    [case for case in UNSTRIDED if min(case[0]) >= 3],
)
def test_conv2d_with_many_outputs(
    size, strides, padding, side, c_in, c_out, monkeypatch
):
    for name in ("_MANY", "_OUTPUTS_PER_CHANNEL"):
        monkeypatch.setattr(winograd, name, 0)
    # Of five images, one is left over.
    monkeypatch.setattr(winograd, "_images_at_a_time", lambda *arguments: 2)
    shape = (5, side, side + 1, c_in)
    _check_value_and_gradients(size, strides, padding, shape, c_out)


# F(2 x 2, 3 x 3) has 16 products, F(4 x 4, 3 x 3) has 36 for four times the outputs.
# In float64, small tiles keep the equal maxima of a pooling equal.
# With few multiplications, neither is worth its compilation.
@pytest.mark.parametrize(
    "count,dtype,products",
    [
        (1, "float32", 0),
        (16, "float32", 16),
        (128, "float32", 36),
        (128, "float64", 16),
    ],
)
def test_conv2d_has_larger_tiles_for_more_multiplications(
    count, dtype, products, monkeypatch
):
    monkeypatch.undo()
    with jax.enable_x64(dtype == "float64"):
        x = jnp.ones((count, 16, 16, 64), dtype)
        kernel = jnp.ones((3, 3, 64, 64), dtype)
        traced = jax.jit(ops.conv2d).trace(x, kernel)
        text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("dot_general") == products


def test_conv2d_without_gradient_has_a_kernel_gradient_of_zeros():
    x, kernel = jnp.ones((2, 9, 9, 5)), jnp.ones((1, 1, 5, 4))
    gradient = jax.jit(jax.grad(lambda k: 0 * ops.conv2d(x, k).sum()))(kernel)
    np.testing.assert_array_equal(gradient, np.zeros(kernel.shape))


@pytest.mark.parametrize(
    "shape,size,strides,features",
    [
        ((1, 2, 2, 33), (3, 3), (1, 1), 8),
        ((1, 1, 1, 3), (3, 3), (2, 2), 8),
        ((1, 4, 2, 48), (1, 7), (1, 1), 8),
        ((2, 5, 0, 64), (3, 3), (1, 1), 8),
        ((2, 5, 5, 64), (3, 3), (1, 1), 0),
        ((2, 5, 5, 0), (5, 5), (1, 1), 8),
        ((0, 5, 5, 64), (3, 3), (1, 1), 8),
    ],
)
@pytest.mark.parametrize("transform", [lambda function: function, jax.jit])
def test_conv2d_without_values(shape, size, strides, features, transform):
    x, kernel = jnp.ones(shape), jnp.ones((*size, shape[-1], features))
    y = transform(lambda x, k: ops.conv2d(x, k, strides, "VALID"))(x, kernel)
    expected = _reference(x, kernel, strides, "VALID")
    assert y.shape == expected.shape and not np.any(y)

    def total(x, kernel):
        return jnp.sum(ops.conv2d(x, kernel, strides, "VALID"))

    gradients = transform(jax.grad(total, (0, 1)))(x, kernel)
    assert all(not np.any(g) for g in gradients)
    assert [g.shape for g in gradients] == [shape, kernel.shape]


@pytest.mark.parametrize("devices,loops", [(1, True), (2, False)])
def test_conv2d_loops_over_images_on_one_device_only(devices, loops):
    mesh = AbstractMesh((devices,), ("data",))
    x, g = (
        jax.ShapeDtypeStruct(
            (2, 40, 40, 48), "float32", sharding=NamedSharding(mesh, P("data"))
        )
        for _ in range(2)
    )
    kernel = jax.ShapeDtypeStruct(
        (3, 3, 48, 48), "float32", sharding=NamedSharding(mesh, P())
    )

    def gradients(x, kernel, g):
        return jax.vjp(ops.conv2d, x, kernel)[1](g)

    traced = jax.jit(gradients).trace(x, kernel, g)
    lowered = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert ("stablehlo.while" in lowered) == loops


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


@pytest.mark.parametrize(
    "window,stride,side",
    [(3, 2, 15), (3, 2, 16), (2, 2, 9), (3, 1, 7), (2, 3, 10), (5, 2, 12)],
)
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


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_average_pool_in_bfloat16_rounds_only_its_result(count_include_pad):
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=(2, 7, 8, 4)), "bfloat16") for _ in range(2))

    def value_and_gradient(x, g):
        value, pull = jax.vjp(lambda x: ops.average_pool(x, 3, count_include_pad), x)
        return value, *pull(g)

    exact = value_and_gradient(x.astype("float32"), g.astype("float32"))
    for ours, expected in zip(value_and_gradient(x, g), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours, expected.astype("bfloat16"))


def _random_case(size, side, c_in, c_out):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, side, side + 1, c_in)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*size, c_in, c_out)), jnp.float32)
    tangents = [rng.normal(size=array.shape) for array in (x, kernel)]
    return (x, kernel), tuple(jnp.asarray(t, jnp.float32) for t in tangents)


def _assert_close(arrays, references):
    for array, reference in zip(
        jax.tree.leaves(arrays), jax.tree.leaves(references), strict=True
    ):
        scale = float(jnp.abs(reference).max())
        np.testing.assert_allclose(array, reference, atol=1e-5 * scale)


def _both(strides, padding):
    """Return `ops.conv2d` and the reference as functions of images and kernel."""
    return [
        lambda x, k, conv=conv: conv(x, k, strides, padding)
        for conv in (ops.conv2d, _reference)
    ]


@pytest.mark.parametrize("size,strides,padding,side,c_in,c_out", CASES)
def test_conv2d_in_forward_mode(size, strides, padding, side, c_in, c_out):
    primals, tangents = _random_case(size, side, c_in, c_out)
    conv, reference = _both(strides, padding)
    expected = jax.jvp(reference, primals, tangents)
    _assert_close(jax.jvp(conv, primals, tangents), expected)
    value, linear = jax.linearize(conv, *primals)
    _assert_close((value, linear(*tangents)), expected)


@pytest.mark.long
@pytest.mark.parametrize("size,strides,padding,side,c_in,c_out", CASES)
def test_conv2d_second_derivatives(size, strides, padding, side, c_in, c_out):
    primals, tangents = _random_case(size, side, c_in, c_out)

    def forward_over_reverse(conv):
        loss = lambda x, k: (conv(x, k) ** 3).sum()  # noqa: E731
        return jax.jvp(jax.grad(loss, (0, 1)), primals, tangents)

    def reverse_over_reverse(conv):
        def slope(x, k):
            gradients = jax.grad(lambda x, k: (conv(x, k) ** 3).sum(), (0, 1))(x, k)
            return sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))

        return jax.grad(slope, (0, 1))(*primals)

    conv, reference = _both(strides, padding)
    for derivative in (forward_over_reverse, reverse_over_reverse):
        _assert_close(
            jax.jit(derivative, static_argnums=0)(conv), derivative(reference)
        )


@pytest.mark.long
@pytest.mark.parametrize(
    "mapped,case",
    [(mapped, case) for mapped in ((None, 0),) for case in CASES]
    + [(mapped, case) for mapped in ((0, None), (0, 0), (3, 2)) for case in CASES[1:5]],
)
def test_conv2d_under_vmap(mapped, case):
    size, strides, padding, side, c_in, c_out = case
    primals, _ = _random_case(size, side, c_in, c_out)
    arrays = [
        array if axis is None else jnp.stack([array, -2 * array, array + 1], axis)
        for array, axis in zip(primals, mapped, strict=True)
    ]

    def value_and_gradients(conv):
        def function(x, k):
            value, vjp = jax.vjp(conv, x, k)
            return value, vjp(value)

        return jax.jit(jax.vmap(function, mapped))(*arrays)

    conv, reference = _both(strides, padding)
    _assert_close(value_and_gradients(conv), value_and_gradients(reference))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_an_empty_axis(axes):
    x, kernel = (
        jnp.ones(shape if axis is None else (0, *shape))
        for shape, axis in zip(((2, 6, 6, 3), (3, 3, 3, 4)), axes, strict=True)
    )
    assert jax.vmap(ops.conv2d, axes)(x, kernel).shape == (0, 2, 6, 6, 4)
    gradients = jax.grad(lambda x, kernel: ops.conv2d(x, kernel).sum(), (0, 1))
    shapes = jax.tree.map(jnp.shape, jax.vmap(gradients, axes)(x, kernel))
    assert shapes == ((0, 2, 6, 6, 3), (0, 3, 3, 3, 4))
    pooled = jax.vmap(lambda x: ops.max_pool(x, 2, 2))(jnp.ones((0, 2, 6, 6, 3)))
    assert pooled.shape == (0, 2, 3, 3, 3)


@pytest.mark.parametrize("window,stride,side", [(3, 2, 15), (3, 2, 16), (2, 2, 9)])
def test_max_pool_in_forward_mode_with_ties(window, stride, side):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (2, side, side + 1, 4)), jnp.float32)
    tangent = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    expected, expected_tangent = jax.jvp(
        lambda x: nn.max_pool(x, (window, window), (stride, stride), "VALID"),
        (x,),
        (tangent,),
    )
    pool = lambda x: ops.max_pool(x, window, stride)  # noqa: E731
    for value, moved in (
        jax.jvp(pool, (x,), (tangent,)),
        jax.jit(lambda x, t: jax.jvp(pool, (x,), (t,)))(x, tangent),
    ):
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_allclose(moved, expected_tangent, atol=1e-6)


def _ours(x, kernel):
    x = ops.max_pool(ops.conv2d(x, kernel, (1, 1), "VALID"), 3, 2)
    return (ops.average_pool(jnp.tanh(x), 3) ** 2).sum()


def _standard(x, kernel):
    x = nn.max_pool(_reference(x, kernel, (1, 1), "VALID"), (3, 3), (2, 2), "VALID")
    x = jnp.tanh(x)
    return (nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False) ** 2).sum()


def test_hessian_through_convolution_and_pooling():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 7, 7, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 2)) / 3, jnp.float32)
    ours = jax.jit(jax.hessian(_ours, (0, 1)))(x, kernel)
    _assert_close(ours, jax.jit(jax.hessian(_standard, (0, 1)))(x, kernel))
    reverse_over_forward = jax.jit(jax.jacrev(jax.jacfwd(_ours, 1), 1))(x, kernel)
    _assert_close(reverse_over_forward, ours[1][1])


def test_jacobians_and_gradients_under_scan_and_checkpoint():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 6, 6, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 3)) / 5, jnp.float32)

    def repeat(conv):
        def function(x, kernel):
            step = jax.checkpoint(lambda x, _: (jnp.tanh(conv(x, kernel)), None))
            return jax.lax.scan(step, x, None, 3)[0][0, 2:4, 2:4]

        return [
            jax.jit(j(function, (0, 1)))(x, kernel) for j in (jax.jacfwd, jax.jacrev)
        ]

    conv, reference = _both((1, 1), "SAME")
    _assert_close(repeat(conv), repeat(reference))


def test_without_jit():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 7, 2)), jnp.float32)
    kernel = jnp.ones((3, 3, 2, 2))
    with jax.disable_jit():
        value = _ours(x, kernel)
    _assert_close(value, _standard(x, kernel))


def _operations(text):
    return set(re.findall(r"stablehlo\.(\w+)", text))


def _derivatives(x, kernel):
    tangents = jnp.ones_like(x), jnp.ones_like(kernel)
    return jax.jvp(jax.grad(_ours, (0, 1)), (x, kernel), tangents)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_other_platforms_get_the_standard_convolution(strides):
    def derivatives(conv, x, kernel):
        loss = lambda x, k: (conv(x, k, strides, "VALID") ** 3).sum()  # noqa: E731
        return jax.jvp(jax.grad(loss, (0, 1)), (x, kernel), (x, kernel))

    args = jnp.ones((1, 9, 9, 20)), jnp.ones((3, 3, 20, 2))
    counts = {}
    for name, conv in (("ours", ops.conv2d), ("standard", _reference)):
        traced = jax.jit(derivatives, static_argnums=0).trace(conv, *args)
        for platform in ("cpu", "cuda"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            counts[name, platform] = collections.Counter(
                re.findall(r"stablehlo\.(convolution|slice|pad|dot_general)\b", text)
            )
    assert counts["ours", "cuda"] == counts["standard", "cuda"]
    assert counts["ours", "cuda"].keys() == {"convolution"}
    assert counts["ours", "cpu"]["dot_general"] > 0


# From 48 channels on, the form for a CPU depends on the number of images.
@pytest.mark.parametrize("channels", [2, 48])
def test_export_for_a_cpu_and_a_gpu(channels):
    args = jnp.ones((1, 9, 9, channels)), jnp.ones((3, 3, channels, 2))
    text = str(
        export.export(jax.jit(_derivatives), platforms=["cuda"])(*args).mlir_module()
    )
    assert {"convolution", "select_and_scatter"} <= _operations(text)
    assert "dot_general" not in _operations(text)
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 9, 9, channels), jnp.float32)
    exported = export.export(jax.jit(_derivatives), platforms=["cpu", "cuda"])(
        shape, args[1]
    )
    loaded = export.deserialize(exported.serialize())
    if jax.default_backend() in ("cpu", "gpu"):
        _assert_close(loaded.call(*args), jax.jit(_derivatives)(*args))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: ops.conv2d(x, jnp.ones((3, 3, 2, 2))),
        lambda x: ops.max_pool(x, 3, 2),
        lambda x: ops.average_pool(x, 3),
    ],
)
def test_export_with_an_open_image_size_is_refused(operation):
    height, width = export.symbolic_shape("h, w")
    shape = jax.ShapeDtypeStruct((1, height, width, 2), jnp.float32)
    with pytest.raises(ValueError, match="images of h x w pixels do not have a fixed"):
        export.export(jax.jit(operation))(shape)


def test_gradients_lower_for_a_gpu():
    def loss(x, kernel):
        return ops.max_pool(ops.conv2d(x, kernel, (1, 1), "VALID"), 3, 2).sum()

    args = jnp.ones((1, 9, 9, 2)), jnp.ones((3, 3, 2, 2))
    traced = jax.jit(jax.grad(loss, (0, 1))).trace(*args)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # A GPU runs XLA's own pooling gradient.
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


@pytest.mark.long
def test_max_pool_passes_on_all_gradients_of_a_compiled_network(monkeypatch):
    """If XLA computes a value twice, as with batch statistics, the roundings differ."""
    spec = models.get_spec("small", num_classes=5, width=0.5)
    variables = models.init(spec, jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (3, 24, 24, 3), maxval=255.0)

    def gradient():
        def loss(params):
            network = {**variables, "params": params}
            (logits, _), _ = models.apply(
                spec, network, images, mutable=["batch_stats"]
            )
            return jax.nn.logsumexp(logits, -1).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    ours = gradient()
    monkeypatch.setattr(
        ops, "max_pool", lambda x, n, s: nn.max_pool(x, (n, n), (s, s), "VALID")
    )
    harness.assert_trees_close(ours, gradient(), rtol=1e-4, atol=1e-5)


def test_equal_values_with_rounding_errors_have_their_maximum_at_the_first():
    eps = np.finfo(np.float32).eps
    for first, second, expected in (
        (1, 1 + 4 * eps, [1, 0]),
        (-1, -1 + 2 * eps, [1, 0]),
        (1, 1.001, [0, 1]),
        (-np.inf, -1e30, [0, 1]),
    ):
        x = jnp.array([[[first], [second]], [[first], [first]]], jnp.float32)[None]
        gradient = jax.grad(lambda x: ops.max_pool(x, 2, 2).sum())(x)
        assert gradient[0, 0, :, 0].tolist() == expected
    next_to_1 = 1 + jnp.finfo(jnp.bfloat16).eps
    x = jnp.array([[[1], [next_to_1]], [[1], [1]]], jnp.bfloat16)[None]
    gradient = jax.grad(lambda x: ops.max_pool(x, 2, 2).sum())(x)
    assert gradient[0, 0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize("side", [3, 5])
def test_convolutions_of_one_colour_are_exactly_equal(side):
    generator = np.random.default_rng(0)
    pixel, kernel = (
        generator.normal(size=size).astype(np.float32)
        for size in ((1, 1, 1, 32), (side, side, 32, 32))
    )
    x = jnp.broadcast_to(pixel, (4, 48, 48, 32))
    pads = ((side // 2, side // 2),) * 2
    windows = Windows((48, 48), (side, side), padding=pads)
    outputs = jax.jit(winograd.convolve, static_argnums=2)(x, kernel, windows)
    inner = outputs[:, 4:40, 4:40]
    assert jnp.all(inner == inner[:, :1, :1])
