"""Compare runs on 1, 2, 4 and 8 devices, and in 1 and 2 processes.

    python -m scripts.devices --out=runs/devices --results=results

The script forces JAX to split the CPU into several devices. It trains a small network
on drawn flowers in each way. It writes devices.json, with the losses and the largest
differences from the run on one device. The file also has the speed of the training
loader for random images, and the time until the first training step of Inception-v3, of
a first and of a second start. Finished runs in OUT are only read.
"""

import pathlib

from absl import flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.studies import devices

_OUT = flags.DEFINE_string("out", "runs/devices", "The folder of the runs.")
_RESULTS = flags.DEFINE_string("results", "results", "The folder of recorded results.")


def main(_: list[str]) -> None:
    result = devices.measure(pathlib.Path(_OUT.value).expanduser())
    records.write_measurements(f"{_RESULTS.value}/devices.json", result)
    lines = [
        f"{count} {kind}: loss {run['loss']:.6f}, difference {run['difference']:.1e}"
        for kind in ("devices", "processes")
        for count, run in result[kind].items()
    ]
    speed = result["loader"]["images_per_second_per_core"]
    lines.append(f"loader: {speed} images/s per core")
    start = result["start_seconds"]
    lines.append(f"first step: {start['first']} s, second start {start['second']} s")
    console.show(result, "\n".join(lines))


if __name__ == "__main__":
    console.run(main)
