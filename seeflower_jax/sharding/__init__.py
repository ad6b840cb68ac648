"""Place arrays on the devices, with the same code for one device or many.

    mesh = make_mesh()
    variables = replicate(variables, mesh)
    batch = shard_batch({"labels": labels}, mesh)

The devices form a mesh with one axis, `data`. Batches are split along this axis.
Variables are copied to every device. If the devices do not divide a batch, padding rows
fill it up to `whole_size`. A function of single rows ignores the padding rows of its
output. A function that mixes rows, such as a mean, first removes the padding with
`first_rows`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from seeflower_jax.sharding import processes

Tree = TypeVar("Tree")


def make_mesh() -> Mesh:
    """Return a mesh of all devices of all processes, with the single axis `data`."""
    return Mesh(np.array(processes.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays with a copy on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Copy a pytree of arrays to every device of the mesh.

    Every process must have the same arrays, on its host or on its devices.
    """
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def copy(array: Any) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        host = np.asarray(array)
        return jax.make_array_from_process_local_data(sharding, host, host.shape)

    return jax.tree.map(copy, tree)


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Return global arrays, split by their first axis, from this process's rows."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def fetch(tree: Tree, mesh: Mesh) -> Tree:
    """Return arrays on the devices of the mesh as whole arrays on the host.

    All processes of the mesh must call this function.
    """
    if replicated(mesh).is_fully_addressable:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def whole_size(size: int, mesh: Mesh) -> int:
    """Round a size up to a multiple of the number of devices."""
    return -(-size // mesh.size) * mesh.size


def fill(
    positions: Int[np.ndarray, " n"], size: int, mesh: Mesh
) -> Int[np.ndarray, " m"]:
    """Return the positions of a batch that this process loads.

    Args:
      positions: the positions of a batch, over all processes.
      size: number of rows of the padded batch, a multiple of the devices. Copies of the
        positions, in order, are the padding.
      mesh: the devices, from `make_mesh`.
    """
    owners = [device.process_index for device in mesh.devices.flat]
    per_device, process = size // mesh.size, jax.process_index()
    first = owners.index(process) * per_device
    return np.resize(positions, size)[first:][: owners.count(process) * per_device]


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Split arrays by their first axis over the devices of this process.

    Copies of rows, in order, pad the arrays to a multiple of the devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def split(rows: Array) -> Array:
        if len(rows) % mesh.size:
            rows = rows[np.resize(np.arange(len(rows)), whole_size(len(rows), mesh))]
        return jax.device_put(rows, sharding)

    return jax.tree.map(split, tree)


def first_rows(tree: Tree, count: int, mesh: Mesh) -> Tree:
    """Return the first rows of global arrays, within a jitted function.

    The rows stay on their devices. XLA computes with the first `count` rows only, so
    sums, means and their gradients do not see the other rows.

    Args:
      tree: arrays that `shard_batch` placed.
      count: number of rows to return.
      mesh: the devices of the arrays.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def cut(rows: Array) -> Array:
        if len(rows) == count:
            return rows
        return jax.lax.with_sharding_constraint(rows[:count], sharding)

    return jax.tree.map(cut, tree)
