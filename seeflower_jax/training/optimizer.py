"""Make the optimizer of a stage from the name of one of optax's.

optimizer = make_optimizer(stage, stage.schedule(steps))
opt_state = optimizer.init(trainable)       # of `partition.split`
"""

import inspect
from collections.abc import Callable

import jax
import optax

from seeflower_jax import hints
from seeflower_jax.training import partition
from seeflower_jax.training.stages import Stage


def names() -> list[str]:
    """List the optimizers of optax: its functions of a learning rate."""
    return [
        name
        for name, function in vars(optax).items()
        if inspect.isfunction(function)
        and "learning_rate" in inspect.signature(function).parameters
        and not name.startswith("scale_by")
    ]


def _kernels(params: dict) -> dict:
    """Mark what is decayed: kernels, not biases or scales."""
    return jax.tree.map(lambda value: value.ndim > 1, params)


def _named(stage: Stage) -> Callable[..., optax.GradientTransformation]:
    """Return a function of the learning rate that makes the optimizer of a stage.

    Raises:
      ValueError: for an unknown optimizer, for options that it does not take, and for
        weight decay where it has none.
    """
    known = names()
    if stage.optimizer not in known:
        hint = hints.did_you_mean(stage.optimizer, known)
        raise ValueError(
            f"unknown optimizer {stage.optimizer!r} in stage {stage.name!r}; "
            f"known are optax's {', '.join(known)}{hint}"
        )
    make, options = getattr(optax, stage.optimizer), dict(stage.optimizer_options)
    parameters = inspect.signature(make).parameters
    for name in options:
        if name not in parameters or name in ("learning_rate", "weight_decay", "mask"):
            raise ValueError(
                f"optax.{stage.optimizer} takes no option {name!r} (stage "
                f"{stage.name!r}); it takes {', '.join(parameters)}"
            )
    if "weight_decay" in parameters:
        options["weight_decay"] = stage.weight_decay
        if "mask" in parameters:
            options["mask"] = _kernels
    elif stage.weight_decay:
        raise ValueError(
            f"optax.{stage.optimizer} has no weight decay (stage {stage.name!r} sets "
            f"weight_decay {stage.weight_decay}); use adamw, or set it to 0"
        )
    return lambda learning_rate: make(learning_rate, **options)


def make_optimizer(
    stage: Stage, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Make the optimizer for the flat dict of a stage's trainable parameters.

    Each partition rule has an optimizer of its own, with its factor on the learning
    rate. The clipping norm is that of all trainable gradients together.

    Args:
      stage: see `Stage`.
      schedule: learning rate by step, before a rule's factor.

    Raises:
      ValueError: for an optimizer or an option that optax does not have.
    """
    make = _named(stage)

    def scaled(factor: float) -> optax.Schedule:
        return lambda step: factor * schedule(step)

    by_rule = {
        index: make(scaled(factor))
        for index, (_, factor) in enumerate(stage.rules)
        if factor is not None
    }
    optimizer = optax.multi_transform(
        by_rule, lambda params: partition.assign(stage.rules, params)
    )
    if stage.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(stage.clip_norm), optimizer)
    return optimizer
