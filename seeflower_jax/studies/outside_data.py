"""Measure what outside images add, on drawn flowers.

    rows = measure(config, out="runs/outside_data", species=(0, 48), seeds=(0, 1, 2))
    record(rows, config, (0, 1, 2), "results", command)
    load("results")["outside_species"]

Each row has a number of outside species. The network is pretrained on these species and
then trained in two stages on other species. The row with 0 outside species trains the
same network from scratch for about the same time.

Source: the See-Flower paper, section 5, proposes outside data.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from seeflower_jax import records
from seeflower_jax.experiment import precision
from seeflower_jax.experiment.settings import derive, read_settings
from seeflower_jax.experiment.train import train


def configs(config: Mapping, species: int, seed: int) -> dict:
    """Return the config of a run.

    Args:
      config: config such as configs/quickstart.py. Its section `quickstart` describes
        the training from scratch.
      species: number of outside species; 0 is no outside data.
      seed: seed of the run and of the drawn images.
    """
    values = records.to_dict(config)
    changes: dict = {"seed": seed, "data": {"seed": seed}}
    if species:
        pretraining = values["init"]["pretraining"]
        data = {**pretraining["data"], "species": species}
        changes["init"] = {"pretraining": {**pretraining, "data": data}}
    else:
        changes |= values["quickstart"]["scratch"]
    return derive(config, changes)


def measure(
    config: Mapping,
    out: str | os.PathLike,
    species: Sequence[int],
    seeds: Sequence[int],
    command: str = "",
) -> dict[str, dict]:
    """Train all runs, and return their test top-1; finished runs are only read.

    Args:
      config, species, seeds: arguments of `configs`.
      out: the folder of the run directories.
      command: command line, for the records of the runs.

    Returns:
      {species: {"top1": [...], "mean": ..., "seconds": [...]}} with a value for each
      seed. `seconds` is the time of the training and the pretraining.
    """
    rows = {}
    for count in species:
        results, seconds = [], []
        for seed in seeds:
            folder = pathlib.Path(out).expanduser() / f"species{count}_seed{seed}"
            results.append(train(configs(config, count, seed), folder, command))
            seconds.append(records.training_seconds_with_pretraining(results[-1]))
        top1 = [result["test"]["top1"] for result in results]
        rows[str(count)] = {
            "top1": top1,
            "mean": float(np.mean(top1)),
            "seconds": [round(value, 1) for value in seconds],
        }
    return rows


def record(
    rows: Mapping[str, Mapping],
    config: Mapping,
    seeds: Sequence[int],
    folder: str | os.PathLike,
    command: str,
) -> pathlib.Path:
    """Write the rows to `outside_data.json` of a folder of results; return its path."""
    path = pathlib.Path(folder).expanduser() / "outside_data.json"
    content = {"outside_species": rows, "seeds": list(seeds)}
    with precision.of_products(read_settings(config).device.matmul_precision):
        records.write_json(path, {**content, **records.provenance(command)})
    return path


def load(folder: str | os.PathLike) -> dict:
    """Read `outside_data.json` of a folder of results; {} if there is none.

    Raises:
      DamagedFileError: if the file is damaged.
    """
    path = pathlib.Path(folder).expanduser() / "outside_data.json"
    advice = "restore it, or write it again with scripts.outside_data --results"
    return records.read_sections(path, {"outside_species": dict, "seeds": list}, advice)
