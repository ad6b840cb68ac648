"""Speed of Inception-v3's forward pass and fine-tuning step in three frameworks.

measure("keras", batch_size=16, size=299, steps=4)   # {'forward': ..., 'finetune': ...}

A fine-tuning step computes the gradient of all parameters and an update of Adam, with
frozen batch statistics. Keras runs on JAX. PyTorch runs torchvision's network.
"""

import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from seeflower_jax.comparison import timing

# (a forward pass, a fine-tuning step)
Passes: TypeAlias = tuple[timing.Call, timing.Call]
# (batch size, side of the images in pixels, 'float32' or 'bfloat16') -> passes
Framework: TypeAlias = Callable[[int, int, str], Passes]


def _seeflower_jax(batch_size: int, size: int, dtype: str) -> Passes:
    import jax
    import jax.numpy as jnp

    from seeflower_jax import models

    spec = models.get_spec("inception_v3", num_classes=102, dtype=dtype)
    variables = jax.jit(lambda key: models.init(spec, key))(jax.random.key(0))
    images = jnp.full((batch_size, size, size, 3), 100, jnp.uint8)
    logits = jax.jit(lambda variables, images: models.apply(spec, variables, images)[0])

    def forward():
        jax.block_until_ready(logits(variables, images))

    return forward, _finetune(spec, variables, images)


def _finetune(spec, variables, images) -> timing.Call:
    """Return a fine-tuning step of this package: all layers, Adam, no augmentation."""
    import jax
    import jax.numpy as jnp

    from seeflower_jax.data.view import View
    from seeflower_jax.training.optimizer import make_optimizer
    from seeflower_jax.training.stages import Stage
    from seeflower_jax.training.state import create_state
    from seeflower_jax.training.step import make_image_step

    batch_size, size = images.shape[:2]
    stage = Stage(
        name="finetune",
        index=0,
        epochs=1,
        batch_size=batch_size,
        rules=((".*", 1.0),),
        optimizer="adam",
        learning_rate=1e-5,
        label_smoothing=0.1,
        view=View(size, size),
    )
    optimizer = make_optimizer(stage, lambda step: stage.learning_rate)
    state = create_state(variables, stage, optimizer)
    step = jax.jit(make_image_step(spec, stage, optimizer), donate_argnums=0)
    batch = {
        "canvas": images,
        "sizes": jnp.full((batch_size, 2), size, jnp.int32),
        "labels": jnp.zeros(batch_size, jnp.int32),
        "indices": jnp.arange(batch_size),
    }

    def finetune():
        nonlocal state
        state, _ = jax.block_until_ready(step(state, batch, jax.random.key(0)))

    return finetune


def _keras(batch_size: int, size: int, dtype: str) -> Passes:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    keras.config.set_dtype_policy(
        {"float32": "float32", "bfloat16": "mixed_bfloat16"}[dtype]
    )
    base = keras.applications.InceptionV3(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # The statistics are frozen, as in the other frameworks.
            layer.trainable = False
            layer.beta.trainable = True
    model = keras.Sequential([base, keras.layers.Dense(102, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy")
    images = np.full((batch_size, size, size, 3), -0.2, np.float32)
    labels = np.zeros(batch_size, np.int32)
    return (
        lambda: model.predict_on_batch(images),
        lambda: model.train_on_batch(images, labels),
    )


def _torch(batch_size: int, size: int, dtype: str) -> Passes:
    import torch
    import torchvision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torchvision.models.inception_v3(weights=None, init_weights=False)
    model.fc = torch.nn.Linear(2048, 102)
    model = model.eval().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)
    images = torch.full((batch_size, 3, size, size), -0.2, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.long, device=device)
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

    return forward, finetune


FRAMEWORKS: dict[str, Framework] = {
    "seeflower_jax": _seeflower_jax,
    "keras": _keras,
    "torch": _torch,
}


def measure(
    framework: str, batch_size: int, size: int, steps: int, dtype: str = "float32"
) -> dict[str, float]:
    """Return {'forward', 'finetune'} in images/s, measured in this process.

    Args:
      framework: a key of `FRAMEWORKS`.
      batch_size: the number of images in a batch.
      size: the side of the images in pixels.
      steps: the number of timed calls of each pass.
      dtype: the type of the computation, 'float32' or 'bfloat16'.
    """
    functions = FRAMEWORKS[framework](batch_size, size, dtype)
    return {
        name: batch_size / timing.seconds(function, steps)
        for name, function in zip(("forward", "finetune"), functions, strict=True)
    }


def text(rates_by_framework: Mapping[str, timing.Measurement]) -> str:
    """Format images/s of each framework, or the error of the framework, as a table."""
    lines = [f"{'images/s':16}{'forward':>10}{'finetune':>10}"]
    for framework, rates in rates_by_framework.items():
        if isinstance(rates, str):
            lines.append(f"{framework:16}{rates}")
        else:
            cells = f"{rates['forward']:10.2f}{rates['finetune']:10.2f}"
            lines.append(f"{framework:16}{cells}")
    return "\n".join(lines)
