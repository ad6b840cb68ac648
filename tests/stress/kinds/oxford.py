"""Files of Oxford 102 Flowers that are damaged: label files, archive, images.

Accepted label files give the images and splits of the intact ones, unless a flipped bit
gave another valid file: with `data.verify` nothing is accepted but the published files.
"""

import functools
import io
import pathlib
import shutil
import tarfile
from collections.abc import Callable, Iterator

import numpy as np
import scipy.io

from tests.stress import damage
from tests.stress.cases import MARKER, Case, Check
from tests.stress.kinds.folders import FAST, holds
from tests.stress.world import World

OWNER = "data"
IMAGES = 4 * 12
WHOLE = holds(102, IMAGES)
FLAGS = [
    FAST.replace("{'stage", "{'data.source': 'oxford_flowers102', 'stage"),
    "--config.data.dir={folder}/data",
    "--config.data.cache_dir={folder}",
    "--workdir={folder}/run",
]


def intact(folder: pathlib.Path, world: World) -> pathlib.Path:
    """Copy the intact files."""
    return pathlib.Path(shutil.copytree(world.folder / "flowers", folder / "data"))


def case(
    name: str,
    change: Callable[[pathlib.Path], object],
    expect: str = "either",
    names: str = "data",
    check: Check = WHOLE,
    verify: bool = False,
) -> Case:
    """Return the case of a run on files that `change` changes."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        change(intact(folder, world))

    flags = [*FLAGS, f"--config.data.verify={str(verify).lower()}"]
    return Case(name, "train", flags, expect, names, prepare, check)


def _any(completed, folder: pathlib.Path, world: World) -> None:
    """Accept other labels, which a flipped bit may give."""


def cases() -> Iterator[Case]:
    """Yield all cases of the official files."""
    yield case("intact", lambda data: None, "accepted")
    yield case("intact_verified", lambda data: None, "refused", r"imagelabels\.mat", verify=True)  # fmt: skip
    for file in ("setid.mat", "imagelabels.mat"):
        pattern = rf"{file[:-4]}\.mat"

        def of(change: damage.Damage, file: str = file) -> Callable:
            return lambda data: change(data / file)

        for name, change in {**damage.GONE, "removed": damage.remove}.items():
            yield case(f"{file}_{name}", of(change), "refused", pattern)
        for name, change in damage.flips(15):
            yield case(f"{file}_{name}", of(change), "either", f"{pattern}|data", _any)
        for seed in range(20):
            head = of(damage.flip(300 + seed, 1 + seed % 3, 0, 0.8))
            yield case(
                f"{file}_head_flip_{seed}", head, "either", f"{pattern}|data", _any
            )
        for less in (1, 3, 8):
            yield case(
                f"{file}_less_{less}", of(damage.cut(1, less)), "either", pattern
            )
    yield from _labels()
    yield from _images()
    yield from _archives()
    yield from _prepared()


def _saved(file: str, **arrays) -> Callable[[pathlib.Path], None]:
    return lambda data: scipy.io.savemat(data / file, arrays)


def _labels() -> Iterator[Case]:
    """Yield label files with values that make no sense."""
    good = np.arange(1, IMAGES + 1)
    for name, labels in {
        "zero": np.zeros(IMAGES),
        "negative": -np.ones(IMAGES),
        "beyond": np.full(IMAGES, 103),
        "nan": np.full(IMAGES, np.nan),
        "fractions": np.full(IMAGES, 1.5),
        "complex": np.full(IMAGES, 1j),
        "text": "labels",
        "empty": np.zeros(0),
        "fewer": np.ones(5),
        "cells": np.array([{}] * IMAGES, object),
        "huge": np.full(IMAGES, 1e300),
        "struct": {"a": 1},
    }.items():
        yield case(
            f"labels_{name}", _saved("imagelabels.mat", labels=labels), "refused"
        )
    yield case("labels_other_name", _saved("imagelabels.mat", label=good), "refused", r"imagelabels\.mat")  # fmt: skip
    split = {"trnid": good[:16], "valid": good[16:28], "tstid": good[28:]}
    for name, change in {
        "overlap": {"valid": good[:12]},
        "zero": {"valid": np.array([0])},
        "beyond": {"valid": np.array([10**6])},
        "nan": {"valid": np.array([np.nan])},
        "fractions": {"valid": np.array([17.5])},
        "empty_train": {"trnid": np.zeros(0)},
        "text": {"valid": "x"},
        "negative": {"tstid": -good[28:]},
    }.items():
        yield case(
            f"setid_{name}", _saved("setid.mat", **{**split, **change}), "refused"
        )
    yield case("setid_empty_valid", _saved("setid.mat", **{**split, "valid": np.zeros(0)}), "either", check=_any)  # fmt: skip
    yield case("setid_missing", _saved("setid.mat", trnid=good, valid=good), "refused", r"setid\.mat")  # fmt: skip


def _images() -> Iterator[Case]:
    """Yield folders of images in which one is missing or damaged."""
    first = "jpg/image_00001.jpg"
    for name, change in damage.GONE.items():
        names = "image_00001|jpg"
        yield case(f"image_{name}", lambda d, c=change: c(d / first), "refused", names)
    yield case(
        "image_removed", lambda d: (d / first).unlink(), "refused", "image_00001"
    )
    yield case("no_images", lambda d: shutil.rmtree(d / "jpg"), "refused", "102flowers|jpg")  # fmt: skip
    yield case("empty_jpg", lambda d: (shutil.rmtree(d / "jpg"), (d / "jpg").mkdir()), "refused", "jpg")  # fmt: skip
    yield case("jpg_file", lambda d: (shutil.rmtree(d / "jpg"), (d / "jpg").touch()), "refused", "jpg|102flowers")  # fmt: skip
    yield case("jpg_loop", lambda d: (shutil.rmtree(d / "jpg"), (d / "jpg").symlink_to(d / "jpg")), "refused", "jpg")  # fmt: skip


def _tgz(data: pathlib.Path, change: damage.Damage | None = None) -> None:
    """Put the images into an archive, which `change` damages."""
    with tarfile.open(data / "102flowers.tgz", "w:gz") as archive:
        archive.add(data / "jpg", "jpg")
    shutil.rmtree(data / "jpg")
    if change:
        change(data / "102flowers.tgz")


def _members(*members: tuple[str, bytes, str], link: bool = False) -> damage.Damage:
    """Return a damage that writes an archive of (name, type, target) members."""

    def apply(path: pathlib.Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            for name, kind, target in members:
                member = tarfile.TarInfo(name.replace("HERE", str(path.parent)))
                member.type, member.linkname = kind, target
                content = b"content" if kind == tarfile.REGTYPE else b""
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    return apply


def _archives() -> Iterator[Case]:
    """Yield archives that are damaged or reach out of their folder."""
    pattern = r"102flowers\.tgz"
    yield case("tgz_intact", _tgz, "accepted")
    for name, change in damage.GONE.items():
        yield case(f"tgz_{name}", functools.partial(_tgz, change=change), "refused", pattern)  # fmt: skip
    for name, change in damage.flips(8):
        yield case(f"tgz_{name}", functools.partial(_tgz, change=change), "either", f"{pattern}|jpg")  # fmt: skip
    file, link = tarfile.REGTYPE, tarfile.SYMTYPE
    rows = {
        "outside": _members((f"../{MARKER}", file, "")),
        "absolute": _members((f"HERE/{MARKER}", file, "")),
        "link_out": _members(("jpg", link, ".."), (f"jpg/{MARKER}", file, "")),
        "hard_link": _members(("jpg/x", tarfile.LNKTYPE, "/etc/passwd")),
        "device": _members(("jpg/x", tarfile.CHRTYPE, "")),
        "pipe": _members(("jpg/image_00001.jpg", tarfile.FIFOTYPE, "")),
        "no_jpg": _members(("other/x.jpg", file, "")),
        "empty_archive": _members(),
        "jpg_is_file": _members(("jpg", file, "")),
    }
    for name, change in rows.items():
        yield case(f"tgz_{name}", functools.partial(_tgz, change=change), "refused", f"{pattern}|jpg")  # fmt: skip


def _prepared() -> Iterator[Case]:
    """Yield what `prepare_data` gets."""
    for name, change in {
        "setid_cut": lambda d: damage.cut(0.5)(d / "setid.mat"),
        "labels_html": lambda d: damage.write(damage.HTML)(d / "imagelabels.mat"),
        "no_images": lambda d: shutil.rmtree(d / "jpg"),
        "nothing": lambda d: (shutil.rmtree(d), d.mkdir()),
        "absent": shutil.rmtree,
    }.items():

        def prepare(folder: pathlib.Path, world: World, change=change) -> None:
            change(intact(folder, world))

        flags = ["--source={folder}/data", "--data_dir={folder}/out", "--noverify"]
        yield Case(f"prepare_{name}", "prepare_data", flags, "refused", "data", prepare)
