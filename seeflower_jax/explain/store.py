"""Maps of many images on disk, in shards, in constant memory.

    store = MapStore(folder, settings)
    for shard, positions in store.remaining(len(names)):
        store.write(shard, ShardContent(maps, lines, boxes, skipped))
    for line in store.lines():
        values = store.read(line)      # [h, w]

`<method>/<shard>.npy` holds the maps [rows, h, w] of a method. `index.jsonl` has a line
for each image and method, `skipped.jsonl` a line for each image that could not be read.
`state.json` is written last in each shard, so a run that was interrupted goes on with
the first shard that it does not count.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from seeflower_jax import records

SHARD_SIZE = 256  # images


@dataclasses.dataclass
class ShardContent:
    """What is written of a shard's images.

    Attributes:
      maps: {method: [rows, h, w]}.
      lines: a dict for each row; it is written once per method.
      extras: {method: a dict for each row}, what the lines of this method alone have.
      skipped: a dict for each image that could not be read.
    """

    maps: Mapping[str, Float[np.ndarray, "n h w"]]
    lines: list[dict]
    extras: Mapping[str, list[dict]]
    skipped: list[dict]


class MapStore:
    """The folder that attribution maps are written to.

    Args:
      folder: made if absent.
      settings: JSON-serialisable; everything that the maps depend on.

    Raises:
      ValueError: if the folder holds maps of other settings; lists what differs.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict):
        self.folder = pathlib.Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._logs = [self.folder / n for n in ("index.jsonl", "skipped.jsonl")]
        self._path = self.folder / "state.json"
        settings = json.loads(json.dumps(settings))
        self._state = {"settings": settings, "shards": 0, "bytes": [0, 0]}
        if self._path.exists():
            self._state = json.loads(self._path.read_text())
            self._check_settings(settings)
        for path, size in zip(self._logs, self._state["bytes"], strict=True):
            path.touch()
            os.truncate(path, size)

    def _check_settings(self, settings: dict) -> None:
        before = self._state["settings"]
        differing = "\n".join(
            f"  {key}: {before.get(key, 'absent')} there, "
            f"{settings.get(key, 'absent')} now"
            for key in sorted(before | settings)
            if before.get(key, ...) != settings.get(key, ...)
        )
        if differing:
            raise ValueError(
                f"{self.folder} holds maps of other settings:\n{differing}\n"
                "Give another --out, or the same settings to go on"
            )

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "MapStore":
        """Open the maps of a folder, of whatever settings."""
        state = json.loads((pathlib.Path(folder) / "state.json").read_text())
        return cls(folder, state["settings"])

    def remaining(self, count: int) -> Iterator[tuple[int, range]]:
        """Yield the (number, image positions) of each shard that is not written yet."""
        for number in range(self._state["shards"], -(-count // SHARD_SIZE)):
            first = number * SHARD_SIZE
            yield number, range(first, min(first + SHARD_SIZE, count))

    def write(self, shard: int, content: ShardContent) -> None:
        """Write a shard; its lines get `method`, `shard` (the file) and `row`."""
        index = []
        for method, values in content.maps.items():
            path = self.folder / method / f"{shard:05d}.npy"
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(f"partial_{path.name}")
            np.save(partial, values)
            os.replace(partial, path)
            place = {"method": method, "shard": f"{method}/{path.name}"}
            extras = content.extras.get(method, [{}] * len(content.lines))
            index += [
                line | place | {"row": row} | extra
                for row, (line, extra) in enumerate(
                    zip(content.lines, extras, strict=True)
                )
            ]
        for path, lines in zip(self._logs, (index, content.skipped), strict=True):
            with path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        self._state["shards"] = shard + 1
        self._state["bytes"] = [path.stat().st_size for path in self._logs]
        records.write_json(self._path, self._state)

    def lines(self) -> Iterator[dict]:
        """Yield the lines of the index, in order."""
        with self._logs[0].open() as file:
            yield from map(json.loads, file)

    def skipped(self) -> list[dict]:
        """Return the images that could not be read, with the reasons."""
        return [json.loads(line) for line in self._logs[1].read_text().splitlines()]

    def read(self, line: dict) -> Float[np.ndarray, "h w"]:
        """Return the map that a line of the index names."""
        return np.load(self.folder / line["shard"], mmap_mode="r")[line["row"]]
