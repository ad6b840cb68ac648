"""Where the cells of a layer lie in the image."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.attribution import cam, registry
from seeflower_jax.attribution.methods.full_grad import full_gradients
from seeflower_jax.attribution.receptive_field import Window, cell_centres


def _centres(spec, size, align="receptive_field"):
    """Return the centres of a network's cells, without its variables."""
    centres = {}

    def compute(variables, images):
        network = functools.partial(models.apply, spec, variables)
        centres.update(cell_centres(network, images, align))

    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    jax.eval_shape(compute, models.shapes(spec), image)
    return centres


def _from(first, step, count):
    return tuple(first + step * np.arange(count))


def test_inception_without_padding():
    """Its stem has no padding: the first cell of mixed10 lies 37 pixels inside."""
    spec = models.get_spec("inception_v3", num_classes=2, width=0.05)
    centres = _centres(spec, (299, 331))
    assert centres["mixed10"] == (_from(37, 32, 8), _from(37, 32, 9))
    assert centres["mixed7"] == (_from(21, 16, 17), _from(21, 16, 19))
    assert centres["mixed7_branch7x7dbl_5"] == centres["mixed7"]
    assert centres["Conv2d_1a_3x3"][0] == _from(1, 2, 149)
    stretched = _centres(spec, (299, 331), "stretch")["mixed10"][0]
    np.testing.assert_allclose(stretched, (np.arange(8) + 0.5) * 299 / 8 - 0.5)


def test_vgg_with_padding():
    centres = _centres(models.get_spec("vgg16", num_classes=2, width=0.05), (224, 224))
    assert centres["block5_conv3"][0] == _from(7.5, 16, 14)
    assert centres["block5_pool"][0] == _from(15.5, 32, 7)
    assert centres["block1_conv2"][0] == _from(0, 1, 224)
    # Cells of a padded network are equal tiles.
    stretched = _centres(
        models.get_spec("vgg16", num_classes=2, width=0.05), (224, 224), "stretch"
    )
    assert stretched == centres


class Layers(nn.Module):
    """Convolutions and pooling of Flax, as a user combines them."""

    padding: str

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (7, 5), (2, 2), padding=self.padding)(x)
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), padding=self.padding)
        short = nn.Conv(8, (1, 1))(x)
        x = nn.Conv(8, (3, 3), kernel_dilation=2, padding="SAME")(nn.GroupNorm(2)(x))
        x = nn.Dense(6)(nn.gelu(x + short))
        x = nn.Conv(6, (3, 3), feature_group_count=6)(x)
        gate = nn.sigmoid(nn.Dense(6)(x.mean((1, 2), keepdims=True)))
        x = nn.avg_pool(gate * x, (2, 2), (2, 2), padding=self.padding)
        self.sow("intermediates", "last", x)
        return nn.Dense(3)(x.mean((1, 2)))


