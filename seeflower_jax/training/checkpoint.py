"""Checkpoints of a run: the latest state, to go on from, and the best variables.

    checkpoints = Checkpoints(workdir)
    checkpoints.save_latest(step, state, meta)
    checkpoints.save_best(step, variables, meta)
    meta = checkpoints.latest_meta()              # None in a new run

Both are Orbax checkpoints with a JSON item `meta` beside the arrays. The optimizers of
two stages have states of different structure, so `meta` names the stage, by which the
caller builds the abstract state to restore into.
"""

import pathlib

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The folder `checkpoints/` of a run; one latest and one best are kept."""

    def __init__(self, workdir: str | pathlib.Path):
        root = pathlib.Path(workdir).resolve() / "checkpoints"
        self._latest, self._best = (
            ocp.CheckpointManager(
                root / name,
                options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True),
            )
            for name in ("latest", "best")
        )

    def save_latest(self, step: int, state, meta: dict) -> None:
        """Saves the state of a stage after `step` steps of the run."""
        self._save(self._latest, step, state, meta)

    def save_best(self, step: int, variables: dict, meta: dict) -> None:
        """Saves the variables that are best by validation so far."""
        self._save(self._best, step, variables, meta)

    @staticmethod
    def _save(manager, step, tree, meta):
        if step in manager.all_steps():
            return  # repeated after an interruption: the same step has the same content
        manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)
            ),
        )

    def latest_meta(self) -> dict | None:
        """What was saved beside the latest state; None if nothing was."""
        return self._meta(self._latest)

    def best_meta(self) -> dict | None:
        """What was saved beside the best variables; None if nothing was."""
        return self._meta(self._best)

    @staticmethod
    def _meta(manager):
        manager.wait_until_finished()
        if manager.latest_step() is None:
            return None
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return manager.restore(manager.latest_step(), args=args).meta

    def best_step(self) -> int | None:
        """The step of the run that the best variables are from; None if none are."""
        self._best.wait_until_finished()
        return self._best.latest_step()

    def restore_latest(self, like):
        """The latest state, with the shapes and shardings of `like`."""
        return self._restore(self._latest, like)

    def restore_best(self, like):
        """The best variables, with the shapes and shardings of `like`."""
        return self._restore(self._best, like)

    @staticmethod
    def _restore(manager, like):
        manager.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(tree=ocp.args.StandardRestore(abstract))
        return manager.restore(manager.latest_step(), args=args).tree

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
        self._latest.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the managers."""
        self._latest.close()
        self._best.close()
