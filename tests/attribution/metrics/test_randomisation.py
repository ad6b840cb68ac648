"""Rank correlations and randomised parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from seeflower_jax.attribution.metrics import randomisation


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 9, 9))
    b[1] = -a[1]
    correlation = randomisation.rank_correlation(jnp.array(a), jnp.array(b))
    expected = [
        scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(correlation, expected, atol=1e-5)


def _spearman(a, b):
    return scipy.stats.spearmanr(np.ravel(a), np.ravel(b)).statistic


def test_rank_correlation_gives_ties_their_average_rank():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 20, 20)).round(1)
    b = np.maximum(rng.normal(size=a.shape), 0)  # like Grad-CAM's maps
    b[1] = np.maximum(a[1], 0)
    a[2], b[2] = rng.integers(0, 2, (2, 20, 20))
    b[3] = a[3] * 1e-20
    expected = list(map(_spearman, a, b))
    correlation = randomisation.rank_correlation(jnp.array(a), jnp.array(b))
    np.testing.assert_allclose(correlation, expected, atol=1e-5)
    ranks = randomisation.average_ranks(jnp.array(a))
    expected = [scipy.stats.rankdata(x).reshape(x.shape) - 1 for x in a]
    np.testing.assert_array_equal(ranks, expected)


def test_empty_maps_do_not_correlate():
    rng = np.random.default_rng(0)
    empty, other = jnp.zeros((1, 64, 64)), jnp.array(rng.normal(size=(1, 64, 64)))
    for first, second in ((empty, empty), (empty, other), (other, empty + 0.3)):
        assert randomisation.rank_correlation(first, second).tolist() == [0]


def test_rank_correlation_of_large_maps_is_exact():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 299, 299)).astype(np.float32)
    correlation = randomisation.rank_correlation(jnp.array(a), jnp.array(a + b))
    np.testing.assert_allclose(correlation, _spearman(a, a + b), atol=1e-4)


def test_randomised_refuses_a_layer_without_parameters():
    variables = {"params": {"head": {"kernel": jnp.arange(20.0)}}}
    levels = randomisation.randomised(variables, [["haed"]], jax.random.key(0))
    with pytest.raises(ValueError, match="'haed' has no parameters; .* 'head'"):
        next(levels)


def test_randomised_goes_from_the_top_and_keeps_the_rest():
    rng = np.random.default_rng(0)
    params = {
        "backbone": {
            name: {"kernel": jnp.array(rng.normal(size=(4, 5)))} for name in ("a", "ab")
        },
        "head": {"logits": {"kernel": jnp.array(rng.normal(size=(4, 5)))}},
    }
    variables = {"params": params, "batch_stats": {"x": 1}}
    groups = [["head"], ["backbone/a"]]
    one, two = randomisation.randomised(variables, groups, jax.random.key(0))

    def same(a, b):
        return jax.tree.map(lambda x, y: bool((x == y).all()), a["params"], b["params"])

    assert same(one, variables) == {
        "backbone": {"a": {"kernel": True}, "ab": {"kernel": True}},
        "head": {"logits": {"kernel": False}},
    }
    assert same(two, variables)["backbone"] == {
        "a": {"kernel": False},
        "ab": {"kernel": True},
    }
    for tree in (one, two):
        assert tree["batch_stats"] == {"x": 1}
        for a, b in zip(*map(jax.tree.leaves, (tree["params"], params)), strict=True):
            np.testing.assert_array_equal(np.sort(a.ravel()), np.sort(b.ravel()))
