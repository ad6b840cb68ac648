"""captum's maps of a pair of networks, for the comparison of values.

    maps = integrated_gradients(pair)    # [N, H, W], as this package defines them

Random methods get the draws of this package. The speed of captum is measured with
`captum_reference`.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest import mock

import captum.attr
import captum.attr._utils.lrp_rules as captum_rules
import captum.log
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float, Int

from seeflower_jax.attribution import random_points
from seeflower_jax.attribution.segments import grid_segments
from seeflower_jax.comparison import captum_reference, torch_networks
from seeflower_jax.comparison.attribution_speed import BASELINE
from seeflower_jax.comparison.pairs import Pair, resize, to_torch

Maps: TypeAlias = Float[torch.Tensor, "n h w"]
SAMPLES, NOISE = 4, 0.15
CONDUCTANCE_STEPS, ABLATION_CELLS, STRIPES = 4, 3, 3
LRP_EPSILON, LRP_GAMMA = 1e-3, 0.25


def shared(method: str, **options: int) -> Callable[[Pair], Maps]:
    """Return the reference of a method that `captum_reference` has."""

    def maps(pair: Pair) -> Maps:
        return captum_reference.captum_maps(
            method,
            pair.torch_network,
            pair.torch_layer,
            pair.tensor(),
            pair.torch_targets,
            **options,
        )

    return maps


def signed_saliency(pair: Pair) -> Maps:
    attribute = captum.attr.Saliency(pair.torch_network).attribute
    return attribute(pair.tensor(), pair.torch_targets, abs=False).sum(1)


def paper_saliency(pair: Pair) -> Maps:
    network = torch.nn.Sequential(pair.torch_network, torch.nn.Softmax(1))
    attribute = captum.attr.GuidedBackprop(network).attribute
    return attribute(pair.tensor(), pair.torch_targets).abs().amax(1)


class _Largest(captum.attr.Saliency):
    """Saliency with the largest magnitude over the colours at all colours."""

    @captum.log.log_usage()  # NoiseTunnel calls the function that this one wraps.
    def attribute(self, inputs, *arguments, **options):
        maps = super().attribute(inputs, *arguments, **options)
        return maps.amax(1, keepdim=True).expand_as(inputs)


def noise_tunnel(kind: str) -> Callable[[Pair], Maps]:
    """Return the reference of 'smoothgrad', 'smoothgrad_sq' or 'vargrad'."""

    def maps(pair: Pair) -> Maps:
        shape, dtype = pair.images.shape[1:], pair.images.dtype

        def draw(key, sample):
            return jax.random.normal(jax.random.fold_in(key, sample), shape, dtype)

        tunnel = captum.attr.NoiseTunnel(_Largest(pair.torch_network))
        with _drawn(_by_sample(draw, pair) * NOISE * _ranges(pair)):
            return tunnel.attribute(
                pair.tensor(),
                nt_type=kind,
                nt_samples=SAMPLES,
                target=pair.torch_targets,
            )[:, 0]

    return maps


def other_images(pair: Pair) -> Float[np.ndarray, "n h w 3"]:
    """Return the next image of the batch for each image, as its baseline.

    In an image of one colour, a max pooling has several maxima, and rounding decides
    which of them has the gradient.
    """
    return np.roll(pair.images, 1, 0)


def gradient_shap(pair: Pair) -> Maps:
    baselines, image = other_images(pair), pair.images[0]
    shares, indices, unit_noise = _by_sample(
        lambda key, sample: random_points.draw(key, sample, len(baselines), image), pair
    )
    shares = (np.arange(SAMPLES) + shares) / SAMPLES
    attribute = captum.attr.GradientShap(pair.torch_network).attribute
    # captum draws the noise by torch.normal, the rest by NumPy.
    with (
        _drawn(unit_noise * NOISE * _ranges(pair)),
        mock.patch.object(np.random, "uniform", lambda *_: shares.ravel()),
        mock.patch.object(np.random, "choice", lambda *_: indices.ravel()),
    ):
        return attribute(
            pair.tensor(),
            to_torch(baselines),
            n_samples=SAMPLES,
            stdevs=NOISE,
            target=pair.torch_targets,
        ).sum(1)


def _by_sample(draw: Callable, pair: Pair) -> Any:
    """Return draw(key, sample) for each image and each sample, [n, samples, ...]."""
    of_images = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))
    return jax.tree.map(np.asarray, of_images(pair.keys, jnp.arange(SAMPLES)))


def _ranges(pair: Pair) -> Float[np.ndarray, "n 1 1 1 1"]:
    return np.ptp(pair.images, (1, 2, 3)).reshape(-1, 1, 1, 1, 1)


@contextmanager
def _drawn(noise: Float[np.ndarray, "n samples h w 3"]) -> Iterator[None]:
    """Let captum draw this noise."""
    tensor = to_torch(noise.reshape(-1, *noise.shape[2:]))
    with mock.patch.object(torch, "normal", lambda *_: tensor):
        yield


class _Copy(torch.nn.Module):
    """Give max pooling an input that is not the output of a ReLU.

    captum 0.9 hooks both modules to one tensor. The hook of the ReLU runs first and
    sees the ordinary gradient of the pooling, so the rule of the pooling has no effect.
    """

    def forward(self, x):
        return x.clone()


def deep_lift(pair: Pair) -> Maps:
    network = copy.deepcopy(pair.torch_network)
    network.layers = torch.nn.Sequential(
        *(
            torch.nn.Sequential(_Copy(), layer)
            if isinstance(layer, torch.nn.MaxPool2d)
            else layer
            for layer in network.layers
        )
    )
    attribute = captum.attr.DeepLift(network).attribute
    # One by one: captum 0.9 uses the first image's gradient for all images of a batch
    # where the inputs of a pooling do not differ.
    images, baselines = to_torch(pair.images), to_torch(other_images(pair))
    maps = [
        attribute(image[None], baseline[None], int(target))
        for image, baseline, target in zip(images, baselines, pair.targets, strict=True)
    ]
    return torch.cat(maps).sum(1)


def _with_bias(rule, change):
    """Return captum's rule, which leaves biases as they are, with changed biases.

    The papers take a bias as the weight of an input that is 1.
    """

    class Rule(rule):
        def _manipulate_weights(self, module, inputs, outputs):
            super()._manipulate_weights(module, inputs, outputs)
            module.bias.data = change(module.bias.data)

    return Rule


_Gamma = _with_bias(captum_rules.GammaRule, lambda b: b + LRP_GAMMA * b.clamp(min=0))
_Alpha1Beta0 = _with_bias(captum_rules.Alpha1_Beta0_Rule, lambda b: b.clamp(min=0))


def _lrp_rule(name: str, epsilon: float) -> captum_rules.PropagationRule:
    """Return captum's rule 'epsilon', 'gamma' or 'alpha_beta'."""
    if name == "epsilon":
        return captum_rules.EpsilonRule(epsilon)
    return _Gamma(LRP_GAMMA) if name == "gamma" else _Alpha1Beta0()


