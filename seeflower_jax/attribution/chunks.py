"""Run a function on many inputs, a few at a time, in constant memory.

    total = sum_over(gradient_at, points, batch_size=4)
    scores = map_over(masked_score, masks, batch_size=4)
    total = sum_over_steps(gradient_at, trapezoid, points, batch_size=4)

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

    def add(total: Tree, chunk: Tree, is_batch: bool) -> Tree:
        outputs = jax.vmap(function)(chunk) if is_batch else function(chunk)
        sums = jax.tree.map(lambda x: x.sum(0), outputs) if is_batch else outputs
        return jax.tree.map(jnp.add, total, sums)

    first = jax.tree.map(lambda x: x[0], inputs)
    return _scan(add, _zeros(jax.eval_shape(function, first)), inputs, batch_size)


def sum_over_steps(
    function: Callable[[Tree], Tree],
    combine: Callable[[Tree, Tree], Tree],
    inputs: Tree,
    batch_size: int,
) -> Tree:
    """Return the sum of combine(output, next output) for all neighbouring inputs.

    The function runs once for each input. Memory does not grow with their number.

    Example:
      >>> def change(before, after):
      ...     return after - before
      >>> sum_over_steps(lambda x: 2 * x, change, jnp.arange(4), batch_size=2).item()
      6
    """

    def add(carry: tuple[Tree, Tree], chunk: Tree, is_batch: bool) -> tuple[Tree, Tree]:
        total, before = carry
        if not is_batch:
            after = function(chunk)
            return jax.tree.map(jnp.add, total, combine(before, after)), after
        outputs = jax.vmap(function)(chunk)
        starts = jax.tree.map(
            lambda x, y: jnp.concatenate([x[None], y[:-1]]), before, outputs
        )
        parts = jax.vmap(combine)(starts, outputs)
        total = jax.tree.map(lambda x, y: x + y.sum(0), total, parts)
        return total, jax.tree.map(lambda x: x[-1], outputs)

    start = function(jax.tree.map(lambda x: x[0], inputs))
    zeros = _zeros(jax.eval_shape(combine, start, start))
    others = jax.tree.map(lambda x: x[1:], inputs)
    return _scan(add, (zeros, start), others, batch_size)[0]


def _scan(
    add: Callable[[Tree, Tree, bool], Tree], carry: Tree, inputs: Tree, batch_size: int
) -> Tree:
    """Return the carry after all chunks of the inputs.

    Args:
      add: (carry, chunk, is_batch) -> carry. If `is_batch` is false, the chunk is one
        input without a first axis, because a batch of one needs no `vmap`.
      carry, inputs, batch_size: see `sum_over`.
    """
    count = len(jax.tree.leaves(inputs)[0])
    size = min(batch_size, count)
    whole = count - count % size
    is_batch = size > 1
    axis = (size,) if is_batch else ()
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, *axis, *x.shape[1:]), inputs)
    carry, _ = jax.lax.scan(
        lambda carry, chunk: (add(carry, chunk, is_batch), None), carry, chunks
    )
    if whole < count:
        carry = add(carry, jax.tree.map(lambda x: x[whole:], inputs), is_batch)
    return carry


def _zeros(shapes: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, shapes)
