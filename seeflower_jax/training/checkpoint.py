"""Save and restore the latest state and the best variables of a run, together.

    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.best = host_copy(state.variables())
        checkpoints.save(step, state, {"stage": "head", ...})

    meta = checkpoints.meta()               # None in a new run
    state = checkpoints.restore_state(state)
    variables = checkpoints.restore_best(models.shapes(spec))

A checkpoint is an Orbax checkpoint with the items `state`, `best` and `meta`. Orbax
commits all items together, so no interruption can separate the latest state from the
best variables. The optimizer states of two stages differ in structure. `meta` names the
stage, so the caller can build a state of the right structure to restore into. All
arrays are saved from host copies. A checkpoint is therefore independent of the devices
and can be restored on any number of them. The first of several processes writes, and
each process reads by itself.
"""

import contextlib
import json
import logging
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from seeflower_jax import records
from seeflower_jax.records import callbacks
from seeflower_jax.sharding import processes

Tree = TypeVar("Tree")
_INCOMPLETE = ".orbax-checkpoint-tmp"  # in the names of folders that Orbax writes


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written."""


class DamagedCheckpointError(ValueError):
    """A checkpoint cannot be read, or has other content than was saved."""


def _is_not_of_a_future(record: logging.LogRecord) -> bool:
    """Return whether a record of asyncio is not of a future that nobody waited for.

    Orbax reads arrays at the same time, and raises the error of the first that fails.
    When the others are freed, asyncio logs their errors.
    """
    return "exception was never retrieved" not in record.getMessage()


def host_copy(tree: Tree) -> Tree:
    """Copy arrays to the host; later changes of the originals have no effect."""
    return jax.tree.map(np.array, jax.device_get(tree))


class Checkpoints:
    """The folder `checkpoints/` of a run, which keeps only the last checkpoint.

    Every checkpoint has checksums of its items. A damaged file therefore never yields
    wrong variables.

    Attributes:
      best: the best variables so far, on the host; None until there are any. Every
        checkpoint includes the best variables.
    """

    def __init__(self, workdir: str | pathlib.Path, read_only: bool = False):
        """Open the checkpoints of a run.

        Args:
          workdir: the run directory.
          read_only: whether to leave the folder as it is. If False, the first process
            creates the folder and removes incomplete files of an interrupted process.
        """
        read_only = read_only or not processes.is_main()
        self.best: dict | None = None
        callbacks.silence_closed_loops()
        self._folder = pathlib.Path(workdir).resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else 1,
            create=False,
            multiprocessing_options=_by_itself(),
        )
        with self._writing():
            if not read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
                for path in self._folder.glob(f"*{_INCOMPLETE}*"):
                    shutil.rmtree(path)
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest_step(self) -> int | None:
        """Return the step of the run at the last checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Save the state of a stage and `best`, after `step` steps of the run.

        Raises:
          FullDiskError: if a checkpoint does not fit on the disk. Checkpoints are
            written in the background, so the error may concern an earlier checkpoint.
          CheckpointError: if a checkpoint cannot be written for another reason.
        """
        if not processes.is_main() or step in self._manager.all_steps():
            return  # a step repeated after an interruption has the same content
        arrays = {"state": host_copy(state)}
        if self.best is not None:
            arrays["best"] = self.best
        meta = meta | {
            "has_best": self.best is not None,
            "checksums": {name: _checksum(tree) for name, tree in arrays.items()},
        }
        items: dict[str, Any] = {
            name: ocp.args.StandardSave(tree) for name, tree in arrays.items()
        }
        items["meta"] = ocp.args.JsonSave(meta | {"checksum": _text_checksum(meta)})
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def meta(self) -> dict | None:
        """Return the `meta` of the last checkpoint; None if there is no checkpoint.

        Raises:
          DamagedCheckpointError: if the checkpoint is damaged.
        """
        self.wait()
        if self.latest_step is None:
            return None
        with self._reading():
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(self.latest_step, args=args).meta
            # Checkpoints of early versions of 0.2 have no checksums.
            if meta.pop("checksum", None) not in (None, _text_checksum(meta)):
                raise ValueError("the content of meta/ has changed")
            return meta

    def restore_state(self, like: Tree) -> Tree:
        """Return the last state, on the host, with the structure of `like`."""
        return self._restore("state", like)

    def restore_best(self, like: Tree) -> Tree:
        """Return the best variables, on the host, with the structure of `like`."""
        return self._restore("best", like)

    def _restore(self, item: str, like: Tree) -> Tree:
        meta = self.meta()
        assert meta is not None
        abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        with self._reading():
            tree = self._manager.restore(self.latest_step, args=args)[item]
            if meta.get("checksums", {}).get(item) not in (None, _checksum(tree)):
                raise ValueError(f"the content of {item}/ has changed")
            return tree

    def wait(self) -> None:
        """Wait until all saved checkpoints are on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until all saved checkpoints are on disk, then release the manager."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Describe in one line why a checkpoint cannot be written."""
        try:
            yield
        except Exception as error:  # Orbax raises errors of many types.
            if records.is_full_disk(error):
                raise records.FullDiskError(self._folder) from error
            raise CheckpointError(
                f"cannot write {self._folder}: {_summary(error)}"
            ) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Describe in one line why a checkpoint cannot be read."""
        try:
            yield
        except Exception as error:  # Orbax raises errors of many types.
            logging.getLogger("asyncio").addFilter(_is_not_of_a_future)
            raise DamagedCheckpointError(
                f"{self._folder / str(self.latest_step)} is damaged: "
                f"{_summary(error)}; restore the folder from a copy, or remove "
                f"{self._folder} and train again"
            ) from error


def _by_itself() -> ocp.options.MultiprocessingOptions:
    """Return Orbax options with which a process does not wait for other processes."""
    if not jax.distributed.is_initialized():
        return ocp.options.MultiprocessingOptions()
    process = processes.index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )


def _checksum(tree: Any) -> int:
    """Return the CRC-32 of the names, types and values of the arrays of a tree."""
    checksum = 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        checksum = zlib.crc32(name.encode(), checksum)
        # bfloat16 has no buffer of its own type.
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        checksum = zlib.crc32(flat.data, checksum)
    return checksum


def _text_checksum(meta: dict) -> int:
    """Return the CRC-32 of JSON values."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _summary(error: Exception) -> str:
    """Return the start of an error of Orbax, which can have thousands of characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    if code := re.match("[A-Z]+(_[A-Z]+)*(?=: )", text):  # of TensorStore
        return f"its arrays cannot be read or written ({code[0]})"
    return text if len(text) <= 200 else f"{text[:200]} ..."
