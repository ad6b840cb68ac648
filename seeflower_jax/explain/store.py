"""Maps of many pictures on disk, in shards, in constant memory.

    store = MapStore(out, settings)
    for shard in store.remaining(len(names)):
        store.write(shard, maps, lines, skipped)
    for line in store.lines():
        values = store.read(line)      # [H, W]

`<method>/<shard>.npy` holds the maps [rows, H, W] of a method; `index.jsonl` has a line
for each picture and method, `skipped.jsonl` one for each picture that could not be
read. `state.json` is written last in each shard, so a run that was interrupted goes on
with the first shard that it does not count.
"""

import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

SHARD_SIZE = 256  # pictures


class MapStore:
    """The folder that attribution maps are written to.

    Args:
      folder: made if absent.
      settings: JSON-serialisable; what decides the maps.

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
            there = self._state["settings"]
            differing = "\n".join(
                f"  {key}: {there.get(key, 'absent')} there, "
                f"{settings.get(key, 'absent')} now"
                for key in sorted(there | settings)
                if there.get(key, ...) != settings.get(key, ...)
            )
            if differing:
                raise ValueError(
                    f"{self.folder} holds maps of other settings:\n{differing}\n"
                    "Give another --out, or the same settings to go on"
                )
        for path, size in zip(self._logs, self._state["bytes"], strict=True):
            path.touch()
            os.truncate(path, size)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "MapStore":
        """The maps that are there, of whatever settings."""
        state = json.loads((pathlib.Path(folder) / "state.json").read_text())
        return cls(folder, state["settings"])

    def remaining(self, count: int) -> Iterator[tuple[int, range]]:
        """The (number, picture indices) of each shard that is still to be written."""
        for number in range(self._state["shards"], -(-count // SHARD_SIZE)):
            first = number * SHARD_SIZE
            yield number, range(first, min(first + SHARD_SIZE, count))

    def write(
        self,
        shard: int,
        maps: dict[str, np.ndarray],
        lines: list,
        skipped: list,
        own: dict[str, list] | None = None,
    ) -> None:
        """Writes a shard.

        Args:
          shard: its number.
          maps: {method: [rows, H, W]}.
          lines: a dict per row; each is written once per method, with `method`, `shard`
            (the file) and `row`.
          skipped: a dict per picture that could not be read.
          own: {method: a dict per row}, what its lines alone have.
        """
        own = own or {}
        indexed = []
        for method, values in maps.items():
            path = self.folder / method / f"{shard:05d}.npy"
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(f"partial_{path.name}")
            np.save(partial, values)
            os.replace(partial, path)
            place = {"method": method, "shard": f"{method}/{path.name}"}
            indexed += [
                line | place | {"row": row} | more
                for row, (line, more) in enumerate(
                    zip(lines, own.get(method, [{}] * len(lines)), strict=True)
                )
            ]
        for path, records in zip(self._logs, (indexed, skipped), strict=True):
            with path.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
        self._state["shards"] = shard + 1
        self._state["bytes"] = [path.stat().st_size for path in self._logs]
        partial = self._path.with_name("partial_state.json")
        partial.write_text(json.dumps(self._state, indent=2))
        os.replace(partial, self._path)

    def lines(self) -> Iterator[dict]:
        """The lines of the index, in order."""
        with self._logs[0].open() as file:
            yield from map(json.loads, file)

    def skipped(self) -> list[dict]:
        """The pictures that could not be read, with the reasons."""
        return [json.loads(line) for line in self._logs[1].read_text().splitlines()]

    def read(self, line: dict) -> np.ndarray:
        """The map [H, W] that a line of the index names."""
        return np.load(self.folder / line["shard"], mmap_mode="r")[line["row"]]
