"""`attr.explain`: several methods on any network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import batch, registry, targets
from seeflower_jax.attribution.metrics.infidelity import infidelity
from seeflower_jax.attribution.rules import alpha_beta, by_depth, epsilon, gamma
from tests import fixtures
from tests.attribution import small_network as small

IMAGES, LABELS = small.images(), small.LABELS


def test_maps_are_those_of_the_methods():
    network, method = small.network(), small.attr.integrated_gradients
    names = ["saliency", "grad_cam", "smooth_grad", "integrated_gradients"]
    few = {"integrated_gradients": {"steps": 2, "baseline": np.zeros((1, 12, 12, 3))}}
    maps = attr.explain(network, IMAGES, names, layer=["first"], options=few)
    assert list(maps) == names
    predicted = network(IMAGES)[0].argmax(-1)
    keys = jax.random.split(jax.random.key(0), 2)
    expected = {
        "saliency": attr.saliency(network, IMAGES, predicted),
        "grad_cam": attr.grad_cam(network, IMAGES, predicted, layer="first"),
        "smooth_grad": attr.smooth_grad(network, IMAGES, predicted, keys),
        "integrated_gradients": method(network, IMAGES, predicted, 0.0, steps=2),
    }
    for name in names:
        scale = np.abs(expected[name]).max()
        assert scale > 0
        np.testing.assert_allclose(maps[name], expected[name], atol=1e-5 * scale)


def _counting():
    """Return a network function that counts its calls, which are traces in `jit`."""

    def network(images, taps=None):
        network.calls += 1
        return small.network()(images, taps)

    network.calls = 0
    return network


def test_network_functions_and_targets():
    network = _counting()
    others = (LABELS + 1) % small.CLASSES
    for make in (
        targets.probability,
        functools.partial(targets.contrast, references=2),
        lambda labels: targets.difference(labels, (labels + 2) % small.CLASSES),
    ):
        for labels in (LABELS, others):
            network.calls = 0
            score = make(labels)
            maps = attr.explain(network, IMAGES, ["signed_saliency"], score)
            # The function that was compiled for some classes serves other classes.
            assert (network.calls > 0) == (labels is LABELS)
            np.testing.assert_allclose(
                maps["signed_saliency"],
                attr.signed_saliency(network, IMAGES, score),
                rtol=1e-4,
                atol=1e-8,
            )
        with pytest.raises(ValueError, match="the target of image 1 of the batch is 4"):
            attr.explain(network, IMAGES, ["saliency"], make(jnp.array([0, 4])))


def test_a_new_rule_with_the_same_values_is_compiled_once():
    network = _counting()

    def lrp(value):
        first = [0.5, gamma(jnp.float32(value))]  # neither lists nor arrays have hashes
        rule = by_depth(first, (0.9, alpha_beta()), (1.0, epsilon()))
        options = {"lrp": {"rule": rule}}
        return attr.explain(network, IMAGES, ["lrp"], LABELS, options=options)["lrp"]

    first = lrp(0.25)
    network.calls = 0
    np.testing.assert_array_equal(lrp(0.25), first)
    assert network.calls == 0
    assert not np.array_equal(lrp(0.5), first) and network.calls > 0


def test_name_that_gets_another_method(monkeypatch):
    def constant(value):
        return lambda network, images, targets: jnp.full(images.shape[:3], value)

    for value in (1.0, 2.0):
        method = registry.Method(constant(value))
        monkeypatch.setitem(registry.METHODS, "constant", method)
        maps = attr.explain(small.network(), IMAGES, ["constant"])
        assert (maps["constant"] == value).all()


def test_images_and_segments_that_a_jitted_function_knows():
    """They are no arguments of the function, so their values are checked."""
    segments = jnp.zeros((1, 12, 12), int).at[:, 6:].set(1)
    few = {"segments": segments, "num_segments": 2}

    def run(network, images):
        methods, options = ["feature_ablation"], {"feature_ablation": few}
        return attr.explain(network, images, methods, options=options)

    known = jax.jit(lambda network: run(network, IMAGES))(small.network())
    expected = run(small.network(), IMAGES)["feature_ablation"]
    np.testing.assert_allclose(known["feature_ablation"], expected, rtol=1e-5)
    broken = IMAGES.at[1].set(np.nan)
    with pytest.raises(ValueError, match="image 1 of the batch has values"):
        jax.jit(lambda network: run(network, broken))(small.network())


@pytest.mark.parametrize(
    "methods",
    [["grad_cam", "hires_cam"], ["saliency", "grad_cam", "feature_ablation"]],
)
def test_all_methods_share_a_forward_pass(methods):
    def convolutions(methods):
        run = jax.jit(lambda images: attr.explain(small.network(), images, methods))
        # XLA names convolutions of GPUs by their libraries.
        with jax.default_device(jax.devices("cpu")[0]):
            return run.lower(small.images()).compile().as_text().count(" convolution(")

    forward = len(small.LAYERS)
    assert convolutions(["grad_cam"]) == forward
    apart = sum(convolutions([method]) for method in methods)
    assert convolutions(methods) == apart - (len(methods) - 1) * forward


def test_attention_methods():
    def transformer(images):
        tokens = images[:, ::4, ::4].reshape(len(images), -1, 3) / 255
        weights = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", tokens, tokens))[:, None]
        weights = checkpoint_name(weights, "attention")
        return jnp.einsum("nhqk,nkc->nqc", weights, tokens).mean(1) ** 2

    network = attr.from_function(transformer)
    options = {"layers": ["attention"], "prefix": 0}
    names = ("attention_rollout", "attention_relevance")
    maps = attr.explain(network, IMAGES, names, options=dict.fromkeys(names, options))
    for name in names:
        expected = getattr(attr, name)(network, IMAGES, **options)
        np.testing.assert_allclose(maps[name], expected, rtol=1e-4, atol=1e-8)
        assert np.ptp(maps[name]) > 0
    with pytest.raises(ValueError, match="attention_rollout needs the names"):
        attr.explain(network, IMAGES, ["attention_rollout"])


@pytest.mark.parametrize(
    "methods, options, message",
    [
        (["grad_camm"], {}, "'grad_camm': known are .*attention_rollout.*did you mean"),
        (["rise", "rise"], {}, "'rise' is given more than once"),
        (["rise"], {"rise": {"masks": 3}}, "rise has no option 'masks'"),
        (["rise"], {"rise": {"cells": 0}}, "rise.cells is 0; expected"),
        ("rise", {}, r"methods are 'rise'; expected a list, \['rise'\]"),
        (["rise"], {"ries": {"cells": 4}}, "method 'ries': known are.*did you mean"),
        (["grad_cam"], {}, "layer 'frst' is unknown.*did you mean 'first'"),
    ],
)
def test_errors(methods, options, message):
    with pytest.raises(ValueError, match=message):
        attr.explain(small.network(), IMAGES, methods, layer="frst", options=options)


def _infidelity(network, images, targets, keys):
    return infidelity(network, images, jnp.ones(images.shape[:3]), keys, targets)


@pytest.mark.parametrize(
    "function",
    [attr.smooth_grad, attr.gradient_shap, attr.rise, attr.kernel_shap, _infidelity],
)
@pytest.mark.parametrize(
    "keys, count",
    [
        (jax.random.key(0), 3),
        (jax.random.split(jax.random.key(0)), 3),
        (jax.random.PRNGKey(0), 2),  # one key of two numbers
    ],
)
def test_another_number_of_keys_than_images(function, keys, count):
    images = jnp.ones((count, 12, 12, 3))
    with pytest.raises(ValueError, match="expected one random key per image"):
        function(small.network(), images, None, keys)


def test_images_that_are_not_finite():
    with pytest.raises(ValueError, match="image 1 of the batch has values"):
        attr.explain(small.network(), IMAGES.at[1].set(np.nan), ["saliency"])


def test_many_methods_are_compiled_as_several_functions(monkeypatch):
    """XLA's compiler for CPUs ends with a stack overflow on very large functions."""
    traced = []
    run = batch._run

    def record(network, images, targets, keys, methods, *arguments):
        traced.append(methods)
        return run(network, images, targets, keys, methods, *arguments)

    monkeypatch.setattr(batch, "_run", record)
    names = [name for name, method in attr.METHODS.items() if method.layered][:4]
    names += ["saliency", "signed_saliency", "input_x_gradient", "guided_saliency"]
    maps = attr.explain(small.network(), IMAGES, names, layer="first")
    assert list(maps) == names
    assert sum(map(list, traced), []) == names
    assert max(map(len, traced)) <= batch.TOGETHER < len(names)


