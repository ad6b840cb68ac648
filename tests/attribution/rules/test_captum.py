"""Rules on VGG16 compared with captum's, value by value."""

import copy
import functools

import captum.attr
import captum.attr._utils.lrp_rules as captum_rules
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from seeflower_jax import models
from seeflower_jax.attribution.methods.deconvnet_saliency import deconvnet_saliency
from seeflower_jax.attribution.methods.deep_lift import deep_lift
from seeflower_jax.attribution.rules import (
    LRP,
    alpha_beta,
    by_depth,
    epsilon,
    gamma,
    with_rules,
)
from seeflower_jax.comparison import captum_reference
from tests import fixtures

SIDE, LABELS, LAYERS = 64, (3, 7), 14
BASELINE = 60.0
MEANS = np.array([103.939, 116.779, 123.68], np.float32)


@pytest.fixture(scope="module")
def vgg16():
    """Return (network, network in PyTorch, images), with random biases."""
    spec = models.get_spec("vgg16", num_classes=10, input_size=SIDE)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: x if x.any() else rng.normal(0, 5, x.shape).astype(np.float32),
        fixtures.random_variables(spec, 0),
    )
    torch_network, _ = captum_reference.torch_network(spec, variables)
    images = rng.uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)
    return functools.partial(models.apply, spec, variables), torch_network, images


def _torch(images):
    return torch.tensor(images.transpose(0, 3, 1, 2).copy())


def _assert_close(actual, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)


def test_deconvnet(vgg16):
    network, torch_network, images = vgg16
    attribute = captum.attr.Deconvolution(torch_network).attribute
    expected = attribute(_torch(images).requires_grad_(), torch.tensor(LABELS))
    _assert_close(
        deconvnet_saliency(network, images, jnp.array(LABELS)),
        expected.abs().amax(1).numpy(),
    )


class _Copy(torch.nn.Module):
    """Give max pooling an input that is not the output of a ReLU.

    captum 0.9 hooks both modules to one tensor. The hook of the ReLU runs first and
    sees the ordinary gradient of the pooling, so the rule of the pooling has no effect.
    """

    def forward(self, x):
        return x.clone()


def test_deep_lift(vgg16):
    network, torch_network, images = vgg16
    copied = copy.deepcopy(torch_network)
    copied.layers = torch.nn.Sequential(
        *(
            torch.nn.Sequential(_Copy(), layer)
            if isinstance(layer, torch.nn.MaxPool2d)
            else layer
            for layer in torch_network.layers
        )
    )
    attribute = captum.attr.DeepLift(copied).attribute
    maps = deep_lift(network, images, jnp.array(LABELS), baseline=BASELINE)
    # One by one: captum 0.9 uses the first image's gradient for all images of a batch
    # where the inputs of a pooling do not differ.
    for image, label, map in zip(_torch(images), LABELS, maps, strict=True):
        expected = attribute(
            image[None], torch.full((1, *image.shape), BASELINE), label
        )
        _assert_close(map, expected[0].sum(0).detach().numpy())


class _Network(torch.nn.Module):
    """VGG16 of preprocessed images, of modules only, which captum's LRP needs."""

    def __init__(self, network):
        super().__init__()
        self.layers, self.head = network.layers, network.head
        self.pool = torch.nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.head(self.pool(self.layers(x)).flatten(1))


def _with_bias(rule, change):
    """Return captum's rule, which leaves biases as they are, with changed biases.

    The papers take a bias as the weight of an input that is 1.
    """

    class Rule(rule):
        def _manipulate_weights(self, module, inputs, outputs):
            super()._manipulate_weights(module, inputs, outputs)
            module.bias.data = change(module.bias.data)

    return Rule


_Gamma = _with_bias(captum_rules.GammaRule, lambda b: b + 0.3 * b.clamp(min=0))
_Alpha1Beta0 = _with_bias(captum_rules.Alpha1_Beta0_Rule, lambda b: b.clamp(min=0))

# The rule of this package, and captum's rules next to the image, in the other
# convolutions and in the head. The first convolution sees negative values, which
# captum's gamma and alpha rules ignore.
RULES = {
    "epsilon": (epsilon(0.5), lambda: captum_rules.EpsilonRule(0.5)),
    "gamma": (gamma(0.3), lambda: _Gamma(0.3)),
    "alpha_beta": (alpha_beta(1.0, 0.0), _Alpha1Beta0),
}


@pytest.mark.parametrize("name", RULES)
def test_lrp(vgg16, name):
    network, torch_network, images = vgg16
    rule, captum_rule = RULES[name]
    modules = _Network(torch_network)
    convolutions = [m for m in modules.layers if isinstance(m, torch.nn.Conv2d)]
    for module in convolutions[1:]:
        module.rule = captum_rule()
    for module in (convolutions[0], modules.head):
        module.rule = captum_rules.EpsilonRule(1e-3)
    preprocessed = images[..., ::-1] - MEANS
    expected = captum.attr.LRP(modules).attribute(
        _torch(preprocessed).requires_grad_(), torch.tensor(LABELS)
    )
    ends = epsilon(1e-3)
    composite = by_depth((1 / LAYERS, ends), (1 - 1 / LAYERS, rule), (1.0, ends))
    rewritten = with_rules(network, LRP(composite))
    rows, labels = jnp.arange(2), jnp.array(LABELS)
    relevance = jax.grad(lambda x: rewritten(x)[0][rows, labels].sum())(images)
    expected = expected.detach().numpy().transpose(0, 2, 3, 1)[..., ::-1]
    _assert_close(np.asarray(relevance), expected)
