"""Compare runs on several devices and in several processes with a run on one device.

    record = measure(pathlib.Path("runs/devices"))
    record["devices"]["4"]["difference"]        # largest difference of any metric

Each run is a separate process on forced CPU devices, so one machine can show what
several devices compute, even if it has a GPU. The batch sizes are the same as in the
recipes. The time of the runs says nothing about the speed of real devices.
"""

import contextlib
import os
import pathlib
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from seeflower_jax import records, sharding
from seeflower_jax.data.loader import THREADS, TrainLoader
from seeflower_jax.data.packed import PackedReader

DEVICES, PROCESSES = (1, 2, 4, 8), (1, 2)
# A small network on drawn flowers, in the batches of the recipes: 68 and 34 images.
RECIPE = (
    *("--config=configs/inception.py:three_stages", "--config.recipe=devices"),
    *("--config.model.name=small", "--config.init.weights="),
    *("--config.data.source=synthetic", "--config.data.split=target"),
    "--config.data.species=8",
    *("--config.data.images_per_class=(9,4,4)", "--config.data.shortest_side=48"),
    *("--config.eval.size=48", "--config.test_time.views=((48,1.0),)"),
    *("--config.stage_order=('head','finetune')", "--config.stages.head.epochs=2"),
    *("--config.stages.head.validate_every=1", "--config.stages.finetune.epochs=2"),
    "--config.stages.finetune.partition=(('head/.*',3.0),('backbone/.*',1.0))",
    *("--config.stages.finetune.augment.size=48",),
    *("--config.stages.finetune.train_batch_stats=True",),
    *("--config.stages.finetune.validate_every=1",),
)
# A step of Inception-v3, which takes long to compile.
_START_RECIPE = (
    *("--config=configs/inception.py:three_stages", "--config.init.weights="),
    *("--config.data.source=synthetic", "--config.data.split=target"),
    *("--config.data.species=8", "--config.data.images_per_class=(1,1,1)"),
    *("--config.stage_order=('finetune',)", "--config.stages.finetune.epochs=1"),
    "--config.stages.finetune.batch_size=8",
)
_LOADER_IMAGES, _LOADER_BATCH, _LOADER_BATCHES = 256, 34, 60


def measure(folder: pathlib.Path) -> dict:
    """Train all runs that are missing in a folder, and return the record.

    Raises:
      RuntimeError: if a run fails; the message has the end of its output.
    """
    devices = {count: folder / f"devices{count}" for count in DEVICES}
    processes = {count: folder / f"processes{count}" for count in PROCESSES}
    for count, run in devices.items():
        forced = f"--xla_force_host_platform_device_count={count}"
        _train([[]], run, {"XLA_FLAGS": forced})
    for count, run in processes.items():
        _train([_place(count, number) for number in range(count)], run, {})
    reference = _metrics(devices[1])
    return {
        "devices": _compare(devices, reference),
        "processes": _compare(processes, reference),
        "loader": _loader_speed(),
        "start_seconds": _start_seconds(),
    }


def _place(count: int, number: int) -> list[str]:
    """Return the flags of a process, with `{port}` in place of the port."""
    flags = ["--distributed", "--coordinator=127.0.0.1:{port}"]
    return [*flags, f"--num_processes={count}", f"--process_id={number}"]


def _train(
    flags: Sequence[Sequence[str]], folder: pathlib.Path, variables: Mapping[str, str]
) -> None:
    """Train a run in one process for each list of flags."""
    port = str(_free_port())
    with contextlib.ExitStack() as stack:
        # Files, because a full pipe would stop a process, and so all that wait for it.
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in flags]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "scripts.train", *RECIPE, f"--workdir={folder}"]
                + [flag.format(port=port) for flag in own],
                env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
            for own, log in zip(flags, logs, strict=True)
        ]
        for process, log in zip(started, logs, strict=True):
            if process.wait():
                for other in started:
                    other.kill()
                log.seek(0)
                raise RuntimeError(f"the run {folder} failed: {log.read()[-500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _metrics(folder: pathlib.Path) -> dict[str, float]:
    """Return all training and validation metrics of a run, for each epoch."""
    return {
        f"{number}.{split}.{name}": value
        for number, line in enumerate(records.read_log(folder))
        for split in ("train", "validation")
        for name, value in line[split].items()
    }


def _compare(
    folders: Mapping[int, pathlib.Path], reference: Mapping[str, float]
) -> dict[str, dict]:
    """Return, for each run, its losses and the largest differences of its metrics.

    `difference` is of the losses and accuracies, and `norm_difference` of the norms of
    gradients and updates, which gather the rounding of all parameters. A difference is
    divided by the metric of the reference where that is larger than 1.
    """
    compared = {}
    for count, folder in folders.items():
        metrics, last = _metrics(folder), records.read_log(folder)[-1]
        differences = {
            name: abs(metrics[name] - value) / max(1.0, abs(value))
            for name, value in reference.items()
        }
        norms = {name for name in differences if name.endswith("_norm")}
        compared[str(count)] = {
            "train_loss": last["train"]["loss"],
            "loss": last["validation"]["loss"],
            "difference": max(differences[k] for k in differences.keys() - norms),
            "norm_difference": max((differences[k] for k in norms), default=0.0),
        }
    return compared


class _RandomImages:
    """Images of random pixels in memory, as large as the flowers at 320 pixels."""

    def __init__(self, count: int):
        rng = np.random.default_rng(0)
        long_sides = rng.integers(320, 480, count)
        self.sizes = np.stack([np.full(count, 320), long_sides], 1).astype(np.int32)
        self._images = [
            rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in self.sizes
        ]

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._images[index]


def _loader_speed() -> dict:
    """Return the speed of the training loader, per core and by number of threads."""
    images = _RandomImages(_LOADER_IMAGES)
    indices = np.arange(_LOADER_IMAGES)
    labels = np.zeros(_LOADER_IMAGES, np.int32)
    mesh, count = sharding.make_mesh(), _LOADER_BATCH * _LOADER_BATCHES
    by_threads, per_core = {}, 0.0
    for threads in range(1, THREADS + 1):
        reader = PackedReader(images, indices)
        loader = TrainLoader(
            reader, labels, indices, _LOADER_BATCH, mesh, (0,), threads=threads
        )
        for _ in loader(0, 2 * THREADS):  # takes the memory of all buffers
            pass
        started, busy = time.perf_counter(), time.process_time()  # of all threads
        for _ in loader(0, _LOADER_BATCHES):
            pass
        by_threads[threads] = round(count / (time.perf_counter() - started), 1)
        per_core = count / (time.process_time() - busy)
    return {"images_per_second_per_core": round(per_core, 1), "threads": by_threads}


def _start_seconds() -> dict[str, float]:
    """Return the seconds from the start of training to the end of its first step.

    The second start finds the compiled functions of the first start on the disk.
    """
    variables = dict(os.environ)
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "second"):
            run = pathlib.Path(folder, name)
            flags = [f"--workdir={run}", f"--config.data.cache_dir={folder}/cache"]
            command = [sys.executable, "-m", "scripts.train", *_START_RECIPE, *flags]
            started = time.perf_counter()
            with subprocess.Popen(
                command,
                env=variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                while process.poll() is None and not records.read_log(run):
                    time.sleep(0.05)
                seconds[name] = round(time.perf_counter() - started, 1)
            if process.returncode:
                raise RuntimeError(f"the {name} start failed: {shlex.join(command)}")
    return seconds
