"""One training step, as a pure function.

    step = make_train_step(spec, stage, optimizer)
    state, metrics = step(state, batch, key)

`state.trainable` is the only differentiated argument; frozen parameters and, unless the
stage trains them, batch statistics come out of a step as they went in.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from seeflower_jax import models
from seeflower_jax.data import augment
from seeflower_jax.training import partition


@flax.struct.dataclass
class TrainState:
    """All that a stage changes, and the frozen parameters.

    Attributes:
      step: int32, steps done in this stage.
      trainable: {name: parameter}.
      frozen: {name: parameter}.
      batch_stats: of the model.
      opt_state: of the optimizer, for `trainable`.
      average: exponential moving average of `trainable`; empty if the stage has none.
    """

    step: jax.Array
    trainable: dict[str, jax.Array]
    frozen: dict[str, jax.Array]
    batch_stats: Any
    opt_state: optax.OptState
    average: dict[str, jax.Array]

    def variables(self) -> dict:
        """What the model is evaluated with: averaged parameters, where there are."""
        params = partition.join(self.average or self.trainable, self.frozen)
        return {"params": params, "batch_stats": self.batch_stats}


def create_state(variables, rules, optimizer, ema_decay: float) -> TrainState:
    """The state of a stage before its first step."""
    trainable, frozen = partition.split(variables["params"], rules)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(trainable),
        average=dict(trainable) if ema_decay else {},
    )


def example_keys(key, indices):
    """One random key per example, a function of the key and the example's index."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def make_train_step(
    spec: models.ModelSpec,
    stage,
    optimizer: optax.GradientTransformation,
    preprocess: Callable | None = None,
) -> Callable:
    """Builds step(state, batch, key) -> (state, metrics); to be jitted by the caller.

    Args:
      spec: the network.
      stage: the stage's config. With `train_batch_stats` batches are normalised by
        their own statistics, which update those of the model unless the config has
        `keep_batch_stats`.
      optimizer: for the flat dict of trainable parameters.
      preprocess: applied to augmented images (whitening).

    A batch has `labels`, `indices` and either `features` (the head alone is run) or
    `canvas` and `sizes`. Metrics are sums over the batch: `loss`, `correct`, `count`.
    """
    augmentation = stage.augment.to_dict()
    train_size = augmentation.pop("size") or spec.input_size
    mixing = {name: augmentation.pop(name) for name in ("mixup", "cutmix")}
    if not augmentation.pop("enabled"):
        augmentation, mixing = {}, {}

    def views(batch, targets, key):
        """Augmented pictures [N, size, size, 3] and the targets that go with them."""
        if "features" in batch:
            return None, targets
        view_keys, mix_keys = (
            example_keys(k, batch["indices"]) for k in jax.random.split(key)
        )
        images = augment.augment(
            view_keys, batch["canvas"], batch["sizes"], train_size, **augmentation
        )
        return augment.mix(mix_keys, images, targets, **mixing)

    def forward(variables, batch, images, **options):
        if images is None:
            return models.apply_head(spec, variables, batch["features"], **options)
        if preprocess:
            images = preprocess(images)
        out = models.apply(spec, variables, images, **options)
        if "mutable" in options:
            (logits, _), updated = out
            return logits, updated["batch_stats"]
        return out[0]

    def loss_fn(trainable, state, batch, key):
        variables = {
            "params": partition.join(trainable, state.frozen),
            "batch_stats": state.batch_stats,
        }
        targets = optax.smooth_labels(
            jax.nn.one_hot(batch["labels"], spec.num_classes), stage.label_smoothing
        )
        images, targets = views(batch, targets, jax.random.fold_in(key, 0))
        options = {"rngs": {"dropout": jax.random.fold_in(key, 1)}}
        batch_stats = state.batch_stats
        if stage.train_batch_stats:
            logits, updated = forward(
                variables, batch, images, mutable=["batch_stats"], **options
            )
            if not stage.get("keep_batch_stats", False):
                batch_stats = updated
        else:
            logits = forward(variables, batch, images, **options)
        losses = optax.softmax_cross_entropy(logits, targets)
        return losses.mean(), (logits, batch_stats)

    def step(state: TrainState, batch, key):
        (loss, (logits, batch_stats)), grads = jax.value_and_grad(
            loss_fn, has_aux=True
        )(state.trainable, state, batch, jax.random.fold_in(key, state.step))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        average = state.average
        if average:
            # Early on the average forgets fast, so that it does not hold on to the
            # initial parameters.
            decay = jnp.minimum(stage.ema_decay, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update(trainable, average, 1 - decay)
        count = logits.shape[0]
        metrics = {
            "loss": loss * count,
            "correct": jnp.sum(jnp.argmax(logits, -1) == batch["labels"]),
            "count": jnp.asarray(count),
        }
        state = state.replace(
            step=state.step + 1,
            trainable=trainable,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=average,
        )
        return state, metrics

    return step