def test_integer_images_have_the_maps_of_their_values():
    """Also with a baseline that the type of the images lacks."""
    pixels = IMAGES.round().astype(jnp.uint8)
    names = [n for n in registry.METHODS if "baseline" in registry.options_of(n)]
    assert "rise" in names and "score_cam" in names
    options = {name: dict(fixtures.FEW_PASSES.get(name, {})) for name in names}
    options["occlusion"] = {"window": 8, "stride": 4}
    for name in names:
        options[name]["baseline"] = -40
    of_integers, of_floats = (
        attr.explain(
            small.network(), images, names, LABELS, layer="first", options=options
        )
        for images in (pixels, pixels.astype(jnp.float32))
    )
    for name in names:
        assert np.ptp(of_floats[name]) > 0, name
        np.testing.assert_array_equal(of_integers[name], of_floats[name], name)


def test_method_of_noisy_images_is_an_option():
    options = {"smooth_grad": {"method": attr.input_x_gradient, "samples": 2}}
    maps = attr.explain(small.network(), IMAGES, ["smooth_grad"], options=options)
    keys = jax.random.split(jax.random.key(0), 2)
    expected = attr.smooth_grad(
        small.network(), IMAGES, None, keys, attr.input_x_gradient, samples=2
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(maps["smooth_grad"], expected, atol=1e-5 * scale)


def test_score_keeps_the_predicted_class_while_images_are_altered():
    def halves(images):
        upper, lower = images[:, :8], images[:, 8:]
        return jnp.stack([upper.mean((1, 2, 3)), lower.mean((1, 2, 3))], -1)

    network = attr.from_function(halves)
    images = jnp.full((1, 16, 8, 3), 190.0).at[:, :8].set(200.0)
    hidden = {"window": 8, "stride": 8, "baseline": 0.0}
    for make in (targets.contrast, targets.probability):
        maps = attr.occlusion(network, images, make(), **hidden)
        expected = attr.occlusion(network, images, make(jnp.array([0])), **hidden)
        np.testing.assert_array_equal(maps, expected)
        assert maps[0, 0, 0] > 0
        (again,) = attr.explain(
            network, images, ["occlusion"], make(), options={"occlusion": hidden}
        ).values()
        np.testing.assert_allclose(again, expected, rtol=1e-5)
