"""Define the plan of a stage: all values that the training loop needs.

plan = StagePlan(stage=stage, step=step, batches=batches, validate=validate, ...)
state, progress = loop.fit(plan, state, progress, checkpoints, log)
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import optax

from seeflower_jax.training.profiling import Trace
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.step import Step


class Batches(Protocol):
    """The training batches of a stage, a function of the step."""

    @property
    def steps_per_epoch(self) -> int: ...

    def __call__(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the batch of each step from `start` to before `stop`."""
        ...


Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """The values that the training loop needs for a stage.

    Attributes:
      stage: settings of the stage.
      step: training step. A jitted step reuses the memory of its input state.
      batches: the training batches.
      validate: function from variables to the metrics of the validation split. None if
        there is no such split; the last variables then count as the best.
      metric: metric that selects the best variables: 'top1', 'mean_class_top1', 'top5'
        or 'loss'.
      key: key of all random numbers of the stage.
      learning_rate: function from a step to the learning rate.
      description: values that every checkpoint includes.
      checkpoint_seconds: seconds between checkpoints. The first step that ends after
        this time saves the state. The end of the stage saves it too.
      trace: the trace to write of some steps, or None.
    """

    stage: Stage
    step: Step
    batches: Batches
    validate: Callable[[dict], Metrics] | None
    metric: str
    key: jax.Array
    learning_rate: optax.Schedule
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint_seconds: float = 300.0
    trace: Trace | None = None

    @property
    def steps(self) -> int:
        """Return the number of steps from the start of the stage to its end."""
        return self.stage.epochs * self.batches.steps_per_epoch

    def validates_after(self, step: int) -> bool:
        """Return whether the variables are validated after `step` steps."""
        epoch, rest = divmod(step, self.batches.steps_per_epoch)
        due = epoch % self.stage.validate_every == 0 or step == self.steps
        return self.validate is not None and rest == 0 and due
