"""ZCA whitening."""

import itertools
import tracemalloc

import numpy as np

from seeflower_jax.data import whitening


def _textures(count, seed):
    """Smooth coloured noise: neighbouring pixels and channels are correlated."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, 44, 44, 3))
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in range(5)) / 3
    mixed = noise[:, :40, :40] @ np.array([[1, 0.8, 0.5], [0, 0.6, 0.5], [0, 0, 0.7]])
    return (120 + 25 * mixed).clip(0, 255).astype(np.uint8)


def _correlations(images):
    right = np.stack([images[:, :, :-1, 0].ravel(), images[:, :, 1:, 0].ravel()])
    colour = np.stack([images[..., 0].ravel(), images[..., 1].ravel()])
    return np.corrcoef(right)[0, 1], np.corrcoef(colour)[0, 1]


def test_removes_correlation_on_images_it_was_not_fitted_on(tmp_path):
    fitted = whitening.fit(_textures(40, 0), seed=0, patch_size=7, epsilon=1e-3)
    fitted.save(tmp_path / "w.npz")
    fitted = whitening.Whitening.load(tmp_path / "w.npz")
    images = _textures(10, 1).astype(np.float32)
    assert min(_correlations(images)) > 0.6
    whitened = np.asarray(fitted(images))[:, 5:-5, 5:-5]
    assert max(np.abs(_correlations(whitened))) < 0.2
    assert abs(whitened.mean() - 127.5) < 3
    assert 0.8 < whitened.std() / 63.75 < 1.2


def test_kernel_is_symmetric_and_fit_is_reproducible():
    first, second = (whitening.fit(_textures(10, 0), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.kernel, second.kernel)
    assert np.unravel_index(first.kernel[..., 0, 0].argmax(), (7, 7)) == (3, 3)


def test_kernel_is_the_row_of_the_zca_matrix_of_all_patches():
    (image,) = _textures(1, 0)
    fitted = whitening.fit([image[:3, :3]] * 2 + [image[5:8, 5:8]], 0, patch_size=3)
    # Each image has one patch.
    patches = np.stack([image[:3, :3]] * 2 + [image[5:8, 5:8]]).astype(np.float64)
    mean = patches.mean((0, 1, 2))
    centered = (patches - mean).reshape(3, 27)
    values, vectors = np.linalg.eigh(centered.T @ centered / 3)
    matrix = vectors / np.sqrt(values + 0.01 * values.mean()) @ vectors.T
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-6)
    expected = matrix[:, 12:15].reshape(3, 3, 3, 3)
    np.testing.assert_allclose(fitted.kernel, expected, atol=1e-6)


def test_memory_does_not_grow_with_the_images():
    images = _textures(4, 0)
    tracemalloc.start()
    try:
        whitening.fit(itertools.islice(itertools.cycle(images), 400), seed=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6  # The patches alone have 6e6 bytes.
