"""Build the training step, a pure function of state, batch and key.

    step = make_image_step(spec, stage, optimizer)       # or make_feature_step
    state, metrics = compile_step(step, batch_size, mesh)(state, batch, key)

`state.trainable` is the only differentiated argument. A step never changes frozen
parameters. Batch statistics change only if the stage trains them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from seeflower_jax import models, sharding
from seeflower_jax.data import augmentation as augmentations
from seeflower_jax.data.loader import Batch
from seeflower_jax.training import partition
from seeflower_jax.training.losses import Loss, Targets
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.state import TrainState

Step = Callable[
    [TrainState, Batch, PRNGKeyArray], tuple[TrainState, dict[str, jax.Array]]
]
# (batch, targets, key) -> (inputs of the network, targets).
Prepare = Callable[[Batch, Targets, PRNGKeyArray], tuple[jax.Array, Targets]]
# (variables, inputs, options of apply) -> (logits, batch statistics).
Forward = Callable[[dict, jax.Array, dict], tuple[jax.Array, Any]]
CROSS_ENTROPY = Loss()


def example_keys(key: PRNGKeyArray, indices: Int[Array, " n"]) -> PRNGKeyArray:
    """Return a random key for each example, a function of key and example index."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def make_image_step(
    spec: models.ModelSpec,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    preprocess: Callable | None = None,
    loss: Loss = CROSS_ENTROPY,
) -> Step:
    """Build step(state, batch, key) -> (state, metrics) on images.

    A batch has `canvas`, `sizes`, `labels` and `indices`. Distillation also needs the
    logits `teacher`. If the stage augments images, packed `pixels` may replace
    `canvas`, with or without `starts`, see `augment`. The metrics `loss` and `correct`
    are sums over the batch, and `count` is the size of the batch. `gradient_norm` and
    `update_norm` are norms over all trainable parameters.

    Args:
      spec: the spec of the network.
      stage: settings of the stage, such as augmentation and label smoothing.
      optimizer: optimizer of the flat dict of trainable parameters.
      preprocess: function applied to the images before the network (whitening).
      loss: the loss that the step minimises.
    """

    def prepare(batch, targets, key):
        if stage.augmentation is None:
            images = stage.view(batch["canvas"], batch["sizes"])
        else:
            view_keys, mix_keys = (
                example_keys(k, batch["indices"]) for k in jax.random.split(key)
            )
            images = augmentations.augment(
                view_keys,
                batch["pixels"] if "pixels" in batch else batch["canvas"],
                batch["sizes"],
                stage.augmentation,
                batch.get("starts"),
            )
            images, targets = augmentations.mix(
                mix_keys, images, targets, stage.augmentation
            )
        return preprocess(images) if preprocess else images, targets

    def forward(variables, images, options):
        output = models.apply(spec, variables, images, **options)
        if "mutable" in options:
            (logits, _), updated = output
            return logits, updated["batch_stats"]
        return output[0], variables["batch_stats"]

    return _make_step(prepare, forward, spec.num_classes, stage, optimizer, loss)


def make_feature_step(
    spec: models.ModelSpec,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    loss: Loss = CROSS_ENTROPY,
) -> Step:
    """Build step(state, batch, key) -> (state, metrics) on features.

    Features are the inputs of the head. A stage that trains only the head uses this
    step instead of `make_image_step`, with the same metrics. A batch has `features`,
    `labels` and `indices`. Distillation also needs the logits `teacher`.
    """

    def forward(variables, features, options):
        logits = models.apply_head(spec, variables, features, rngs=options["rngs"])
        return logits, variables["batch_stats"]

    def prepare(batch, targets, key):
        return batch["features"], targets

    return _make_step(prepare, forward, spec.num_classes, stage, optimizer, loss)


