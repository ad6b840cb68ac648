"""VGG in other frameworks, and the figure of five networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import attribution as attr
from seeflower_jax import models
from seeflower_jax.comparison import vgg_ports
from seeflower_jax.models.preprocess import PREPROCESS
from tests import fixtures, harness


@pytest.mark.parametrize("model", vgg_ports.BLOCKS)
@pytest.mark.parametrize("framework", ["equinox", "nnx"])
def test_ports_have_the_same_maps(model, framework):
    spec = models.get_spec(model, num_classes=3, width=0.05)
    variables = fixtures.random_variables(spec, 0)
    caffe = PREPROCESS["caffe"]
    if framework == "equinox":
        port = attr.from_equinox(
            vgg_ports.equinox_vgg(spec, variables), preprocess=caffe
        )
        layer = vgg_ports.equinox_cam_layer(spec)
    else:
        port = attr.from_nnx(vgg_ports.NnxVgg(spec, variables), preprocess=caffe)
        layer = "block5"
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3))
    images, labels = jnp.array(images, jnp.float32), jnp.array([2, 0])
    original = models.bind(spec, variables)
    methods = ["grad_cam", "guided_saliency"]
    expected = attr.explain(original, images, methods, labels, layer=spec.cam_layer)
    maps = attr.explain(port, images, methods, labels, layer=layer)
    for name in methods:
        largest = np.abs(expected[name]).max()
        assert largest > 0
        np.testing.assert_allclose(maps[name], expected[name], atol=1e-5 * largest)


def test_images_that_are_too_small_for_maps(tmp_path):
    folders = f"--weights={tmp_path}", f"--data_dir={tmp_path}", f"--out={tmp_path}"
    done = harness.run_here("networks_figure", *folders, "--size=106")
    assert done.returncode != 0
    assert "at least 107 pixels" in done.stdout + done.stderr
    spec = models.get_spec("inception_v3", num_classes=3, width=0.05)
    variables = fixtures.random_variables(spec, 0)
    for size, side in ((106, 1), (107, 2)):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        _, endpoints = jax.eval_shape(models.bind(spec, variables), images)
        assert endpoints["mixed10"].shape[1:3] == (side, side)


@pytest.mark.slow
def test_figure(assets, tmp_path):
    out = tmp_path / "figure.jpg"
    folders = f"--weights={assets}/weights", f"--data_dir={assets}/oxford_flowers102"
    done = harness.run_apart("networks_figure", *folders, "--size=107", f"--out={out}")
    assert done.returncode == 0, done.stderr
    for title in ("VGG16 of Equinox", "VGG19 of Keras", "Inception-v3 of Keras"):
        assert f"explained {title}" in done.stderr
    with Image.open(out) as figure:
        assert figure.format == "JPEG" and figure.width > figure.height > 500
