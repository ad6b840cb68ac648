"""Merge the maps that several machines computed for parts of the same images.

    merge(["maps/part_1_of_2", "maps/part_2_of_2"], "maps")

The result is the folder that a single call of `attribute` writes, byte for byte. If the
file system allows hard links, the merged files take no space.
"""

import itertools
import os
import pathlib
import shutil
from collections.abc import Sequence

from seeflower_jax import records
from seeflower_jax.explain import parts
from seeflower_jax.explain.store import MapStore, differences

_LOCAL = ("network", "part")  # settings that may differ among the parts


def merge(folders: Sequence[str | os.PathLike], out: str | os.PathLike) -> None:
    """Merge all parts of a job into one folder.

    To continue an interrupted call, repeat it. The folders of the parts do not change.

    Args:
      folders: the parts that `attribute` wrote, in any order.
      out: the folder to write to; the parts may be inside it.

    Raises:
      ValueError: if a part is missing, given twice or incomplete, or if the parts have
        different settings. The message names the folders and the settings. Also if
        `out` has other maps or an incomplete part, for example because a part was
        computed again after it was merged. `out` then stays as it is.
      FileNotFoundError: if a folder has no maps.
      DamagedFileError: if a file of a folder is damaged.
      FullDiskError: if the disk is full.
      FolderInUseError: if another process writes to `out`.
    """
    stores = _in_order([MapStore.open(folder) for folder in folders])
    first = stores[0]
    for store in stores:
        _check_settings(first, store)
        _check_complete(store)
    _check_sheets(stores)
    with records.lock(out):
        for store in stores:
            store.check_target(pathlib.Path(out).expanduser())
        _check_same_maps(stores, pathlib.Path(out).expanduser())
        target = MapStore(out, first.settings, first.settings["count"])
        for store in stores:
            _link_files(store, target.folder)
            target.append(store)


def _in_order(stores: Sequence[MapStore]) -> list[MapStore]:
    """Return stores in the order of their parts, after checks."""
    by_part: dict[parts.Part, MapStore] = {}
    for store in stores:
        part = store.part
        if part == parts.WHOLE:
            raise ValueError(
                f"{store.folder} has all maps, not a part; expected folders of "
                "scripts.attribute --shard"
            )
        if part in by_part:
            raise ValueError(
                f"{by_part[part].folder} and {store.folder} both are part {part}; give "
                "only one of them"
            )
        by_part[part] = store
    if not by_part:
        raise ValueError(
            "no part was given; expected the folders part_1_of_2 and so on of "
            "scripts.attribute --shard"
        )
    counts = sorted({part.count for part in by_part})
    expected = [parts.Part(n, counts[0]) for n in range(1, counts[0] + 1)]
    missing = [str(part) for part in expected if part not in by_part]
    if len(counts) > 1 or missing:
        have = ", ".join(map(str, by_part))
        lacks = f"; {', '.join(missing)} is missing" if missing else ""
        raise ValueError(f"the folders are the parts {have}{lacks}; expected all parts")
    return [by_part[part] for part in expected]


def _check_settings(first: MapStore, second: MapStore) -> None:
    differing = differences(
        first.settings, second.settings, ("in the first", "in the second"), _LOCAL
    )
    if differing:
        raise ValueError(
            f"{first.folder} and {second.folder} have maps of different settings "
            f"({differing}); compute one of them again"
        )


def _check_complete(store: MapStore) -> None:
    """Check that a store has all its shards, and their files."""
    if missing := len(list(store.remaining())):
        raise ValueError(
            f"{store.folder} is not complete: {missing} of its shards are missing; "
            "run its scripts.attribute again"
        )
    if absent := [path for path in _shard_files(store) if not path.exists()]:
        raise records.DamagedFileError(
            f"{absent[0]} is missing; copy its whole folder again"
        )


def _check_sheets(stores: Sequence[MapStore]) -> None:
    """Check that the first store with maps has its contact sheets.

    `attribute` draws them after the last shard.
    """
    for store in stores:
        methods = dict.fromkeys(line["method"] for line in store.lines())
        names = [f"{method}.png" for method in methods]
        if absent := [name for name in names if not (store.folder / name).exists()]:
            raise ValueError(
                f"{store.folder} is not complete: {absent[0]} is missing; run its "
                "scripts.attribute again"
            )
        if methods:
            return


def _check_same_maps(stores: Sequence[MapStore], out: pathlib.Path) -> None:
    """Check that the logs of `out` are those of the parts that `out` has."""
    if not (out / "state.json").exists():
        return
    target = MapStore.open(out)
    merged = [store for store in stores if target.has(store)]
    for name, log in (("index", MapStore.lines), ("skipped", MapStore.skipped)):
        lines = itertools.zip_longest(itertools.chain(*map(log, merged)), log(target))
        for number, (line, line_of_target) in enumerate(lines, 1):
            if line != line_of_target:
                raise ValueError(
                    f"{out}/{name}.jsonl differs from the parts at line {number}, so "
                    f"{out} has other maps of some images; give another --out"
                )


def _shard_files(store: MapStore) -> list[pathlib.Path]:
    """Return the files that the index of a store names."""
    names = dict.fromkeys(line["shard"] for line in store.lines())
    return [store.folder / name for name in names]


def _link_files(store: MapStore, target: pathlib.Path) -> None:
    """Link or copy the maps, overlays and sheets of a store to another folder.

    A contact sheet shows the first images, so it comes from the first part that has
    one.
    """
    sheets = {
        path for path in store.folder.glob("*.png") if not (target / path.name).exists()
    }
    overlays = store.folder.glob("overlays/*/*.png")
    for path in (*_shard_files(store), *overlays, *sheets):
        place = target / path.relative_to(store.folder)
        if place.exists() and place.samefile(path):  # linked by an interrupted call
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with records.replacing(place) as partial:
            partial.unlink(missing_ok=True)
            try:
                os.link(path, partial)
            except OSError:  # another disk, or one without links
                shutil.copyfile(path, partial)
