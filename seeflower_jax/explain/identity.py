"""Tell images and networks apart, to compare maps with the maps of another call.

    settings = {"images": of_images(images), **of_network(network)}

`explain.store` compares such settings with those of the maps that a folder has.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from seeflower_jax import records
from seeflower_jax.data.images import Images
from seeflower_jax.inference.network import Network


def without_outputs(
    images: Images, out: pathlib.Path, methods: Sequence[str]
) -> Images:
    """Leave out the overlays and contact sheets that a call has written to `out`."""
    top = re.escape(os.path.join(os.path.abspath(out), ""))
    name = f"({'|'.join(map(re.escape, methods))})"
    file = rf"(overlays/{name}/.*|({records.PARTIAL})?{name})\.png"
    output = re.compile(rf"{top}(part_\d+_of_\d+/)?{file}", re.DOTALL)
    return images[
        [
            position
            for position, name in enumerate(images.names)
            if not output.fullmatch(os.path.abspath(name))
        ]
    ]


def of_network(network: Network) -> dict[str, Any]:
    """Return what decides the maps and the predictions of a network."""
    description = {"variables": records.variables_hash(network.variables)}
    description |= network.describe()
    description["class_names"] = text_hash(network.class_names)
    if network.preprocess is not None:
        arrays = dataclasses.asdict(network.preprocess)
        description["whitening"] = records.variables_hash(arrays)
    return description


def of_images(images: Images) -> str:
    """Return a hash of the names of images, and of the sizes of files in bytes.

    The names of the images of a split are no paths, though a file of the current folder
    may have such a name.
    """
    return text_hash(
        f"{name} {os.path.getsize(name)}"
        if images.are_files and os.path.isfile(name)
        else name
        for name in images.names
    )


def text_hash(lines: Iterable[str]) -> str:
    """Return 12 hex digits of the SHA-256 of lines of text."""
    # A file name may have bytes that are not valid UTF-8.
    encoded = "\n".join(lines).encode(errors="backslashreplace")
    return hashlib.sha256(encoded).hexdigest()[:12]
