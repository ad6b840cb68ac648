"""Augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from seeflower_jax.data import augmentation
from seeflower_jax.data.augmentation import Augmentation, augment, mix
from seeflower_jax.data.view import View


def _image(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 / height, x * 255 / width, (x + y) % 256], -1).astype(
        np.uint8
    )


def _batch(*images):
    sizes = np.array([p.shape[:2] for p in images], np.int32)
    canvas = np.zeros((len(images), *sizes.max(0), 3), np.uint8)
    for row, image in zip(canvas, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return jnp.asarray(canvas), jnp.asarray(sizes)


def _keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_without_options_it_is_the_view(keep_aspect):
    """Where the view enlarges, both sample alike, except at the border."""
    canvas, sizes = _batch(_image(20, 30))
    images = _augment(_keys(1), canvas, sizes, 24, keep_aspect=keep_aspect)
    seen = View(24, 20, keep_aspect=keep_aspect)(canvas, sizes)
    inside = np.s_[:, 2:-2, 2:-2] if keep_aspect else np.s_[:, 2:-2]
    if keep_aspect:
        np.testing.assert_allclose(images[inside], seen[inside], atol=1e-3)
    else:  # which shrinks along x, by a quarter
        assert np.abs(images - seen)[inside].max() < 3


@pytest.mark.parametrize(
    "flip,view",
    [("hflip", lambda p: p[:, ::-1]), ("vflip", lambda p: p[::-1])],
)
def test_flips_mirror_half_of_the_images(flip, view):
    image = _image(16, 16)
    canvas, sizes = _batch(*[image] * 64)
    out = _augment(_keys(64), canvas, sizes, 16, **{flip: True})
    same = np.abs(out - image).max(axis=(1, 2, 3)) < 1e-2
    mirrored = np.abs(out - view(image)).max(axis=(1, 2, 3)) < 1e-2
    assert (same ^ mirrored).all() and 16 < same.sum() < 48


def _augment(keys, canvas, sizes, size, **options):
    return augment(keys, canvas, sizes, Augmentation(size, **options))


def _points(**options):
    """Return the sources, in [-1, 1], of the corners and the centre of 500 outputs."""
    matrices = jax.vmap(
        lambda key: augmentation._random_affine(key, Augmentation(8, **options))
    )(_keys(500))
    return np.asarray(matrices)


def test_rotation_is_within_its_limit_and_keeps_lengths():
    linear = _points(rotation=30.0)[:, :, :2]
    np.testing.assert_allclose(np.linalg.det(linear), 1, atol=1e-5)
    angles = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert 28 < np.abs(angles).max() <= 30 and abs(angles.mean()) < 2


def test_shift_zoom_and_shear_are_within_their_limits():
    shifts = _points(shift=0.2)[:, :, 2] / 2  # of the side, which is 2 long
    assert 0.19 < np.abs(shifts).max() <= 0.2
    zooms = _points(zoom=0.2)[:, [0, 1], [0, 1]]
    assert 0.8 <= zooms.min() < 0.81 and 1.19 < zooms.max() <= 1.2
    leans = np.arcsin(_points(shear=0.2)[:, 1, 0])
    assert 0.19 < np.abs(leans).max() <= 0.2


def test_random_crop_has_the_asked_area_and_ratio_and_stays_inside():
    size = jnp.array([100, 150])
    center, half = jax.vmap(
        lambda key: augmentation._crop_box(key, size, (0.35, 1.0), (3 / 4, 4 / 3))
    )(_keys(500))
    area = 4 * half.prod(axis=1) / 15000
    assert 0.3 < area.min() and area.max() <= 1
    assert (center - half >= -1e-3).all() and (center + half <= size + 1e-3).all()
    small = area < 0.6  # these fit with any ratio
    ratio = (half[:, 1] / half[:, 0])[small]
    assert 0.74 < ratio.min() and ratio.max() < 1.34


def test_a_view_depends_on_its_own_key_alone():
    options = dict(rotation=30.0, shear=0.2, shift=0.2, zoom=0.2, crop_area=(0.3, 1.0))
    canvas, sizes = _batch(_image(20, 30), _image(30, 20))
    together = _augment(_keys(2), canvas, sizes, 16, **options)
    alone = _augment(_keys(2)[1:], canvas[1:], sizes[1:], 16, **options)
    np.testing.assert_allclose(together[1:], alone, atol=1e-3)
    other = _augment(_keys(2, seed=1), canvas, sizes, 16, **options)
    assert np.abs(other - together).max() > 1
    assert together.min() >= 0 and together.max() <= 255


def test_canvas_beyond_the_image_is_never_seen():
    image = np.full((10, 12, 3), 200, np.uint8)
    canvas, sizes = _batch(image, np.zeros((30, 30, 3), np.uint8))
    options = dict(rotation=30.0, shift=0.5, zoom=0.5)
    out = _augment(_keys(2), canvas, sizes, 16, **options)
    np.testing.assert_allclose(out[0], 200, atol=1e-3)


def test_light_varies_within_its_limits_and_keeps_the_range():
    image = np.full((8, 8, 3), 100, np.uint8)
    image[:4] = 140  # mean 120, differences 20
    canvas, sizes = _batch(*[image] * 200)
    out = _augment(_keys(200), canvas, sizes, 8, brightness=0.3)
    factors = out.mean((1, 2, 3)) / 120
    assert 0.7 <= factors.min() < 0.75 and 1.25 < factors.max() <= 1.3
    out = _augment(_keys(200), canvas, sizes, 8, contrast=0.5)
    np.testing.assert_allclose(out.mean((1, 2, 3)), 120, rtol=1e-4)
    spread = out[:, 0].mean((1, 2)) - 120
    assert 10 <= spread.min() < 12 and 28 < spread.max() <= 30
    bright = jnp.full_like(canvas, 250)
    assert _augment(_keys(200), bright, sizes, 8, brightness=0.3).max() == 255


def _mixed(**options):
    """Black, white, black, ... images, mixed, with targets 0, 1, 0, ..."""
    values = jnp.arange(400) % 2
    images = jnp.broadcast_to(255.0 * values[:, None, None, None], (400, 16, 12, 3))
    targets = jax.nn.one_hot(values, 2)
    return values, *mix(_keys(400), images, targets, Augmentation(16, **options))


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_mixed_targets_are_the_share_of_the_pixels(options):
    values, images, targets = _mixed(**options)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-5)
    white = images.mean((1, 2, 3)) / 255
    np.testing.assert_allclose(targets[:, 1], white, atol=1e-5)
    own = np.take_along_axis(np.asarray(targets), values[:, None], 1)[:, 0]
    assert own.min() >= 0.35 and own.std() > 0.1  # half, except for rounding to pixels
    distinct = [len(np.unique(image)) for image in np.asarray(images)]
    if "mixup" in options:
        assert max(distinct) == 1
    else:
        assert max(distinct) == 2 and set(np.unique(images)) == {0.0, 255.0}


@pytest.mark.parametrize("alpha", [0.5, 1.0, 8.0])
def test_shares_follow_the_beta_distribution(alpha):
    images = jnp.zeros((4000, 1, 1, 3))
    targets = jax.nn.one_hot(jnp.arange(4000) % 2, 2)
    _, mixed = mix(_keys(4000), images, targets, Augmentation(1, mixup=alpha))
    shares = scipy.stats.beta(alpha, alpha)
    test = scipy.stats.kstest(
        np.asarray(mixed).max(-1), lambda x: 2 * shares.cdf(x) - 1
    )
    assert test.pvalue > 0.01


def test_both_ways_of_mixing_are_drawn_equally_and_neither_is_nothing():
    _, images, _ = _mixed(mixup=1.0, cutmix=1.0)
    cut = np.mean([len(np.unique(image)) == 2 for image in np.asarray(images)])
    assert 0.35 < cut < 0.6
    values, images, targets = _mixed()
    np.testing.assert_array_equal(images[:, 0, 0, 0], 255.0 * values)
    np.testing.assert_array_equal(targets.argmax(-1), values)


def test_erasing_fills_rectangles_of_half_of_the_images():
    canvas, sizes = _batch(*[_image(64, 64)] * 200)
    before = np.asarray(_augment(_keys(200), canvas, sizes, 64))
    after = np.asarray(_augment(_keys(200), canvas, sizes, 64, erasing=0.5))
    changed = (before != after).any(-1)
    erased = changed.any((1, 2))
    assert 70 < erased.sum() < 130
    for was, now, mask in zip(
        before[erased], after[erased], changed[erased], strict=True
    ):
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width  # a full rectangle
        assert 0.01 < height * width / 64**2 < 0.36
        mean = np.broadcast_to(was.mean((0, 1)), now[mask].shape)
        np.testing.assert_allclose(now[mask], mean, atol=1e-2)


def test_erasing_is_independent_of_the_rotation():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 255
    canvas, sizes = _batch(*[image] * 200)
    rotated = _augment(_keys(200), canvas, sizes, 64, rotation=30.0)
    erased = _augment(_keys(200), canvas, sizes, 64, rotation=30.0, erasing=0.25)
    is_erased = (rotated != erased).any((1, 2, 3))
    top, bottom = (np.asarray(rotated)[:, row].mean((1, 2)) for row in (8, 56))
    is_clockwise = top > bottom
    for chosen in (is_erased, ~is_erased):
        assert 0.3 < is_clockwise[chosen].mean() < 0.7


def test_oversampling_averages_what_would_be_skipped():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    canvas, sizes = _batch(noise)
    coarse = _augment(_keys(1), canvas, sizes, 8, shift=0.1)
    smooth = _augment(_keys(1), canvas, sizes, 8, shift=0.1, oversampling=8)
    assert coarse.std() > 30 and smooth.std() < 15
    image = _image(64, 64)
    canvas, sizes = _batch(image)
    ours = _augment(_keys(1), canvas, sizes, 8, oversampling=8)[0]
    np.testing.assert_allclose(
        ours, image.reshape(8, 8, 8, 8, 3).mean((1, 3)), atol=1e-2
    )