def compile_step(step: Step, batch_size: int, mesh: Mesh) -> Step:
    """Compile a step that sees the first `batch_size` rows of its batch.

    Args:
      step: a step of this module. The compiled step reuses the memory of its state.
      batch_size: number of examples; further rows only fill the devices.
      mesh: the devices, from `sharding.make_mesh`.
    """

    def on_rows(state, batch, key):
        rows = dict(batch)
        # With `starts`, `pixels` holds all images and has no row for each image.
        shared = {"pixels": rows.pop("pixels")} if "starts" in rows else {}
        rows = sharding.first_rows(rows, batch_size, mesh)
        return step(state, rows | shared, key)

    return jax.jit(on_rows, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def _make_step(
    prepare: Prepare,
    forward: Forward,
    num_classes: int,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    loss: Loss,
) -> Step:
    def loss_fn(trainable, state, batch_stats, part, key):
        inputs, targets = part
        variables = {
            "params": partition.join(trainable, state.frozen),
            "batch_stats": batch_stats,
        }
        options: dict = {"rngs": {"dropout": key}}
        if stage.train_batch_stats:
            options["mutable"] = ["batch_stats"]
        logits, updated = forward(variables, inputs, options)
        if stage.keep_batch_stats:
            updated = batch_stats
        return loss(logits, targets), (logits, updated)

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        view_key, dropout_key = (jax.random.fold_in(key, i) for i in (0, 1))
        labels = optax.smooth_labels(
            jax.nn.one_hot(batch["labels"], num_classes), stage.label_smoothing
        )
        targets = loss.targets(labels, batch.get("teacher"))
        inputs = prepare(batch, targets, view_key)
        if stage.accum_steps == 1:
            (value, (logits, batch_stats)), grads = value_and_grad(
                state.trainable, state, state.batch_stats, inputs, dropout_key
            )
        else:
            value, logits, batch_stats, grads = _accumulate(
                value_and_grad, state, inputs, dropout_key, stage.accum_steps
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        count = batch["labels"].shape[0]
        metrics = {
            "loss": value * count,
            "correct": jnp.sum(jnp.argmax(logits, -1) == batch["labels"]),
            "count": jnp.asarray(count),
            "gradient_norm": _norm(grads),
            "update_norm": _norm(updates),
        }
        state = state.replace(
            step=state.step + 1,
            trainable=trainable,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=_average(state, trainable, stage.ema_decay),
        )
        return state, metrics

    return step


def _norm(tree: dict[str, jax.Array]) -> jax.Array:
    """Compute the norm of all arrays together."""
    return jnp.sqrt(sum(jnp.sum(value**2) for value in tree.values()))


def _average(state: TrainState, trainable: dict, ema_decay: float) -> dict:
    """Move the average towards the new parameters; return {} if there is no average."""
    if not state.average:
        return state.average
    # The decay is small in the first steps, so the average soon forgets the initial
    # parameters.
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update(trainable, state.average, 1 - decay)


def _accumulate(value_and_grad, state, inputs, key, parts: int):
    """Compute the loss, logits, statistics and mean gradient of a batch part by part.

    Row i of the batch is in part i modulo `parts`. If `parts` times the number of
    devices divides the batch, each device has rows of every part.
    """

    def split(x):
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def add(carry, numbered):
        total, batch_stats = carry
        number, part = numbered
        (loss, (logits, batch_stats)), grads = value_and_grad(
            state.trainable, state, batch_stats, part, jax.random.fold_in(key, number)
        )
        return (jax.tree.map(jnp.add, total, grads), batch_stats), (loss, logits)

    start = jax.tree.map(jnp.zeros_like, state.trainable), state.batch_stats
    numbered_parts = jnp.arange(parts), jax.tree.map(split, inputs)
    (total, batch_stats), (losses, logits) = jax.lax.scan(add, start, numbered_parts)
    logits = logits.swapaxes(0, 1).reshape(-1, logits.shape[-1])
    grads = jax.tree.map(lambda g: g / parts, total)
    return losses.mean(), logits, batch_stats, grads
