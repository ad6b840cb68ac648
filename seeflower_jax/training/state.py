"""The state of a stage: parameters, statistics, optimizer memory.

state = create_state(variables, stage, optimizer)
logits, _ = models.apply(spec, state.variables(), images)
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from seeflower_jax.training import partition
from seeflower_jax.training.stages import Stage


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
        """Return what is evaluated: the averaged parameters, if there are any."""
        params = partition.join(self.average or self.trainable, self.frozen)
        return {"params": params, "batch_stats": self.batch_stats}


def create_state(
    variables: dict, stage: Stage, optimizer: optax.GradientTransformation
) -> TrainState:
    """Return the state of a stage before its first step.

    Raises:
      ValueError: if the stage's rules do not partition the parameters.
    """
    trainable, frozen = partition.split(variables["params"], stage.rules)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(trainable),
        # A copy: the step takes over the memory of both.
        average=jax.tree.map(jnp.array, trainable) if stage.ema_decay else {},
    )
