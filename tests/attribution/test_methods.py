"""Properties that every attribution method has, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.attribution import (
    batch,
    grad_cam,
    integrated_gradients,
    occlusion,
    options,
    registry,
    saliency,
    score_cam,
    signed_saliency,
    smooth_grad,
    targets,
)
from seeflower_jax.attribution.gradients import gradient
from tests import fixtures

SPEC = models.get_spec("small", num_classes=5, width=0.25)


@pytest.fixture(scope="module")
def variables():
    return fixtures.random_variables(SPEC, 0)


@pytest.fixture(scope="module")
def network(variables):
    return functools.partial(models.apply, SPEC, variables)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    coarse = rng.uniform(0, 255, (3, 8, 8, 3))
    return jnp.array(coarse.repeat(8, 1).repeat(8, 2), jnp.float32)


def _linear(weights):
    """Return a network with logits linear in the image, and the image as endpoint."""

    def network(images, taps=None):
        taps = taps or {}
        pixels = images + taps.get("pixels", 0)
        return jnp.einsum("nhwc,hwck->nk", pixels, weights), {"pixels": pixels}

    return network


@pytest.fixture(scope="module")
def weights():
    return jnp.array(np.random.default_rng(2).normal(size=(6, 6, 3, 4)), jnp.float32)


def test_linear_network_has_its_weights_as_gradient(weights):
    network, labels = _linear(weights), jnp.array([3, 1])
    images = jnp.array(np.random.default_rng(3).uniform(0, 255, (2, 6, 6, 3)))
    label_weights = jnp.moveaxis(weights[..., labels], -1, 0)
    np.testing.assert_allclose(
        gradient(network, images, labels), label_weights, rtol=1e-6
    )
    np.testing.assert_allclose(
        saliency(network, images, labels), jnp.abs(label_weights).max(-1), rtol=1e-6
    )
    np.testing.assert_allclose(
        signed_saliency(network, images, labels),
        label_weights.sum(-1),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        integrated_gradients(network, images, labels, steps=3),
        (label_weights * (images - 127.5)).sum(-1),
        rtol=1e-4,
        atol=1e-3,
    )
    channel_weights = label_weights.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(
        grad_cam(network, images, labels, layer="pixels", relu=False),
        (channel_weights * images).sum(-1),
        rtol=1e-4,
        atol=1e-3,
    )


def test_occlusion_of_a_linear_network_is_its_terms(weights):
    network, labels = _linear(weights), jnp.array([2])
    images = jnp.array(np.random.default_rng(4).uniform(0, 255, (1, 6, 6, 3)))
    terms = (weights[..., 2] * (images - 127.5)).sum(-1)
    maps = occlusion(network, images, labels, window=1, stride=1)
    np.testing.assert_allclose(maps, terms, rtol=1e-3, atol=0.05)
    blocks = terms.reshape(1, 3, 2, 3, 2).sum((2, 4)).repeat(2, 1).repeat(2, 2)
    maps = occlusion(network, images, labels, window=2, stride=2)
    np.testing.assert_allclose(maps, blocks, rtol=1e-3, atol=0.05)


def test_occlusion_refuses_a_stride_over_the_window(network, images):
    with pytest.raises(ValueError, match="stride 9 and window 8 leaves"):
        occlusion(network, images, window=8, stride=9)


def test_occlusion_refuses_a_window_over_the_whole_image(network, images):
    small_images = images[:, :32, :32]
    message = "window 48 covers whole images of 32 x 32 .* window=16, stride=8"
    with pytest.raises(ValueError, match=message):
        occlusion(network, small_images)
    maps = occlusion(network, small_images, window=16, stride=8)
    assert np.ptp(maps, (1, 2)).min() > 0


def test_the_probability_of_one_logit_is_refused(weights):
    network, images = _linear(weights[..., :1]), jnp.ones((2, 6, 6, 3))
    for method in (saliency, attr.paper_saliency):
        targeted = targets.probability() if method is saliency else None
        with pytest.raises(ValueError, match="one logit is always 1; return two"):
            method(network, images, targeted)


def test_targets(network, images):
    logits, _ = network(images)
    predicted = logits.argmax(-1)
    by_default = saliency(network, images)
    np.testing.assert_array_equal(by_default, saliency(network, images, predicted))

    def twice(logits):
        return 2 * targets.score(logits, predicted)

    np.testing.assert_allclose(
        saliency(network, images, twice), 2 * by_default, rtol=1e-5
    )
    expected = jax.nn.softmax(logits).max(-1)
    probability = targets.probability(predicted)(logits)
    np.testing.assert_allclose(probability, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "chosen,message",
    [
        ([0, 5, 1], r"target of image 1 of the batch is 5; expected .* from 0 to 4"),
        (np.array([-1, 0, 0]), "target of image 0 of the batch is -1"),
        (jnp.array([0]), r"targets are int32\[1\]; expected one .*, int\[3\]"),
        (1, r"targets are int32\[\]"),
        ([0.0, 1.0, 2.0], r"targets are float32\[3\]"),
    ],
)
def test_targets_that_are_not_classes(network, images, chosen, message):
    for name in ("saliency", "occlusion", "finer_cam"):
        arguments = {"layer": "block3"} if name == "finer_cam" else {}
        with pytest.raises(ValueError, match=message):
            registry.METHODS[name].function(network, images, chosen, **arguments)
    with pytest.raises(ValueError, match=message):
        attr.explain(network, images, ["saliency"], chosen, layer="block3")


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_no_images_have_no_maps(network, method):
    described = registry.METHODS[method]
    more = {"layer": "block5"} if described.layered else {}
    if described.random:
        more["keys"] = jax.random.split(jax.random.key(0), 0)
    images = jax.ShapeDtypeStruct((0, 64, 64, 3), jnp.float32)

    def compute(images):
        return described.function(network, images, targets=None, **more)

    assert jax.eval_shape(compute, images).shape == (0, 64, 64)


def test_targets_may_be_a_list(network, images):
    expected = saliency(network, images, jnp.array([1, 3, 0]))
    np.testing.assert_array_equal(saliency(network, images, [1, 3, 0]), expected)
    maps = attr.explain(network, images, ["saliency"], [1, 3, 0], layer="block3")
    np.testing.assert_allclose(maps["saliency"], expected, rtol=1e-5, atol=1e-6)


def test_the_papers_saliency_explains_a_score_as_it_is(network, images):
    labels = jnp.array([1, 3, 0])
    expected = attr.guided_saliency(network, images, targets.probability(labels))
    for chosen in (labels, targets.probability(labels)):
        maps = attr.paper_saliency(network, images, chosen)
        np.testing.assert_allclose(maps, expected, rtol=1e-5)
    assert expected.max() > 0


def test_contrast_is_against_the_nearest_logits():
    logits = jnp.array([[1.0, 5.0, 2.0, 4.0], [3.0, 0.0, 1.0, 2.0]])
    weights = np.exp([4, 2]) / np.exp([4, 2]).sum()
    contrast = targets.contrast(references=2, strength=0.5)(logits)
    expected = [5 - 0.5 * weights @ [4, 2]]
    weights = np.exp([2, 1]) / np.exp([2, 1]).sum()
    expected += [3 - 0.5 * weights @ [2, 1]]
    np.testing.assert_allclose(contrast, expected, rtol=1e-6)
    labels = jnp.array([0, 1])
    contrast = targets.contrast(labels, references=1, strength=1.0)(logits)
    np.testing.assert_allclose(contrast, [1 - 2, 0 - 1])


@pytest.mark.parametrize("labels", [None, jnp.array([3, 0])])
def test_contrast_has_the_gradient_of_the_authors_code(labels):
    logits = jnp.array([[1.0, 5.0, 2.0, 4.0, 4.5], [3.0, 0.0, 1.0, 2.0, 2.5]])
    rows = range(len(logits))
    classes = logits.argmax(-1) if labels is None else labels

    def weighted(output):
        """FinerWeightedTarget of the authors' code, for each image."""
        total = 0
        for row, label in zip(rows, classes.tolist(), strict=True):
            distances = np.abs(np.asarray(logits[row]) - float(logits[row, label]))
            references = np.argsort(distances)[1:4]
            probability = jax.nn.softmax(output[row])
            numerator = sum(
                probability[i] * (output[row, label] - 0.6 * output[row, i])
                for i in references
            )
            total += numerator / (probability[references].sum() + 1e-9)
        return total

    contrast = targets.contrast(labels)
    np.testing.assert_allclose(
        jax.grad(lambda x: contrast(x).sum())(logits),
        jax.grad(weighted)(logits),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "method, option, value, message",
    [
        ("smooth_grad", "samples", 0, "a whole number, 1 or more"),
        ("smooth_grad", "samples", 1.5, "a whole number, 1 or more"),
        ("smooth_grad", "noise", -0.1, "a finite number, 0 or more"),
        ("integrated_gradients", "steps", 0, "a whole number, 1 or more"),
        ("integrated_gradients", "steps", "8", "a whole number, 1 or more"),
        ("integrated_gradients", "spacing", 0.0, "a finite number above 0"),
        ("integrated_gradients", "baseline", np.nan, "a finite number"),
        ("occlusion", "window", -1, "a whole number, 1 or more"),
        ("occlusion", "stride", 0, "a whole number, 1 or more"),
        ("occlusion", "baseline", np.inf, "a finite number"),
        ("score_cam", "channels", -1, "a whole number, 0 or more"),
        ("score_cam", "baseline", np.nan, "a finite number"),
        ("deep_lift", "baseline", np.inf, "a finite number"),
        ("lrp", "epsilon", -1e-6, "a finite number, 0 or more"),
        ("lrp", "gamma", -0.25, "a finite number, 0 or more"),
        ("input_x_gradient", "baseline", np.inf, "a finite number"),
        ("gradient_shap", "baselines", np.nan, "a finite number"),
        ("gradient_shap", "samples", 0, "a whole number, 1 or more"),
        ("smooth_grad_squared", "samples", 0, "a whole number, 1 or more"),
        ("var_grad", "noise", 0, "a finite number above 0"),
        ("var_grad", "samples", 1, "a whole number, 2 or more"),
        ("rise", "samples", 1, "a whole number, 2 or more"),
        ("rise", "cells", 0, "a whole number, 1 or more"),
        ("rise", "visible", 0.0, "a number between 0 and 1"),
        ("rise", "visible", 1.0, "a number between 0 and 1"),
        ("feature_ablation", "batch_size", 0, "a whole number, 1 or more"),
        ("kernel_shap", "samples", 0, "a whole number, 1 or more"),
        ("layer_conductance", "steps", 0, "a whole number, 1 or more"),
        ("layer_conductance", "spacing", 0.0, "a finite number above 0"),
        ("layer_conductance", "batch_size", 0, "a whole number, 1 or more"),
        ("ablation_cam", "batch_size", 0, "a whole number, 1 or more"),
        ("lrp", "depth", 1.5, "a number from 0 to 1"),
        ("finer_cam", "references", 0, "a whole number, 1 or more"),
        ("finer_cam", "strength", np.inf, "a finite number"),
    ],
)
def test_options_out_of_range_are_refused(
    network, images, method, option, value, message
):
    message = f"{option} is {value!r}; expected {message}".replace("(", r"\(")
    message = message.replace(")", r"\)")
    with pytest.raises(ValueError, match=f"{method}.{message}$"):
        batch.make_explainer(SPEC, [method], options={method: {option: value}})
    if not isinstance(value, str):
        with pytest.raises(ValueError, match=f"{method}.{option} is|expected a whole"):
            registry.parse_options([f"{method}.{option}={value}"])
    described = registry.METHODS[method]
    arguments = {"layer": "block3"} if described.layered else {}
    if described.random:
        arguments["keys"] = jax.random.split(jax.random.key(0), len(images))
    with pytest.raises(ValueError, match=message):
        described.function(
            network, images, targets=None, **arguments, **{option: value}
        )


