"""A stage ready to run.

plan = StagePlan(stage=stage, step=step, batches=batches, validate=validate, ...)
state, progress = loop.fit(plan, state, progress, checkpoints, log)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from seeflower_jax.data.loader import TrainLoader
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.step import Step

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A stage ready to run.

    Attributes:
      stage: its settings.
      step: jitted; it takes over the memory of the state that it is given.
      batches: of training.
      validate: variables -> metrics; None where there is no validation split, and the
        last variables count as the best.
      metric: what is best: 'top1', 'mean_class_top1', 'top5' or 'loss'.
      key: of the stage, for everything random.
      learning_rate: by step.
      description: saved with every checkpoint.
      checkpoint_seconds: the state is saved when a step ends this long after the last
        time, and at the end of the stage.
    """

    stage: Stage
    step: Step
    batches: TrainLoader
    validate: Callable[[dict], Metrics] | None
    metric: str
    key: jax.Array
    learning_rate: optax.Schedule
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint_seconds: float = 300.0

    @property
    def steps(self) -> int:
        """Steps from the start of the stage to its end."""
        return self.stage.epochs * self.batches.steps_per_epoch

    def validates_after(self, step: int) -> bool:
        """Whether the variables are validated when `step` steps are done."""
        epoch, rest = divmod(step, self.batches.steps_per_epoch)
        due = epoch % self.stage.validate_every == 0 or step == self.steps
        return self.validate is not None and rest == 0 and due
