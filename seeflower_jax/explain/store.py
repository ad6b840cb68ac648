"""Maps of many images on disk, in shards, in constant memory.

    with records.lock(folder):
        store = MapStore(folder, settings, len(names))
        for shard, positions in store.remaining():
            store.write(shard, ShardContent(maps, lines, boxes, skipped))
    store = MapStore.open(folder)
    for line in store.lines():
        values = store.read(line)      # float32 [h, w]

`<method>/<shard>.npy` holds the maps [rows, h, w] of a method, each divided by its
`scale`. `index.jsonl` has a line for each image and method, with the scale.
`skipped.jsonl` has a line for each image without maps. `state.json` counts the complete
shards and is written after each of them. A job that was interrupted therefore continues
with the first shard that is not counted.

The number of a shard determines its images. Several machines can therefore write
different shards of the same images, each to its own folder. `explain.merge` merges
them.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from seeflower_jax import records
from seeflower_jax.explain import parts
from seeflower_jax.explain.parts import WHOLE, Part

SHARD_SIZE = 256  # images
_LOGS = ("index.jsonl", "skipped.jsonl")


@dataclasses.dataclass
class ShardContent:
    """The content of a shard.

    Attributes:
      maps: {method: batches of finite maps [rows, h, w]}.
      lines: a dict for each row, written once per method.
      extras: {method: a dict for each row}, added to the lines of this method only.
      skipped: a dict for each image without maps.
    """

    maps: dict[str, list[Float[np.ndarray, "n h w"]]] = dataclasses.field(
        default_factory=dict
    )
    lines: list[dict] = dataclasses.field(default_factory=list)
    extras: dict[str, list[dict]] = dataclasses.field(default_factory=dict)
    skipped: list[dict] = dataclasses.field(default_factory=list)


class MapStore:
    """A folder of attribution maps, to write to or to read.

    To write, the caller must hold the `records.lock` of the folder. To read a folder,
    use `open`.

    Args:
      folder: the folder, which is created if it is absent.
      settings: everything that the maps depend on, JSON-serialisable. `dtype` is the
        type of the maps on disk, 'float16' or 'float32'.
      count: number of all images.
      part: the part of the shards of all images that the folder will have.

    Raises:
      ValueError: if the folder has maps of other settings. The message lists the
        differences. Also if the folder has logs of another program.
      DamagedFileError: if a file of the folder is damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping,
        count: int,
        part: Part = WHOLE,
    ):
        # Maps of earlier versions are not scaled, so they cannot be continued.
        more = {"scaled": True, "count": count, "part": str(part)}
        settings = json.loads(json.dumps({**settings, **more}))
        self.folder = pathlib.Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._state = {"settings": settings, "shards": 0, "bytes": [0, 0]}
        if not (self.folder / "state.json").exists():
            self._check_no_logs()
        elif (state := _read_state(self.folder))["shards"]:
            self._state = state
            self._check_settings(settings)
        for path, size in self._logs():
            path.touch()
            os.truncate(path, size)
        if not self._state["shards"]:  # Later calls know the logs by their state.
            self._count(0, (), ())

    def _check_no_logs(self) -> None:
        """Check that a folder without a state has no logs, which would be emptied."""
        for name in _LOGS:
            path = self.folder / name
            if path.exists() and path.stat().st_size:
                raise ValueError(
                    f"{path} may not be from scripts.attribute, because {self.folder} "
                    "has no state.json; give another --out, or remove the file"
                )

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "MapStore":
        """Open the maps of a folder for reading, whatever their settings.

        Another process may be writing further shards. The store has the maps of the
        shards that were complete when it was opened.

        Raises:
          FileNotFoundError: if the folder has no maps.
          DamagedFileError: if a file of the folder is damaged.
        """
        store = cls.__new__(cls)
        store.folder = pathlib.Path(folder).expanduser()
        store._state = _read_state(store.folder)
        store._logs()
        return store

    def _logs(self) -> list[tuple[pathlib.Path, int]]:
        """Return the path and the valid size in bytes of each log."""
        logs = []
        for name, size in zip(_LOGS, self._state["bytes"], strict=True):
            path = self.folder / name
            actual = path.stat().st_size if path.exists() else 0
            if actual < size:
                raise records.DamagedFileError(
                    f"{path} is damaged: it has {actual} bytes, expected {size} or "
                    f"more; {_again(self.folder)}"
                )
            logs.append((path, size))
        return logs

    @property
    def settings(self) -> dict:
        """Return what the maps depend on."""
        return self._state["settings"]

    def _check_settings(self, settings: dict) -> None:
        # The hash of the variables identifies a network that has another path now.
        differing = differences(self.settings, settings, ("there", "now"), ("network",))
        if differing:
            raise ValueError(
                f"{self.folder} holds maps of other settings ({differing}); give "
                "another --out, or the same settings to continue"
            )

    @property
    def part(self) -> Part:
        """Return the part of the shards of all images that the folder will have."""
        # Earlier versions wrote whole folders only.
        return parts.parse(self.settings.get("part", str(WHOLE)))

    def _shards(self) -> range:
        """Return the numbers of the shards that the folder will have."""
        return self.part.of(-(-self.settings["count"] // SHARD_SIZE))

    def remaining(self) -> Iterator[tuple[int, range]]:
        """Yield the (number, image positions) of each shard that is not written yet."""
        for number in self._shards()[self._state["shards"] :]:
            first = number * SHARD_SIZE
            stop = min(first + SHARD_SIZE, self.settings["count"])
            yield number, range(first, stop)

    def write(self, shard: int, content: ShardContent) -> None:
        """Write the next shard.

        The lines get `method`, `shard` (the file), `row` in the file, and `scale`.

        Raises:
          FullDiskError: if the disk is full. The shard is then not counted.
        """
        index = []
        for method, batches in content.maps.items():
            path = self.folder / method / f"{shard:05d}.npy"
            path.parent.mkdir(exist_ok=True)
            scaled = [_scale(maps, self.settings["dtype"]) for maps in batches]
            stored, scales = map(np.concatenate, zip(*scaled, strict=True))
            with records.replacing(path) as partial:
                np.save(partial, stored)
            place = {"method": method, "shard": f"{method}/{path.name}"}
            extras = content.extras.get(method, [{}] * len(content.lines))
            index += [
                line | place | {"row": row, "scale": float(scale)} | extra
                for row, (line, scale, extra) in enumerate(
                    zip(content.lines, scales, extras, strict=True)
                )
            ]
        self._count(self._shards().index(shard) + 1, index, content.skipped)

    def check_target(self, folder: pathlib.Path) -> None:
        """Check that `append` can add this part to the maps of a folder, if any.

        Raises:
          ValueError: if the folder has maps of other settings, or has some shards of
            this part but not all.
          DamagedFileError: if a file of the folder is damaged.
        """
        if not (folder / "state.json").exists():
            return
        target = MapStore.open(folder)
        shards, written = self._shards(), target._state["shards"]
        if not written:
            return
        target._check_settings(self.settings | {"part": str(WHOLE)})
        if shards.start < written < shards.stop:
            raise ValueError(
                f"{folder} has {written} shards of an interrupted call, which end "
                f"inside part {self.part}; give another --out. scripts.merge_maps "
                "--parts=... --out=NEW merges finished parts without new computation"
            )

    def has(self, store: "MapStore") -> bool:
        """Return whether this folder counts all shards of a part."""
        return self._state["shards"] >= store._shards().stop

    def append(self, store: "MapStore") -> None:
        """Count the shards of the next part, which are in this folder already.

        The caller must have called `store.check_target`.
        """
        if not self.has(store):
            self._count(store._shards().stop, store.lines(), store.skipped())

    def _count(
        self, shards: int, lines: Iterable[dict], skipped: Iterable[dict]
    ) -> None:
        """Append lines to the logs, and record how many shards are written."""
        logs = zip(_LOGS, (lines, skipped), strict=True)
        sizes = [_append(self.folder / name, lines) for name, lines in logs]
        self._state |= {"shards": shards, "bytes": sizes}
        records.write_json(self.folder / "state.json", self._state)

    def lines(self) -> Iterator[dict]:
        """Yield the lines of the index, in order."""
        return self._lines(0)

    def skipped(self) -> list[dict]:
        """Return the images without maps, with the reasons."""
        return list(self._lines(1))

    def _lines(self, log: int) -> Iterator[dict]:
        path, size = self._logs()[log]
        if not size:
            return
        with open(path, "rb") as file:
            while file.tell() < size:
                text = file.readline()
                try:
                    yield json.loads(text)
                except ValueError as error:
                    raise records.DamagedFileError(
                        f"{path} is damaged: {text[:60]!r} is not JSON; "
                        f"{_again(self.folder)}"
                    ) from error

    def read(self, line: dict) -> Float32[np.ndarray, "h w"]:
        """Return the map of a line of the index, in the units of its method.

        Raises:
          DamagedFileError: if the shard is damaged.
        """
        path = self.folder / line["shard"]
        try:
            stored = np.load(path, mmap_mode="r")[line["row"]]
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise records.DamagedFileError(
                f"{path} is damaged ({error}); {_again(self.folder)}"
            ) from error
        # Earlier versions wrote no scale, and maps that were not scaled.
        return stored.astype(np.float32) * np.float32(line.get("scale", 1))


def differences(
    first: Mapping, second: Mapping, names: tuple[str, str], but: Sequence[str] = ()
) -> str:
    """Describe the settings in which two stores differ; "" if there are none.

    Args:
      first, second: settings of the stores.
      names: names of the stores in the result.
      but: keys to leave out.
    """
    first, second = dict(records.flat(first)), dict(records.flat(second))
    return "; ".join(
        f"{key}: {first.get(key, 'absent')} {names[0]}, "
        f"{second.get(key, 'absent')} {names[1]}"
        for key in sorted(first.keys() | second.keys())
        if key not in but and first.get(key, ...) != second.get(key, ...)
    )


def _append(path: pathlib.Path, lines: Iterable[dict]) -> int:
    """Append lines to a log, and return its size in bytes when they are on disk."""
    try:
        with open(path, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
    except OSError as error:
        if records.is_full_disk(error):
            raise records.FullDiskError(path) from error
        raise


def _scale(
    maps: Float[np.ndarray, "n h w"], dtype: str
) -> tuple[Float[np.ndarray, "n h w"], Float32[np.ndarray, " n"]]:
    """Return maps as they are stored, and the factor that restores each.

    A map is divided by its largest magnitude, because float16 has no values below 6e-8.
    The gradient of a small probability would become zero. float32 needs no scale.
    """
    maps = maps.astype(np.float32)
    if dtype == "float32":
        return maps, np.ones(len(maps), np.float32)
    scales = np.abs(maps).max((1, 2), initial=0)
    scales[scales == 0] = 1
    return (maps / scales[:, None, None]).astype(dtype), scales


def _read_state(folder: pathlib.Path) -> dict[str, Any]:
    """Return the content of `state.json`."""
    path = folder / "state.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no maps: it has no {path.name}; give the --out of "
            "scripts.attribute"
        )
    state = records.read_json(path, _again(folder))
    try:
        state["settings"]["dtype"]
        index_bytes, skipped_bytes = state["bytes"]
        if min(state["shards"], index_bytes, skipped_bytes) < 0:
            raise ValueError("it counts less than 0 shards or bytes")
    except (ValueError, KeyError, TypeError) as error:
        raise records.DamagedFileError(
            f"{path} is damaged: {type(error).__name__}: {error}; {_again(folder)}"
        ) from error
    return state


def _again(folder: pathlib.Path) -> str:
    return f"delete {folder} and run scripts.attribute again"