def test_every_option_has_a_range():
    known = {key for name in registry.METHODS for key in registry.options_of(name)}
    known |= {"radius", "sigma"}  # of `metrics.sensitivity` and `metrics.faithfulness`
    assert known == {key for key in options._RANGES if "." not in key}


def test_methods_are_given_once():
    with pytest.raises(ValueError, match="'saliency' is given more than once"):
        registry.check_methods(["saliency", "grad_cam", "saliency"])


def test_score_cam_weights_are_the_softmax_of_the_scores(network, images):
    layer, labels = "block2", jnp.array([0, 1, 2])
    activations = network(images)[1][layer]
    total, scores = [], []
    for channel in jnp.moveaxis(activations, -1, 0):
        mask = jax.image.resize(channel, images.shape[:3], "bilinear")
        low, high = (f((1, 2), keepdims=True) for f in (mask.min, mask.max))
        mask = jnp.where(high > low, (mask - low) / jnp.maximum(high - low, 1e-30), 0)
        masked = 127.5 + (images - 127.5) * mask[..., None]
        scores.append(targets.score(network(masked)[0], labels))
        total.append(channel)
    weights = jax.nn.softmax(jnp.stack(scores), 0)
    maps = jax.nn.relu((weights[..., None, None] * jnp.stack(total)).sum(0))
    expected = jax.image.resize(maps, images.shape[:3], "bilinear")
    actual = score_cam(network, images, labels, layer=layer, align="stretch")
    np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.max())


