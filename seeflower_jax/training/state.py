"""Define the state of a stage: parameters, statistics and optimizer memory.

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
    """The arrays that a stage changes, and the frozen parameters.

    Attributes:
      step: number of finished steps of the stage, int32.
      trainable: {name: parameter} of the trained parameters.
      frozen: {name: parameter} of the frozen parameters.
      batch_stats: batch statistics of the network.
      opt_state: state of the optimizer of `trainable`.
      average: exponential moving average of `trainable`; empty if the stage has none.
    """

    step: jax.Array
    trainable: dict[str, jax.Array]
    frozen: dict[str, jax.Array]
    batch_stats: Any
    opt_state: optax.OptState
    average: dict[str, jax.Array]

    def variables(self) -> dict:
        """Return the variables to evaluate, with averaged parameters if they exist."""
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
        # The step reuses the memory of both dicts, so `average` needs its own copy.
        average=jax.tree.map(jnp.array, trainable) if stage.ema_decay else {},
    )
