"""Maps of the real VGG16 beside captum's, of the same network in PyTorch."""

import functools

import captum.attr
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from seeflower_jax import models
from seeflower_jax.attribution import batch, grad_cam, integrated_gradients, saliency
from seeflower_jax.models import vgg
from seeflower_jax.pretrained import catalog
from tests import fixtures
from tests.models import parity

CLASSES, SIDE, LAYER = (3, 77), 128, "block4_conv3"


class _TorchVGG16(torch.nn.Module):
    """The same network; takes RGB pictures in [0, 255]."""

    def __init__(self, params):
        super().__init__()
        self.convs = torch.nn.ModuleDict()
        for name, values in params["backbone"].items():
            kernel = torch.tensor(np.array(values["kernel"]).transpose(3, 2, 0, 1))
            conv = torch.nn.Conv2d(*kernel.shape[1::-1], 3, padding=1)
            conv.weight.data, conv.bias.data = kernel, torch.tensor(values["bias"])
            self.convs[name] = conv
        self.relus = torch.nn.ModuleDict({name: torch.nn.ReLU() for name in self.convs})
        head = params["head"]["logits"]
        self.head = torch.nn.Linear(*head["kernel"].shape)
        self.head.weight.data = torch.tensor(np.array(head["kernel"]).T)
        self.head.bias.data = torch.tensor(np.array(head["bias"]))

    def forward(self, images):
        mean = torch.tensor([103.939, 116.779, 123.68])
        x = images.flip(1) - mean[:, None, None]
        for block, count in enumerate(vgg.VGG16, start=1):
            for number in range(1, count + 1):
                name = f"block{block}_conv{number}"
                x = self.relus[name](self.convs[name](x))
            x = torch.nn.functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def both(assets):
    """(network here, network in PyTorch, pictures, labels)."""
    spec = models.get_spec("vgg16", num_classes=102, pooling="average")
    weights = str(parity.weight_file(assets, "vgg16"))
    spec, variables, _ = catalog.load_pretrained(spec, weights)
    images = parity.pictures(assets, SIDE)[:2].astype(np.float32)
    network = functools.partial(models.apply, spec, variables)
    return network, _TorchVGG16(variables["params"]), images, jnp.array(CLASSES)


def _correlation(ours, theirs):
    """The smallest correlation of a picture's two maps."""
    theirs = theirs.detach().numpy()
    pairs = zip(np.asarray(ours), theirs, strict=True)
    return min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs)


def _torch_images(images):
    return torch.tensor(images.transpose(0, 3, 1, 2)).requires_grad_()


def test_logits_are_equal(both):
    network, torch_network, images, _ = both
    theirs = torch_network(_torch_images(images)).detach().numpy()
    np.testing.assert_allclose(network(images)[0], theirs, rtol=1e-3, atol=1e-2)


def test_saliency(both):
    network, torch_network, images, labels = both
    theirs = captum.attr.Saliency(torch_network).attribute(
        _torch_images(images), target=list(CLASSES)
    )
    ours = jax.jit(functools.partial(saliency.saliency, network))(images, labels)
    assert _correlation(ours, theirs.amax(1)) > 0.999


def test_guided_saliency(both):
    network, torch_network, images, labels = both
    theirs = captum.attr.GuidedBackprop(torch_network).attribute(
        _torch_images(images), target=list(CLASSES)
    )
    ours = jax.jit(functools.partial(saliency.guided_saliency, network))(images, labels)
    assert _correlation(ours, theirs.abs().amax(1)) > 0.999


def test_grad_cam(both):
    network, torch_network, images, labels = both
    theirs = captum.attr.LayerGradCam(
        torch_network, torch_network.relus[LAYER]
    ).attribute(_torch_images(images), target=list(CLASSES), relu_attributions=True)
    theirs = torch.nn.functional.interpolate(theirs, (SIDE, SIDE), mode="bilinear")
    ours = grad_cam.grad_cam(network, images, labels, layer=LAYER)
    assert _correlation(ours, theirs[:, 0]) > 0.999


def test_integrated_gradients(both):
    network, torch_network, images, labels = both
    theirs = captum.attr.IntegratedGradients(torch_network).attribute(
        _torch_images(images), baselines=127.5, target=list(CLASSES), n_steps=12
    )
    ours = integrated_gradients.integrated_gradients(network, images, labels, steps=12)
    assert _correlation(ours, theirs.sum(1)) > 0.999


@pytest.mark.slow
def test_integrated_gradients_are_complete(both):
    network, _, images, labels = both
    maps = integrated_gradients.integrated_gradients(network, images, labels, steps=100)
    rows = jnp.arange(len(labels))
    change = network(images)[0][rows, labels]
    change -= network(jnp.full_like(images, 127.5))[0][rows, labels]
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=0.01)


def test_every_method_finds_its_layer_by_default(both):
    _, _, images, _ = both
    spec = models.get_spec("vgg16", num_classes=3, width=0.05)
    explain = batch.make_explainer(spec, ["grad_cam"])
    variables = fixtures.random_variables(spec, 0)
    keys = jax.random.split(jax.random.key(0), len(images))
    _, _, maps = explain(variables, images, jnp.full(2, batch.PREDICTED), keys)
    assert maps["grad_cam"].shape == (2, SIDE, SIDE)
