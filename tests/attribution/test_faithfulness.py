"""Faithfulness metrics on a network with a known correct map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from seeflower_jax.attribution import faithfulness


@pytest.fixture(scope="module")
def case():
    """Return a network that uses only one quarter, images, good maps and labels."""

    def network(images, taps=None):
        brightness = (images[:, :8, :8] / 127.5 - 1).mean((1, 2, 3))
        return jnp.stack([8 * brightness, jnp.zeros_like(brightness)], -1), {}

    rng = np.random.default_rng(0)
    images = jnp.array(rng.uniform(180, 255, (3, 16, 16, 3)), jnp.float32)
    good = jnp.zeros((3, 16, 16)).at[:, :8, :8].set(1.0)
    return network, images, good, jnp.zeros(3, jnp.int32)


def test_deletion_falls_at_once_for_a_good_map(case):
    network, images, good, labels = case
    curve = faithfulness.deletion(network, images, good, labels, steps=8)
    assert curve.shape == (9, 3)
    whole = jax.nn.softmax(network(images)[0])[:, 0]
    np.testing.assert_allclose(curve[0], whole, rtol=1e-6)
    np.testing.assert_allclose(curve[2:], 0.5, atol=1e-6)  # a quarter is removed
    bad = faithfulness.deletion(network, images, -good, labels, steps=8)
    np.testing.assert_allclose(bad[:7], np.tile(whole, (7, 1)), rtol=1e-5)
    assert (faithfulness.area_under(curve) < faithfulness.area_under(bad)).all()


def test_insertion_rises_at_once_for_a_good_map(case):
    network, images, good, labels = case
    striped = images.at[:, :, ::2].set(0.0)
    curve = faithfulness.insertion(network, striped, good, labels, steps=8, sigma=2.0)
    whole = jax.nn.softmax(network(striped)[0])[:, 0]
    np.testing.assert_allclose(curve[2:], np.tile(whole, (7, 1)), rtol=1e-5)
    bad = faithfulness.insertion(network, striped, -good, labels, steps=8, sigma=2.0)
    np.testing.assert_allclose(bad[:7], np.tile(curve[0], (7, 1)), rtol=1e-5)


def test_blur_keeps_an_even_image_and_the_mean(case):
    even = jnp.full((1, 9, 11, 3), 40.0)
    np.testing.assert_allclose(faithfulness._blur(even, 2.0), even, rtol=1e-5)
    dot = jnp.zeros((1, 21, 21, 1)).at[0, 10, 10].set(1.0)
    assert float(faithfulness._blur(dot, 1.5).sum()) == pytest.approx(1, rel=1e-5)


def test_imputation_is_smooth_and_leaves_the_rest():
    rows = jnp.arange(12.0)[:, None, None] * jnp.ones((12, 12, 3))
    removed = jnp.zeros((1, 12, 12), bool).at[0, 4:8, 4:8].set(True)
    imputed = faithfulness._impute(rows[None], removed)
    np.testing.assert_allclose(imputed, rows[None], atol=0.1)  # a plane is harmonic
    np.testing.assert_array_equal(imputed[~removed], rows[None][~removed])


def test_road_tells_good_from_bad(case):
    network, _, good, labels = case
    images = jnp.full((3, 16, 16, 3), 60.0).at[:, :8, :8].set(255.0)
    most, least = faithfulness.road(network, images, good, labels, (0.25, 0.5))
    assert most.shape == least.shape == (2, 3)
    np.testing.assert_allclose(least, 1.0, atol=1e-3)
    assert (most < 0.2).all()


def test_sparseness():
    maps = jnp.stack([jnp.ones((10, 10)), jnp.zeros((10, 10)).at[2, 3].set(-5.0)])
    maps = jnp.concatenate([maps, jnp.zeros((1, 10, 10))])
    gini = faithfulness.sparseness(maps)
    np.testing.assert_allclose(gini, [0.0, 0.99, 0.0], atol=1e-5)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 9, 9))
    b[1] = -a[1]
    correlation = faithfulness.rank_correlation(jnp.array(a), jnp.array(b))
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
    b = np.maximum(rng.normal(size=a.shape), 0)  # as of Grad-CAM
    b[1] = np.maximum(a[1], 0)
    a[2], b[2] = rng.integers(0, 2, (2, 20, 20))
    b[3] = a[3] * 1e-20
    expected = list(map(_spearman, a, b))
    correlation = faithfulness.rank_correlation(jnp.array(a), jnp.array(b))
    np.testing.assert_allclose(correlation, expected, atol=1e-5)
    ranks = faithfulness.average_ranks(jnp.array(a))
    expected = [scipy.stats.rankdata(x).reshape(x.shape) - 1 for x in a]
    np.testing.assert_array_equal(ranks, expected)


def test_empty_maps_do_not_correlate():
    rng = np.random.default_rng(0)
    empty, other = jnp.zeros((1, 64, 64)), jnp.array(rng.normal(size=(1, 64, 64)))
    for first, second in ((empty, empty), (empty, other), (other, empty + 0.3)):
        assert faithfulness.rank_correlation(first, second).tolist() == [0]


def test_rank_correlation_of_large_maps_is_exact():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 299, 299)).astype(np.float32)
    correlation = faithfulness.rank_correlation(jnp.array(a), jnp.array(a + b))
    np.testing.assert_allclose(correlation, _spearman(a, a + b), atol=1e-4)


def test_area_is_by_the_trapezoidal_rule():
    curve = np.random.default_rng(0).uniform(size=(21, 3))
    # As in the authors' code: the sum without half of each end, over the steps.
    expected = (curve.sum(0) - curve[0] / 2 - curve[-1] / 2) / 20
    np.testing.assert_allclose(faithfulness.area_under(curve), expected, rtol=1e-6)


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
    one, two = faithfulness.randomised(variables, groups, jax.random.key(0))

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
