"""Every method compared with captum or with an equation, on a small network."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from seeflower_jax.attribution import registry
from seeflower_jax.comparison import attribution_parity
from tests.attribution import small_network as small

# Differences of large terms, in float32.
LARGER = {"var_grad": 1e-4, "rise": 1e-4, "full_grad": 1e-4}
EXACT = {"rise": 1e-5}  # in float64
# Finer-CAM of the other classes is 0.
TARGETS = {"finer_cam": np.array([2, 2])}
pair = functools.cache(small.pair)


def _cases():
    for name, comparison in attribution_parity.COMPARISONS.items():
        layered = registry.METHODS[comparison.method or name].layered
        yield from ((name, layer) for layer in small.LAYERS[not layered :])


@pytest.mark.parametrize("name, layer", list(_cases()))
def test_maps_are_those_of_the_reference(name, layer):
    targets = TARGETS.get(name, np.asarray(small.LABELS))
    compared = dataclasses.replace(pair(layer), targets=targets)
    ((_, figures),) = attribution_parity.compare(compared, [name])
    assert figures["relative_difference"] < LARGER.get(name, 1e-5)
    assert figures["correlation"] > 0.99999
    assert figures["images"] == 2


@pytest.mark.parametrize("name", attribution_parity.COMPARISONS)
def test_float64_leaves_no_difference(name):
    """captum computes some points of paths in float32, RISE computes its masks so."""
    targets = TARGETS.get(name, np.asarray(small.LABELS))
    with jax.enable_x64(True):
        exact = small.pair("first", np.float64)
        exact = dataclasses.replace(exact, targets=targets)
        ((_, figures),) = attribution_parity.compare(exact, [name])
        assert attribution_parity.compute(exact, name).dtype == np.float64
    assert figures["relative_difference"] < EXACT.get(name, 1e-6)


@pytest.fixture(scope="module")
def vgg16(assets):
    """Return VGG16 with ImageNet weights in both frameworks, in float64."""
    # Areas of one colour would have equal maxima, and rounding would choose among them.
    images = np.random.default_rng(2).uniform(0, 255, (2, 48, 48, 3))
    with jax.enable_x64(True):
        return attribution_parity.load_pair(images, str(assets / "weights"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", attribution_parity.COMPARISONS)
def test_maps_of_a_network_of_this_package_are_those_of_the_reference(name, vgg16):
    """Its convolutions and poolings are other primitives than those above."""
    with jax.enable_x64(True):
        ((_, figures),) = attribution_parity.compare(vgg16, [name])
    assert figures["relative_difference"] < EXACT.get(name, 1e-6)
    assert figures["images"] == 2


@pytest.mark.parametrize("name", attribution_parity.COMPARISONS)
def test_64_bit_mode_does_not_change_maps_of_float32_images(name):
    targets = TARGETS.get(name, np.asarray(small.LABELS))
    compared = dataclasses.replace(pair("first"), targets=targets)
    maps = attribution_parity.compute(compared, name)
    with jax.enable_x64(True):
        again = attribution_parity.compute(compared, name)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, maps)


def test_every_method_is_compared():
    assert registry.METHODS.keys() <= attribution_parity.COMPARISONS.keys()


def test_a_difference_is_seen():
    expected = np.array([[0.0, 1.0], [2.0, 4.0]])
    correlation, difference = attribution_parity.of_map(expected[::-1], expected)
    assert difference == 3 / 4
    assert correlation == pytest.approx(np.corrcoef([2, 4, 0, 1], [0, 1, 2, 4])[0, 1])


def test_a_map_without_differences_is_named():
    """The baseline of the layer's conductance is another image, here the same."""
    original = pair(small.LAYERS[1])
    images = np.repeat(original.images[:1], 2, 0)
    compared = dataclasses.replace(original, images=images)
    with pytest.raises(ValueError, match="a map of layer_conductance has the same"):
        list(attribution_parity.compare(compared, ["layer_conductance"]))