def test_integrated_gradients_are_complete(network, images):
    labels = jnp.array([0, 1, 2])
    maps = integrated_gradients(network, images, labels, steps=500)
    image_score, baseline_score = (
        targets.score(network(x)[0], labels)
        for x in (images, jnp.full_like(images, 127.5))
    )
    difference = image_score - baseline_score
    error = np.abs(maps.sum((1, 2)) - difference).max()
    assert error < 0.01 * np.abs(difference).max()


def test_integrated_gradients_see_what_changes_near_the_baseline():
    def network(images):
        contrast = jnp.abs(images - 127.5).mean((1, 2, 3)) / 127.5
        return jnp.tanh(100 * contrast)[:, None], {}

    images = jnp.array([[[[0.0, 255.0, 0.0]]]])
    evenly_spaced, closer_near_baseline = (
        integrated_gradients(network, images, jnp.array([0]), steps=10, **spacing)
        for spacing in ({"spacing": 1.0}, {})
    )
    np.testing.assert_allclose(closer_near_baseline.sum(), 1, rtol=0.05)
    assert abs(evenly_spaced.sum() - 1) > 0.1
    for spacing in (0.0, float("nan")):
        with pytest.raises(ValueError, match=f"spacing is {spacing}; expected a fin"):
            integrated_gradients(network, images, spacing=spacing)


