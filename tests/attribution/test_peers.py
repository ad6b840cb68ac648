"""Methods on a small network, compared with captum, PyTorch and scikit-image."""

import functools

import captum.attr
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.transform
import torch

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import random_masks, shapley, targets
from seeflower_jax.attribution.methods import gradient_shap as gradient_shap_module
from seeflower_jax.attribution.methods.full_grad import full_gradients
from seeflower_jax.attribution.methods.saliency import gradient
from tests.attribution import small_network as small

LABELS = small.LABELS
TORCH_LABELS = torch.tensor(np.asarray(LABELS))
KEYS = jax.random.split(jax.random.key(3), 2)
IMAGES = small.images()
# Left, upper right and lower right.
SEGMENTS = np.zeros((2, 12, 12), np.int32)
SEGMENTS[:, :6, 4:], SEGMENTS[:, 6:, 4:] = 1, 2
SEGMENTS[1, 2:4, 2:4] = 3
GREY = 100.0


@pytest.fixture(scope="module")
def network():
    return small.network()


@pytest.fixture(scope="module")
def torch_network():
    return small.TorchNetwork()


def assert_close(actual, expected, share=1e-5):
    expected = np.asarray(expected)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(actual, expected, atol=share * np.abs(expected).max())


def _inputs(images=IMAGES):
    return small.to_torch(images).requires_grad_()


def _map(attributions):
    """Return captum's attributions, summed over colours, as an array."""
    return attributions.detach().sum(1).numpy()


def _run(method, /, *arguments, **options):
    """Run a method compiled, which is faster."""
    return jax.jit(functools.partial(method, **options))(*arguments)


def _captum_maps(name, network):
    """Return captum's maps of a method that needs no options."""
    layer = network.second_relu
    if name in ("saliency", "guided_saliency"):
        kind = {"saliency": "Saliency", "guided_saliency": "GuidedBackprop"}[name]
        attribution = getattr(captum.attr, kind)(network)
        return attribution.attribute(_inputs(), TORCH_LABELS).abs().amax(1) / 127.5
    if name == "integrated_gradients":
        attribution = captum.attr.IntegratedGradients(network)
        return attribution.attribute(_inputs(), 0.0, TORCH_LABELS, n_steps=8).sum(1)
    attribution = captum.attr.LayerGradCam(network, layer)
    maps = attribution.attribute(_inputs(), TORCH_LABELS, relu_attributions=True)
    return _resize(maps[:, 0])


@pytest.mark.parametrize(
    "name, options",
    [
        ("saliency", {}),
        ("guided_saliency", {}),
        ("integrated_gradients", {"steps": 8, "spacing": 1.0, "batch_size": 3}),
        ("grad_cam", {"layer": "second"}),
    ],
)
def test_methods_with_the_same_definition(network, torch_network, name, options):
    expected = _captum_maps(name, torch_network).detach()
    maps = _run(attr.METHODS[name].function, network, IMAGES, LABELS, **options)
    assert_close(maps, expected)


def test_input_x_gradient(network, torch_network):
    attribute = captum.attr.InputXGradient(torch_network).attribute
    expected = _map(attribute(_inputs(), TORCH_LABELS))
    assert_close(_run(attr.input_x_gradient, network, IMAGES, LABELS), expected)


def _colour(channel, network, images, targets):
    """Return the magnitude of the gradient of one colour, in PyTorch's units."""
    return 127.5 * jnp.abs(gradient(network, images, targets)[..., channel])


@pytest.mark.parametrize(
    "method, kind",
    [
        (attr.smooth_grad, "smoothgrad"),
        (attr.smooth_grad_squared, "smoothgrad_sq"),
        (attr.var_grad, "vargrad"),
    ],
)
def test_noise(network, torch_network, monkeypatch, method, kind):
    samples, noise = 5, 0.2

    def draw(key):
        draws = [
            jax.random.normal(jax.random.fold_in(key, sample), IMAGES.shape[1:])
            for sample in range(samples)
        ]
        return jnp.stack(draws)

    drawn = (
        jax.vmap(draw)(KEYS)
        * noise
        * jnp.ptp(IMAGES, (1, 2, 3))[:, None, None, None, None]
    )
    drawn = np.asarray(drawn / 127.5).reshape(-1, 12, 12, 3).transpose(0, 3, 1, 2)
    monkeypatch.setattr(torch, "normal", lambda mean, std: torch.tensor(drawn.copy()))
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(torch_network))
    expected = tunnel.attribute(
        _inputs(), nt_type=kind, nt_samples=samples, target=TORCH_LABELS
    )
    options = {"samples": samples, "noise": noise, "batch_size": 2}
    options["method"] = functools.partial(_colour, 1)
    maps = _run(method, network, IMAGES, LABELS, KEYS, **options)
    assert_close(maps, expected[:, 1].detach())


