"""Open the images and the teacher of a run, and check that its stages fit them.

inputs = open_inputs(settings, workdir)
inputs.dataset, inputs.teacher

A run does this before its pretraining, so that no error comes after hours of training.
"""

import dataclasses
import pathlib

from seeflower_jax import records, sharding
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.resident import is_resident
from seeflower_jax.experiment import images, teacher
from seeflower_jax.experiment.settings import Settings, SettingsError
from seeflower_jax.experiment.stage_plans import train_loader
from seeflower_jax.sharding import processes


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """The images of a run, and its teacher or None."""

    dataset: Dataset
    teacher: teacher.Teacher | None


def open_inputs(settings: Settings, workdir: pathlib.Path) -> Inputs:
    """Open the images and the teacher of a run.

    Raises:
      ValueError: if they do not fit the stages or the run directory, or if they differ
        among the processes.
      FileNotFoundError: if the images or the logits of the teacher do not exist.
    """
    processes.check_same("configs", f"hash {records.config_hash(settings.config)}")
    with processes.main_first("images"):
        dataset = images.open_dataset(settings, workdir)
    same = dataset.source.describe() | {"content": dataset.content_hash}
    processes.check_same("images", same)
    _check_stages(settings, dataset)
    taught = teacher.read(settings.teacher, dataset) if settings.teacher else None
    processes.check_same("logits of a teacher", taught and f"SHA-256 {taught.sha256}")
    return Inputs(dataset, taught)


def _check_stages(settings: Settings, dataset: Dataset) -> None:
    """Raise an error if stages do not fit the number of classes or of images."""
    count = len(dataset.source.class_names)
    if settings.metric == "top5" and count <= 5:
        raise SettingsError(
            "config.metric is 'top5'; expected another metric, because "
            f"{dataset.source.name} has only {count} classes, so top5 is always 1"
        )
    # The loader and `is_resident` raise the errors.
    for stage in settings.stages:
        if stage.solver == "gradient":
            train_loader(stage, settings, dataset, dataset.reader)
    if any(stage.augmentation and not stage.draws for stage in settings.stages):
        choice, indices = settings.data.on_device, dataset.indices("train")
        is_resident(choice, dataset.cache, indices, sharding.make_mesh())
