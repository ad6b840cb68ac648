"""Train steps on meshes of several sizes, in a process with several forced devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.devices 1,4 7 1

The arguments are the numbers of devices, the size of a batch, and the number of its
parts. This prints a JSON object: for each number of devices, the metrics and the
parameters after two steps, and the loops in which devices wait for each other. Several
devices keep the images in their memory.
"""

import json
import re
import sys

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from seeflower_jax import models, sharding
from seeflower_jax.data import resident
from seeflower_jax.data.augmentation import Augmentation
from seeflower_jax.data.loader import TrainLoader, to_canvas
from seeflower_jax.data.view import View
from seeflower_jax.training import step
from seeflower_jax.training.plan import Batches
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.state import create_state

_CLASSES, _STEPS = 5, 2


class _Images(list):
    """Images in memory, by index."""

    def __init__(self, images: list, sizes: np.ndarray):
        super().__init__(images)
        self.sizes = sizes.astype(np.int32)


def _waiting_loops(program: str) -> list[str]:
    """Return the loops of a compiled program that have collective operations."""
    computations = dict(re.findall(r"^%(\S+) \(.*?{\n(.*?)^}", program, re.M | re.S))
    loops = re.findall(r"(?:body|condition)=%([^\s,]+)", program)
    waits = re.compile(r"all-(reduce|gather|to-all)|collective-permute|reduce-scatter")
    return [name for name in loops if waits.search(computations[name])]


def train(devices: int, batch_size: int = 7, accum_steps: int = 1) -> dict:
    """Return the metrics of each step, and the parameters and statistics at the end."""
    rng = np.random.default_rng(0)
    count = max(20, batch_size + 4)
    images = list(rng.integers(0, 256, (count, 36, 36, 3)).astype(np.uint8))
    labels = rng.integers(0, _CLASSES, len(images)).astype(np.int32)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    host = TrainLoader(
        lambda indices: to_canvas([images[i] for i in indices], 36, 36),
        labels,
        np.arange(len(images)),
        batch_size,
        mesh,
        seed=(0, 1),
    )
    batches: Batches = host
    if devices > 1:
        source = _Images(images, np.array([image.shape[:2] for image in images]))
        store = resident.put(source, host.indices, mesh)
        batches = resident.ResidentLoader(host, store)
    stage = Stage(
        name="finetune",
        index=0,
        epochs=1,
        batch_size=batch_size,
        accum_steps=accum_steps,
        rules=((".*", 1.0),),
        learning_rate=0.1,
        view=View(size=24, shortest_side=36),
        augmentation=Augmentation(size=24, oversampling=1, mixup=0.2, cutmix=1.0),
        train_batch_stats=True,
    )
    spec = models.get_spec("small", num_classes=_CLASSES, width=0.25, dropout=0.2)
    optimizer = optax.sgd(0.1)
    variables = models.init(spec, jax.random.key(0))
    state = sharding.replicate(create_state(variables, stage, optimizer), mesh)
    take = step.make_image_step(spec, stage, optimizer)
    take = step.compile_step(take, batch_size, mesh)
    taken, metrics = list(batches(0, _STEPS)), []
    take = take.lower(state, taken[0], jax.random.key(1)).compile()
    for batch in taken:
        assert len(batch["labels"]) % devices == 0
        state, values = take(state, batch, jax.random.key(1))
        metrics.append({name: float(value) for name, value in values.items()})
    arrays = {**state.trainable, "statistics": state.batch_stats}
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(arrays))
    end = {jax.tree_util.keystr(path): leaf.tolist() for path, leaf in leaves}
    loops = _waiting_loops(take.as_text())
    return {"metrics": metrics, "end": end, "waiting_loops": loops}


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[2:]]
    counts = map(int, sys.argv[1].split(","))
    print(json.dumps({count: train(count, *arguments) for count in counts}))
