"""Ways to damage a file, in place, the same in every run.

damage.BYTES["cut_half"](path)
"""

import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterator

import numpy as np

HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n"
LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)

Damage = Callable[[pathlib.Path], object]


def cut(share: float, less: int = 0) -> Damage:
    """Keep a share of the bytes, less a number of them."""

    def apply(path: pathlib.Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: max(0, int(len(content) * share) - less)])

    return apply


def write(content: bytes) -> Damage:
    """Replace the content."""
    return lambda path: path.write_bytes(content)


def flip(seed: int, count: int = 1, low: float = 0.0, high: float = 1.0) -> Damage:
    """Invert bytes at random places between two shares of the file."""

    def apply(path: pathlib.Path) -> None:
        content = bytearray(path.read_bytes())
        rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
        first, last = int(low * len(content)), max(1, int(high * len(content)))
        for place in rng.integers(first, last, count):
            content[place] ^= 0xFF
        path.write_bytes(bytes(content))

    return apply


def append(content: bytes) -> Damage:
    """Add bytes at the end."""
    return lambda path: path.write_bytes(path.read_bytes() + content)


def to_folder(path: pathlib.Path) -> None:
    """Put a folder in place of a file."""
    path.unlink()
    path.mkdir()


def to_dangling_link(path: pathlib.Path) -> None:
    """Put a link to nothing in place of a file."""
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def remove(path: pathlib.Path) -> None:
    """Remove a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


# Damage that leaves nothing to read.
GONE: dict[str, Damage] = {
    "empty": write(b""),
    "one_byte": cut(0, -1),
    "cut_quarter": cut(0.25),
    "cut_half": cut(0.5),
    "cut_most": cut(0.9),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "html": write(HTML),
    "text": write(b"nothing of use\n"),
    "lfs_pointer": write(LFS),
    "folder": to_folder,
    "dangling_link": to_dangling_link,
}


def flips(count: int, **options) -> Iterator[tuple[str, Damage]]:
    """Yield (name, damage) for some single and multiple flips."""
    for seed in range(count):
        yield f"flip_{seed}", flip(seed, count=(1, 4, 16)[seed % 3], **options)
