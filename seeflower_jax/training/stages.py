"""Define the typed settings of a stage.

    stage = Stage(name="head", rules=(("head/.*", 1.0), ("backbone/.*", None)), ...)
    stage.schedule(steps=1500)(0)       # learning rate of the first step

A stage is a number of epochs with one partition of the parameters, one optimizer and
one augmentation. The paper has two stages. `head` trains the new layers on a frozen
network. `finetune` trains the whole network at a much lower learning rate.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import optax

from seeflower_jax.data.augmentation import Augmentation
from seeflower_jax.data.view import View
from seeflower_jax.training.partition import Rules

SOLVERS = ("gradient", "ridge")
SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """The settings of one stage.

    Attributes:
      name: name of the stage.
      index: position of the stage in the order of the stages, from 0.
      solver: a name of `SOLVERS`. 'ridge' solves the head in closed form, in one step;
        most other values then have no effect.
      all_views: whether the head is solved on all test-time views of the training
        images, only with the solver 'ridge'.
      epochs: number of passes over the training images.
      draws: number of augmented draws of each image, for a stage that trains the head
        alone. The features of each draw are computed once, and the epochs alternate
        between the draws. 0 is off.
      batch_size: number of images in a batch, over all devices.
      accum_steps: number of parts of a batch. The parts are computed one after the
        other, and their gradients are added up.
      rules: partition rules of the parameters, see `partition`.
      optimizer: name of an optax optimizer, such as 'adamw'.
      optimizer_options: arguments of the optimizer, (name, value) pairs, except
        learning rate and weight decay.
      learning_rate: largest learning rate, before the factor of a rule.
      schedule_name: a name of `SCHEDULES`, the schedule after a linear warm-up.
      warmup_steps: number of steps of the warm-up of the learning rate.
      weight_decay: weight decay, only on kernels; decoupled in adamw, and otherwise as
        the optimizer defines it.
      clip_norm: largest norm of all gradients together; 0 is off.
      label_smoothing: share of the target that is spread over all classes.
      ema_decay: decay of the moving average of the parameters; 0 is off.
      train_batch_stats: whether batches are normalised by their own statistics.
      keep_batch_stats: whether training leaves the stored statistics unchanged, even
        with `train_batch_stats`.
      validate_every: number of epochs between validations.
      patience: number of validations without a gain that ends the stage; 0 is off.
      min_delta: smallest gain that counts for `patience`.
      augmentation: augmentation of the training images; None trains on views.
      view: what the network sees without augmentation.
    """

    name: str
    index: int
    epochs: int
    batch_size: int
    rules: Rules
    learning_rate: float
    view: View
    solver: str = "gradient"
    all_views: bool = False
    draws: int = 0
    augmentation: Augmentation | None = None
    accum_steps: int = 1
    optimizer: str = "adamw"
    optimizer_options: tuple[tuple[str, Any], ...] = ()
    schedule_name: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    train_batch_stats: bool = False
    keep_batch_stats: bool = False
    validate_every: int = 1
    patience: int = 0
    min_delta: float = 0.0

    def freezes_backbone(self, head: str) -> bool:
        """Return whether the stage trains only the rule with the expression `head`."""
        return all(factor is None or rule == head for rule, factor in self.rules)

    def schedule(self, steps: int) -> optax.Schedule:
        """Return the learning rate by step: warm-up, then constant or half a cosine.

        Raises:
          ValueError: if the schedule is unknown.
        """
        warmup = min(self.warmup_steps, steps)
        if self.schedule_name == "cosine":
            return optax.warmup_cosine_decay_schedule(
                0.0 if warmup else self.learning_rate,
                self.learning_rate,
                warmup,
                max(steps, warmup + 1),
            )
        if self.schedule_name == "constant":
            return optax.join_schedules(
                [
                    optax.linear_schedule(0.0, self.learning_rate, warmup),
                    optax.constant_schedule(self.learning_rate),
                ],
                [warmup],
            )
        raise ValueError(
            f"unknown schedule {self.schedule_name!r} in stage {self.name!r}; "
            f"expected one of {', '.join(SCHEDULES)}"
        )


def beyond_head(stages: Iterable[Stage], head: str) -> list[str]:
    """Return the names of the stages that train more than the head.

    Args:
      stages: the stages of a run.
      head: expression of the rule of the head, from the `ModelSpec`.
    """
    return [stage.name for stage in stages if not stage.freezes_backbone(head)]
