"""Maps of captum's methods, as this package defines them.

    network, layer = torch_networks.torch_network(spec, variables)
    maps = captum_maps("grad_cam", network, layer, images, targets)   # [N, H, W]

The options of `attribution_speed` are those of both sides.
"""

from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from jaxtyping import Float, Int

from seeflower_jax.comparison import torch_networks
from seeflower_jax.comparison.attribution_speed import (
    BASELINE,
    CELLS,
    NOISE,
    SAMPLES,
    STEPS,
    STRIDE,
    WINDOW,
)


def captum_maps(
    method: str,
    network: torch.nn.Module,
    layer: torch.nn.Module,
    images: Float[torch.Tensor, "n 3 h w"],
    targets: Int[torch.Tensor, "n"],
    **options: Any,
) -> Float[torch.Tensor, "n h w"]:
    """Return the maps of captum's method, as this package defines them.

    Args:
      method: a key of `attribution_speed.METHODS`.
      network, layer: from `torch_networks.torch_network`.
      images: RGB in [0, 255]; they require gradients.
      targets: class indices.
      **options: of occlusion, `window` and `stride`.
    """
    return _MAPS[method](network, layer, images, targets, **options)


def _saliency(network, layer, images, targets):
    return captum.attr.Saliency(network).attribute(images, targets).amax(1)


def _guided_saliency(network, layer, images, targets):
    guided = captum.attr.GuidedBackprop(network)
    return guided.attribute(images, targets).abs().amax(1)


def _deconvnet_saliency(network, layer, images, targets):
    deconvnet = captum.attr.Deconvolution(network)
    return deconvnet.attribute(images, targets).abs().amax(1)


def _input_x_gradient(network, layer, images, targets):
    return captum.attr.InputXGradient(network).attribute(images, targets).sum(1)


def _grad_cam(network, layer, images, targets):
    maps = captum.attr.LayerGradCam(network, layer).attribute(
        images, targets, relu_attributions=True
    )
    return torch_networks.stretch(maps[:, 0], images.shape[2:])


def _guided_grad_cam(network, layer, images, targets):
    maps = captum.attr.GuidedGradCam(network, layer).attribute(
        images, targets, interpolate_mode="bilinear"
    )
    return maps.abs().amax(1)


def _integrated_gradients(network, layer, images, targets):
    maps = captum.attr.IntegratedGradients(network).attribute(
        images,
        BASELINE,
        targets,
        n_steps=STEPS,
        internal_batch_size=len(images),
    )
    return maps.sum(1)


def _layer_conductance(network, layer, images, targets):
    maps = captum.attr.LayerConductance(network, layer).attribute(
        images,
        BASELINE,
        targets,
        n_steps=STEPS,
        internal_batch_size=2 * len(images),  # the least that it takes
    )
    return torch_networks.stretch(maps.sum(1), images.shape[2:])


def _gradient_shap(network, layer, images, targets):
    maps = captum.attr.GradientShap(network).attribute(
        images,
        torch.full_like(images[:1], BASELINE),
        n_samples=SAMPLES,
        stdevs=NOISE * 255,
        target=targets,
    )
    return maps.sum(1)


def _deep_lift(network, layer, images, targets):
    return captum.attr.DeepLift(network).attribute(images, BASELINE, targets).sum(1)


def _lrp(network, layer, images, targets):
    inputs = network.preprocess(images).detach().requires_grad_()
    modules = torch_networks.Modules(network)
    return captum.attr.LRP(modules).attribute(inputs, targets).sum(1)


def _cells(images):
    """Return the numbers of the cells of a grid, [1, 1, h, w]."""
    rows, columns = (
        torch.arange(side, device=images.device) * CELLS // side
        for side in images.shape[2:]
    )
    return (rows[:, None] * CELLS + columns)[None, None]


def _feature_ablation(network, layer, images, targets):
    maps = captum.attr.FeatureAblation(network).attribute(
        images, BASELINE, targets, feature_mask=_cells(images)
    )
    return maps[:, 0]


def _kernel_shap(network, layer, images, targets):
    maps = captum.attr.KernelShap(network).attribute(
        images, BASELINE, targets, feature_mask=_cells(images), n_samples=SAMPLES
    )
    return maps[:, 0]


def _smooth_grad(network, layer, images, targets):
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(network))
    maps = tunnel.attribute(
        images,
        nt_type="smoothgrad",
        nt_samples=SAMPLES,
        nt_samples_batch_size=1,
        stdevs=NOISE * 255,
        target=targets,
    )
    return maps.amax(1)


def _occlusion(network, layer, images, targets, window=WINDOW, stride=STRIDE):
    maps = captum.attr.Occlusion(network).attribute(
        images,
        (3, window, window),
        (3, stride, stride),
        baselines=BASELINE,
        target=targets,
    )
    return maps.mean(1)


_MAPS: dict[str, Callable] = {
    "saliency": _saliency,
    "guided_saliency": _guided_saliency,
    "deconvnet_saliency": _deconvnet_saliency,
    "input_x_gradient": _input_x_gradient,
    "grad_cam": _grad_cam,
    "guided_grad_cam": _guided_grad_cam,
    "layer_conductance": _layer_conductance,
    "integrated_gradients": _integrated_gradients,
    "smooth_grad": _smooth_grad,
    "gradient_shap": _gradient_shap,
    "deep_lift": _deep_lift,
    "lrp": _lrp,
    "occlusion": _occlusion,
    "feature_ablation": _feature_ablation,
    "kernel_shap": _kernel_shap,
}
