"""Named values are read, and taps added, through the transformations of JAX."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax.attribution.adapters.named import hidden_names
from seeflower_jax.attribution.adapters.names import name_outputs
from seeflower_jax.attribution.adapters.taps import run

X = jnp.array([0.5, -1.0, 2.0])


def hidden(function, x):
    return hidden_names(jax.make_jaxpr(function)(x).jaxpr)


def plain(x):
    return checkpoint_name(jnp.sin(x), "sine")


def static(x):
    return plain(x) ** 2


# Functions of sin(x) ** 2, by the transformations around the named value.
INSIDE = {
    "nothing": static,
    "jit": jax.jit(static),
    "checkpoint": jax.checkpoint(static),
    "vmap": jax.vmap(static),
    "jit of vmap of checkpoint": jax.jit(jax.vmap(jax.checkpoint(static))),
    "scan": lambda x: jax.lax.scan(lambda _, x: (0, static(x)), 0, x[None])[1][0],
}


@pytest.mark.parametrize("function", INSIDE.values(), ids=INSIDE)
def test_taps_reach_values_inside(function):
    outputs, values = run(function, (X,), {})
    np.testing.assert_allclose(outputs, np.sin(X) ** 2, rtol=1e-6)
    np.testing.assert_allclose(values["sine"], np.sin(X), rtol=1e-6)

    def with_tap(tap):
        return run(function, (X,), {"sine": tap})[0].sum()

    gradient = jax.jit(jax.grad(with_tap))(jnp.ones(3))
    np.testing.assert_allclose(gradient, 2 * (np.sin(X) + 1), rtol=1e-6)


def test_repeated_names_have_numbers():
    def function(x):
        for _ in range(3):
            x = checkpoint_name(2 * x, "double")
        return x

    taps = {"double#2": jnp.array(1.0)}
    outputs, values = run(function, (1.0,), taps)
    assert list(values.items()) == [("double", 2), ("double#2", 5), ("double#3", 10)]
    assert outputs == 10


@pytest.mark.parametrize("reverse", [False, True])
def test_steps_of_a_scan_have_numbers(reverse):
    def function(xs):
        def step(carry, x):
            carry = checkpoint_name(carry * x, "product")
            return carry, carry + 1

        return jax.lax.scan(step, 1.0, xs, reverse=reverse)

    xs = jnp.array([2.0, 3.0, 5.0])
    outputs, values = run(function, (xs,), {})
    expected, stacked = function(xs)
    assert outputs[0] == expected == 30
    np.testing.assert_array_equal(outputs[1], stacked)
    assert list(map(float, values.values())) == [5, 15, 30] if reverse else [2, 6, 30]
    tapped, _ = run(function, (xs,), {"product#2": jnp.array(1.0)})
    assert tapped[0] == (32 if reverse else 35)


def test_values_that_are_out_of_reach():
    @jax.custom_jvp
    def custom(x):
        return checkpoint_name(x, "custom")

    custom.defjvp(lambda primals, tangents: (custom(*primals), 7 * tangents[0]))

    def function(x):
        x = jax.lax.cond(x > 0, lambda x: checkpoint_name(x, "branch"), jnp.sin, x)
        x = jax.lax.fori_loop(0, 200, lambda _, x: checkpoint_name(x, "loop"), x)
        x = jax.lax.while_loop(
            lambda x: x < 9, lambda x: checkpoint_name(x + 1, "while"), x
        )
        return checkpoint_name(x, "end")

    reasons = {"branch": "cond", "loop": "scan", "while": "while"}
    assert hidden(function, 1.0) == reasons
    outputs, values = run(function, (1.0,), {})
    assert outputs == 9 and values == {"end": 9}
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=f"layer '{name}' is inside {reason}"):
            run(function, (1.0,), {name: jnp.array(0.0)})
    # The custom derivative stays.
    derivative = jax.grad(lambda x: run(custom, (x,), {})[0])(1.0)
    assert derivative == 7 and hidden(custom, 1.0) == {"custom": "custom_jvp_call"}


def test_names_in_a_branch_do_not_change_gradients():
    def branch(x):
        return name_outputs(x**2, "square")

    def function(x):
        return jax.lax.cond(x > 0, branch, jnp.sin, x)

    derivative = jax.jit(jax.grad(lambda x: run(function, (x,), {})[0]))
    assert derivative(3.0) == 6
    assert jax.vmap(derivative)(jnp.array([3.0, 4.0])).tolist() == [6, 8]


def test_mapped_axes_come_first():
    matrix = jnp.arange(6.0).reshape(2, 3)

    def one(x):
        return name_outputs(x @ matrix.T, "product")  # JAX maps the last axis.

    inner = jax.vmap(one, in_axes=1, out_axes=1)
    x = jnp.arange(120.0).reshape(5, 3, 8)
    outputs, values = run(jax.vmap(inner), (x,), {})
    expected = np.einsum("nkt,ck->ntc", x, matrix)
    np.testing.assert_array_equal(values["product"], expected)
    np.testing.assert_array_equal(outputs, np.moveaxis(expected, 1, 2))
    taps = {"product": jnp.ones(expected.shape)}
    tapped, _ = run(jax.vmap(inner), (x,), taps)
    np.testing.assert_array_equal(tapped, outputs + 1)


def test_outputs_of_modules():
    outputs = {"a": (jnp.ones(2), 3), "b": jnp.arange(2), "c": None}
    named, values = run(lambda: name_outputs(outputs, "x")["a"][0], (), {})
    assert list(values) == ["x['a'][0]"]
    assert name_outputs(outputs, "x")["a"][1] == 3


def test_taps_that_do_not_fit():
    with pytest.raises(ValueError, match="'sin' is unknown.*did you mean 'sine'"):
        run(plain, (X,), {"sin": X})
    with pytest.raises(ValueError, match=r"'sine' .* \(2,\); expected \(3,\)"):
        run(plain, (X,), {"sine": X[:2]})


def test_values_that_are_not_used():
    def function(x):
        plain(x) + 1
        return x

    assert list(run(function, (X,), {})[1]) == ["sine"]
    with pytest.raises(ValueError, match="'sine' is computed but not used"):
        run(function, (X,), {"sine": X})


def test_values_keep_their_dtype():
    x = jnp.ones(2, jnp.bfloat16)
    outputs, _ = run(plain, (x,), {"sine": jnp.ones(2, jnp.float32)})
    assert outputs.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "make", [dict, functools.partial(collections.defaultdict, int)]
)
def test_dicts_keep_the_order_of_their_keys(make):
    inner = make({"b": 2 * X, "a": X})
    outputs = make({"low": X, "high": (inner, None), 1: 3 * X})
    result = name_outputs(outputs, "x")
    assert list(result) == ["low", "high", 1] and list(result["high"][0]) == ["b", "a"]
    assert type(result) is type(outputs) and result["high"][1] is None
    np.testing.assert_array_equal(result["high"][0]["b"], 2 * X)
    names = list(run(lambda: name_outputs(outputs, "x")[1], (), {})[1])
    assert names == ["x['low']", "x['high'][0]['b']", "x['high'][0]['a']", "x[1]"]
