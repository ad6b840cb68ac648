"""Reserve a run directory for one config and one set of images.

check_workdir(workdir, settings)      # raises if the directory holds another run
claim_workdir(workdir, settings, dataset.source.describe())     # writes config.json
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Mapping

from seeflower_jax import records
from seeflower_jax.experiment.settings import Settings
from seeflower_jax.training.checkpoint import Checkpoints

CONFIG, IMAGES = "config.json", "data.json"  # file names in a run directory
_DIR = "dir"  # the key of the folder of the images in `IMAGES`
# These values may change after the training. The run is then evaluated again.
_AFTER_TRAINING = "test_time."
# Further files that a run can leave before its first checkpoint.
_OF_AN_ATTEMPT = ("whitening.npz", "features_*.npy", "logits_*.npz", records.LOG_FILE)


def has_trained(workdir: pathlib.Path) -> bool:
    """Return whether a run directory has a checkpoint."""
    return _last_meta(workdir) is not None


def _last_meta(workdir: pathlib.Path) -> dict | None:
    if not (workdir / "checkpoints").is_dir():
        return None
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        return checkpoints.meta()


def with_recorded_dtype(workdir: pathlib.Path, config: Mapping) -> Mapping:
    """Return a config with the dtype of the run in a directory in the place of 'auto'.

    The run then continues on another kind of device in the type in which it began.
    """
    values = records.to_dict(config)
    model = values.get("model")
    if not isinstance(model, dict) or model.get("dtype") != "auto":
        return config
    recorded = (_read_config(workdir) or {}).get("model", {})
    return {**values, "model": {**model, "dtype": recorded.get("dtype", "auto")}}


def check_workdir(workdir: pathlib.Path, settings: Settings) -> None:
    """Raise an error if a run directory holds a run of another config.

    Two changes are allowed: further stages and other test-time views. Every change is
    allowed if nothing has been trained.

    Raises:
      ValueError: if other values differ; the message lists them.
      DamagedCheckpointError: if the checkpoint is damaged.
    """
    meta = _last_meta(workdir)
    if meta is None:
        if (workdir / "checkpoints" / "best").is_dir():
            raise ValueError(
                f"{workdir} holds a run of version 0.1; give another --workdir"
            )
        return
    before, after = _read_config(workdir), settings.config
    if before is None:
        if meta["config_hash"] != settings.config_hash:
            raise ValueError(
                f"{workdir / CONFIG} is missing or damaged, and the checkpoint is of "
                f"another config, {meta['config_hash']} there, "
                f"{settings.config_hash} now; give another --workdir, or the same "
                "config to resume that run"
            )
        logging.warning("%s is written again", workdir / CONFIG)
        return
    old, new = dict(records.flat(before)), dict(records.flat(after))
    free = {f"{section}.{key}" for section, key in records.LOCAL_KEYS}
    if settings.data.source == "folder":  # another folder holds other images
        free.remove("data.dir")
    trained = before["stage_order"]
    if after["stage_order"][: len(trained)] == trained:
        free.add("stage_order")
        free |= {key for key in new if key.startswith("stages.") and key not in old}
    differing = "; ".join(
        f"config.{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old | new)
        if old.get(key, ...) != new.get(key, ...)
        and key not in free
        and not key.startswith(_AFTER_TRAINING)
    )
    if differing:
        raise ValueError(
            f"{workdir} holds a run of another config: {differing}; give another "
            "--workdir, or the same config to resume that run"
        )


def _read_config(workdir: pathlib.Path) -> dict | None:
    """Return the config of a run directory; None if it is missing or damaged."""
    path = workdir / CONFIG
    try:
        config = records.read_json(path, "it is compared with the checkpoint")
        if not isinstance(config.get("stage_order"), list):
            raise records.DamagedFileError(f"{path} is damaged: it has no stage_order")
        return records.with_later_keys(config)
    except FileNotFoundError:
        return None
    except records.DamagedFileError as error:
        logging.warning("%s", error)
        return None


def claim_workdir(workdir: pathlib.Path, settings: Settings, images: dict) -> None:
    """Write the config and the images of a run into its directory.

    If nothing has been trained, files of an attempt with another config or with other
    images are removed. Files that an interruption left incomplete are always removed.

    Args:
      workdir: a run directory that `check_workdir` accepted.
      settings: settings of the run.
      images: description of the images, from `ImageSource.describe`.
    """
    stale = list(workdir.glob(f"{records.PARTIAL}*"))
    if not has_trained(workdir) and (
        _read_config(workdir) != settings.config or read_images(workdir)[0] != images
    ):
        stale += [path for name in _OF_AN_ATTEMPT for path in workdir.glob(name)]
    for path in stale:
        path.unlink()
    records.write_json(workdir / CONFIG, settings.config)
    if settings.data.dir:
        images = images | {_DIR: os.path.abspath(os.path.expanduser(settings.data.dir))}
    records.write_json(workdir / IMAGES, images)


def read_images(workdir: pathlib.Path) -> tuple[dict | None, str]:
    """Return the description of the images of a run, and their folder in training.

    Returns:
      (None, "") if the run directory has no description. The folder is an absolute
      path, or "" if the config names no folder.

    Raises:
      DamagedFileError: if the file is damaged.
    """
    path = workdir / IMAGES
    if not path.exists():
        return None, ""
    advice = "remove the file if the run was trained on the current images"
    description = records.read_json(path, advice)
    folder = description.pop(_DIR, "")
    return description, folder if isinstance(folder, str) else ""
