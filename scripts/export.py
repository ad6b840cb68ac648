"""Writes a trained network as a folder that needs none of the training code.

    python -m scripts.export --workdir=runs/inception_seed0 --out=flowers
    python -m scripts.predict --export=flowers IMAGE...

The folder holds model.stablehlo (any batch size, CPU and GPU), parameters.safetensors
and model.json with the ModelSpec, the class names, the temperature of calibrated
probabilities and the run's metrics.
"""

import pathlib
import shutil

from absl import flags

from scripts import console
from seeflower_jax import experiment, exported, records
from seeflower_jax.data import whitening

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder to make.", required=True)


def main(_) -> None:
    run = experiment.load_run(_WORKDIR.value)
    result = records.read_result(run.workdir)
    metrics = {k: result[k] for k in ("validation", "test", "weights") if k in result}
    exported.save(_OUT.value, run, metrics)
    if (fitted := run.workdir / whitening.FILE_NAME).exists():
        shutil.copy(fitted, pathlib.Path(_OUT.value).expanduser())
    console.show({"out": _OUT.value, **metrics}, _OUT.value)


if __name__ == "__main__":
    console.run(main)
