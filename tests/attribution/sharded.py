"""Maps inside `jax.shard_map`, in a process with two forced devices.

    export XLA_FLAGS=--xla_force_host_platform_device_count=2
    python -m tests.attribution.sharded grad_cam full_grad

Each device explains one image. This prints a JSON object: for each method, the largest
difference from the maps on one device, as a share of the largest value.
"""

import functools
import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from seeflower_jax.attribution import registry
from tests.attribution import small_network as small


def difference(name: str) -> float:
    """Return the largest difference of the maps of a method."""
    method = registry.METHODS[name]
    options = {"layer": "first"} if method.layered else {}
    explain = functools.partial(method.function, small.network(), **options)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    specs = PartitionSpec("data")
    sharded = jax.shard_map(explain, mesh=mesh, in_specs=specs, out_specs=specs)
    images, expected = small.images(), jax.jit(explain)(small.images(), small.LABELS)
    maps = jax.jit(sharded)(images, small.LABELS)
    return float(np.abs(maps - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    print(json.dumps({name: difference(name) for name in sys.argv[1:]}))
