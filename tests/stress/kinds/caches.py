"""Pixel caches that are damaged, or have no place.

A script computes the pixels again from the images, or names the file.
"""

import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np

from tests.stress import damage
from tests.stress.cases import Case
from tests.stress.config import SIDE
from tests.stress.kinds import runs
from tests.stress.world import CONFIG, World

OWNER = "data"


def case(
    name: str, change: Callable[[pathlib.Path], object], check=runs.metrics
) -> Case:
    """Return the case of a run that is evaluated with a changed pixel cache."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        shutil.copytree(world.run, folder / "run")
        for path in (folder / "run").glob("logits_*"):
            path.unlink()
        shutil.copytree(world.folder / "cache", folder / "cache")
        (path,) = (folder / "cache" / "pixels").glob(f"folder_photos_*_{SIDE}.npy")
        change(path)
        # The run finds the cache where its config says.
        config = folder / "run" / "config.json"
        old, new = str(world.folder / "cache"), str(folder / "cache")
        config.write_text(config.read_text().replace(old, new))

    arguments = ["--workdir={folder}/run", "--json"]
    return Case(name, "evaluate", arguments, "either", r"\.npy", prepare, check)


def _finite(completed, folder: pathlib.Path, world: World) -> None:
    """Accept a flipped pixel, which no check can see."""
    import json

    assert np.isfinite(json.loads(completed.stdout)["loss"])


def _sizes(change: Callable[[np.ndarray], np.ndarray]) -> damage.Damage:
    """Return a damage of the array of sizes at the end of the file."""

    def apply(path: pathlib.Path) -> None:
        pixels = np.load(path, mmap_mode="r")
        with open(path, "rb+") as file:
            file.seek(pixels.offset + pixels.nbytes)
            sizes = np.load(file)
            file.seek(pixels.offset + pixels.nbytes)
            file.truncate()
            np.save(file, change(sizes))

    return apply


def cases() -> Iterator[Case]:
    """Yield all cases of pixel caches."""
    yield case("intact", lambda path: None)
    for name, change in {**damage.GONE, "removed": damage.remove}.items():
        yield case(name, change)
    for less in (1, 8, 200):
        yield case(f"less_{less}", damage.cut(1, less))
    yield case("with_rubbish", damage.append(b"rubbish" * 99))
    for seed in range(6):
        yield case(f"head_flip_{seed}", damage.flip(seed, 1, 0, 64 / 30_000), _finite)
        yield case(f"end_flip_{seed}", damage.flip(seed, 1, 0.999, 1), _finite)
        yield case(f"flip_{seed}", damage.flip(seed, 3), _finite)
    rows: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "zero": lambda s: s * 0,
        "negative": lambda s: -s,
        "double": lambda s: s * 2,
        "fewer": lambda s: s[:-1],
        "more": lambda s: np.concatenate([s, s[:1]]),
        "reversed": lambda s: s[:, ::-1].copy(),
        "huge": lambda s: s * 10**6,
        "floats": lambda s: s.astype(float),
        "nan": lambda s: s * np.nan,
        "flat": lambda s: s.ravel(),
        "text": lambda s: s.astype("U5"),
    }
    for name, sizes in rows.items():
        yield case(f"sizes_{name}", _sizes(sizes))
    other = {
        "float_pixels": lambda p: np.save(p, np.zeros(9)),
        "no_pixels": lambda p: np.save(p, np.zeros(0, np.uint8)),
        "objects": lambda p: np.save(p, np.array([{}], object)),
        "archive": lambda p: (np.savez(p.with_suffix(".npz"), a=1), p.with_suffix(".npz").rename(p)),
    }  # fmt: skip
    for name, change in other.items():
        yield case(name, change)
    yield from _places()


def _places() -> Iterator[Case]:
    """Yield folders that cannot hold a cache."""

    def blocked(folder: pathlib.Path, world: World, place: str) -> None:
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("a file")

    for name, place in (("file", "cache"), ("pixels_file", "cache/pixels")):
        arguments = [CONFIG, "--config.data.cache_dir={folder}/cache", "--workdir={folder}/run"]  # fmt: skip
        prepare = functools.partial(blocked, place=place)
        yield Case(f"place_{name}", "train", arguments, "refused", "cache", prepare)
    for name, place in (("null", "/dev/null"), ("proc", "/proc/x"), ("long", "/tmp/" + "x" * 300)):  # fmt: skip
        arguments = [
            CONFIG,
            f"--config.data.cache_dir={place}",
            "--workdir={folder}/run",
        ]
        yield Case(f"place_{name}", "train", arguments, "refused", place)
