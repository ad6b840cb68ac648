"""Measures speed beside other frameworks, on this machine and in one run.

    python -m scripts.benchmark train
    python -m scripts.benchmark train --batch_size=32 --out=benchmark.json
    python -m scripts.benchmark attribution --networks=vgg16,runs/inception_seed0

`train` times Inception-v3's forward pass and fine-tuning step here, in Keras on JAX and
in PyTorch (torchvision's network), in images/s. `attribution` times the methods that
captum has too, in maps/s, and tells the peak of memory; a network is a run directory or
a model, whose variables are random then. Each figure is of a process of its own, in
turn, --rounds times; the table has the medians. Install the others by pip install -e
.[benchmark]; what fails is listed with its error.
"""

import json
import pathlib
import sys

from absl import app, flags

from scripts import console
from seeflower_jax import experiment
from seeflower_jax.comparison import timing, training_speed

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_SIZE = flags.DEFINE_integer("size", 299, "Side of the images of `train`.", 75)
_STEPS = flags.DEFINE_integer("steps", 4, "Timed steps a round.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each process is started.", 1)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of the computation of `train`."
)
_NETWORKS = flags.DEFINE_list(
    "networks", ["vgg16", "inception_v3"], "Of `attribution`: models, run directories."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write the figures to.")
_WORKER = flags.DEFINE_string("worker", None, "Measures only this, in this process.")


def _train(worker: str | None) -> dict:
    if worker:
        return training_speed.measure(
            worker, _BATCH_SIZE.value, _SIZE.value, _STEPS.value, _DTYPE.value
        )
    figures = _in_processes(list(training_speed.FRAMEWORKS))
    print(f"{'images/s':16}{'forward':>10}{'finetune':>10}")
    for framework, rates in figures.items():
        if isinstance(rates, str):
            print(f"{framework:16}{rates}")
        else:
            print(f"{framework:16}{rates['forward']:10.2f}{rates['finetune']:10.2f}")
    return {"images_per_second": figures}


def _attribution(worker: str | None) -> dict:
    from seeflower_jax.comparison import attribution_speed

    if worker:
        network, side, method = worker.rsplit(":", 2)
        return attribution_speed.measure(
            network, side, method, _BATCH_SIZE.value, _STEPS.value
        )
    measured = _in_processes(attribution_speed.workers(_NETWORKS.value))
    networks = attribution_speed.table(measured)
    for network, own in networks.items():
        print(f"{network}\n{'maps/s':24}{'here':>10}{'captum':>10}")
        pairs = {
            "forward": [
                own.get(f"{side}forward_images_per_second") for side in ("", "captum_")
            ]
        } | {
            name: [found.get(f"{side}maps_per_second") for side in ("", "captum_")]
            for name, found in own["methods"].items()
        }
        for name, pair in pairs.items():
            here, captum = ("failed" if v is None else f"{v:.2f}" for v in pair)
            print(f"{name:24}{here:>10}{captum:>10}")
    return {"batch_size": _BATCH_SIZE.value, "networks": networks}


def _in_processes(workers: list[str]) -> dict:
    command = ["-m", "scripts.benchmark", *sys.argv[1:]]
    return timing.in_processes(command, workers, _ROUNDS.value)


def main(argv) -> None:
    commands = {"train": _train, "attribution": _attribution}
    if len(argv) != 2 or argv[1] not in commands:
        raise app.UsageError(f"expected 'train' or 'attribution', got {argv[1:]}")
    figures = commands[argv[1]](_WORKER.value)
    if _WORKER.value:
        print(json.dumps(figures))
    elif _OUT.value:
        path = pathlib.Path(_OUT.value).expanduser()
        record = figures | experiment.provenance(experiment.typed_command())
        experiment.write_json(path, record)


if __name__ == "__main__":
    console.run(main)