def linear_layers(pair: Pair) -> int:
    """Return the number of convolutions and of the head, which have rules of LRP."""
    return 1 + sum(isinstance(m, torch.nn.Conv2d) for m in pair.torch_network.layers)


def lrp(
    rule: str, depth: float = 1.0, epsilon: float = LRP_EPSILON
) -> Callable[[Pair], Maps]:
    """Return the reference of LRP with one of the rules of `_lrp_rule`.

    The first convolution and the head have the epsilon rule. The first convolution sees
    negative values, which captum's other rules ignore.

    Args:
      rule: of the convolutions in between.
      depth: share of all linear layers that are below the last one with `rule`. The
        layers above have the epsilon rule.
      epsilon: of the layers in between, if they have the epsilon rule.
    """

    def maps(pair: Pair) -> Maps:
        modules = torch_networks.Modules(copy.deepcopy(pair.torch_network))
        convolutions = [m for m in modules.layers if isinstance(m, torch.nn.Conv2d)]
        linear = [*convolutions, modules.head]
        for index, module in enumerate(linear):
            is_end = index in (0, len(linear) - 1)
            is_below = (index + 0.5) / len(linear) <= depth
            if is_below and not is_end:
                module.rule = _lrp_rule(rule, epsilon)
            else:
                module.rule = _lrp_rule("epsilon", LRP_EPSILON)
        inputs = pair.torch_network.preprocess(to_torch(pair.images)).requires_grad_()
        return captum.attr.LRP(modules).attribute(inputs, pair.torch_targets).sum(1)

    return maps


def occlusion_windows(pair: Pair) -> dict[str, int]:
    """Return a window and a stride that fit the images without a remainder."""
    side = pair.images.shape[1]
    return {"window": side // 2, "stride": side // 4}


def occlusion(pair: Pair) -> Maps:
    return shared("occlusion", **occlusion_windows(pair))(pair)


def feature_ablation(pair: Pair) -> Maps:
    attribute = captum.attr.FeatureAblation(pair.torch_network).attribute
    _, height, width, _ = pair.images.shape
    return _of_segments(attribute, pair, grid_segments(height, width, ABLATION_CELLS))


def stripes(pair: Pair) -> Int[np.ndarray, "n h w"]:
    """Return segments for which captum can compute all Shapley values."""
    count, height, width, _ = pair.images.shape
    rows = np.arange(height, dtype=np.int32)[:, None] * STRIPES // height
    return np.broadcast_to(rows, (count, height, width))


def kernel_shap(pair: Pair) -> Maps:
    attribute = captum.attr.ShapleyValues(pair.torch_network).attribute
    return _of_segments(attribute, pair, stripes(pair)[0])


def _of_segments(
    attribute: Callable, pair: Pair, segments: Int[np.ndarray, "h w"]
) -> Maps:
    mask = torch.tensor(segments.copy()).long()[None, None]
    with torch.no_grad():
        return attribute(
            pair.tensor(), BASELINE, pair.torch_targets, feature_mask=mask
        )[:, 0]


def layer_conductance(pair: Pair) -> Maps:
    """Return the mean of captum's maps of the path in both directions.

    captum takes the gradient at the start of each step: at its end, if the path is
    walked backwards. Their mean is the trapezoid.
    """
    conductance = captum.attr.LayerConductance(pair.torch_network, pair.torch_layer)
    images, baseline = to_torch(pair.images), to_torch(other_images(pair))
    shares = list(np.linspace(0, 1, CONDUCTANCE_STEPS + 1))

    def walk(start, end):
        return conductance._attribute(
            (start.clone().requires_grad_(),),
            (end,),
            pair.torch_targets,
            n_steps=CONDUCTANCE_STEPS,
            step_sizes_and_alphas=([], shares),
        )

    maps = (walk(images, baseline) - walk(baseline, images)) / 2
    return resize(maps.sum(1), pair)
