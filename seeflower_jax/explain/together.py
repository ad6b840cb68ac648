"""Compute attribution maps of many images in several processes.

    processes.initialize()
    attribute(network, network.images("photos/"), ["grad_cam"], out="maps")

Each process computes a part of the maps by itself, with its own devices. The first
process then merges the parts.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from seeflower_jax.data.images import Images
from seeflower_jax.explain import attribute as single
from seeflower_jax.explain import identity
from seeflower_jax.explain.merge import merge
from seeflower_jax.explain.parts import WHOLE, Part
from seeflower_jax.explain.store import MapStore
from seeflower_jax.inference.network import Network
from seeflower_jax.sharding import processes


def attribute(
    network: Network,
    images: Images,
    methods: Sequence[str],
    out: str | os.PathLike,
    part: Part = WHOLE,
    **options: Any,
) -> list[dict]:
    """Write the maps that `explain.attribute.attribute` writes in a single process.

    Args:
      network, images, methods, out, part, options: see `explain.attribute.attribute`.
        All processes must share the disk of `out`. Several processes take no `part`.

    Returns:
      The images without maps, as `explain.attribute.attribute` returns them.

    Raises:
      ValueError: if `out` is not shared, if several processes get a `part`, if they
        have different images or networks, or see `explain.attribute.attribute`.
    """
    if processes.count() == 1:
        return single.attribute(network, images, methods, out, part=part, **options)
    if part != WHOLE:
        raise ValueError(
            f"part is {part}; expected {WHOLE}, because {processes.count()} processes "
            "share the images"
        )
    out = pathlib.Path(out).expanduser()
    processes.check_shared(out)
    _check_same(network, images, methods, out)
    parts = [Part(number + 1, processes.count()) for number in range(processes.count())]
    with processes.alone():
        part = parts[processes.index()]
        single.attribute(network, images, methods, out, part=part, **options)
    processes.barrier("maps")

    def finish() -> list[dict]:
        merge([out / part.folder_name for part in parts], out)
        return MapStore.open(out).skipped()

    return processes.on_main(finish)


def _check_same(
    network: Network, images: Images, methods: Sequence[str], out: pathlib.Path
) -> None:
    """Check that all processes have the same network and images, before the work.

    `merge` would refuse their maps only after all of them are computed.
    """
    explained = identity.without_outputs(images, out, methods)
    hashed = identity.of_images(explained)
    processes.check_same("images", f"{len(explained)} with the hash {hashed}")
    processes.check_same("networks", identity.of_network(network))
