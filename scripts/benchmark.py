"""Measure the speed and compare it with other frameworks.

    python -m scripts.benchmark train --out=benchmark.json
    python -m scripts.benchmark attribution --networks=vgg16,inception_v3

`train` measures the images/s of Inception-v3's forward pass and fine-tuning step in
this project, in Keras on JAX and in PyTorch, in float32 and bfloat16. On a GPU, it also
measures compiled PyTorch. On CPUs, torch_compiled needs a C++ compiler. In this
project, the pass `train` is a step as in training. `augmented` is the same step on one
fixed batch, so their difference is the cost of the input. `attribution` measures the
maps/s and the peak memory of the methods that captum also has. A network is a model
with random variables, or a run directory with a linear head on means of whole blocks,
as of the recipes three_stages and two_stages. Each measurement runs in a separate
process. In `attribution`, the timed calls alternate between both frameworks. All
measurements are repeated --rounds times, those of `train` in new processes, and the
table has the fastest. Failed measurements are listed with their errors. `pip install -e
.[peers]` installs the other frameworks.
"""

import json
import sys

from absl import app, flags

from scripts import console
from seeflower_jax import hints, records
from seeflower_jax.comparison import attribution_speed, timing, training_speed

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_SIZE = flags.DEFINE_integer("size", 299, "Side of the images of `train`.", 75)
_STEPS = flags.DEFINE_integer("steps", 4, "Timed steps a round, at least.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Repetitions of each measurement.", 1)
_FRAMEWORKS = flags.DEFINE_multi_enum(
    "framework",
    None,
    list(training_speed.FRAMEWORKS),
    "A framework of `train`; repeatable. By default all, but none compiled on CPUs.",
)
_DTYPE = flags.DEFINE_enum("dtype", None, training_speed.DTYPES, "Dtype of `train`.")
_PLATFORM = flags.DEFINE_enum(
    "platform", None, ["cpu", "gpu"], "The platform, by default a GPU if there is one."
)
_NETWORKS = flags.DEFINE_list(
    "networks", ["vgg16", "inception_v3"], "Models or run directories of `attribution`."
)
_METHODS = flags.DEFINE_list("methods", [], "Methods of `attribution`; or all.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write the results to.")
_WORKER = flags.DEFINE_string("worker", None, "Measure only this, in this process.")
flags.register_validator(
    "networks", attribution_speed.are_different, "expected different networks"
)
flags.register_validator("out", lambda path: path != "", "expected a JSON file")


def _train() -> tuple[dict, str]:
    workers = training_speed.select(_FRAMEWORKS.value, _DTYPE.value)
    rates = _in_processes(workers, _ROUNDS.value)
    return {"images_per_second": rates}, training_speed.text(rates)


def _attribution() -> tuple[dict, str]:
    workers = attribution_speed.workers(_NETWORKS.value, _METHODS.value)
    networks = attribution_speed.table(_in_processes(workers, 1, together=2))
    figures = {"batch_size": _BATCH_SIZE.value, "networks": networks}
    return figures, attribution_speed.text(networks)


def _measure(command: str, worker: str) -> dict:
    batch_size, steps = _BATCH_SIZE.value, _STEPS.value
    if command == "train":
        return training_speed.measure(worker, batch_size, _SIZE.value, steps)
    return attribution_speed.measure(worker, batch_size, steps, _ROUNDS.value)


def _in_processes(workers: list[str], rounds: int, together: int = 1) -> dict:
    command = ["-m", "scripts.benchmark", *sys.argv[1:]]
    return timing.in_processes(command, workers, rounds, together)


COMMANDS = {"train": _train, "attribution": _attribution}
TAKES = " or ".join(map(repr, COMMANDS))


def main(argv) -> None:
    if (given := " ".join(argv[1:])) not in COMMANDS:
        hint = hints.did_you_mean(given, COMMANDS)
        raise app.UsageError(f"expected {TAKES}, got {given!r}{hint}")
    if _WORKER.value:
        print(json.dumps(_measure(argv[1], _WORKER.value)))
        return
    timing.use_platform(_PLATFORM.value)
    figures, text = COMMANDS[argv[1]]()
    if _OUT.value:
        records.write_measurements(_OUT.value, figures)
    console.show(figures, text)


if __name__ == "__main__":
    console.run(main, TAKES)
