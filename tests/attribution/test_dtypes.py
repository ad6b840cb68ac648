"""Maps, targets and segments of small dtypes have the results of large ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import regions, targets
from seeflower_jax.attribution.metrics import (
    faithfulness,
    infidelity,
    localisation,
    sensitivity,
    sparseness,
)

SIDE = 448  # pixels, so many that float16 cannot hold their sum
_WAVES = jnp.sin(jnp.arange(SIDE) / 20)
_VALUES = {  # exact in each dtype
    "bool": (_WAVES > 0)[:, None] & (_WAVES > 0.5),
    "uint8": jnp.round(127 * (1 + _WAVES[:, None] * _WAVES)),
    "float16": jnp.round(127 * _WAVES[:, None] * _WAVES),
    "bfloat16": jnp.round(127 * _WAVES[:, None] * _WAVES),
}
MASK = (jnp.arange(SIDE) < 300)[:, None] & (jnp.arange(SIDE) > 99)

METRICS = {
    "ranks": faithfulness.ranks,
    "sparseness": sparseness.sparseness,
    "energy": lambda maps: localisation.energy_pointing_game(maps, MASK[None]),
    "pointing": lambda maps: localisation.pointing_game(maps, MASK[None]),
    "iou": lambda maps: localisation.mask_iou(maps, MASK[None]),
    "grid": lambda maps: localisation.grid_pointing(maps, jnp.array([2])),
    "boxes": regions.bounding_boxes,
    "infidelity": lambda maps: infidelity.infidelity(
        lambda images, taps=None: (images[:, ::64, 0, 0], {}),
        jnp.ones((1, SIDE, SIDE, 3)),
        maps,
        jax.random.key(0)[None],
        samples=2,
    ),
}


@pytest.mark.parametrize("dtype", _VALUES)
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_maps(metric, dtype):
    maps = _VALUES[dtype].astype(dtype)[None]
    values = METRICS[metric](maps)
    expected = METRICS[metric](maps.astype("float32"))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_sensitivity_is_relative_for_maps_of_any_size():
    images, keys = jnp.ones((1, 64, 64, 3)), jax.random.key(0)[None]

    def change(dtype, factor):
        return sensitivity.max_sensitivity(
            lambda x: (factor * x).astype(dtype), images, keys, samples=2
        )

    expected = change("float32", 1.0)
    assert expected > 0
    np.testing.assert_allclose(change("float32", 1e-24), expected, rtol=1e-5)
    np.testing.assert_allclose(change("float16", 1e4), expected, rtol=1e-2)


def test_contrast_of_many_classes():
    """Class 261 is 5 modulo 256, but not class 5."""
    logits = jnp.zeros((1, 1000)).at[0, jnp.array([5, 261, 7])].set([5.0, 4.5, 1.0])
    labels = jnp.array([5])
    expected = targets.contrast(labels, references=1)(logits)
    values = targets.contrast(labels.astype("uint8"), references=1)(logits)
    np.testing.assert_array_equal(values, expected)
    assert expected < 2.5


@pytest.mark.parametrize("make", [lambda _: None, targets.probability])
def test_one_of_tied_classes_is_predicted(make):
    def network(images, taps=None):
        logits = images.mean((1, 2))
        return jnp.concatenate([logits, logits], -1), {}

    images = jnp.ones((1, 2, 2, 3)).at[..., 1].set(9.0)  # classes 1 and 4
    maps = attr.signed_saliency(network, images, make(None))
    expected = attr.signed_saliency(network, images, make(jnp.array([1])))
    np.testing.assert_array_equal(maps, expected)
    assert (maps > 0).all()


def test_segments_of_few_bits():
    images = jnp.ones((1, 4, 4, 3))
    segments = jnp.arange(16, dtype="int8").reshape(1, 4, 4)
    options = {"num_segments": 300, "samples": 4}
    keys = jax.random.key(0)[None]

    def network(images, taps=None):
        return images.sum((1, 2)), {}

    maps, expected = (
        attr.kernel_shap(network, images, [0], keys, segments.astype(dtype), **options)
        for dtype in ("int8", "int32")
    )
    np.testing.assert_array_equal(maps, expected)
    assert np.abs(maps).max() > 0
