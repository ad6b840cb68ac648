"""Place arrays on the devices, with the same code for one device or many.

    mesh = make_mesh()
    variables = replicate(variables, mesh)
    batch = shard_batch({"labels": labels}, mesh)

All devices of all processes form a mesh with one axis, `data`. Batches are split along
this axis. Variables are copied to every device.
"""

from collections.abc import Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


def make_mesh() -> Mesh:
    """Return a mesh of all devices of all processes, with the single axis `data`."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Copy a pytree of arrays to every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Return global arrays, split by their first axis, from this process's rows."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def local_rows(batch_size: int, mesh: Mesh) -> slice:
    """Return the rows of a global batch that this process loads.

    Raises:
      ValueError: if the batch size is not a multiple of the number of devices.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f"batch size {batch_size} is not a multiple of the {mesh.size} devices; "
            f"use a multiple of {mesh.size}"
        )
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
