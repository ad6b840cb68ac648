"""Measures speed beside other frameworks, on this machine and in one run.

    python -m scripts.benchmark train
    python -m scripts.benchmark train --batch_size=32 --out=benchmark.json

`train` times Inception-v3's forward pass and fine-tuning step (gradients of all
parameters and Adam, batch statistics frozen) here, in Keras on JAX and in PyTorch
(torchvision's network), in images/s. Each framework runs in a process of its own, in
turn, --rounds times; the table has the medians. Install the others by pip install -e
.[benchmark]; one that is not there is listed as such.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from absl import app, flags

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", 1)
_SIZE = flags.DEFINE_integer("size", 299, "Side of the images in pixels.", 75)
_STEPS = flags.DEFINE_integer("steps", 4, "Timed steps a round, after two others.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each framework is started.", 1)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of the computation, here only."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write the figures to.")
_FRAMEWORK = flags.DEFINE_enum(
    "framework",
    None,
    ["seeflower_jax", "keras", "torch"],
    "Measures only this one, in this process.",
)


def _seeflower_jax(batch_size, size):
    import jax
    import jax.numpy as jnp
    import optax

    from configs import inception
    from seeflower_jax import models
    from seeflower_jax.training import step

    spec = models.get_spec("inception_v3", num_classes=102, dtype=_DTYPE.value)
    variables = jax.jit(lambda key: models.init(spec, key))(jax.random.key(0))
    stage = inception.get_config().stages.finetune
    stage.augment.update(enabled=False, size=size)
    stage.ema_decay = 0.0
    optimizer = optax.adam(1e-5)
    state = step.create_state(variables, ((".*", 1.0),), optimizer, 0.0)
    train_step = jax.jit(step.make_train_step(spec, stage, optimizer))
    batch = {
        "canvas": jnp.full((batch_size, size, size, 3), 100, jnp.uint8),
        "sizes": jnp.full((batch_size, 2), size, jnp.int32),
        "labels": jnp.zeros(batch_size, jnp.int32),
        "indices": jnp.arange(batch_size),
    }
    logits = jax.jit(lambda v, images: models.apply(spec, v, images)[0])

    def forward():
        jax.block_until_ready(logits(variables, batch["canvas"]))

    def finetune():
        nonlocal state
        state, _ = jax.block_until_ready(train_step(state, batch, jax.random.key(0)))

    return forward, finetune


def _keras(batch_size, size):
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    import numpy as np

    base = keras.applications.InceptionV3(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # frozen statistics, as the others
            layer.beta.trainable = True
    model = keras.Sequential([base, keras.layers.Dense(102, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy")
    images = np.full((batch_size, size, size, 3), -0.2, np.float32)
    labels = np.zeros(batch_size, np.int32)
    return (
        lambda: model.predict_on_batch(images),
        lambda: model.train_on_batch(images, labels),
    )


def _torch(batch_size, size):
    import torch

    # torchvision's compiled operators, which the network does not use, fail to load
    # beside a PyTorch built for the CPU alone; declaring two of them lets it import.
    library = torch.library.Library("torchvision", "DEF")
    for signature in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(signature)
    import torchvision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torchvision.models.inception_v3(weights=None, init_weights=False)
    model.fc = torch.nn.Linear(2048, 102)
    model = model.eval().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)
    images = torch.full((batch_size, 3, size, size), -0.2, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.long, device=device)

    def forward():
        with torch.no_grad():
            model(images).sum().item()

    def finetune():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return forward, finetune


def _measure(framework: str) -> dict[str, float]:
    """Images/s of both passes in this process."""
    passes = {"seeflower_jax": _seeflower_jax, "keras": _keras, "torch": _torch}
    rates = {}
    functions = passes[framework](_BATCH_SIZE.value, _SIZE.value)
    for name, function in zip(("forward", "finetune"), functions, strict=True):
        seconds = []
        for _ in range(2 + _STEPS.value):
            started = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - started)
        rates[name] = _BATCH_SIZE.value / statistics.median(seconds[2:])
    return rates


def _train_benchmark() -> dict:
    """Figures of all frameworks, each in processes of its own."""
    rounds = {"seeflower_jax": [], "keras": [], "torch": []}
    missing = {}
    for _ in range(_ROUNDS.value):
        for framework in rounds:
            command = [sys.executable, "-m", "scripts.benchmark", *sys.argv[1:]]
            command.append(f"--framework={framework}")
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                missing[framework] = done.stderr.strip().splitlines()[-1]
            else:
                rounds[framework].append(json.loads(done.stdout))
    return {
        framework: {
            key: round(statistics.median(r[key] for r in rates), 2) for key in rates[0]
        }
        if rates
        else missing[framework]
        for framework, rates in rounds.items()
    }


def main(argv) -> None:
    if argv[1:] != ["train"]:
        raise app.UsageError(f"expected the one command 'train', got {argv[1:]}")
    if _FRAMEWORK.value:
        print(json.dumps(_measure(_FRAMEWORK.value)))
        return
    from seeflower_jax import experiment

    figures = _train_benchmark()
    print(f"{'images/s':16}{'forward':>10}{'finetune':>10}")
    for framework, rates in figures.items():
        if isinstance(rates, str):
            print(f"{framework:16}{rates}")
        else:
            print(f"{framework:16}{rates['forward']:10.2f}{rates['finetune']:10.2f}")
    if _OUT.value:
        command = " ".join(["python", "-m", "scripts.benchmark", *sys.argv[1:]])
        with open(_OUT.value, "w") as file:
            result = {"images_per_second": figures, **experiment.provenance(command)}
            json.dump(result, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    app.run(main)
