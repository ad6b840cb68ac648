"""Speed of Inception-v3's forward pass and fine-tuning step in three frameworks.

measure("keras", batch_size=16, size=299, steps=4)   # {'forward': ..., 'finetune': ...}

A fine-tuning step computes the gradient of all parameters and an update of Adam, with
frozen batch statistics. Keras runs on JAX. PyTorch runs torchvision's network. For this
package, `train` is a step as training runs it: with its input, augmentation, mixing and
the moving average of the parameters. `augmented` is the same step on one fixed batch,
so its difference from `train` is the cost of the input.
"""

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from seeflower_jax.comparison import timing

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from seeflower_jax.data.loader import Batch
    from seeflower_jax.training.plan import Batches

# Functions that each run one step, by the names of `PASSES`.
Passes: TypeAlias = dict[str, timing.Call]
# (batch size, side of the images in pixels) -> passes
Framework: TypeAlias = Callable[[int, int], Passes]

# How each pass is timed. Training starts a step before the last step has ended.
PASSES: Mapping[str, Callable[[timing.Call, int], float]] = {
    "forward": timing.seconds,
    "finetune": timing.seconds,
    "augmented": timing.mean_seconds,
    "train": timing.mean_seconds,
}
DTYPES = ("float32", "bfloat16")
_CLASSES = 102
_RATE = 1e-5


def _pixels(batch_size: int, size: int) -> np.ndarray:
    """Return random images: a network computes constant images at another speed."""
    shape = (batch_size, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _labels(batch_size: int) -> np.ndarray:
    return np.arange(batch_size, dtype=np.int32) % _CLASSES


def _seeflower_jax(dtype: str, batch_size: int, size: int) -> Passes:
    import jax

    from seeflower_jax import models, sharding
    from seeflower_jax.data.augmentation import Augmentation

    spec = models.get_spec("inception_v3", num_classes=_CLASSES, dtype=dtype)
    mesh = sharding.make_mesh()
    variables = sharding.replicate(models.init(spec, jax.random.key(0)), mesh)
    logits = jax.jit(lambda variables, images: models.apply(spec, variables, images)[0])
    batch = fixed_batch(batch_size, size, mesh)
    augmentation = Augmentation(
        size, hflip=True, crop_area=(0.5, 1.0), mixup=0.2, cutmix=1.0
    )
    step = functools.partial(_step, spec, variables, size, batch_size=batch_size)
    finetune, train = step(), step(augmentation=augmentation, ema_decay=0.99)
    batches = loaded_batches(batch_size, mesh)
    return {
        "forward": lambda: jax.block_until_ready(logits(variables, batch["canvas"])),
        "finetune": lambda: jax.block_until_ready(finetune(batch)),
        "augmented": _one_step_late(train, itertools.repeat(next(batches))),
        "train": _one_step_late(train, batches),
    }


def fixed_batch(batch_size: int, size: int, mesh: "Mesh") -> "Batch":
    """Return a batch of random images of the size that a network takes."""
    from seeflower_jax import sharding

    batch = {
        "canvas": _pixels(batch_size, size),
        "sizes": np.full((batch_size, 2), size, np.int32),
        "labels": _labels(batch_size),
        "indices": np.arange(batch_size, dtype=np.int32),
    }
    return sharding.shard_rows(batch, mesh)


def _step(spec, variables: dict, size: int, **values) -> Callable[["Batch"], Any]:
    """Return a function that trains all layers with Adam on a batch.

    The function starts a step, and returns its metrics without waiting for them.

    Args:
      spec, variables: the network.
      size: the side of the images in pixels.
      **values: attributes of the stage.
    """
    import jax
    import jax.numpy as jnp

    from seeflower_jax import sharding
    from seeflower_jax.data.view import View
    from seeflower_jax.training.optimizer import make_optimizer
    from seeflower_jax.training.stages import Stage
    from seeflower_jax.training.state import create_state
    from seeflower_jax.training.step import compile_step, make_image_step

    stage = Stage(
        name="finetune",
        index=0,
        epochs=1,
        rules=((".*", 1.0),),
        optimizer="adam",
        learning_rate=_RATE,
        label_smoothing=0.1,
        view=View(size, size),
        **values,
    )
    optimizer = make_optimizer(stage, lambda step: stage.learning_rate)
    mesh = sharding.make_mesh()
    step = compile_step(make_image_step(spec, stage, optimizer), stage.batch_size, mesh)
    # A copy, because the step reuses the memory of its state.
    state = create_state(jax.tree.map(jnp.copy, variables), stage, optimizer)
    state, key = sharding.replicate(state, mesh), jax.random.key(0)

    def train(batch):
        nonlocal state
        state, metrics = step(state, batch, key)
        return metrics

    return train


def _one_step_late(
    step: Callable[["Batch"], Any], batches: Iterator["Batch"]
) -> timing.Call:
    """Return a function that starts a step, and waits for the step before.

    As in `training.loop`, the host therefore works while the device computes.
    """
    import jax

    pending = None

    def call():
        nonlocal pending
        metrics = step(next(batches))
        if pending is not None:
            jax.device_get(pending)
        pending = metrics

    return call


def loaded_batches(
    batch_size: int, mesh: "Mesh", on_device: str = "auto"
) -> Iterator["Batch"]:
    """Yield batches of random images without end, as training gets them.

    Args:
      batch_size: the number of images in a batch.
      mesh: the devices.
      on_device: whether the images live on the devices, as `config.data.on_device`.
    """
    from seeflower_jax.data import resident
    from seeflower_jax.data.loader import TrainLoader
    from seeflower_jax.data.packed import PackedReader

    canvases = _Canvases(4 * batch_size)
    indices = np.arange(len(canvases.sizes))
    reader = PackedReader(canvases, indices)
    labels = _labels(len(indices))
    loader = TrainLoader(reader, labels, indices, batch_size, mesh, seed=(0,))
    batches: Batches = loader
    if resident.is_resident(on_device, canvases, indices, mesh):
        store = resident.put(canvases, indices, mesh)
        batches = resident.ResidentLoader(loader, store)
    yield from batches(0, sys.maxsize)


class _Canvases:
    """Random images of the size of decoded flowers, as a cache of pixels."""

    def __init__(self, count: int):
        shape = (320, 400)
        rng = np.random.default_rng(0)
        self._images = rng.integers(0, 256, (count, *shape, 3), np.uint8)
        self.sizes = np.full((count, 2), shape, np.int32)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._images[index]


def _keras(batch_size: int, size: int) -> Passes:
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    base = keras.applications.InceptionV3(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # The statistics are frozen, as in the other frameworks.
            layer.trainable = False
            layer.beta.trainable = True
    model = keras.Sequential([base, keras.layers.Dense(_CLASSES, activation="softmax")])
    model.compile(keras.optimizers.Adam(_RATE), "sparse_categorical_crossentropy")
    # On the device, as in the other frameworks.
    images = jax.device_put(_pixels(batch_size, size).astype(np.float32) / 127.5 - 1)
    labels = jax.device_put(_labels(batch_size))
    return {
        "forward": lambda: model.predict_on_batch(images),
        "finetune": lambda: model.train_on_batch(images, labels),
    }


def _torch(dtype: str, compiled: bool, batch_size: int, size: int) -> Passes:
    import torch
    import torchvision

    device = timing.torch_device()
    model = torchvision.models.inception_v3(weights=None, init_weights=False)
    model.fc = torch.nn.Linear(2048, _CLASSES)
    model = model.eval().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), _RATE)
    if compiled:
        model = torch.compile(model)
    pixels = _pixels(batch_size, size).transpose(0, 3, 1, 2)
    images = torch.tensor(pixels, dtype=torch.float32, device=device) / 127.5 - 1
    images = images.to(memory_format=torch.channels_last)
    labels = torch.tensor(_labels(batch_size), dtype=torch.long, device=device)
    mixed = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def forward():
        with torch.no_grad(), mixed:
            model(images).sum().item()

    def finetune():
        optimizer.zero_grad()
        with mixed:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return {"forward": forward, "finetune": finetune}