def test_gradient_shap(network, torch_network, monkeypatch):
    samples = 5
    baselines = small.images(5)[2:]

    def draw(key, sample):
        return gradient_shap_module._draw(key, sample, 3, IMAGES.shape[1:])

    numbers = jnp.arange(samples)
    shares, indices, noise = jax.vmap(
        lambda key: jax.vmap(functools.partial(draw, key))(numbers)
    )(KEYS)
    shares = np.asarray((numbers + shares) / samples).ravel()
    deviation = 0.1 * jnp.ptp(IMAGES, (1, 2, 3)).reshape(2, 1, 1, 1, 1)
    noise = np.asarray(noise * deviation / 127.5).reshape(-1, 12, 12, 3)
    noise = torch.tensor(noise.transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: shares)
    monkeypatch.setattr(
        np.random, "choice", lambda count, size: np.asarray(indices).ravel()
    )
    attribute = captum.attr.GradientShap(torch_network).attribute
    expected = attribute(
        _inputs(),
        small.to_torch(baselines),
        n_samples=samples,
        stdevs=0.1,
        target=TORCH_LABELS,
    )
    options = {"baselines": baselines, "samples": samples, "noise": 0.1}
    maps = _run(
        attr.gradient_shap, network, IMAGES, LABELS, KEYS, batch_size=2, **options
    )
    assert_close(maps, _map(expected))


def test_gradient_shap_refuses_baselines_of_another_shape(network):
    with pytest.raises(ValueError, match=r"baselines have the shape \(12, 12, 3\)"):
        attr.gradient_shap(network, IMAGES, LABELS, KEYS, baselines=IMAGES[0])


@pytest.mark.parametrize("spacing", [1.0, 2.0])
@pytest.mark.parametrize("layer", small.LAYERS)
def test_layer_conductance(network, torch_network, layer, spacing):
    steps = 6
    module = getattr(torch_network, f"{layer}_relu")
    conductance = captum.attr.LayerConductance(torch_network, module)
    black = small.to_torch(jnp.zeros_like(IMAGES))
    # captum takes the gradient at the start of each step. On the reversed path, this is
    # the end of the step. The mean of both is the trapezoidal rule.
    shares = list(np.linspace(0, 1, steps + 1) ** spacing)
    backward = [1 - share for share in reversed(shares)]
    expected = sum(
        sign
        * conductance._attribute(
            (start.requires_grad_(),),
            (end,),
            TORCH_LABELS,
            n_steps=steps,
            step_sizes_and_alphas=([], path),
        ).detach()
        for sign, start, end, path in (
            (0.5, _inputs(), black, shares),
            (-0.5, black.clone(), _inputs().detach(), backward),
        )
    )
    scale = (12 // expected.shape[2],) * 2
    expected = torch.nn.functional.interpolate(
        expected.sum(1, keepdim=True), scale_factor=scale, mode="bilinear"
    )
    options = {"layer": layer, "baseline": 0.0, "steps": steps, "spacing": spacing}
    maps = _run(attr.layer_conductance, network, IMAGES, LABELS, **options)
    assert_close(maps, expected[:, 0])


def test_layer_conductance_is_complete(network):
    white = jnp.full_like(IMAGES, 255)
    change = np.subtract(*(network(x)[0][[0, 1], LABELS] for x in (IMAGES, white)))
    options = {"layer": "first", "baseline": 255.0, "steps": 200}
    maps = _run(attr.layer_conductance, network, IMAGES, LABELS, **options)
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=1e-2)


