"""Define what each of two processes does in the tests of `sharding.processes`.

python -m tests.together CASE FOLDER PORT --process_id=NUMBER
"""

import dataclasses
import os
import pathlib
import signal
import sys
from collections.abc import Callable

import jax
import numpy as np

from seeflower_jax import sharding
from seeflower_jax.experiment import kept
from seeflower_jax.sharding import processes


def work(folder: pathlib.Path) -> None:
    """Call every function; print the values that must agree in all processes."""
    processes.check_shared(folder)
    processes.check_same("values", {"equal": [1, 2]})
    path = folder / "file"
    with processes.main_first("file"):
        if processes.is_main():
            path.write_text("of process 0")
        seen = path.read_text()
    vote = processes.Vote()
    votes = [vote(processes.index() == 1 and round == 1, False) for round in range(4)]
    with processes.alone():
        own_mesh = sharding.make_mesh()
        own = own_mesh.size, processes.count(), processes.is_main()
        if processes.index() == 0:  # The other process does not take part.
            rows = sharding.shard_batch({"rows": jax.numpy.arange(2)}, own_mesh)
            fetched = sharding.fetch(rows["rows"], own_mesh)
            assert fetched.tolist() == [0, 1]
    mesh = sharding.make_mesh()
    batch = sharding.shard_batch(
        {"rows": sharding.fill(jax.numpy.arange(3), 4, mesh)}, mesh
    )
    everywhere = jax.jit(lambda rows: rows + 0, out_shardings=sharding.replicated(mesh))
    rows = everywhere(batch["rows"])
    processes.barrier("end of work")
    print(
        seen,
        processes.agree(processes.index()),
        processes.on_main(os.getpid) == os.getpid(),
        votes,
        own,
        mesh.size,
        jax.device_get(rows).tolist(),
        sharding.fetch(batch["rows"], mesh).tolist(),
        processes.agree_on_arrays(jax.numpy.full(2, processes.index())).tolist(),
    )


def fail(folder: pathlib.Path) -> None:
    """Fail in process 1, while process 0 waits at a barrier."""
    if not processes.is_main():
        processes.fail("the disk is full", 1)
    processes.barrier("never")


def die(folder: pathlib.Path) -> None:
    """Kill process 1, while process 0 waits at a barrier."""
    if not processes.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    processes.barrier("never")


def separate(folder: pathlib.Path) -> None:
    """Give each process a different folder."""
    own = folder / str(processes.index())
    _fail_on_error(lambda: processes.check_shared(own))
    processes.barrier("never")


def keep(folder: pathlib.Path) -> None:
    """Keep rows whose origin differs."""
    rows, origin = np.eye(2, dtype=np.float32), f"process {processes.index()}"
    for function, name in ((kept.logits, "rows.npz"), (kept.features, "rows.npy")):
        for _ in range(2):
            content = function(folder / name, origin, 2, lambda first: [rows[first:]])
            print(content.tolist())


def differ(folder: pathlib.Path) -> None:
    """Have another value in process 1."""
    _fail_on_error(lambda: processes.check_same("numbers", processes.index()))


def other_config(folder: pathlib.Path) -> None:
    """Train with another seed in process 1."""
    _train(folder, seed=processes.index())


def other_images(folder: pathlib.Path) -> None:
    """Train on more images in process 1."""
    from seeflower_jax.experiment import images

    open_dataset = images.open_dataset

    def open_other(settings, workdir):
        per_class = (4 + processes.index(), 1, 1)
        data = dataclasses.replace(settings.data, images_per_class=per_class)
        return open_dataset(dataclasses.replace(settings, data=data), workdir)

    images.open_dataset = open_other
    _train(folder)


def other_pixels(folder: pathlib.Path) -> None:
    """Evaluate a run on images that have another content in process 1."""
    from seeflower_jax.data import synthetic
    from seeflower_jax.experiment import evaluate
    from seeflower_jax.inference.run import load_run

    _train(folder)
    if not processes.is_main():
        load = synthetic.load
        synthetic.load = lambda split, species, per_class, seed: load(
            split, species, per_class, seed + 1
        )
    _fail_on_error(lambda: evaluate.evaluate(load_run(folder / "run"), "test"))


def other_weights(folder: pathlib.Path) -> None:
    """Train from weights of another file in process 1."""
    from seeflower_jax.pretrained import loading

    load = loading.load_pretrained

    def load_other(*arguments, **options):
        spec, variables, record = load(*arguments, **options)
        return spec, variables, record | {"sha256": f"of {processes.index()}"}

    loading.load_pretrained = load_other
    _train(folder)


def _train(folder: pathlib.Path, seed: int = 0) -> None:
    """Train the network `small` on drawn images."""
    # These imports take seconds, and the other cases do not need them.
    from seeflower_jax.experiment.train import train
    from tests import tiny_config

    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(source="synthetic", split="target", species=2)
    config.data.images_per_class = (4, 1, 1)
    config.seed = seed
    config.data.cache_dir = str(folder / f"cache{processes.index()}")
    _fail_on_error(lambda: train(config, folder / "run"))


def _fail_on_error(function: Callable[[], object]) -> None:
    """Call a function; a ValueError ends all processes, as in a script."""
    try:
        function()
    except ValueError as error:
        processes.fail(str(error), 1)


if __name__ == "__main__":
    case, folder, port, process = sys.argv[1:]
    processes._HEARTBEAT_SECONDS, processes._SHARED_SECONDS = 4, 1.0
    number = int(process.removeprefix("--process_id="))
    processes.initialize(f"127.0.0.1:{port}", 2, number)
    with processes.ending_together():
        globals()[case](pathlib.Path(folder))