FRAMEWORKS: dict[str, Framework] = {
    "seeflower_jax": functools.partial(_seeflower_jax, "float32"),
    "seeflower_jax_bfloat16": functools.partial(_seeflower_jax, "bfloat16"),
    "keras": _keras,
    "torch": functools.partial(_torch, "float32", False),
    "torch_bfloat16": functools.partial(_torch, "bfloat16", False),
    "torch_compiled": functools.partial(_torch, "float32", True),
    "torch_compiled_bfloat16": functools.partial(_torch, "bfloat16", True),
}


def select(frameworks: Sequence[str] | None, dtype: str | None) -> list[str]:
    """Return the frameworks that compute in a precision, or all if it is None.

    Args:
      frameworks: keys of `FRAMEWORKS`. None stands for all on a GPU. On a CPU it stands
        for all but compiled PyTorch, which needs a C++ compiler.
      dtype: one of `DTYPES`, or None.

    Raises:
      ValueError: if no framework is left.
    """
    if frameworks is None:
        has_gpu = timing.has_gpu()
        frameworks = [n for n in FRAMEWORKS if has_gpu or "compiled" not in n]
    selected = [
        name
        for name in frameworks
        if dtype is None or name.endswith("bfloat16") == (dtype == "bfloat16")
    ]
    if not selected:
        given = ", ".join(frameworks)
        raise ValueError(f"expected a framework that computes in {dtype}, got {given}")
    return selected


def measure(framework: str, batch_size: int, size: int, steps: int) -> dict[str, float]:
    """Return the images/s of each of the framework's passes, measured in this process.

    Args:
      framework: a key of `FRAMEWORKS`.
      batch_size: the number of images in a batch.
      size: the side of the images in pixels.
      steps: the number of timed calls of each pass.
    """
    passes = FRAMEWORKS[framework](batch_size, size)
    return {
        name: batch_size / PASSES[name](function, steps)
        for name, function in passes.items()
    }


def text(rates_by_framework: Mapping[str, timing.Measurement]) -> str:
    """Format images/s of each framework, or the error of the framework, as a table."""
    lines = [f"{'images/s':24}" + "".join(f"{name:>10}" for name in PASSES)]
    for framework, rates in rates_by_framework.items():
        if isinstance(rates, str):
            lines.append(f"{framework:24}{rates}")
        else:
            cells = (f"{rates[name]:10.2f}" for name in PASSES if name in rates)
            lines.append(f"{framework:24}{''.join(cells)}")
    return "\n".join(lines)
