"""Infidelity and sensitivity compared with captum's, on the same perturbations.

In float64, because differences of scores and maps lose digits.
"""

import captum
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from seeflower_jax.attribution import noise
from seeflower_jax.attribution.metrics.infidelity import infidelity, remove_square
from seeflower_jax.attribution.metrics.sensitivity import max_sensitivity

COUNT, SIDE, SAMPLES, RADIUS = 3, 6, 5, 4.0
LABELS = np.array([2, 0, 1])
KEYS = jax.random.split(jax.random.key(3), COUNT)


def _arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


HIDDEN, HEAD = _arrays((SIDE * SIDE * 3, 8), (8, 4))
IMAGES = np.random.default_rng(1).uniform(0, 255, (COUNT, SIDE, SIDE, 3))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def network(images, taps=None):
    """Return the logits of a network of two layers, and no endpoints."""
    return jnp.square(images.reshape(len(images), -1) / 999 @ HIDDEN) @ HEAD, {}


def torch_network(images):
    hidden, head = map(torch.tensor, (HIDDEN, HEAD))
    return torch.square(images.reshape(len(images), -1) / 999 @ hidden) @ head


def _by_sample(function, *batched):
    """Apply a function to the key of each sample of each image, in captum's order."""
    keys = noise.metric_keys(KEYS, IMAGES)
    results = [
        function(jax.random.fold_in(keys[image], sample), *(x[image] for x in batched))
        for image in range(COUNT)
        for sample in range(SAMPLES)
    ]
    return [torch.tensor(np.stack(arrays)) for arrays in zip(*results, strict=True)]


def _noise(key, image):
    noise = 9 * jax.random.normal(key, image.shape)
    return noise, image - noise


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kind", ["noise", "square"])
def test_infidelity_is_captums(kind, normalise):
    per_pixel, per_value = _arrays((COUNT, SIDE, SIDE), (COUNT, SIDE, SIDE, 3))
    if kind == "noise":
        maps, perturb, attributions = per_value, _noise, per_value
        perturbations, perturbed = _by_sample(perturb, IMAGES)
    else:
        # captum needs the shape of images; a third of the map goes to each channel.
        maps, perturb = per_pixel, remove_square(3, baseline=20.0)
        attributions = np.repeat(maps[..., None] / 3, 3, -1)
        masks, perturbed = _by_sample(perturb, IMAGES)
        perturbations = masks[..., None].expand(perturbed.shape).double()
        inputs = torch.tensor(IMAGES).repeat_interleave(SAMPLES, 0)
        torch.testing.assert_close((inputs - perturbed) / (inputs - 20), perturbations)
    expected = captum.metrics.infidelity(
        torch_network,
        lambda _: (perturbations, perturbed),
        torch.tensor(IMAGES),
        torch.tensor(attributions),
        target=torch.tensor(LABELS),
        n_perturb_samples=SAMPLES,
        normalize=normalise,
    )
    options = {"perturb": perturb, "samples": SAMPLES, "normalise": normalise}
    for batch_size in (1, 2):
        actual = infidelity(
            network, IMAGES, maps, KEYS, LABELS, batch_size=batch_size, **options
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-9)
    alone = infidelity(
        network, IMAGES[1:2], maps[1:2], KEYS[1:2], LABELS[1:2], **options
    )
    np.testing.assert_allclose(alone, actual[1:2], rtol=1e-5)


def test_a_map_that_is_the_model_has_no_infidelity():
    weights, bias = map(np.asarray, _arrays((SIDE, SIDE, 3), ()))
    bias = bias.item()

    def linear(images, taps=None):
        return ((images - 127.5) * weights).sum((1, 2, 3))[:, None] + bias, {}

    maps = ((IMAGES - 127.5) * weights).sum(-1)
    score = (linear(IMAGES)[0] ** 2).mean()
    errors = infidelity(linear, IMAGES, maps, KEYS, perturb=remove_square(3))
    assert (errors < 1e-6 * score).all()
    scaled = infidelity(linear, IMAGES, 7 * maps, KEYS, perturb=remove_square(3))
    assert (scaled > 1e-3 * score).all()
    options = {"perturb": remove_square(3), "normalise": True}
    for factor in (7, 1e-30, 1e30):  # in float32, whose squares would be 0 and infinite
        with jax.enable_x64(False):
            errors = infidelity(linear, IMAGES, factor * maps, KEYS, **options)
        assert (errors < 1e-6 * score).all()
    empty = infidelity(linear, IMAGES, 0 * maps, KEYS, **options)
    assert np.isfinite(empty).all() and (empty > 0).all()