def test_smooth_grad_without_noise_is_the_method(network, images):
    keys = jax.random.split(jax.random.key(0), 3)
    maps = smooth_grad(network, images, None, keys, samples=2, noise=0.0)
    np.testing.assert_allclose(maps, saliency(network, images), rtol=1e-5, atol=1e-8)
    noisy = smooth_grad(network, images, None, keys, samples=2, noise=0.2)
    assert not np.allclose(noisy, maps, rtol=0.1)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_of_every_kind_draw_for_each_image_alone(network, images, impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 3)
    seeds = jax.vmap(lambda seed: jax.random.key(seed, impl=impl))(jnp.arange(3))
    options = {"samples": 2, "noise": 0.2}
    for several in (keys, seeds):
        maps = smooth_grad(network, images, None, several, **options)
        alone = smooth_grad(network, images[1:2], None, several[1:2], **options)
        scale = np.abs(alone).max()
        np.testing.assert_allclose(maps[1], alone[0], atol=1e-4 * scale)
        equal = jnp.broadcast_to(images[:1], images.shape)
        maps = smooth_grad(network, equal, None, several, **options)
        assert not np.allclose(maps[0], maps[1], atol=1e-2 * scale)


@pytest.fixture(scope="module")
def explained(variables, images):
    explain = batch.make_explainer(
        SPEC, list(registry.METHODS), layer="block3", options=fixtures.FEW_PASSES
    )
    keys = jax.random.split(jax.random.key(5), 3)
    labels = jnp.array([registry.PREDICTED, 1, 2])
    return explain, keys, labels, explain(variables, images, labels, keys)


