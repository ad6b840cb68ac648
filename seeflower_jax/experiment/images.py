"""Open the images of a run, and fit its whitening.

dataset = open_dataset(settings, workdir)
dataset = of_run(load_run("runs/inception_seed0"))
"""

import dataclasses
import logging
import os
import pathlib

from seeflower_jax import records
from seeflower_jax.data import sources, whitening
from seeflower_jax.data.cache import open_cache
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.source import ImageSource
from seeflower_jax.experiment.settings import Settings, settings_of
from seeflower_jax.experiment.workdir import has_trained, read_images
from seeflower_jax.inference.run import Run, load_config
from seeflower_jax.sharding import processes


def open_source(settings: Settings, workdir: pathlib.Path) -> ImageSource:
    """Open the list of images that a config describes, without decoding them.

    Raises:
      ValueError: if the run was trained on images with other names, or if the source
        cannot be loaded.
    """
    source = sources.load_source(settings.data)
    if has_trained(workdir):
        trained_on, description = read_images(workdir)[0], source.describe()
        if trained_on not in (None, description):
            raise ValueError(
                f"{workdir} was trained on other images: "
                f"{trained_on} then, {description} now; restore the original images, "
                "or train in another --workdir"
            )
    return source


def identities(source: ImageSource, *splits: str) -> set[tuple[str, str]]:
    """Return the folder and the name of each image of the splits that exist."""
    return {
        (source.folder, source.keys[index])
        for split in splits
        for index in source.splits.get(split, ())
    }


def check_apart(before: ImageSource, source: ImageSource) -> None:
    """Raise an error if a pretraining trains on images that measure the run.

    Args:
      before: the images of the pretraining.
      source: the images of the run.
    """
    measured = identities(source, "validation", "test")
    if shared := identities(before, "train") & measured:
        raise ValueError(
            f"config.init.pretraining trains on {len(shared)} validation and test "
            f"images of the run, such as {min(shared)[1]}; expected none, because the "
            "network must not have seen them; give the pretraining the data.split of "
            "the run, or other images"
        )


def located(settings: Settings, workdir: pathlib.Path) -> Settings:
    """Return the settings of a run with the folder of its images in training.

    A relative `data.dir` then means the same folder as in training. A folder that is
    not the folder of the run's config.json stays.
    """
    recorded = read_images(workdir)[1]
    if not os.path.isdir(recorded):
        return settings
    if settings.data.dir != load_config(workdir)["data"].get("dir"):
        return settings
    data = dataclasses.replace(settings.data, dir=recorded)
    return dataclasses.replace(settings, data=data)


def open_dataset(settings: Settings, workdir: pathlib.Path) -> Dataset:
    """Open the images that a config describes; decode them if no cache has them.

    Raises:
      ValueError: as `open_source`.
    """
    source = open_source(settings, workdir)
    cache = open_cache(
        source, settings.data.shortest_side, settings.data.cache_dir or None
    )
    return Dataset(source, cache)


def of_run(run: Run) -> Dataset:
    """Open the images of a run directory.

    A relative `data.dir` of the config means the same folder as in training, unless
    `load_run` got another folder.

    Raises:
      FileNotFoundError: if the images do not exist; the message names --data_dir.
      ValueError: as `open_dataset`.
    """
    settings = located(settings_of(run), run.workdir)
    try:
        with processes.main_first("images"):
            return open_dataset(settings, run.workdir)
    except FileNotFoundError as error:
        recorded = read_images(run.workdir)[1]
        moved = f" from {recorded}" if recorded else ""
        raise FileNotFoundError(
            f"{error}; if the images of {run.workdir} have moved{moved}, pass their "
            "folder as --data_dir"
        ) from error


def fit_whitening(
    settings: Settings, dataset: Dataset, workdir: pathlib.Path
) -> whitening.Whitening | None:
    """Return the whitening of a run, fitted if necessary; None if the run has none."""
    if settings.whitening is None:
        return None
    try:
        fitted = whitening.load_from(workdir)
    except records.DamagedFileError as error:
        logging.warning("%s; it is fitted again", error)
        fitted = None
    if fitted is None:
        train = (dataset.cache[index] for index in dataset.indices("train"))
        fitted = whitening.fit(train, settings.seed, **vars(settings.whitening))
        fitted.save(workdir / whitening.FILE_NAME)
    return fitted
