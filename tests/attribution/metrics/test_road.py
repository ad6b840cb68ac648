"""ROAD on images whose imputation is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse.linalg

from seeflower_jax.attribution.metrics import road


@pytest.fixture(scope="module")
def case():
    """Return a network that uses only one quarter, images, good maps and labels."""

    def network(images, taps=None):
        brightness = (images[:, :8, :8] / 127.5 - 1).mean((1, 2, 3))
        return jnp.stack([8 * brightness, jnp.zeros_like(brightness)], -1), {}

    images = jnp.full((3, 16, 16, 3), 60.0).at[:, :8, :8].set(255.0)
    good = jnp.zeros((3, 16, 16)).at[:, :8, :8].set(1.0)
    return network, images, good, jnp.zeros(3, jnp.int32)


def _solve(image, removed):
    """Return the solution of ROAD's equations by SciPy, as pytorch-grad-cam does."""
    height, width = removed.shape
    pixels = list(zip(*np.nonzero(removed), strict=True))
    number = {pixel: index for index, pixel in enumerate(pixels)}
    matrix = scipy.sparse.lil_matrix((len(pixels), len(pixels)))
    right = np.zeros((len(pixels), image.shape[-1]))
    for (row, column), index in number.items():
        for i, j in itertools.product((-1, 0, 1), repeat=2):
            at = row + i, column + j
            if (i or j) and 0 <= at[0] < height and 0 <= at[1] < width:
                weight = 1 / 6 if 0 in (i, j) else 1 / 12
                matrix[index, index] += weight
                if removed[at]:
                    matrix[index, number[at]] -= weight
                else:
                    right[index] += weight * image[at]
    solution = image.copy()
    solution[removed] = scipy.sparse.linalg.spsolve(matrix.tocsr(), right)
    return solution


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_imputation_solves_the_equations(share):
    """Most of the removed pixels are far from all others."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (48, 56, 3)).astype(np.float32)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(48, 56)), 8)
    removed = smooth > np.quantile(smooth, 1 - share)
    imputed = road._impute(jnp.array(image), jnp.array(removed))
    np.testing.assert_allclose(imputed, _solve(image, removed), atol=0.5)
    np.testing.assert_array_equal(imputed[~removed], image[~removed])
    with jax.enable_x64(True):
        again = road._impute(jnp.array(image), jnp.array(removed))
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, imputed, atol=1e-2)


def test_imputation_without_any_pixel():
    removed = jnp.ones((4, 4), bool)
    np.testing.assert_array_equal(road._impute(jnp.ones((4, 4, 3)), removed), 0)


def test_road_tells_good_from_bad(case):
    network, images, good, labels = case
    most, least = road.road(network, images, good, labels, np.array([0.25, 0.5]))
    assert most.shape == least.shape == (2, 3)
    np.testing.assert_allclose(least, 1.0, atol=1e-3)
    assert (most < 0.2).all()


def test_shares_of_an_array_inside_jit(case):
    network, images, good, labels = case

    def combined(images, shares):
        return road.road_combined(network, images, good, labels, shares)

    expected = combined(images, (0.25, 0.5))
    shares = jnp.array([0.25, 0.5])
    for actual in (
        jax.jit(combined)(images, shares),
        jax.jit(lambda images: combined(images, shares))(images),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_both_orders_in_one_number(case):
    network, images, good, labels = case
    # Without the bright quarter, all pixels are 60, and so are the imputed ones.
    bright, dark = jax.nn.sigmoid(8 * (np.array([255.0, 60.0]) / 127.5 - 1))
    score = road.road_combined(network, images, good, labels, (0.25,))
    np.testing.assert_allclose(score, (bright - dark) / 2, rtol=1e-5)
    opposite = road.road_combined(network, images, -good, labels, (0.25,))
    np.testing.assert_allclose(opposite, -score, rtol=1e-5)
    even = jnp.full_like(images, 90.0)
    nothing = road.road_combined(network, even, good, labels)
    np.testing.assert_allclose(nothing, 0, atol=1e-6)


@pytest.mark.parametrize("shares", [(), (20, 40), (-0.1,)])
def test_shares_that_are_none(case, shares):
    for metric in (road.road, road.road_combined):
        with pytest.raises(ValueError, match=r"shares are .* from 0 to 1"):
            metric(*case, shares)


def test_without_labels_the_class_of_the_whole_image_is_followed(case):
    network, images, good, labels = case
    curves = road.road(network, images, good, None)
    assert np.min(curves) < 0.5 < np.max(curves)
    expected = road.road(network, images, good, labels)
    np.testing.assert_array_equal(curves, expected)