def _reach(function, size):
    """Return the middle of the pixels that reach each cell, by axis.

    Each pixel is changed separately, in a network of positive weights. The pixel
    reaches the cells that change. Zeros in the padding and the gate therefore do not
    count.
    """
    middles = []
    for axis in (0, 1):

        def strip(position, axis=axis):
            pixels = jnp.zeros((1, *size, 3))
            index = (0, position) if axis == 0 else (0, slice(None), position)
            return function(pixels.at[index].set(1.0))[0].sum(-1).any(1 - axis)

        reached = np.asarray(jax.lax.map(strip, jnp.arange(size[axis])))
        positions = [np.flatnonzero(cells) for cells in reached.T]
        middles.append([(p[0] + p[-1]) / 2 for p in positions])
    return middles


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_layers_of_flax(padding):
    """Cells away from the border lie in the middle of the pixels that reach them."""
    size = (96, 105)
    module = Layers(padding)
    variables = module.init(jax.random.key(0), jnp.zeros((1, *size, 3)))
    network = attr.from_linen(module, variables)
    images = jnp.zeros((1, *size, 3))
    layer = "GroupNorm_0"
    centres = cell_centres(network, images)

    def positive(pixels):
        """The layers below the group norm, with weights of 1 and no bias."""
        x = pixels.sum(-1, keepdims=True)
        x = jax.lax.conv_general_dilated(
            x,
            jnp.ones((7, 5, 1, 1)),
            (2, 2),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return nn.max_pool(x, (3, 3), (2, 2), padding=padding)

    for actual, expected in zip(centres[layer], _reach(positive, size), strict=True):
        inner = slice(3, -3)
        np.testing.assert_array_equal(actual[inner], expected[inner])
    assert centres["Conv_2"] == centres[layer]  # dilated, grouped, gated: same places
    assert centres["Dense_0"] == centres[layer]


def test_operations_that_move_cells():
    images = jnp.zeros((1, 12, 12, 3))

    def network(images, taps=None):
        shifted = jnp.pad(images, ((0, 0), (2, 1), (0, 3), (0, 0)))
        swapped = images.transpose(0, 2, 1, 3).transpose(0, 2, 1, 3)
        turned = images[:, ::-1]
        endpoints = {
            "shifted": shifted,
            "sliced": images[:, 3:12:3, 1:],
            "swapped": swapped,
            "transposed": images.transpose(0, 2, 1, 3)[:, ::2],
            "turned": turned[:, ::-1],
            "turned once": turned,
            "tokens": images.reshape(1, 144, 3)[:, ::-1].reshape(1, 12, 12, 3),
            "resized": jax.image.resize(images, (1, 6, 6, 3), "bilinear"),
        }
        return images.mean((1, 2)), endpoints

    centres = cell_centres(network, images)
    whole = _from(0, 1, 12)
    assert centres["shifted"] == (_from(-2, 1, 15), _from(0, 1, 15))
    assert centres["sliced"] == ((3, 6, 9), _from(1, 1, 11))
    for name in ("swapped", "turned", "tokens"):
        assert centres[name] == (whole, whole), name
    assert centres["turned once"] == (whole[::-1], whole)
    # Unknown places are equal tiles: after a transpose or a resize.
    assert centres["transposed"][0] == _from(0.5, 2, 6)
    assert centres["resized"] == (_from(0.5, 2, 6),) * 2


def test_stretched_maps_are_bilinear():
    maps = jnp.array(np.random.default_rng(0).normal(size=(2, 5, 7)))
    images = jnp.zeros((2, 64, 96, 3))
    expected = jax.image.resize(maps, (2, 64, 96), "bilinear")
    np.testing.assert_allclose(cam.upsample(maps, images), expected, atol=1e-5)


def test_a_map_lies_where_the_evidence_is():
    """One bright pixel raises one cell most: the map's maximum is at its pixel."""
    images = jnp.zeros((1, 43, 43, 3)).at[0, 13, 29].set(255.0)

    def network(images, taps=None):
        cells = images.mean(-1, keepdims=True)
        for _ in range(2):  # without padding: cells at 3, 7, ..., 39
            cells = jax.lax.reduce_window(
                cells, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "VALID"
            )
        cells = cells + (taps or {}).get("cells", 0)
        return cells.mean((1, 2)), {"cells": cells}

    spread = attr.hires_cam(network, images, layer="cells")[0]
    stretched = attr.hires_cam(network, images, layer="cells", align="stretch")[0]

    def middle(maps):
        weights = np.asarray(maps, np.float64)
        grid = np.indices(weights.shape)
        return (weights * grid).sum((1, 2)) / weights.sum()

    np.testing.assert_allclose(middle(spread), (13, 29), atol=1.5)
    assert np.abs(middle(stretched) - (13, 29)).max() > 0


def _peak(x):
    """Raise the cell of a bright pixel most, and subtract a bias."""
    kernel = jnp.outer(jnp.array([1.0, 2, 1]), jnp.array([1.0, 2, 1]))[..., None, None]
    axes = ("NHWC", "HWIO", "NHWC")
    cells = x.mean(-1, keepdims=True)
    cells = jax.lax.conv_general_dilated(
        cells, kernel, (1, 1), "SAME", dimension_numbers=axes
    )
    cells = checkpoint_name(jax.nn.relu(cells - 600), "peak")
    return cells.mean((1, 2))


def test_maps_of_flipped_images_lie_where_the_evidence_is():
    images, pixel = jnp.zeros((1, 12, 16, 3)).at[0, 3, 10].set(255.0), (3, 10)
    network = attr.from_function(lambda x: (_peak(x) + _peak(x[:, :, ::-1])) / 2)
    both = ["peak", "peak#2"]
    maps = [
        attr.grad_cam(network, images, layer=layer) for layer in (*both, both, "head")
    ]
    flipped = attr.from_function(lambda x: _peak(x[:, ::-1, ::-1]))
    signed = full_gradients(flipped, images)[0]
    for one in (*maps, attr.full_grad(flipped, images), jnp.abs(signed)):
        assert np.unravel_index(one[0].argmax(), one[0].shape) == pixel
    # The bias of -600 lies at the pixel, and the input has 4 * 255 there.
    np.testing.assert_allclose(signed.sum(), signed[0, 3, 10], rtol=1e-5)
    np.testing.assert_allclose(signed.sum() * 12 * 16, 4 * 255 - 600, rtol=1e-4)


def test_terms_of_a_flipped_batch_belong_to_their_images():
    images = jnp.zeros((2, 6, 6, 3)).at[0, 2, 3].set(255.0)
    network = attr.from_function(lambda x: _peak(x[::-1])[::-1])
    maps = full_gradients(network, images)[0]
    np.testing.assert_allclose(maps.sum((1, 2)) * 36, (4 * 255 - 600, 0), atol=1e-3)


def test_window_of_cells_in_reverse_order():
    """Cells 0, 1 and 2 read the pixels 9 and 10, 7 and 8, and 5 and 6."""
    window = Window(axis=1, low=9, high=10, step=-2)
    assert window.slide(size=3, stride=2, before=0) == Window(1, 5, 10, -4)
    assert window.slide(size=3, stride=1, before=1) == Window(1, 7, 12, -2)


def test_alignment_is_an_option_of_the_methods():
    parsed = registry.parse_options(["grad_cam.align=stretch"])
    assert parsed == {"grad_cam": {"align": "stretch"}}
    message = "align is 'centre'; expected 'receptive_field' or 'stretch'"
    with pytest.raises(ValueError, match=f"grad_cam.{message}"):
        registry.parse_options(["grad_cam.align=centre"])

    def network(images, taps=None):
        cells = images[:, ::2, ::2] + (taps or {}).get("cells", 0)
        return cells.mean((1, 2)), {"cells": cells}

    images = jnp.zeros((1, 8, 8, 3))
    for method in registry.METHODS.values():
        if method.layered:
            with pytest.raises(ValueError, match=message):
                method.function(network, images, layer="cells", align="centre")
