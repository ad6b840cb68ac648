"""Open the images of a run, and fit its whitening.

dataset = open_dataset(settings, workdir)
dataset = of_run(load_run("runs/inception_seed0"))
"""

import json
import pathlib

from seeflower_jax import records
from seeflower_jax.data import sources, whitening
from seeflower_jax.data.cache import open_cache
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.experiment.settings import Settings, read_settings
from seeflower_jax.inference.run import Run


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
    """Open the images of a run directory."""
    return open_dataset(read_settings(run.config), run.workdir)


def claim_images(dataset: Dataset, workdir: pathlib.Path) -> None:
    """Record in a run directory which images the run is trained on."""
    records.write_json(workdir / "data.json", dataset.source.describe())


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
