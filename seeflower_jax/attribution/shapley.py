"""Shapley values by a weighted regression on coalitions of players.

    coalitions, weights = make_coalitions(keys, count=49, samples=512)
    values = fit_values(coalitions[0], players, gains, change, weights)

Source: Lundberg and Lee 2017, arXiv 1705.07874, theorem 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from seeflower_jax.models.dtypes import as_float


def make_coalitions(
    keys: Key[Array, "n"], count: int, samples: int
) -> tuple[Bool[Array, "n k m"], Float[Array, "#k"]]:
    """Return coalitions of players, and the weights of their gains in the regression.

    If there are at most `samples` coalitions, without the empty and the full one, the
    function returns all of them. If there are more, it draws from the Shapley kernel,
    in pairs of a coalition and its complement.

    Args:
      keys: one random key per image.
      count: number of players, m.
      samples: number of coalitions; an odd number is rounded up.

    Example:
      >>> make_coalitions(keys[:1], count=2, samples=2)[0].astype(int).tolist()
      [[[1, 0], [0, 1]]]
    """
    if 2**count - 2 > samples:
        draw = jax.vmap(_draw_coalitions, (0, None, None))
        return draw(keys, count, samples), jnp.ones(1)
    numbers = np.arange(1, 2**count - 1)
    coalitions = (numbers[:, None] >> np.arange(count)) & 1 == 1
    sizes = coalitions.sum(1)
    of_same_size = np.bincount(sizes, minlength=count)[sizes]
    weights = (count - 1) / (of_same_size * sizes * (count - sizes))
    return (
        jnp.broadcast_to(coalitions, (len(keys), *coalitions.shape)),
        jnp.array(weights),
    )


def _draw_coalitions(
    key: Key[Array, ""], count: int, samples: int
) -> Bool[Array, "k m"]:
    of_size, of_order = jax.random.split(key)
    pairs = -(-samples // 2)
    sizes = np.arange(1, count)
    log_chances = -jnp.log(jnp.array(sizes * (count - sizes), jnp.float32))
    drawn = 1 + jax.random.categorical(of_size, log_chances, shape=(pairs, 1))
    order = jax.random.uniform(of_order, (pairs, count), jnp.float32)
    ranks = order.argsort(1).argsort(1)
    coalitions = ranks < drawn
    return jnp.stack([coalitions, ~coalitions], 1).reshape(-1, count)


def fit_values(
    coalitions: Bool[Array, "k m"],
    players: Bool[Array, "m"],
    gains: Float[Array, "k"],
    change: Float[Array, ""],
    weights: Float[Array, "#k"],
) -> Float[Array, "m"]:
    """Return the values of the players that fit the gains of coalitions best.

    A value is an equal share of `change` plus a remainder. The remainders add up to 0,
    so the mean of each coalition can be subtracted. The least-squares solution of the
    smallest norm then adds up to 0.

    A player that does not take part has the value 0. Its membership of coalitions has
    no effect on the gains, so the weights of the regression stay correct.

    Args:
      coalitions: whether each player is in each coalition.
      players: whether each player takes part, at least one.
      gains: gain of each coalition over the empty one.
      change: gain of the full coalition, which is the sum of the values.
      weights: weights of the gains in the regression.

    Example:
      >>> coalitions = jnp.array([[True, False], [False, True]])
      >>> gains, players = jnp.array([1.0, 2.0]), jnp.array([True, True])
      >>> values = fit_values(coalitions, players, gains, 4.0, jnp.ones(1))
      >>> [round(x, 4) for x in values.tolist()]
      [1.5, 2.5]
    """
    gains = as_float(gains)
    members = (coalitions & players).astype(gains.dtype)
    count = players.sum()
    shares = members.sum(1, keepdims=True) / count
    roots = jnp.sqrt(weights.astype(gains.dtype))
    rows, rests = jnp.where(players, members - shares, 0), gains - shares[:, 0] * change
    solution, *_ = jnp.linalg.lstsq(rows * roots[:, None], rests * roots)
    return jnp.where(players, change / count + solution, 0)
