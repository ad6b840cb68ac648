"""Maps of captum's methods, as this package defines them.

    network, layer = torch_networks.torch_network(spec, variables)
    maps = captum_maps("grad_cam", network, layer, images, targets)   # [N, H, W]

PyTorch and captum are imported when a function is called, so that a process that does
not compare needs neither.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

if TYPE_CHECKING:
    import torch

# Fewer steps and samples than the defaults. The rates are proportional to them.
INTEGRATION_STEPS, SAMPLES, NOISE, WINDOW, STRIDE = 8, 8, 0.15, 96, 64


def captum_maps(
    method: str,
    network: "torch.nn.Module",
    layer: "torch.nn.Module",
    images: 'Float[torch.Tensor, "n 3 h w"]',
    targets: 'Int[torch.Tensor, "n"]',
    **options: Any,
) -> 'Float[torch.Tensor, "n h w"]':
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
    import captum.attr

    return captum.attr.Saliency(network).attribute(images, targets).amax(1)


def _guided_saliency(network, layer, images, targets):
    import captum.attr

    guided = captum.attr.GuidedBackprop(network)
    return guided.attribute(images, targets).abs().amax(1)


def _grad_cam(network, layer, images, targets):
    import captum.attr
    import torch

    maps = captum.attr.LayerGradCam(network, layer).attribute(
        images, targets, relu_attributions=True
    )
    maps = torch.nn.functional.interpolate(maps, images.shape[2:], mode="bilinear")
    return maps.amax(1)


def _guided_grad_cam(network, layer, images, targets):
    import captum.attr

    maps = captum.attr.GuidedGradCam(network, layer).attribute(
        images, targets, interpolate_mode="bilinear"
    )
    return maps.abs().amax(1)


def _integrated_gradients(network, layer, images, targets):
    import captum.attr

    maps = captum.attr.IntegratedGradients(network).attribute(
        images,
        127.5,
        targets,
        n_steps=INTEGRATION_STEPS,
        internal_batch_size=len(images),
    )
    return maps.sum(1)


def _smooth_grad(network, layer, images, targets):
    import captum.attr

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
    import captum.attr

    maps = captum.attr.Occlusion(network).attribute(
        images,
        (3, window, window),
        (3, stride, stride),
        baselines=127.5,
        target=targets,
    )
    return maps.mean(1)


_MAPS: dict[str, Callable] = {
    "saliency": _saliency,
    "guided_saliency": _guided_saliency,
    "grad_cam": _grad_cam,
    "guided_grad_cam": _guided_grad_cam,
    "integrated_gradients": _integrated_gradients,
    "smooth_grad": _smooth_grad,
    "occlusion": _occlusion,
}
