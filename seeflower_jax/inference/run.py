"""Load a run directory: its best network, its config and its step.

run = load_run("runs/inception_seed0")
run.network.predict("photos/")
run.config["seed"]
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping

from seeflower_jax import hints, models, records
from seeflower_jax.data import whitening
from seeflower_jax.data.view import View
from seeflower_jax.inference.network import Network
from seeflower_jax.training.checkpoint import Checkpoints, DamagedCheckpointError


class NoCheckpointError(FileNotFoundError):
    """A run directory has no best variables yet."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run, finished or not, with its best variables.

    Attributes:
      workdir: the run directory.
      config: content of `config.json`.
      network: network with the best variables by validation.
      step: training step that gave the best variables.
      result: content of `result.json`; {} if the run is not finished, or if its result
        belongs to the variables before further stages.
    """

    workdir: pathlib.Path
    config: dict
    network: Network
    step: int
    result: dict


def check_finished(run: Run) -> None:
    """Raise a ValueError if a run has no result of its best variables."""
    if "weights" not in run.result:
        raise ValueError(
            f"{run.workdir} is not finished: it has no complete result.json; start "
            "its training command again"
        )


def load_config(workdir: str | os.PathLike) -> dict:
    """Return the config of a run directory.

    Raises:
      FileNotFoundError: if the folder is not a run directory.
      DamagedFileError: if the file is damaged.
    """
    path = pathlib.Path(workdir).expanduser() / "config.json"
    if not path.exists():
        near = None if path.parent.exists() else hints.nearest_path(workdir)
        hint = (
            f"did you mean {near}?" if near else "give the --workdir of scripts.train"
        )
        raise FileNotFoundError(
            f"{workdir} is not a run directory: it has no config.json; {hint}"
        )
    advice = "start the training command again to write it again"
    config = records.read_json(path, advice)
    for section in ("model", "init", "data", "whitening", "eval", "stages"):
        if not isinstance(config.get(section), dict):
            raise records.DamagedFileError(
                f"{path} is damaged: it has no section {section!r}; {advice}"
            )
    return config


def load_run(
    workdir: str | os.PathLike, data_dir: str | None = None, in_training: bool = False
) -> Run:
    """Return a run with its best variables, whether it is finished or not.

    Args:
      workdir: the run directory.
      data_dir: folder of the images, if they have moved since the training.
      in_training: True if the run is still in training and has no temperature yet. This
        turns off the warning about the missing temperature.

    Raises:
      FileNotFoundError: if the folder is not a run directory.
      NoCheckpointError: if the run has no best variables yet.
      DamagedFileError, DamagedCheckpointError: if a file of the run is damaged.
    """
    workdir = pathlib.Path(workdir).expanduser()
    config = load_config(workdir)
    if data_dir is not None:
        config["data"]["dir"] = data_dir
    try:
        meta, spec, variables = _read_best(workdir)
    except DamagedCheckpointError:
        # A run in training may have replaced its checkpoint in the meantime.
        meta, spec, variables = _read_best(workdir)
    result = records.read_result(workdir)
    best, best_step = result.get("best", {}), meta["progress"]["best_step"]
    hashes = result.get("config_hash"), records.config_hash(config)
    # Results of early versions of 0.2 have no step.
    if best["step"] != best_step if "step" in best else hashes[0] != hashes[1]:
        result = {}
    calibration = result.get("calibration", {})
    if not calibration and not in_training:
        logging.warning(
            "%s has no fitted temperature, so probabilities are not calibrated; "
            "scripts.train fits it at the end",
            workdir,
        )
    network = Network(
        spec=spec,
        variables=variables,
        view=View(**meta["view"]),
        class_names=tuple(meta["class_names"]),
        temperature=calibration.get("temperature", 1.0),
        preprocess=_read_whitening(workdir, config),
        origin=str(workdir.resolve()),
    )
    return Run(workdir, config, network, best_step, result)


def _read_best(workdir: pathlib.Path) -> tuple[dict, models.ModelSpec, dict]:
    """Return metadata, spec and best variables of the last checkpoint."""
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        meta = checkpoints.meta()
        if meta is None and (workdir / "checkpoints" / "best").is_dir():
            raise NoCheckpointError(
                f"{workdir} was trained by version 0.1, whose checkpoints have another "
                "format; train it again"
            )
        if meta is None or not meta["has_best"]:
            raise NoCheckpointError(
                f"{workdir} has no trained variables yet; train it first"
            )
        spec = models.ModelSpec(**meta["spec"])
        return meta, spec, checkpoints.restore_best(models.shapes(spec))


def _read_whitening(
    workdir: pathlib.Path, config: Mapping
) -> whitening.Whitening | None:
    """Return the whitening of a run; None if the run has none."""
    if not config["whitening"]["enabled"]:
        return None
    advice = "start the training command again to fit it again"
    try:
        fitted = whitening.load_from(workdir)
    except records.DamagedFileError as error:
        raise records.DamagedFileError(f"{error}; {advice}") from error
    if fitted is None:
        raise FileNotFoundError(f"{workdir / whitening.FILE_NAME} is missing; {advice}")
    return fitted