def test_squares_lie_everywhere_in_the_image():
    keys = jax.random.split(jax.random.key(0), 300)
    image = jnp.zeros((5, 4, 3), jnp.float32)
    masks, _ = jax.vmap(remove_square(2), (0, None))(keys, image)
    assert (masks.sum((1, 2)) == 4).all()
    assert len({mask.tobytes() for mask in np.asarray(masks)}) == 4 * 3
    wide, _ = remove_square(4)(keys[0], image)  # as wide as the image
    assert wide.sum() == 4 * 4 and wide.all(1).sum() == 4
    with jax.enable_x64(False):
        again, _ = jax.vmap(remove_square(2), (0, None))(keys, image)
    np.testing.assert_array_equal(again, masks)


def _explain(images):
    """Return the magnitude of the gradient of the labels' logits."""
    return jnp.abs(
        jax.grad(lambda x: network(x)[0][jnp.arange(COUNT), LABELS].sum())(images)
    )


def test_default_square_of_small_images_is_half_as_wide():
    maps = jax.random.normal(jax.random.key(3), (COUNT, SIDE, SIDE))
    values = infidelity(network, IMAGES, maps, KEYS)
    expected = infidelity(network, IMAGES, maps, KEYS, perturb=remove_square(SIDE // 2))
    np.testing.assert_array_equal(values, expected)


def test_sensitivity_is_captums():
    def perturb(key, image):
        shape = image.shape
        return (image + jax.random.uniform(key, shape, minval=-RADIUS, maxval=RADIUS),)

    (perturbed,) = _by_sample(perturb, IMAGES)
    expected = captum.metrics.sensitivity_max(
        captum.attr.Saliency(torch_network).attribute,
        torch.tensor(IMAGES).requires_grad_(),
        lambda _: perturbed.requires_grad_(),
        n_perturb_samples=SAMPLES,
        target=torch.tensor(LABELS),
    )
    for batch_size in (1, 2):
        options = {"samples": SAMPLES, "batch_size": batch_size}
        actual = max_sensitivity(_explain, IMAGES, KEYS, radius=RADIUS, **options)
        np.testing.assert_allclose(actual, expected.numpy(force=True), rtol=1e-9)


def test_several_methods_are_perturbed_alike():
    several = max_sensitivity(
        lambda x: {"gradient": _explain(x), "image": x}, IMAGES, KEYS, samples=2
    )
    alone = max_sensitivity(lambda x: x, IMAGES, KEYS, samples=2)
    assert several.keys() == {"gradient", "image"}
    np.testing.assert_allclose(several["image"], alone, rtol=1e-6)


def test_sensitivity_of_maps_of_other_magnitudes():
    def explain(images):  # 1e-25 for the images themselves
        is_whole = (images == IMAGES).all((1, 2, 3), keepdims=True)
        return jnp.where(is_whole, 1e-25, 1e-3) * jnp.ones((COUNT, 2, 2, 1))

    with jax.enable_x64(False):
        changes = max_sensitivity(explain, IMAGES, KEYS, samples=2)
    np.testing.assert_allclose(changes, 1e22, rtol=1e-5)


def test_sensitivity_of_constant_maps_is_zero():
    def constant(images):
        return jnp.ones_like(images)

    assert max_sensitivity(constant, IMAGES, KEYS).tolist() == [0] * COUNT
    # The noise itself, of zeros: the norm is not divided.
    changes = max_sensitivity(lambda x: x, 0 * IMAGES, KEYS, radius=2.0)
    assert (changes > 0).all() and (changes <= 2 * np.sqrt(IMAGES[0].size)).all()


def test_wrong_options_are_named():
    maps = np.zeros((COUNT, SIDE, SIDE, 3))
    with pytest.raises(ValueError, match=r"shape \(3, 6, 6\); expected the shape of"):
        infidelity(network, IMAGES, maps, KEYS)
    with pytest.raises(ValueError, match="samples is 0; expected a whole number"):
        infidelity(network, IMAGES, maps[..., 0], KEYS, samples=0)
    with pytest.raises(ValueError, match="window is 0; expected a whole number"):
        remove_square(0)
    with pytest.raises(ValueError, match="window is 6; expected less than 6"):
        perturb = remove_square(SIDE)
        infidelity(network, IMAGES, maps[..., 0], KEYS, perturb=perturb)
    with pytest.raises(ValueError, match="radius is -1; expected a finite number abo"):
        max_sensitivity(_explain, IMAGES, KEYS, radius=-1)
    with pytest.raises(ValueError, match="batch_size is 0; expected a whole number"):
        infidelity(network, IMAGES, maps[..., 0], KEYS, batch_size=0)
    with pytest.raises(ValueError, match="batch_size is 0; expected a whole number"):
        max_sensitivity(_explain, IMAGES, KEYS, batch_size=0)