@pytest.mark.long
def test_all_methods_give_maps_of_the_size_of_the_images(explained, images):
    _, _, _, (logits, classes, maps) = explained
    np.testing.assert_array_equal(classes, [logits[0].argmax(), 1, 2])
    assert maps.keys() == registry.METHODS.keys()
    for name, values in maps.items():
        assert values.shape == images.shape[:3] and values.dtype == jnp.float32, name
        assert np.isfinite(values).all() and np.ptp(values) > 0, name
        assert registry.METHODS[name].signed == bool((values < 0).any()), name


@pytest.mark.long
def test_a_batch_equals_its_images_one_by_one(explained, variables, images):
    explain, keys, labels, (_, _, batch_maps) = explained
    for i in range(len(images)):
        part = slice(i, i + 1)
        _, _, maps = explain(variables, images[part], labels[part], keys[part])
        for name in batch_maps:
            error = np.abs(maps[name][0] - batch_maps[name][i]).max()
            scale = np.abs(batch_maps[name][i]).max()
            assert error <= 1e-4 * scale, (name, error, scale)


def test_nothing_to_explain_gives_zero_maps_never_nan(variables, images):
    zero_variables = jax.tree.map(jnp.zeros_like, variables)
    explain = batch.make_explainer(
        SPEC, list(registry.METHODS), layer="block3", options=fixtures.FEW_PASSES
    )
    keys = jax.random.split(jax.random.key(5), 3)
    _, _, maps = explain(zero_variables, images, jnp.zeros(3, jnp.int32), keys)
    for name, values in maps.items():
        np.testing.assert_array_equal(values, 0, err_msg=name)


def test_methods_of_one_pass_share_it(variables, images):
    def flops(methods):
        explain = batch.make_explainer(SPEC, methods, layer="block5")
        keys = jax.random.split(jax.random.key(0), 3)
        targets = jnp.zeros(3, jnp.int32)
        lowered = jax.jit(explain).lower(variables, images, targets, keys)
        return lowered.compile().cost_analysis()["flops"]

    forward = jax.jit(functools.partial(models.apply, SPEC)).lower(variables, images)
    forward = forward.compile().cost_analysis()["flops"]
    assert flops(["grad_cam"]) < 1.1 * forward
    assert flops(["saliency"]) < 2.2 * forward
    assert flops(["grad_cam", "hires_cam", "layer_cam"]) < 1.2 * forward


def _temporary_bytes(function, images):
    analysis = jax.jit(function).lower(images).compile().memory_analysis()
    return analysis.temp_size_in_bytes


@pytest.mark.long
@pytest.mark.parametrize(
    "name, option, counts, more",
    [
        ("integrated_gradients", "steps", (4, 64), {}),
        ("smooth_grad", "samples", (4, 64), {}),
        ("smooth_grad_squared", "samples", (4, 64), {}),
        ("var_grad", "samples", (4, 64), {}),
        ("gradient_shap", "samples", (4, 64), {"batch_size": 2}),
        ("rise", "samples", (4, 64), {"batch_size": 2}),
        ("layer_conductance", "steps", (4, 64), {"layer": "block2"}),
        ("score_cam", "channels", (4, 32), {"layer": "block5"}),
        ("occlusion", "stride", (32, 4), {"window": 32}),  # 4 and 81 windows
        ("feature_ablation", "cells", (2, 8), {}),  # 4 and 64 segments
    ],
)
def test_memory_does_not_grow_with_steps(network, images, name, option, counts, more):
    method = registry.METHODS[name]
    if method.random:
        more = more | {"keys": jax.random.split(jax.random.key(0), 3)}

    def run(count, images):
        return method.function(network, images, targets=None, **more, **{option: count})

    few, many = (_temporary_bytes(functools.partial(run, n), images) for n in counts)
    assert many < 1.1 * few