def test_feature_ablation(network, torch_network):
    expected = captum.attr.FeatureAblation(torch_network).attribute(
        _inputs(),
        small.to_torch(jnp.full_like(IMAGES, GREY)),
        TORCH_LABELS,
        feature_mask=torch.tensor(SEGMENTS)[:, None].long(),
    )
    options = {"segments": SEGMENTS, "baseline": GREY, "batch_size": 3}
    maps = _run(attr.feature_ablation, network, IMAGES, LABELS, **options)
    assert_close(maps, expected[:, 0].detach())


def test_kernel_shap_of_all_coalitions(network, torch_network):
    expected = captum.attr.ShapleyValues(torch_network).attribute(
        _inputs(),
        small.to_torch(jnp.full_like(IMAGES, GREY)),
        TORCH_LABELS,
        feature_mask=torch.tensor(SEGMENTS)[:, None].long(),
    )
    options = {"segments": SEGMENTS, "baseline": GREY, "samples": 14, "batch_size": 4}
    maps = _run(attr.kernel_shap, network, IMAGES, LABELS, KEYS, **options)
    assert_close(maps, expected[:, 0].detach())


def test_shapley_values_of_drawn_coalitions():
    keys, count = jax.random.split(jax.random.key(0), 1), 9
    rng = np.random.default_rng(0)
    single, pair = rng.normal(size=count), np.triu(rng.normal(size=(count, count)), 1)
    exact = single + (pair + pair.T).sum(0) / 2  # a pair shares its gain
    coalitions, weights = shapley.make_coalitions(keys, count, 300)
    members = np.asarray(coalitions[0], float)
    assert members.shape == (300, count)
    gains = members @ single + np.einsum("ki,ij,kj->k", members, pair, members)
    change = single.sum() + pair.sum()
    values = shapley.fit_values(coalitions[0], jnp.array(gains), change, weights)
    # With complements, a game of single players and pairs is exact.
    np.testing.assert_allclose(values, exact, atol=1e-4)
    sizes = np.bincount(members.sum(1).astype(int), minlength=count)[1:count]
    expected = 1 / (np.arange(1, count) * np.arange(count - 1, 0, -1))
    np.testing.assert_allclose(sizes / 300, expected / expected.sum(), atol=0.06)


def test_kernel_shap_of_one_segment_is_the_change(network):
    maps = attr.kernel_shap(network, IMAGES, LABELS, KEYS, cells=1)
    black = jnp.full_like(IMAGES, 127.5)
    change = np.subtract(*(network(x)[0][[0, 1], LABELS] for x in (IMAGES, black)))
    np.testing.assert_allclose(maps[:, 0, 0], change, rtol=1e-5)


@pytest.mark.parametrize(
    "segments, count, message",
    [
        (SEGMENTS[0], None, r"the shape \(12, 12\); expected \(2, 12, 12\)"),
        (SEGMENTS / 2, None, "segments are float64; expected whole numbers"),
        (SEGMENTS - 1, None, "from -1 to 2; expected whole numbers from 0 to 2"),
        (SEGMENTS, 3, "from 0 to 3; expected whole numbers from 0 to 2"),
    ],
)
def test_segments_that_make_no_sense(network, segments, count, message):
    options = {"segments": segments, "num_segments": count}
    with pytest.raises(ValueError, match=message):
        attr.feature_ablation(network, IMAGES, LABELS, **options)


def test_traced_segments_need_their_number(network):
    def ablate(segments, **options):
        return attr.feature_ablation(
            network, IMAGES, LABELS, segments=segments, **options
        )

    with pytest.raises(ValueError, match="not known inside jit; pass num_segments"):
        jax.jit(ablate)(SEGMENTS)
    traced = jax.jit(functools.partial(ablate, num_segments=4))(SEGMENTS)
    expected = jax.jit(lambda: ablate(SEGMENTS))()
    np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-6)


def test_superpixels_follow_colours():
    image = np.zeros((1, 16, 16, 3))
    image[:, :, 7:] = 255.0
    segments = attr.superpixels(image, count=8)
    assert segments.shape == (1, 16, 16) and segments.min() == 0
    assert not set(segments[:, :, :7].flat) & set(segments[:, :, 7:].flat)


