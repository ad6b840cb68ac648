"""Which optimizer moves which parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from seeflower_jax.training import partition

PARAMS = {
    "backbone": {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
}
STAGE = ConfigDict(
    {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
)


def _update(rules, stage=STAGE, grads=None, **changes):
    stage = ConfigDict({**stage, **changes})
    trainable, _ = partition.split(PARAMS, rules)
    optimizer = partition.make_optimizer(stage, rules, optax.constant_schedule(0.1))
    grads = grads or jax.tree.map(jnp.ones_like, trainable)
    state = optimizer.init(trainable)
    return optimizer.update(grads, state, trainable)[0], state


def test_split_and_join():
    rules = (("head/.*", 1.0), ("backbone/.*", None))
    trainable, frozen = partition.split(PARAMS, rules)
    assert sorted(trainable) == ["head/bias", "head/kernel"]
    assert sorted(frozen) == ["backbone/conv/bias", "backbone/conv/kernel"]
    joined = partition.join(trainable, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize(
    "rules,message",
    [
        ((("head/.*", 1.0),), "backbone/conv/kernel: no rule"),
        ((("head/.*", 1.0), (".*", None)), r"head/kernel: \['head/\.\*', '\.\*'\]"),
        ((("head/.*", 1.0), ("b.*", None), ("tail", 1.0)), "'tail' matches no param"),
        ((("head/.*", 0.0), ("backbone/.*", None)), "factor 0.0; use None to freeze"),
        (((".*", None),), "nothing to train"),
    ],
)
def test_rules_that_do_not_partition(rules, message):
    with pytest.raises(ValueError, match=message):
        partition.split(PARAMS, rules)


def test_factors_scale_the_learning_rate():
    updates, _ = _update((("head/.*", 3.0), ("backbone/.*", 1.0)))
    np.testing.assert_allclose(updates["head/kernel"], -0.3, rtol=1e-6)
    np.testing.assert_allclose(updates["backbone/conv/bias"], -0.1, rtol=1e-6)


def test_frozen_parameters_are_unknown_to_the_optimizer():
    rules = (("head/.*", 1.0), ("backbone/.*", None))
    updates, state = _update(rules, optimizer="adam")
    assert sorted(updates) == ["head/bias", "head/kernel"]
    elements = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert elements == 2 * 9  # two moments of the head's 9 parameters


def test_weight_decay_is_on_kernels_alone():
    rules = (("head/.*", 1.0), ("backbone/.*", None))
    zeros = {"head/kernel": jnp.zeros((2, 3)), "head/bias": jnp.zeros(3)}
    updates, _ = _update(rules, grads=zeros, weight_decay=0.5)
    np.testing.assert_allclose(updates["head/kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["head/bias"], 0)


def test_clipping_norm_is_of_all_trainable_gradients_together():
    updates, _ = _update((("head/.*", 1.0), ("backbone/.*", 2.0)), clip_norm=1.0)
    norm = np.sqrt(9 + 6)
    np.testing.assert_allclose(updates["head/bias"], -0.1 / norm, rtol=1e-5)
    np.testing.assert_allclose(updates["backbone/conv/bias"], -0.2 / norm, rtol=1e-5)
    frozen, _ = _update((("head/.*", 1.0), ("backbone/.*", None)), clip_norm=1.0)
    np.testing.assert_allclose(frozen["head/bias"], -0.1 / 3, rtol=1e-5)


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    updates, _ = _update((("head/.*", 1.0), ("backbone/.*", None)), optimizer="rmsprop")
    # The first mean square is a tenth of the square.
    np.testing.assert_allclose(updates["head/bias"], -0.1 / 0.1**0.5, rtol=1e-4)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="'adam', 'rmsprop', 'sgd'"):
        _update((("head/.*", 1.0), ("backbone/.*", None)), optimizer="adamm")
