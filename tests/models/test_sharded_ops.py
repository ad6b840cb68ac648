"""Test that convolution and pooling keep the types of `jax.shard_map` and of meshes.

The mesh has one device. JAX checks the types for any number of devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from seeflower_jax.models import convolution, ops
from tests.models.test_ops import CASES


def _mesh(axis_type: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((1,), ("data",), (axis_type,), devices=jax.devices()[:1])


def _arrays(size=(3, 3), side=8, c_in=3, c_out=4) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = (2, side, side + 1, c_in), (*size, c_in, c_out)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def _pool(x, kernel):
    return ops.average_pool(ops.max_pool(x * kernel.sum(), 3, 2), 3)


OPERATIONS = {"convolution": ops.conv2d, "pooling": _pool}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_results_vary_over_the_axes_of_shard_map(operation):
    x, kernel = _arrays()

    def per_device(reduce):
        return jax.shard_map(
            lambda x, kernel: reduce(operation(x, kernel)),
            mesh=_mesh(AxisType.Auto),
            in_specs=(P("data"), P()),
            out_specs=P(),
        )

    with pytest.raises(ValueError, match="out_specs which require replication"):
        jax.eval_shape(per_device(jnp.mean), x, kernel)
    total = per_device(lambda y: lax.psum(y.sum(), "data"))(x, kernel)
    np.testing.assert_allclose(total, operation(x, kernel).sum(), rtol=1e-4)


def _check_gradients(operation, x, kernel):
    """Compare gradients inside `jax.shard_map` with gradients outside."""

    gradients = jax.grad(lambda *arrays: (operation(*arrays) ** 2).sum(), (0, 1))
    sharded = jax.shard_map(
        gradients,
        mesh=_mesh(AxisType.Auto),
        in_specs=(P("data"), P()),
        out_specs=(P("data"), P()),
    )
    expected = gradients(x, kernel)
    for found, array in zip(jax.jit(sharded)(x, kernel), expected, strict=True):
        error = jnp.abs(found - array).max() / jnp.abs(array).max()
        assert error < 1e-4


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_gradients_in_shard_map(operation):
    _check_gradients(operation, *_arrays())


@pytest.mark.slow
@pytest.mark.parametrize("size,strides,padding,side,c_in,c_out", CASES)
def test_gradients_of_every_form_in_shard_map(
    monkeypatch, size, strides, padding, side, c_in, c_out
):
    monkeypatch.setattr(convolution, "_SOME_MULTIPLICATIONS", 0)  # also Winograd's

    def convolve(x, kernel):
        return ops.conv2d(x, kernel, strides, padding)

    _check_gradients(convolve, *_arrays(size, side, c_in, c_out))


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_gradients_on_a_mesh_of_explicit_axes(operation):
    mesh = _mesh(AxisType.Explicit)
    places = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    arrays = list(map(jax.device_put, _arrays(), places))
    gradients = jax.jit(jax.grad(lambda *a: (operation(*a) ** 2).sum(), (0, 1)))
    images, kernel = map(jax.typeof, gradients(*arrays))
    assert images.sharding.spec[0] == "data"
    assert kernel.sharding.spec == P(None, None, None, None)


@pytest.mark.parametrize("size,strides,padding,side,c_in,c_out", CASES)
def test_every_form_lowers_on_a_mesh_of_explicit_axes(
    monkeypatch, size, strides, padding, side, c_in, c_out
):
    monkeypatch.setattr(convolution, "_SOME_MULTIPLICATIONS", 0)  # also Winograd's
    places = P("data"), P()
    arrays = _arrays(size, side, c_in, c_out)

    def loss(x, kernel):
        return (ops.conv2d(x, kernel, strides, padding) ** 2).sum()

    for devices in (1, 2):
        mesh = AbstractMesh((devices,), ("data",), (AxisType.Explicit,))
        shapes = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, place))
            for a, place in zip(arrays, places, strict=True)
        ]
        traced = jax.jit(jax.grad(loss, (0, 1))).trace(*shapes)
        lowered = traced.lower(lowering_platforms=("cpu",))
        images, kernel = lowered.out_info
        assert images.shape == arrays[0].shape and kernel.shape == arrays[1].shape
