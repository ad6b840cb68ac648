"""Write a trained network as a folder that predicts without the training code.

    python -m scripts.export --workdir=runs/inception_seed0 --out=flowers
    python -m scripts.predict --export=flowers IMAGE...

The folder holds model.stablehlo (for any batch size, on CPU and GPU),
parameters.safetensors and model.json: the ModelSpec, the view, the class names, the
temperature of calibrated probabilities and the metrics of the run. If the run whitens
images, the folder also has whitening.npz.
"""

from absl import flags

from scripts import console
from seeflower_jax.inference import export
from seeflower_jax.inference.run import load_run

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "The new folder to write.", required=True)
flags.register_validator("out", lambda path: path != "", "expected a path")


def main(_: list[str]) -> None:
    run = load_run(_WORKDIR.value)
    keys = ("validation", "test", "weights")
    metrics = {key: run.result[key] for key in keys if key in run.result}
    export.save(_OUT.value, run.network, metrics)
    console.show({"out": _OUT.value, **metrics}, _OUT.value)


if __name__ == "__main__":
    console.run(main)