@pytest.mark.long
def test_memory_of_kernel_shap_grows_only_by_the_regression(network, images):
    keys = jax.random.split(jax.random.key(0), len(images))

    def run(samples, images):
        return attr.kernel_shap(network, images, None, keys, cells=7, samples=samples)

    counts = (4, 64, 2048)
    few, more, many = (
        _temporary_bytes(functools.partial(run, n), images) for n in counts
    )
    assert more < 1.1 * few
    # Four arrays of float32 [n, samples, segments].
    assert many < 1.1 * few + 16 * len(images) * 2048 * 49


def _with_layer(layer_of):
    return lambda images, taps=None: (images.mean((1, 2)), {"layer": layer_of(images)})


def test_grad_cam_plus_plus_of_tiny_gradients(network, images):
    def maps(factor):
        def scaled(images, taps=None):
            logits, endpoints = network(images, taps)
            return factor * logits, endpoints

        maps = attr.grad_cam_plus_plus(scaled, images, [1, 3, 0], layer="block3")
        return maps / factor

    # The smaller the gradients, the nearer are the coefficients of equation 19 to 1/2.
    expected = maps(1e-12)
    assert (expected.max((1, 2)) > 0).all()
    scale = expected.max()
    np.testing.assert_allclose(maps(1e-25), expected, atol=1e-5 * scale)


def test_rise_of_few_masks_is_right_on_average():
    def network(images, taps=None):
        return images.sum((1, 2)), {}

    images, keys = jnp.zeros((4000, 1, 1, 3)), jax.random.split(jax.random.key(0), 4000)
    few, many = (
        attr.rise(network, images, [0] * 4000, keys, samples=samples, cells=1).mean()
        for samples in (2, 32)
    )
    assert many < -10
    np.testing.assert_allclose(few, many, rtol=0.1)


def test_eigen_cam_of_few_channels_and_of_many(images):
    """Channels of zeros change the matrix that is decomposed, and not the map."""
    few = _with_layer(lambda images: images[:, ::8, ::8])
    count = 3 + few(images)[1]["layer"][0, ..., 0].size
    many = _with_layer(
        lambda images: jnp.pad(images[:, ::8, ::8], [(0, 0)] * 3 + [(0, count)])
    )
    expected = attr.eigen_cam(many, images, layer="layer")
    maps = attr.eigen_cam(few, images, layer="layer")
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5 * expected.max())


def test_eigen_cam_is_not_negative():
    """A layer of one channel is its own projection; ReLU removes the lesser sign."""
    network = _with_layer(lambda images: images.mean(-1, keepdims=True))
    images = jnp.array([[[[-3.0] * 3, [1.0] * 3], [[-1.0] * 3, [-2.0] * 3]]])
    maps = attr.eigen_cam(network, images, layer="layer", align="stretch")
    np.testing.assert_allclose(maps, [[[3, 0], [1, 2]]], atol=1e-5)


def test_memory_of_eigen_cam_grows_with_the_layer():
    network = _with_layer(lambda images: jnp.tanh(images))
    images = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
    used = _temporary_bytes(
        lambda images: attr.eigen_cam(network, images, layer="layer"), images
    )
    assert used < 4 * 4 * images.size


