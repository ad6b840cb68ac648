"""Class activation maps of one layer, of several, and of all that a head reads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.attribution import (
    batch,
    cam,
    completeness,
    layers,
    receptive_field,
    registry,
)
from tests import fixtures

LABELS = jnp.array([1, 3])
READ = ["block3_conv1", "block3_conv2", "block3_pool", "block4_conv1"]
SPEC = models.get_spec(
    "vgg16", num_classes=5, width=0.05, input_size=64, pooled=tuple(READ)
)
MANY = ["grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "finer_cam"]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return jnp.array(rng.uniform(0, 255, (2, 64, 64, 3)), jnp.float32)


@pytest.fixture(scope="module")
def variables():
    variables = fixtures.random_variables(SPEC, 0)
    bias = np.random.default_rng(2).normal(0, 5, 5).astype(np.float32)
    variables["params"]["head"]["logits"]["bias"] = bias
    return variables


@pytest.fixture(scope="module")
def network(variables):
    return functools.partial(models.apply, SPEC, variables)


def _apart(variables, images):
    """Return what each layer adds to the logits [n, h, w, c], by the head's weights.

    The head is linear in the means of the endpoints, one after the other.
    """
    endpoints = models.apply(SPEC, variables, images)[1]
    kernel = variables["params"]["head"]["logits"]["kernel"]
    parts, first = {}, 0
    for name in READ:
        n, h, w, channels = endpoints[name].shape
        weights = kernel[first : first + channels]
        parts[name] = jnp.einsum("nhwk,kc->nhwc", endpoints[name], weights) / (h * w)
        first += channels
    assert first == len(kernel)
    return parts


def _of_labels(logits):
    return jnp.stack([x[..., label] for x, label in zip(logits, LABELS, strict=True)])


def test_head_means_what_the_head_reads(network, images):
    assert layers.resolve(network, images, "head") == READ
    assert batch.head_layers(SPEC, 64) == READ
    assert batch.map_layer(SPEC, 64) == "head"
    single = models.get_spec("vgg16", num_classes=5, width=0.05)
    alone = functools.partial(
        models.apply, single, fixtures.random_variables(single, 0)
    )
    assert layers.resolve(alone, images, "head") == ["block5_pool"]
    assert batch.map_layer(single, 64) == "block5_conv3"
    below = models.get_spec("vgg16", width=0.05, pooled=("block4_conv2",))
    assert batch.map_layer(below, 64) == "block4_conv2"


def test_head_of_a_network_with_more_than_ten_blocks():
    spec = models.get_spec("inception_v3", width=0.05)
    assert list(batch.endpoint_shapes(spec, 299))[-1] == "mixed10"  # not mixed9
    assert batch.head_layers(spec, 299) == ["mixed10"]


def test_layer_of_a_spec_may_be_within_a_block():
    spec = models.get_spec("inception_v3", width=0.05)
    within = dataclasses.replace(spec, cam_layer="mixed10_branch1x1")
    assert "mixed10_branch1x1" in batch.endpoint_shapes(within, 299)
    assert batch.map_layer(within, 299) == "mixed10_branch1x1"
    assert batch.map_layer(within, 80) == "mixed7"
    mistyped = dataclasses.replace(spec, cam_layer="mixed_10")
    with pytest.raises(ValueError, match="'mixed_10'; .*; did you mean 'mixed10'"):
        batch.map_layer(mistyped, 299)


def test_head_of_any_network_function(images):
    """The logits read two layers, and the third only through the second."""

    def network(images, taps=None):
        taps = taps or {}
        first = images[:, ::2, ::2] + taps.get("first", 0)
        third = jnp.tanh(first) + taps.get("third", 0)
        second = third.sum(-1, keepdims=True) + taps.get("second", 0)
        logits = jax.jit(lambda x, y: (x * y).mean((1, 2)))(first, second)
        return logits, {"first": first, "third": third, "second": second}

    assert layers.resolve(network, images, "head") == ["first", "second"]
    assert layers.resolve(jax.jit(network), images, "head") == ["first", "second"]
    message = "depends on layer 'third' only through the other layers"
    with pytest.raises(ValueError, match=message):
        attr.grad_cam(network, images, LABELS % 3, layer=["third", "second"])


def test_parts_add_up_to_the_score(network, variables, images):
    logits = network(images)[0]
    bias = variables["params"]["head"]["logits"]["bias"]
    parts = completeness.contributions(network, images, LABELS)
    expected = _apart(variables, images)
    assert parts.keys() == expected.keys()
    for name, part in expected.items():
        part = _of_labels(part.sum((1, 2)))
        np.testing.assert_allclose(parts[name], part, rtol=1e-3, atol=1e-4)
    total = sum(parts.values())
    np.testing.assert_allclose(total, _of_labels(logits - bias), rtol=1e-4)
    share = completeness.completeness(network, images, LABELS)
    np.testing.assert_allclose(share, 1, rtol=1e-4)


def test_taps_alone_would_count_evidence_twice(network, variables, images):
    """The gradient at a tap of one layer includes the paths through the others."""
    alone = sum(
        sum(completeness.contributions(network, images, LABELS, layer=name).values())
        for name in READ
    )
    bias = variables["params"]["head"]["logits"]["bias"]
    score = _of_labels(network(images)[0] - bias)
    assert (np.abs(alone - score) > 0.2 * np.abs(score)).all()


@pytest.mark.parametrize("pooling", ["root_average", "root_moments"])
def test_normalised_heads_are_far_from_complete(images, pooling):
    """Contributions to features of length 1 nearly cancel, by Euler's theorem."""
    spec = models.get_spec(
        "vgg16", num_classes=5, width=0.05, pooled=SPEC.pooled, pooling=pooling
    )
    variables = fixtures.random_variables(spec, 0)
    network = functools.partial(models.apply, spec, variables)
    share = completeness.completeness(network, images, LABELS)
    assert np.abs(share).max() < 0.1


