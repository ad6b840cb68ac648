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
from seeflower_jax.experiment import teacher
from seeflower_jax.experiment.settings import Settings, derive, pretraining_of
from seeflower_jax.pretrained import loading
from seeflower_jax.training.checkpoint import Checkpoints

CONFIG, IMAGES = "config.json", "data.json"  # file names in a run directory
_DIR = "dir"  # the key of the folder of the images in `IMAGES`
_PRETRAINING = "init.pretraining."  # the start of the keys of the pretraining run
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

    The run then continues on another kind of device in the type in which it began. A
    directory in which nothing has been trained has no type.
    """
    values = records.to_dict(config)
    model = values.get("model")
    if not isinstance(model, dict) or model.get("dtype") != "auto":
        return config
    begun = [workdir]  # the main run, or before it the pretraining of the same type
    changes = {k: v for k, v in records.flat(values) if k.startswith(_PRETRAINING)}
    if changes and f"{_PRETRAINING}model.dtype" not in changes:
        begun.append(workdir / records.PRETRAINING)
    trained = (_read_config(folder) or {} for folder in begun if has_trained(folder))
    recorded = next(trained, {}).get("model", {})
    return {**values, "model": {**model, "dtype": recorded.get("dtype", "auto")}}


def check_workdir(workdir: pathlib.Path, settings: Settings) -> None:
    """Raise an error if a run directory holds a run of another config.

    Further stages are allowed. So are other test-time views, unless a stage solved the
    head on these views (`all_views`). Files may move, but their content must stay the
    same. Every change is allowed if nothing has been trained.

    Raises:
      ValueError: if other values differ; the message lists them. Also if weights or
        logits of a teacher have another path and another content.
      FileNotFoundError: if such a path does not exist.
      DamagedCheckpointError: if the checkpoint is damaged.
    """
    meta = _last_meta(workdir)
    if meta is None:
        if (workdir / "checkpoints" / "best").is_dir():
            raise ValueError(
                f"{workdir} holds a run of version 0.1; give another --workdir"
            )
        return
    before = _read_config(workdir)
    if before is not None:
        _check_config(workdir, before, settings)
    elif meta["config_hash"] != settings.config_hash:
        raise ValueError(
            f"{workdir / CONFIG} is missing or damaged, and the checkpoint is of "
            f"another config, {meta['config_hash']} there, "
            f"{settings.config_hash} now; give another --workdir, or the same "
            "config to resume that run"
        )
    else:
        logging.warning("%s is written again", workdir / CONFIG)
    _check_files(workdir, before, settings, meta)


def _check_config(workdir: pathlib.Path, before: dict, settings: Settings) -> None:
    """Raise an error if values differ that must stay the same.

    Args:
      workdir: the run directory.
      before: the config of the run directory.
      settings: settings of the run now.
    """
    after = settings.config
    old, new = dict(records.flat(before)), dict(records.flat(after))
    runs = {"": settings}
    first = pretraining_of(settings)
    # A pretraining may neither appear nor disappear.
    if first and any(key.startswith(_PRETRAINING) for key in old):
        runs[_PRETRAINING] = first
    free = set()
    for prefix, run in runs.items():
        local = {f"{prefix}{section}.{key}" for section, key in records.LOCAL_KEYS}
        if run.data.source == "folder":  # another folder holds other images
            local.remove(f"{prefix}data.dir")
        free |= local
    trained = before["stage_order"]
    if after["stage_order"][: len(trained)] == trained:
        free.add("stage_order")
        free |= {key for key in new if key.startswith("stages.") and key not in old}
    if not any(old.get(f"stages.{name}.all_views") for name in trained):
        free |= {key for key in new if key.startswith("test_time.")}
    differing = "; ".join(
        f"config.{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old | new)
        if old.get(key, ...) != new.get(key, ...) and key not in free
    )
    if differing:
        raise ValueError(
            f"{workdir} holds a run of another config: {differing}; give another "
            "--workdir, or the same config to resume that run"
        )


def _check_files(
    workdir: pathlib.Path, before: dict | None, settings: Settings, meta: Mapping
) -> None:
    """Raise an error if weights or a teacher have another path and another content.

    A file at its recorded path is not read, because a finished run does not need it.

    Args:
      workdir: the run directory.
      before: the config of the run directory; None if it is lost.
      settings: settings of the run now.
      meta: `meta` of the last checkpoint.
    """
    weights_before = logits_before = first_logits_before = None
    if before is not None:
        derived = derive(before, before["init"]["pretraining"])
        weights_before = derived["init"]["weights"]
        logits_before = before["distillation"]["logits"]
        first_logits_before = derived.get("distillation", {}).get("logits", "")
    first = pretraining_of(settings) or settings  # the run that loads the weights
    started = meta if first is settings else _last_meta(workdir / records.PRETRAINING)
    if first.weights != weights_before and started and "weights" in started:
        _, _, weights = loading.load_pretrained(
            first.spec(num_classes=2),
            first.weights,
            preprocess=first.model_changes.get("preprocess"),
        )
        check_weights(workdir, started["weights"], weights)
    taught = [(settings, meta, logits_before)]
    if first is not settings and started:
        taught.append((first, started, first_logits_before))
    for run, begun, logits in taught:
        if run.teacher != logits and "teacher" in begun:
            sha256 = teacher.file_hash(run.teacher) if run.teacher else None
            check_teacher(workdir, begun["teacher"], sha256)


def check_weights(workdir: pathlib.Path, before: Mapping, now: Mapping) -> None:
    """Raise an error if a run was started with other weights.

    Args:
      workdir: the run directory.
      before: the record of the weights in the checkpoint, see `WeightRecord`.
      now: the record of the weights now. A file may have another name. Weights without
        a SHA-256 are random, or come from a pretraining.
    """
    if (before["sha256"] or before) != (now["sha256"] or now):
        raise ValueError(
            f"{workdir} was started with {_name(before)}, not {_name(now)}; give the "
            "same config.init.weights to resume that run, or another --workdir"
        )


def _name(weights: Mapping) -> str:
    """Return a name of weights for errors."""
    if weights["name"] is None:
        return "random weights"
    return f"the weights {weights['name']} (SHA-256 {weights['sha256']})"


def check_teacher(workdir: pathlib.Path, before: str | None, now: str | None) -> None:
    """Raise an error if a run was started with another teacher.

    Args:
      workdir: the run directory.
      before: the SHA-256 of the teacher in the checkpoint; None without a teacher.
      now: the SHA-256 of the teacher now.
    """
    if before != now:
        raise ValueError(
            f"{workdir} was started with a teacher of SHA-256 {before}, not {now}; "
            "give the same config.distillation.logits to resume that run, or another "
            "--workdir"
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
