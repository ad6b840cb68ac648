r"""Measure how fast maps of many images are written, compared with computing them.

    python -m scripts.benchmark_maps --workdirs=runs/inception_seed0 --images=photos/
    python -m scripts.benchmark_maps --workdirs=runs/inception_seed0 --images=photos/ \
        --count=10000 --rounds=1 --out=maps_speed.json

For each run, the script computes the Grad-CAM maps of one batch again and again. Then
it does what scripts.attribute --overlays does with --count images: it reads them,
computes maps, and writes maps, boxes and overlays. The files go to a temporary folder,
which is deleted at the end. At last, it computes the maps of one batch again, because
the speed of a machine may change within minutes. The parts run in separate processes,
which take turns for --rounds rounds. The table has the fastest round, and the peak
memory after 512 images and after all.
"""

import json
import sys

from absl import flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.comparison import timing
from seeflower_jax.studies import maps_speed

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Run directories.", required=True)
_IMAGES = flags.DEFINE_string(
    "images", None, "A folder, a pattern or a .txt list.", required=True
)
_COUNT = flags.DEFINE_integer("count", 2048, "Images; fewer are repeated.", 768)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_STEPS = flags.DEFINE_integer(
    "steps", 20, "Timed batches of the computation, before and after.", 1
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Repetitions of each measurement.", 1)
_OUT = flags.DEFINE_string("out", None, "JSON file to write the results to.")
_WORKER = flags.DEFINE_string("worker", None, "Measure only this, in this process.")
flags.register_validator("out", lambda path: path != "", "expected a JSON file")


def main(_: list[str]) -> None:
    sizes = {"images": _COUNT.value, "batch_size": _BATCH_SIZE.value}
    if _WORKER.value:
        measured = maps_speed.measure(
            _WORKER.value,
            _IMAGES.value,
            _COUNT.value,
            _BATCH_SIZE.value,
            _STEPS.value,
        )
        print(json.dumps(measured))
        return
    runs = _WORKDIRS.value
    command = ["-m", "scripts.benchmark_maps", *sys.argv[1:]]
    measured = timing.in_processes(command, maps_speed.workers(runs), _ROUNDS.value)
    rows = maps_speed.table(measured, runs)
    record = sizes | {"runs": rows}
    if _OUT.value:
        records.write_measurements(_OUT.value, record)
    console.show(record, maps_speed.text(rows))


if __name__ == "__main__":
    console.run(main)
