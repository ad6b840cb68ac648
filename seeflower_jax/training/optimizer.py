"""Make the optimizer of a stage from the name of an optax optimizer.

optimizer = make_optimizer(stage, stage.schedule(steps))
opt_state = optimizer.init(trainable)       # from `partition.split`
"""

import functools
import inspect
from collections.abc import Collection

import jax
import jax.numpy as jnp
import optax

from seeflower_jax import hints
from seeflower_jax.training import partition
from seeflower_jax.training.stages import Stage

# Arguments of optimizers that other values of a stage set.
_OWN = ("learning_rate", "weight_decay", "mask", "weight_decay_mask")


def names() -> list[str]:
    """Return the names of optax's optimizers, the functions of a learning rate."""
    return [
        name
        for name, function in vars(optax).items()
        if (inspect.isfunction(function) or isinstance(function, functools.partial))
        and not name.startswith(("_", "scale_by"))
        and "learning_rate" in inspect.signature(function).parameters
    ]


def _kernels(params: dict) -> dict:
    """Mark the parameters with weight decay: kernels, but not biases or scales."""
    return jax.tree.map(lambda value: value.ndim > 1, params)


def _mask_name(parameters: Collection[str]) -> str:
    """Return the argument that selects what is decayed; '' if there is none."""
    names = ("mask", "weight_decay_mask")
    return next((name for name in names if name in parameters), "")


def check_optimizer(stage: Stage) -> str:
    """Return what is wrong with the optimizer of a stage; '' if it is valid."""
    known = names()
    if stage.optimizer not in known:
        hint = hints.did_you_mean(stage.optimizer, known)
        return (
            f"optimizer is {stage.optimizer!r}; expected one of optax's "
            f"{', '.join(known)}{hint}"
        )
    parameters = inspect.signature(getattr(optax, stage.optimizer)).parameters
    free = [p for p in parameters if p not in _OWN]
    if unknown := [name for name, _ in stage.optimizer_options if name not in free]:
        return (
            f"optimizer_options has {unknown}; expected arguments of "
            f"optax.{stage.optimizer}: {', '.join(free)}"
        )
    decays = "weight_decay" in parameters and _mask_name(parameters)
    if stage.weight_decay and not decays:
        return (
            f"weight_decay is {stage.weight_decay}; expected 0, because "
            f"optax.{stage.optimizer} has no weight decay for kernels alone; use adamw"
        )
    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    try:
        optimizer = _make(stage, lambda _: stage.learning_rate)
        _, state = jax.eval_shape(
            lambda p: optimizer.update(p, optimizer.init(p), p), params
        )
    except (TypeError, ValueError, AttributeError) as error:
        return (
            f"optimizer is {stage.optimizer!r} with optimizer_options "
            f"{stage.optimizer_options}; expected an optimizer of gradients and "
            "parameters alone, with a schedule as its learning rate: "
            f"{' '.join(str(error).split())}"
        )
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
    if any(jnp.issubdtype(dtype, jax.dtypes.prng_key) for dtype in dtypes):
        return (
            f"optimizer is {stage.optimizer!r}; expected an optimizer without a random "
            "key in its state, because checkpoints hold only numbers"
        )
    return ""


def _make(
    stage: Stage, learning_rate: float | optax.Schedule
) -> optax.GradientTransformation:
    """Make the optimizer that a stage names."""
    make, options = getattr(optax, stage.optimizer), dict(stage.optimizer_options)
    parameters = inspect.signature(make).parameters
    if "weight_decay" in parameters:
        options["weight_decay"] = stage.weight_decay
    if mask := _mask_name(parameters):
        options[mask] = _kernels
    return make(learning_rate, **options)


def make_optimizer(
    stage: Stage, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Make the optimizer for the flat dict of a stage's trainable parameters.

    Each partition rule has its own optimizer, with its own factor on the learning rate.
    Gradients are clipped by the norm of all trainable gradients together.

    Args:
      stage: the settings of the stage.
      schedule: function from a step to the learning rate, before the factor of a rule.

    Raises:
      ValueError: if optax does not have the optimizer or one of its options.
    """
    if error := check_optimizer(stage):
        raise ValueError(f"stage {stage.name!r}: {error}")

    def scaled(factor: float) -> optax.Schedule:
        return lambda step: factor * schedule(step)

    by_rule = {
        index: _make(stage, scaled(factor))
        for index, (_, factor) in enumerate(stage.rules)
        if factor is not None
    }
    optimizer = optax.multi_transform(
        by_rule, lambda params: partition.assign(stage.rules, params)
    )
    if stage.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(stage.clip_norm), optimizer)
    return optimizer