@pytest.mark.parametrize("align", ["receptive_field", "stretch"])
@pytest.mark.parametrize("relu", [False, True])
def test_maps_are_the_evidence_per_area(network, variables, images, align, relu):
    centres = receptive_field.cell_centres(network, images, align)
    expected = 0.0
    for name, parts in _apart(variables, images).items():
        parts = _of_labels(parts)
        # The coarsest layers have 8 x 8 cells.
        relative_cells = parts[0].size / 64
        expected += relative_cells * cam.upsample(parts, images, centres[name])
    expected = jax.nn.relu(expected) if relu else expected
    maps = attr.grad_cam(network, images, LABELS, layer="head", relu=relu, align=align)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=atol)
    if not relu:
        hires = attr.hires_cam(network, images, LABELS, layer=READ, align=align)
        np.testing.assert_allclose(hires, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", MANY)
def test_a_sequence_of_one_is_its_layer(network, images, name):
    method = registry.METHODS[name].function
    expected = method(network, images, LABELS, layer="block4_conv1")
    maps = method(network, images, LABELS, layer=["block4_conv1"])
    np.testing.assert_array_equal(maps, expected)
    assert expected.any()


@pytest.mark.parametrize("name", [*MANY, "guided_grad_cam"])
def test_methods_of_all_layers_at_once(variables, images, name):
    explain = batch.make_explainer(SPEC, [name], size=64)
    keys = jax.random.split(jax.random.key(0), 2)
    maps = explain(variables, images, LABELS, keys)[2][name]
    network = functools.partial(models.apply, SPEC, variables)
    method = registry.METHODS[name].function
    expected = method(network, images, LABELS, layer="head")
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=atol)
    assert np.isfinite(maps).all() and (np.ptp(maps, (1, 2)) > 0).all()


@pytest.mark.parametrize("name", ["eigen_cam", "score_cam"])
def test_methods_of_one_layer_refuse_several(network, images, name):
    message = f"{name} takes one layer, but layer means 4: block3_conv1, block3_conv2"
    with pytest.raises(ValueError, match=message):
        registry.METHODS[name].function(network, images, LABELS, layer="head")
    with pytest.raises(ValueError, match=message):
        batch.make_explainer(SPEC, ["grad_cam", name], size=64)
    batch.make_explainer(SPEC, [name], "block5_pool", size=64)


def test_layers_above_what_the_head_reads_are_refused(network, images):
    message = "the score does not depend on layer 'block5_conv3', so its map would be"
    with pytest.raises(ValueError, match=message):
        attr.grad_cam(network, images, LABELS, layer="block5_conv3")
    with pytest.raises(ValueError, match=message):
        attr.ablation_cam(network, images, LABELS, layer="block5_conv3")
    with pytest.raises(ValueError, match=message):
        batch.make_explainer(SPEC, ["grad_cam"], "block5_conv3", size=64)
    with pytest.raises(ValueError, match="'block4_conv2' only through the other"):
        batch.make_explainer(
            SPEC, ["grad_cam"], ["block4_conv2", "block4_conv1"], size=64
        )
    with pytest.raises(ValueError, match="'block2_pool' only through the other layers"):
        attr.layer_cam(network, images, LABELS, layer=["block2_pool", *READ])


def test_64_bit_mode_does_not_change_maps_of_several_layers(network, images):
    maps = attr.hires_cam(network, images, LABELS, layer=READ[2:])
    with jax.enable_x64(True):
        again = attr.hires_cam(network, images, LABELS, layer=READ[2:])
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, maps, atol=1e-6 * np.abs(maps).max())


@pytest.mark.parametrize(
    "layer,message",
    [
        ("heads", "layer 'heads' is unknown; layers are .*did you mean 'head'?"),
        ([], r"layer is \[\]; expected one name, several names or 'head'"),
        (["block3_pool"] * 2, "layer 'block3_pool' is given more than once"),
        (["block3_pool", "block9"], "layer 'block9' is unknown"),
    ],
)
def test_layers_that_cannot_be_chosen(network, images, layer, message):
    with pytest.raises(ValueError, match=message):
        attr.grad_cam(network, images, LABELS, layer=layer)


def test_one_backward_pass_for_all_layers(variables, images):
    """The head alone is differentiated, so maps cost little more than the logits."""

    def flops(function):
        compiled = jax.jit(function).lower(variables, images).compile()
        return compiled.cost_analysis()["flops"]

    def logits(variables, images):
        return models.apply(SPEC, variables, images)[0]

    def maps(variables, images):
        network = functools.partial(models.apply, SPEC, variables)
        return attr.hires_cam(network, images, LABELS, layer=READ)

    assert flops(maps) < 1.3 * flops(logits)


def test_adapted_networks(images):
    """Cuts pass through adapters, which evaluate a network's jaxpr."""
    spec = models.get_spec("small", num_classes=5, width=0.2, pooled=("block[45]",))
    variables = fixtures.random_variables(spec, 0)
    adapted = attr.from_linen(
        models.build(spec),
        variables,
        preprocess=models.PREPROCESS[spec.preprocess],
        output=lambda outputs: outputs[0],
    )
    names = layers.resolve(adapted, images, "head")
    assert names == ["backbone['block4']", "backbone['block5']"]
    maps = attr.grad_cam(adapted, images, LABELS, layer="head")
    bound = models.bind(spec, variables)
    expected = attr.grad_cam(bound, images, LABELS, layer=["block4", "block5"])
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=atol)
