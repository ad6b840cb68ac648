"""Check that the values of one stage of a config fit each other and the network.

    check_stage(stage, spec, view, views)      # -> ["config.stages.head. ... expected"]

`settings.read_settings` reports the lines of all stages together.
"""

from collections.abc import Mapping
from typing import Any

from seeflower_jax import models
from seeflower_jax.data.view import View
from seeflower_jax.training.optimizer import check_optimizer
from seeflower_jax.training.stages import Stage


def check_stage(
    stage: Stage, spec: models.ModelSpec, view: View, views: tuple[View, ...]
) -> list[str]:
    """Return a line for each value of a stage that does not fit the others.

    Args:
      stage: the stage.
      spec: the network.
      view: view of the evaluation.
      views: views of the test-time augmentation.
    """
    key, errors = f"config.stages.{stage.name}", []
    if stage.solver == "ridge":
        errors += _check_ridge(key, stage, spec)
    if stage.draws:
        errors += _check_draws(key, stage, spec)
    if stage.all_views and stage.solver != "ridge":
        errors.append(
            f"{key}.all_views is True; expected False, because {key}.solver is "
            f"{stage.solver!r}"
        )
    if stage.all_views and views[0] != view:
        errors.append(
            f"config.test_time.views[0] is {views[0]}; expected the view "
            f"of config.eval, {view}, because {key}.all_views is True"
        )
    if stage.batch_size % stage.accum_steps:
        errors.append(
            f"{key}.accum_steps is {stage.accum_steps}; expected a divisor of "
            f"batch_size, {stage.batch_size}"
        )
    if message := check_optimizer(stage):
        errors.append(f"{key}.{message}")
    return errors


def _check_ridge(key: str, stage: Stage, spec: models.ModelSpec) -> list[str]:
    """Return a line for each value that a closed-form head cannot have."""
    needed = {
        f"{key}.epochs": (stage.epochs, 1),
        f"{key}.augment.enabled": (stage.augmentation is not None, False),
        f"{key}.ema_decay": (stage.ema_decay, 0.0),
        f"{key}.train_batch_stats": (stage.train_batch_stats, False),
        "config.model.standardize": (spec.standardize, True),
        "config.model.hidden": (spec.hidden, ()),
    }
    return _check_head_alone(key, stage, spec, needed, f"{key}.solver is 'ridge'")


def _check_draws(key: str, stage: Stage, spec: models.ModelSpec) -> list[str]:
    """Return a line for each value that a stage on augmented draws cannot have."""
    augmentation = stage.augmentation
    needed = {
        f"{key}.solver": (stage.solver, "gradient"),
        f"{key}.augment.enabled": (augmentation is not None, True),
        f"{key}.augment.mixup": (augmentation.mixup if augmentation else 0.0, 0.0),
        f"{key}.augment.cutmix": (augmentation.cutmix if augmentation else 0.0, 0.0),
        f"{key}.train_batch_stats": (stage.train_batch_stats, False),
    }
    return _check_head_alone(key, stage, spec, needed, f"{key}.draws is {stage.draws}")


def _check_head_alone(
    key: str,
    stage: Stage,
    spec: models.ModelSpec,
    needed: Mapping[str, tuple[Any, Any]],
    cause: str,
) -> list[str]:
    """Return a line for each value that a stage of the head alone cannot have.

    Args:
      key: config key of the stage.
      stage: the stage.
      spec: the network.
      needed: (value, expected value) by key.
      cause: why these values are expected, for the lines.
    """
    errors = [
        f"{name} is {value!r}; expected {expected!r}, because {cause}"
        for name, (value, expected) in needed.items()
        if value != expected
    ]
    if not stage.freezes_backbone(spec.head):
        errors.append(
            f"{key}.partition is {stage.rules}; expected to train {spec.head!r} alone, "
            f"because {cause}"
        )
    return errors