def test_score_cam_of_the_channels_that_vary_most(network, images):
    all_channels = score_cam(network, images, layer="block3")
    channels = network(images)[1]["block3"].shape[-1]
    sorted_channels = score_cam(network, images, layer="block3", channels=channels)
    atol = 1e-6 * all_channels.max()
    np.testing.assert_allclose(sorted_channels, all_channels, rtol=1e-4, atol=atol)
    too_many = score_cam(network, images, layer="block3", channels=2 * channels)
    np.testing.assert_array_equal(too_many, sorted_channels)

    # If a layer varies in only one channel, this channel is enough.
    layer = jnp.zeros((3, 2, 2, 3)).at[:, 0, 0, 1].set(1)
    bright = jnp.full_like(images, 255)

    def network(images):
        return images.mean((1, 2)), {"layer": layer}

    one_channel = score_cam(network, bright, layer="layer", channels=1)
    assert one_channel.max() > 0
    all_channels = score_cam(network, bright, layer="layer")
    np.testing.assert_allclose(
        one_channel / one_channel.max(), all_channels / all_channels.max(), rtol=1e-6
    )


def test_options_of_methods(variables, images):
    parsed = registry.parse_options(
        ["integrated_gradients.steps=3", "occlusion.window=32", "occlusion.baseline=9"]
    )
    assert parsed == {
        "integrated_gradients": {"steps": 3},
        "occlusion": {"window": 32, "baseline": 9.0},
    }
    explain = batch.make_explainer(SPEC, ["integrated_gradients"], options=parsed)
    labels, keys = jnp.array([0, 1, 2]), jax.random.split(jax.random.key(0), 3)
    maps = explain(variables, images, labels, keys)[2]["integrated_gradients"]
    network = functools.partial(models.apply, SPEC, variables)
    three_steps = integrated_gradients(network, images, labels, steps=3)
    np.testing.assert_allclose(maps, three_steps, rtol=1e-3, atol=1e-6)
    two_steps = integrated_gradients(network, images, labels, steps=2)
    assert not np.allclose(maps, two_steps)


@pytest.mark.parametrize(
    "text,error",
    [
        ("gradcam.relu=0", "unknown attribution method 'gradcam'.*did you mean"),
        ("occlusion.windw=3", "no option 'windw'.*it has window, stride, baseline"),
        ("saliency.steps=3", "saliency has no option 'steps'.*it has none"),
        ("occlusion", "occlusion has no option ''"),
        ("occlusion.window=wide", "'occlusion.window=wide': expected a whole number"),
        ("smooth_grad.noise=", "'smooth_grad.noise=': expected a number"),
    ],
)
def test_options_that_cannot_be_followed(text, error):
    with pytest.raises(ValueError, match=error):
        registry.parse_options([text])


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="'gradcam': known are.*occlusion.*'grad_cam'"):
        batch.make_explainer(SPEC, ["gradcam"])
    with pytest.raises(ValueError, match="no attribution method given"):
        batch.make_explainer(SPEC, [])


def test_classes_that_the_network_does_not_have(variables, images):
    explain = batch.make_explainer(SPEC, ["saliency"])
    keys = jax.random.split(jax.random.key(0), 3)
    message = (
        "the target of image 1 of the batch is 5; expected a class index from 0 to"
    )
    with pytest.raises(ValueError, match=message):
        explain(variables, images, jnp.array([registry.PREDICTED, 5, 0]), keys)


def test_layer_that_is_unknown_or_without_extent():
    with pytest.raises(ValueError, match="'block9_conv1' is unknown; layers are"):
        batch.make_explainer(SPEC, ["grad_cam"], layer="block9_conv1")
    small = models.get_spec("vgg16", width=0.02, input_size=32)
    message = r"'block5_pool' has no spatial extent; layers are \['block1_conv1'"
    with pytest.raises(ValueError, match=message):
        batch.make_explainer(small, ["layer_cam"], layer="block5_pool")
    with pytest.raises(ValueError, match="'mixed10' has no spatial extent"):
        batch.make_explainer(
            models.get_spec("inception_v3"), ["grad_cam"], "mixed10", size=80
        )


def test_layer_of_small_images_is_the_deepest_with_a_map():
    spec = models.get_spec("inception_v3")
    assert batch.map_layer(spec, 299) == "mixed10"
    assert batch.map_layer(spec, 80) == "mixed7"
    flat = models.get_spec("vgg16", width=0.02, input_size=1)
    with pytest.raises(ValueError, match="no layer of vgg16 has a map of 1 x 1"):
        batch.map_layer(flat, 1)
