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
and can be restored on any number of them.
"""

import pathlib
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

Tree = TypeVar("Tree")


def host_copy(tree: Tree) -> Tree:
    """Copy arrays to the host; later changes of the originals have no effect."""
    return jax.tree.map(np.array, jax.device_get(tree))


class Checkpoints:
    """The folder `checkpoints/` of a run, which keeps only the last checkpoint.

    Attributes:
      best: the best variables so far, on the host; None until there are any. Every
        checkpoint includes the best variables.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self.best: dict | None = None
        self._manager = ocp.CheckpointManager(
            pathlib.Path(workdir).resolve() / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True),
        )

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Save the state of a stage and `best`, after `step` steps of the run."""
        if step in self._manager.all_steps():
            return  # a step repeated after an interruption has the same content
        items = {
            "state": ocp.args.StandardSave(host_copy(state)),
            "meta": ocp.args.JsonSave(meta | {"has_best": self.best is not None}),
        }
        if self.best is not None:
            items["best"] = ocp.args.StandardSave(self.best)
        self._manager.save(step, args=ocp.args.Composite(**items))

    def meta(self) -> dict | None:
        """Return the `meta` of the last checkpoint; None if there is no checkpoint."""
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        if step is None:
            return None
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).meta

    def restore_state(self, like: Tree) -> Tree:
        """Return the last state, on the host, with the structure of `like`."""
        return self._restore("state", like)

    def restore_best(self, like: Tree) -> Tree:
        """Return the best variables, on the host, with the structure of `like`."""
        return self._restore("best", like)

    def _restore(self, item: str, like: Tree) -> Tree:
        self._manager.wait_until_finished()
        abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        return self._manager.restore(self._manager.latest_step(), args=args)[item]

    def wait(self) -> None:
        """Wait until all saved checkpoints are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until all saved checkpoints are on disk, then release the manager."""
        self._manager.close()
