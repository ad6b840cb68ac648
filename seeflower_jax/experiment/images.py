"""Open the images of a run, and fit its whitening.

dataset = open_dataset(settings, workdir)
dataset = of_run(load_run("runs/inception_seed0"))
"""

import dataclasses
import json
import os
import pathlib

from seeflower_jax import records
from seeflower_jax.data import sources, whitening
from seeflower_jax.data.cache import open_cache
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.experiment.settings import Settings, read_settings
from seeflower_jax.inference.run import Run, load_config


def open_dataset(settings: Settings, workdir: pathlib.Path) -> Dataset:
    """Open the images that a config describes; decode them if no cache has them.

    Raises:
      ValueError: if the run was trained on images of other names, or if the source
        cannot be loaded.
    """
    source = sources.load_source(settings.data)
    path, description = workdir / "data.json", source.describe()
    if path.exists():
        trained_on = json.loads(path.read_text())
        trained_on.pop("dir", None)
        if trained_on != description:
            raise ValueError(
                f"{workdir} was trained on other images than there are now:\n"
                f"  {trained_on} then\n  {description} now\n"
                "Restore the original images, or train in another --workdir"
            )
    cache = open_cache(
        source, settings.data.shortest_side, settings.data.cache_dir or None
    )
    return Dataset(source, cache)


def of_run(run: Run) -> Dataset:
    """Open the images of a run directory.

    If the config has a relative `data.dir`, the images are looked for in the folder
    that it stood for in training, unless `load_run` got another folder.

    Raises:
      FileNotFoundError: if the images are not there; the message names --data_dir.
      ValueError: as `open_dataset`.
    """
    settings = read_settings(run.config)
    typed = load_config(run.workdir)["data"]["dir"]
    path = run.workdir / "data.json"
    recorded = json.loads(path.read_text()).get("dir") if path.exists() else None
    relative = typed and not pathlib.Path(typed).expanduser().is_absolute()
    if relative and settings.data.dir == typed and recorded and os.path.isdir(recorded):
        data = dataclasses.replace(settings.data, dir=recorded)
        settings = dataclasses.replace(settings, data=data)
    try:
        return open_dataset(settings, run.workdir)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; if the images of {run.workdir} have moved"
            f"{recorded and f' from {recorded}' or ''}, give --data_dir=DIR"
        ) from error


def claim_images(dataset: Dataset, workdir: pathlib.Path) -> None:
    """Record in a run directory which images the run is trained on, and where."""
    source = dataset.source
    description = source.describe() | ({"dir": source.folder} if source.folder else {})
    records.write_json(workdir / "data.json", description)


def fit_whitening(
    settings: Settings, dataset: Dataset, workdir: pathlib.Path
) -> whitening.Whitening | None:
    """Return the whitening of a run, None if it has none; fit it if not yet done."""
    if settings.whitening is None:
        return None
    fitted = whitening.load_from(workdir)
    if fitted is None:
        train = (dataset.cache[index] for index in dataset.indices("train"))
        fitted = whitening.fit(train, settings.seed, **vars(settings.whitening))
        fitted.save(workdir / whitening.FILE_NAME)
    return fitted
