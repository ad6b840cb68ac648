"""Run a function on many inputs, a few at a time, in constant memory.

    total = sum_over(gradient_at, points, batch_size=4)
    scores = map_over(masked_score, masks, batch_size=4)

`batch_size` inputs run at once. The result does not depend on it, apart from rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# A pytree of arrays; the inputs lie along the first axis.
Tree = Any


def map_over(function: Callable[[Tree], Tree], inputs: Tree, batch_size: int) -> Tree:
    """Return the outputs for all inputs, along the first axis.

    Example:
      >>> map_over(lambda x: 2 * x, jnp.arange(3), batch_size=2).tolist()
      [0, 2, 4]
    """
    # A batch of one needs no `vmap`.
    size = batch_size if batch_size > 1 else None
    return jax.lax.map(function, inputs, batch_size=size)


def sum_over(function: Callable[[Tree], Tree], inputs: Tree, batch_size: int) -> Tree:
    """Return the sum of the outputs for all inputs.

    Memory does not grow with the number of inputs, even if each output is large.

    Example:
      >>> sum_over(lambda x: 2 * x, jnp.arange(3), batch_size=2).item()
      6
    """
    count = len(jax.tree.leaves(inputs)[0])
    size = min(batch_size, count)
    whole = count - count % size

    def add(total: Tree, chunk: Tree) -> tuple[Tree, None]:
        outputs = jax.vmap(function)(chunk) if size > 1 else function(chunk)
        sums = jax.tree.map(lambda x: x.sum(0), outputs) if size > 1 else outputs
        return jax.tree.map(jnp.add, total, sums), None

    shape = (size,) if size > 1 else ()
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, *shape, *x.shape[1:]), inputs)
    first = jax.tree.map(lambda x: x[0], inputs)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first)
    )
    total, _ = jax.lax.scan(add, zeros, chunks)
    if whole < count:
        total, _ = add(total, jax.tree.map(lambda x: x[whole:], inputs))
    return total
