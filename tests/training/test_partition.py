"""Test partitions of parameters and their optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seeflower_jax.data.view import View
from seeflower_jax.training import optimizer as optimizers
from seeflower_jax.training import partition
from seeflower_jax.training.checkpoint import host_copy
from seeflower_jax.training.stages import Stage

PARAMS = {
    "backbone": {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
}
HEAD_ALONE = (("head/.*", 1.0), ("backbone/.*", None))


def _stage(rules, **changes):
    settings = {"name": "head", "index": 0, "epochs": 1, "batch_size": 1}
    settings |= {"learning_rate": 0.1, "view": View(1, 1), "optimizer": "sgd"}
    return Stage(rules=rules, **settings | changes)


def _update(rules, grads=None, **changes):
    trainable, _ = partition.split(PARAMS, rules)
    optimizer = optimizers.make_optimizer(
        _stage(rules, **changes), optax.constant_schedule(0.1)
    )
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
        ((("head/.*", 0.0), ("backbone/.*", None)), "factor 0.0; expected above 0"),
        (((".*", None),), "nothing to train"),
    ],
)
def test_rules_that_do_not_partition(rules, message):
    with pytest.raises(ValueError, match=message):
        partition.split(PARAMS, rules)


def test_an_error_lists_some_parameters_in_one_line():
    params = {f"conv{number}": jnp.ones(1) for number in range(9)}
    with pytest.raises(ValueError) as caught:
        partition.split(params, (("head/.*", 1.0),))
    message = str(caught.value)
    assert "conv3: no rule; and 5 more" in message and "\n" not in message


def test_factors_scale_the_learning_rate():
    updates, _ = _update((("head/.*", 3.0), ("backbone/.*", 1.0)))
    np.testing.assert_allclose(updates["head/kernel"], -0.3, rtol=1e-6)
    np.testing.assert_allclose(updates["backbone/conv/bias"], -0.1, rtol=1e-6)


def test_frozen_parameters_are_unknown_to_the_optimizer():
    updates, state = _update(HEAD_ALONE, optimizer="adam")
    assert sorted(updates) == ["head/bias", "head/kernel"]
    elements = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert elements == 2 * 9  # two moments of the head's 9 parameters


def test_weight_decay_is_on_kernels_alone():
    zeros = {"head/kernel": jnp.zeros((2, 3)), "head/bias": jnp.zeros(3)}
    updates, _ = _update(HEAD_ALONE, grads=zeros, optimizer="adamw", weight_decay=0.5)
    np.testing.assert_allclose(updates["head/kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["head/bias"], 0)


def test_clipping_norm_is_of_all_trainable_gradients_together():
    updates, _ = _update((("head/.*", 1.0), ("backbone/.*", 2.0)), clip_norm=1.0)
    norm = np.sqrt(9 + 6)
    np.testing.assert_allclose(updates["head/bias"], -0.1 / norm, rtol=1e-5)
    np.testing.assert_allclose(updates["backbone/conv/bias"], -0.2 / norm, rtol=1e-5)
    frozen, _ = _update(HEAD_ALONE, clip_norm=1.0)
    np.testing.assert_allclose(frozen["head/bias"], -0.1 / 3, rtol=1e-5)


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    updates, _ = _update(HEAD_ALONE, optimizer="rmsprop")
    # The first mean square is a tenth of the square.
    np.testing.assert_allclose(updates["head/bias"], -0.1 / 0.1**0.5, rtol=1e-4)


def test_options_of_an_optimizer():
    options = (("momentum", 0.9), ("nesterov", True))
    updates, _ = _update(HEAD_ALONE, optimizer_options=options)
    np.testing.assert_allclose(updates["head/bias"], -0.19, rtol=1e-5)


_DECAY = {"weight_decay": 0.5}
_OF_ADAFACTOR = {"optimizer_options": (("weight_decay_rate", 0.5),)}


@pytest.mark.parametrize(
    "name,decay",
    [(name, _DECAY) for name in ("adamw", "lion", "lamb", "lars", "adadelta")]
    + [("adafactor", _OF_ADAFACTOR)],
)
def test_no_optimizer_decays_biases(name, decay):
    zeros = {"head/kernel": jnp.zeros((2, 3)), "head/bias": jnp.zeros(3)}
    decayed, plain = (
        _update(HEAD_ALONE, grads=zeros, optimizer=name, **changes)[0]
        for changes in (decay, {})
    )
    np.testing.assert_array_equal(decayed["head/bias"], plain["head/bias"])
    assert jnp.abs(decayed["head/kernel"] - plain["head/kernel"]).max() > 0


@pytest.mark.parametrize("name", ["lion", "lamb", "nadamw", "adagrad", "adafactor"])
def test_any_optimizer_of_optax_goes_by_its_name(name):
    updates, _ = _update(HEAD_ALONE, optimizer=name)
    assert jnp.abs(updates["head/kernel"]).max() > 0


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"optimizer": "rprop"}, "optimizer is 'rprop' with"),
        (
            {"optimizer": "novograd", "weight_decay": 0.1},
            "optax.novograd has no weight decay for kernels alone",
        ),
        ({"optimizer": "adamm"}, "optimizer is 'adamm'; .*did you mean 'adam'"),
        (
            {"optimizer": "scale_by_adam"},
            "optimizer is 'scale_by_adam'; expected one of",
        ),
        ({"weight_decay": 0.1}, "weight_decay is 0.1; .*optax.sgd has no weight decay"),
        (
            {"optimizer_options": (("momentun", 0.9),)},
            "has .'momentun'.; .*momentum",
        ),
        (
            {"optimizer": "noisy_sgd", "optimizer_options": (("key", 0),)},
            "optimizer is 'noisy_sgd'; expected an optimizer without a random key",
        ),
    ],
)
def test_optimizers_that_optax_does_not_have(changes, message):
    with pytest.raises(ValueError, match=message):
        _update(HEAD_ALONE, **changes)


@pytest.mark.filterwarnings("ignore")  # of deprecated optimizers
def test_a_checkpoint_can_hold_the_state_of_every_optimizer():
    stages = [_stage(HEAD_ALONE, optimizer=name) for name in optimizers.names()]
    valid = [stage for stage in stages if not optimizers.check_optimizer(stage)]
    names = {stage.optimizer for stage in valid}
    assert {"adamw", "sgd", "lion"} <= names and "noisy_sgd" not in names
    trainable, _ = partition.split(PARAMS, HEAD_ALONE)
    for stage in valid:
        optimizer = optimizers.make_optimizer(stage, optax.constant_schedule(0.1))
        state = jax.tree.leaves(host_copy(optimizer.init(trainable)))
        assert all(isinstance(leaf, np.ndarray) for leaf in state), stage.optimizer


def test_table_of_what_is_trained():
    lines = partition.describe(*partition.split(PARAMS, HEAD_ALONE)).splitlines()
    assert [line.split() for line in lines] == [
        ["parameters", "trained", "frozen"],
        ["backbone/conv", "0", "6"],
        ["head/bias", "...", "head/kernel", "9", "0"],
        ["all", "9", "6"],
    ]