def test_masks_are_those_of_the_authors():
    grid = np.random.default_rng(0).integers(0, 2, (3, 3)).astype(np.float32)
    size, shifts = (16, 13), (2, 4)
    cell = [-(-side // 3) for side in size]
    resized = skimage.transform.resize(
        grid, [4 * side for side in cell], order=1, mode="edge", anti_aliasing=False
    )
    expected = resized[2 : 2 + 16, 4 : 4 + 13]
    mask = random_masks._resize_grid(jnp.array(grid), shifts, size)
    np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_rise(network):
    samples, visible = 12, 0.4
    score = targets.probability(LABELS)
    total, scores, masks = 0, [], []
    for sample in range(samples):
        masks.append(
            [
                random_masks.draw_mask(
                    jax.random.fold_in(key, sample), (12, 12), 3, visible
                )
                for key in KEYS
            ]
        )
        masked = GREY + (IMAGES - GREY) * jnp.array(masks[-1])[..., None]
        scores.append(score(network(masked)[0]))
    scores, masks = np.array(scores), np.array(masks)
    total = np.einsum("sn,snhw->nhw", scores - scores.mean(0), masks)
    options = {"cells": 3, "visible": visible, "baseline": GREY, "batch_size": 5}
    maps = _run(
        functools.partial(attr.rise, network, targets=score),
        IMAGES,
        keys=KEYS,
        samples=samples,
        **options,
    )
    assert_close(maps, total / (samples * visible), 1e-4)


def _at_layer(torch_network, layer):
    """Return (activations, gradients, score of changed activations) of a layer."""
    kept = {}
    module = getattr(torch_network, f"{layer}_relu")
    handle = module.register_forward_hook(lambda _, __, output: kept.update(y=output))
    scores = torch_network(_inputs())[[0, 1], TORCH_LABELS]
    handle.remove()
    (gradients,) = torch.autograd.grad(scores.sum(), kept["y"])

    def score(activations):
        handle = module.register_forward_hook(lambda *_: activations)
        scores = torch_network(_inputs())[[0, 1], TORCH_LABELS]
        handle.remove()
        return scores.detach()

    return kept["y"].detach(), gradients, score


def _resize(maps):
    size = {"size": (12, 12), "mode": "bilinear"}
    return torch.nn.functional.interpolate(maps[:, None], **size)[:, 0]


def test_xgrad_cam(network, torch_network):
    """pytorch-grad-cam's formula."""
    y, gradients, _ = _at_layer(torch_network, "first")
    sums = y.sum((2, 3), keepdim=True)
    weights = (gradients * y / (sums + 1e-7)).sum((2, 3), keepdim=True)
    expected = _resize((weights * y).sum(1).relu())
    assert_close(_run(attr.xgrad_cam, network, IMAGES, LABELS, layer="first"), expected)


def _weigh(name, y, gradients):
    """Return the map of a layer by the equation of the paper."""
    if name == "layer_cam":
        return (gradients.relu() * y).sum(1)
    if name == "hires_cam":
        return (gradients * y).sum(1)
    if name == "grad_cam_plus_plus":
        total = y.sum((2, 3), keepdim=True)
        denominator = 2 * gradients**2 + total * gradients**3
        alpha = torch.where(gradients == 0, 0, gradients**2 / denominator)
        weights = (alpha * gradients.relu()).sum((2, 3), keepdim=True)
        return (weights * y).sum(1).relu()
    projections = []
    for activations in y.flatten(2):  # eigen_cam
        u, s, _ = torch.linalg.svd(activations.T, full_matrices=False)
        projections.append(u[:, 0] * s[0] * torch.sign(u[:, 0].sum()))
    return torch.stack(projections).reshape(y[:, 0].shape)


@pytest.mark.parametrize(
    "name", ["grad_cam_plus_plus", "layer_cam", "hires_cam", "eigen_cam"]
)
def test_class_activation_maps(network, torch_network, name):
    y, gradients, _ = _at_layer(torch_network, "first")
    method = attr.METHODS[name].function
    maps = _run(method, network, IMAGES, LABELS, layer="first")
    assert_close(maps, _resize(_weigh(name, y, gradients)))


@pytest.mark.parametrize("layer", small.LAYERS)
def test_ablation_cam(network, torch_network, layer):
    """pytorch-grad-cam's formula; the scores may be negative."""
    y, _, score = _at_layer(torch_network, layer)
    full, weights = score(y), []
    for channel in range(small.CHANNELS):
        ablated = y.clone()
        ablated[:, channel] = 0
        weights.append((full - score(ablated)) / full.abs())
    maps = torch.einsum("cn,nchw->nhw", torch.stack(weights), y)
    options = {"layer": layer, "batch_size": 4}
    actual = _run(attr.ablation_cam, network, IMAGES, LABELS, **options)
    assert_close(actual, _resize(maps.relu()))


def test_ablation_cam_computes_the_layers_below_once(network):
    def flops(method):
        run = jax.jit(functools.partial(method, layer="second"))
        compiled = run.lower(network, IMAGES, LABELS).compile()
        return compiled.cost_analysis()["flops"]

    # The analysis counts the body of the loop over channels once.
    assert flops(attr.ablation_cam) < 1.3 * flops(attr.grad_cam)


def test_full_gradients(network, torch_network):
    """Return the terms by autograd, with their signs."""
    x, zeros = _inputs(), []

    def add_zeros(_, __, output):
        zeros.append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[-1]

    layers = [torch_network.first, torch_network.second, torch_network.head]
    handles = [layer.register_forward_hook(add_zeros) for layer in layers]
    scores = torch_network(x)[[0, 1], TORCH_LABELS]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(scores.sum(), [x, *zeros])
    of_input, of_first, of_second, of_head = (
        (gradient * bias).detach()
        for gradient, bias in zip(
            gradients,
            [
                x,
                *(
                    layer.bias.view(-1, *[1] * (g.ndim - 2))
                    for layer, g in zip(layers, gradients[1:], strict=True)
                ),
            ],
            strict=True,
        )
    )
    maps, rest = _run(full_gradients, network, IMAGES, LABELS)
    assert_close(rest, of_head.sum(1))
    np.testing.assert_allclose(
        maps.sum((1, 2)) + rest, scores.detach(), rtol=1e-5, atol=1e-5
    )
    # The second convolution has a cell for each four pixels.
    fine = of_input.sum(1) + of_first.sum(1)
    coarse = np.asarray(maps) - fine.numpy()
    totals = of_second.sum((1, 2, 3))
    np.testing.assert_allclose(coarse.sum((1, 2)), totals, rtol=1e-4, atol=1e-5)

    def scaled(terms):
        terms = terms.abs()
        low, high = (f((1, 2, 3), keepdim=True) for f in (terms.amin, terms.amax))
        return _resize(((terms - low) / (high - low)).sum(1))

    expected = scaled(of_input) + scaled(of_first) + scaled(of_second)
    assert_close(_run(attr.full_grad, network, IMAGES, LABELS), expected, 1e-4)


ACTIVATIONS = {
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "gate": lambda x: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)),
    "norm": lambda x: (x - x.mean(-1, keepdims=True)) / (1 + x.std(-1, keepdims=True)),
    "checkpoint": jax.checkpoint(jax.nn.gelu),
    "scan": lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c), None), x, length=2)[0],
    "cond": lambda x: jax.lax.cond(True, jax.nn.gelu, jnp.sin, x),
    "channels_first": lambda x: jax.nn.gelu(x.transpose(0, 3, 1, 2)).transpose(
        0, 2, 3, 1
    ),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_full_gradients_of_every_network_add_up_to_the_score(name):
    def forward(x):
        x = ACTIVATIONS[name](small.networks.convolve(x, *small.PARAMETERS["first"]))
        return x[:, 1:].max((1, 2)) @ small.PARAMETERS["head"][0] + 1

    network = attr.from_function(forward, preprocess=small.preprocess)
    maps, rest = _run(full_gradients, network, IMAGES, LABELS)
    scores = network(IMAGES)[0][jnp.arange(2), LABELS]
    np.testing.assert_allclose(maps.sum((1, 2)) + rest, scores, rtol=1e-4, atol=1e-4)
    assert maps.any()
