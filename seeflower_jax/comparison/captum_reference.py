"""Networks in PyTorch with the variables of this package, and captum's maps of them.

    network, layer = torch_network(spec, variables)
    maps = captum_maps("grad_cam", network, layer, images, targets)   # [N, H, W]

torchvision's layers hold the variables. The functions import PyTorch and captum when
they are called, so other processes need neither.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from seeflower_jax import models
from seeflower_jax.pretrained import torch_state
from seeflower_jax.pretrained.types import Variables

if TYPE_CHECKING:
    import torch

# Fewer steps and samples than the defaults. The rates are proportional to them.
INTEGRATION_STEPS, SAMPLES, NOISE, WINDOW, STRIDE = 8, 8, 0.15, 96, 64
# The modules of torchvision's Inception-v3 that are not between input and last block.
_INCEPTION_REST = ("AuxLogits", "avgpool", "dropout", "fc")


def torch_network(
    spec: models.ModelSpec, variables: Variables
) -> tuple["torch.nn.Module", "torch.nn.Module"]:
    """Return a network in PyTorch with the same variables.

    Returns:
      (network, layer): the network takes RGB images [N, 3, H, W] in [0, 255]; the layer
      is `spec.cam_layer`.

    Raises:
      ValueError: if torchvision's network has other variables.
    """
    import torch

    layers, layer = _torch_layers(spec, variables)
    head = variables["params"]["head"]["logits"]
    linear = torch.nn.Linear(*head["kernel"].shape)
    linear.weight.data = torch.tensor(np.array(head["kernel"]).T)
    linear.bias.data = torch.tensor(np.array(head["bias"]))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = torch.nn.Sequential(*layers), linear

        def forward(self, images):
            x, blocks = _preprocess(spec.preprocess, images), {}
            for layer in self.layers:
                x = layer(x)
                if isinstance(layer, torch.nn.MaxPool2d):
                    blocks[f"block{len(blocks) + 1}_pool"] = x
            maps = [blocks[name] for name in spec.pooled] or [x]
            pooled = [x.mean((2, 3)) for x in maps]
            if spec.pooling == "root_average":
                roots = [(mean + 0.25).sqrt() for mean in pooled]
                pooled = [x * x.square().mean(1, True).rsqrt() for x in roots]
            return self.head(torch.cat(pooled, 1))

    return Network().eval(), layer


def _torch_layers(
    spec: models.ModelSpec, variables: Variables
) -> tuple[list["torch.nn.Module"], "torch.nn.Module"]:
    """Return torchvision's layers below the head, and the layer `spec.cam_layer`."""
    import torch
    import torchvision

    network = getattr(torchvision.models, spec.name)(weights=None, init_weights=False)
    backbone = {
        name: torch.tensor(array)
        for name, array in torch_state.state_dict(spec.name, variables).items()
        if not name.startswith(("fc.", "classifier."))
    }
    missing, unexpected = network.load_state_dict(backbone, strict=False)
    optional = ("fc.", "classifier.", "AuxLogits")
    missing = [
        name
        for name in missing
        if not name.startswith(optional) and not name.endswith("num_batches_tracked")
    ]
    if missing or unexpected:
        raise ValueError(
            f"torchvision's {spec.name} does not fit the variables: {missing} are "
            f"missing, {unexpected} are not expected"
        )
    if spec.name == "inception_v3":
        children = network.named_children()
        layers = [layer for name, layer in children if name not in _INCEPTION_REST]
        return layers, network.Mixed_7c
    # torchvision's ReLUs work in place, which captum's hooks do not allow.
    layers = [
        torch.nn.ReLU() if isinstance(layer, torch.nn.ReLU) else layer
        for layer in network.features
    ]
    return layers, layers[-2]


def _preprocess(
    preprocess: str, images: 'Float[torch.Tensor, "n 3 h w"]'
) -> 'Float[torch.Tensor, "n 3 h w"]':
    """Apply a function of `models.PREPROCESS` to a tensor."""
    import torch

    if preprocess == "tf":
        return images / 127.5 - 1
    if preprocess == "caffe":
        mean = torch.tensor([103.939, 116.779, 123.68], device=images.device)
        return images.flip(1) - mean[:, None, None]
    raise ValueError(
        f"preprocessing {preprocess!r} is not supported in PyTorch; expected 'tf' or "
        "'caffe'"
    )


def captum_maps(
    method: str,
    network: "torch.nn.Module",
    layer: "torch.nn.Module",
    images: 'Float[torch.Tensor, "n 3 h w"]',
    targets: 'Int[torch.Tensor, "n"]',
) -> 'Float[torch.Tensor, "n h w"]':
    """Return the maps of captum's method, as this package defines them.

    Args:
      method: a key of `attribution_speed.METHODS`.
      network, layer: from `torch_network`.
      images: RGB in [0, 255]; they require gradients.
      targets: class indices.
    """
    return _MAPS[method](network, layer, images, targets)


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


def _occlusion(network, layer, images, targets):
    import captum.attr

    maps = captum.attr.Occlusion(network).attribute(
        images,
        (3, WINDOW, WINDOW),
        (3, STRIDE, STRIDE),
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
