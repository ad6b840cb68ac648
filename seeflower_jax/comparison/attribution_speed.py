"""Attribution methods here and in captum: maps/s and peak memory.

    measure("vgg16", "captum", "grad_cam", batch_size=8, steps=2)

Both have the same network with the same variables: torchvision's layers hold those of
the network here. A network is the name of a model, with random variables, or a run
directory.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from seeflower_jax import experiment, models, records
from seeflower_jax.attribution import (
    grad_cam,
    guided_grad_cam,
    integrated_gradients,
    occlusion,
    saliency,
    smooth_grad,
)
from seeflower_jax.comparison import timing
from seeflower_jax.pretrained import torch_state

# Fewer points than the methods' defaults: the rates are in proportion.
INTEGRATION_STEPS, SAMPLES, NOISE, WINDOW, STRIDE = 8, 8, 0.15, 96, 64
_LAYERED = ("grad_cam", "guided_grad_cam")
_GUIDED = ("guided_saliency", "guided_grad_cam")
# Of torchvision's Inception-v3, what is not on the way to its last block.
_INCEPTION_REST = ("AuxLogits", "avgpool", "dropout", "fc")
METHODS = {
    "saliency": saliency.saliency,
    "guided_saliency": saliency.guided_saliency,
    "grad_cam": grad_cam.grad_cam,
    "guided_grad_cam": guided_grad_cam.guided_grad_cam,
    "integrated_gradients": functools.partial(
        integrated_gradients.integrated_gradients,
        steps=INTEGRATION_STEPS,
        spacing=1.0,
    ),
    "smooth_grad": functools.partial(
        smooth_grad.smooth_grad, samples=SAMPLES, noise=NOISE
    ),
    "occlusion": functools.partial(occlusion.occlusion, window=WINDOW, stride=STRIDE),
}


def shared_methods(model: str) -> list[str]:
    """Methods that captum has too, for a network.

    torchvision's Inception-v3 calls ReLU as a function, where captum's guided
    backpropagation cannot reach it.
    """
    guided = model != "inception_v3"
    return [name for name in METHODS if guided or name not in _GUIDED]


def _is_run(network: str) -> bool:
    return os.path.isdir(os.path.expanduser(network))


def _identity(network: str) -> dict[str, str]:
    if not _is_run(network):
        return {}
    return {"run": records.config_hash(experiment.load_config(network))}


def load(network: str) -> tuple[models.ModelSpec, dict]:
    """(spec, variables) of a run directory, or of a model with random variables.

    The average pooling is torchvision's, which counts padding: it has no other.

    Raises:
      ValueError: for what is neither.
    """
    if _is_run(network):
        run = experiment.load_run(network)
        spec, variables = run.spec, run.variables
    else:
        spec = models.get_spec(network, num_classes=102, pooling="average")
        variables = models.init(spec, jax.random.key(0))
    return dataclasses.replace(spec, count_include_pad=True), variables


def torch_network(spec: models.ModelSpec, variables: dict):
    """The same network in PyTorch, of RGB images [N, 3, H, W] in [0, 255].

    Returns:
      (module, the layer of `spec.cam_layer`).
    """
    import torch
    import torchvision

    network = getattr(torchvision.models, spec.name)(weights=None, init_weights=False)
    backbone = {
        name: torch.tensor(array)
        for name, array in torch_state.state_dict(spec.name, variables).items()
        if not name.startswith(("fc.", "classifier."))
    }
    missing, unexpected = network.load_state_dict(backbone, strict=False)
    left = [n for n in missing if not n.startswith(("fc.", "classifier.", "AuxLogits"))]
    left = [n for n in left if not n.endswith("num_batches_tracked")]
    if left or unexpected:
        raise ValueError(f"torchvision's {spec.name} lacks {left}, not {unexpected}")
    if spec.name == "inception_v3":
        layers = [m for n, m in network.named_children() if n not in _INCEPTION_REST]
        layer = network.Mixed_7c
    else:
        layers = [
            torch.nn.ReLU() if isinstance(m, torch.nn.ReLU) else m
            for m in network.features
        ]
        layer = layers[-2]
    head = variables["params"]["head"]["logits"]
    classify = torch.nn.Linear(*head["kernel"].shape)
    classify.weight.data = torch.tensor(np.array(head["kernel"]).T)
    classify.bias.data = torch.tensor(np.array(head["bias"]))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = torch.nn.Sequential(*layers), classify

        def forward(self, images):
            x, blocks = _prepare(spec.preprocess, images), {}
            for layer in self.layers:
                x = layer(x)
                if isinstance(layer, torch.nn.MaxPool2d):
                    blocks[f"block{len(blocks) + 1}_pool"] = x
            seen = [blocks[name] for name in spec.pooled] or [x]
            pooled = [x.mean((2, 3)) for x in seen]
            if spec.pooling == "root_average":
                roots = [(mean + 0.25).sqrt() for mean in pooled]
                pooled = [x * x.square().mean(1, True).rsqrt() for x in roots]
            return self.head(torch.cat(pooled, 1))

    return Network().eval(), layer


def _prepare(preprocess, images):
    """What `models.PREPROCESS` does, of a tensor [N, 3, H, W]."""
    import torch

    if preprocess == "tf":
        return images / 127.5 - 1
    if preprocess == "caffe":
        mean = torch.tensor([103.939, 116.779, 123.68], device=images.device)
        return images.flip(1) - mean[:, None, None]
    raise ValueError(f"no preprocessing {preprocess!r} here; expected tf or caffe")


def captum_maps(method: str, network, layer, images, targets):
    """Maps [N, H, W] of captum's method, as those here are defined."""
    import captum.attr
    import torch

    size = images.shape[2:]
    if method == "saliency":
        maps = captum.attr.Saliency(network).attribute(images, targets)
    elif method == "guided_saliency":
        maps = captum.attr.GuidedBackprop(network).attribute(images, targets).abs()
    elif method == "grad_cam":
        maps = captum.attr.LayerGradCam(network, layer).attribute(
            images, targets, relu_attributions=True
        )
        maps = torch.nn.functional.interpolate(maps, size, mode="bilinear")
    elif method == "guided_grad_cam":
        maps = captum.attr.GuidedGradCam(network, layer).attribute(
            images, targets, interpolate_mode="bilinear"
        )
        maps = maps.abs()
    elif method == "integrated_gradients":
        return (
            captum.attr.IntegratedGradients(network)
            .attribute(
                images,
                127.5,
                targets,
                n_steps=INTEGRATION_STEPS,
                internal_batch_size=len(images),
            )
            .sum(1)
        )
    elif method == "smooth_grad":
        tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(network))
        maps = tunnel.attribute(
            images,
            nt_type="smoothgrad",
            nt_samples=SAMPLES,
            nt_samples_batch_size=1,
            stdevs=NOISE * 255,
            target=targets,
        )
    else:
        return (
            captum.attr.Occlusion(network)
            .attribute(
                images,
                (3, WINDOW, WINDOW),
                (3, STRIDE, STRIDE),
                baselines=127.5,
                target=targets,
            )
            .mean(1)
        )
    return maps.amax(1)


def _pictures(spec, batch_size):
    side = spec.input_size
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (batch_size, side, side, 3)).astype(np.float32)


def bind(spec: models.ModelSpec, method: str):
    """A jitted function of variables, images [N, H, W, 3] and targets [N]: maps, or
    logits for 'forward'."""

    @jax.jit
    def call(variables, images, targets):
        network = functools.partial(models.apply, spec, variables)
        if method == "forward":
            return network(images)[0]
        options = {"layer": spec.cam_layer} if method in _LAYERED else {}
        if method == "smooth_grad":
            options["keys"] = jax.random.split(jax.random.key(0), len(images))
        return METHODS[method](network, images, targets, **options)

    return call


def _here(spec, variables, method, images):
    call = bind(spec, method)
    placed = jax.device_put((variables, images, jnp.arange(len(images))))

    def peak():
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    return lambda: jax.block_until_ready(call(*placed)), peak


def _captum(spec, variables, method, images):
    import torch

    cuda = torch.cuda.is_available()
    network, layer = torch_network(spec, variables)
    network = network.to("cuda" if cuda else "cpu", memory_format=torch.channels_last)
    images = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    images = images.to("cuda" if cuda else "cpu", memory_format=torch.channels_last)
    targets = torch.arange(len(images), device=images.device)

    def call():
        if method == "forward":
            with torch.no_grad():
                return network(images).cpu()
        maps = captum_maps(
            method, network, layer, images.clone().requires_grad_(), targets
        )
        return maps.detach().cpu()

    return call, lambda: torch.cuda.max_memory_allocated() if cuda else None


def workers(networks: list[str]) -> list[str]:
    """What `measure_worker` takes: network, side and method, in turn."""
    return [
        f"{network}:{side}:{method}"
        for network in networks
        for method in ["forward", *shared_methods(load(network)[0].name)]
        for side in ("seeflower_jax", "captum")
    ]


def measure(
    network: str, side: str, method: str, batch_size: int, steps: int
) -> dict[str, float]:
    """{'rate': maps/s (images/s of 'forward'), 'peak_mib'} in this process.

    Args:
      network: of `load`.
      side: 'seeflower_jax' or 'captum'.
      method: key of `METHODS`, or 'forward'.
      batch_size: pictures at once.
      steps: timed calls.
    """
    spec, variables = load(network)
    images = _pictures(spec, batch_size)
    make = {"seeflower_jax": _here, "captum": _captum}[side]
    call, device_bytes = make(spec, variables, method, images)
    rate = batch_size / timing.seconds(call, steps, warm=1)
    return {"rate": rate, "peak_mib": timing.peak_mib(device_bytes())}


def table(measured: dict[str, dict | str]) -> dict[str, dict]:
    """{network: {'forward_images_per_second', ..., 'methods': {method: figures}}}.

    A run directory also has `run`, the hash of its config.

    Args:
      measured: by the names of `workers`; a text is the reason why there is none.
    """
    networks = {}
    for name, found in measured.items():
        network, side, method = name.rsplit(":", 2)
        if network not in networks:
            networks[network] = _identity(network) | {"methods": {}}
        own = networks[network]
        prefix = "" if side == "seeflower_jax" else "captum_"
        if isinstance(found, str):
            figures = {f"{prefix}error": found}
        elif method == "forward":
            figures = {f"{prefix}forward_images_per_second": round(found["rate"], 3)}
        else:
            figures = {
                f"{prefix}maps_per_second": round(found["rate"], 3),
                f"{prefix}peak_memory_mib": round(found["peak_mib"]),
            }
        into = own if method == "forward" else own["methods"].setdefault(method, {})
        into.update(figures)
    return networks


def text(networks: dict[str, dict]) -> str:
    """The rates of `table`, for a terminal."""
    lines = []
    for network, own in networks.items():
        lines += [network, f"{'maps/s':24}{'here':>10}{'captum':>10}"]
        rates = {"forward": (own, "forward_images_per_second")}
        rates |= {k: (found, "maps_per_second") for k, found in own["methods"].items()}
        for name, (found, key) in rates.items():
            pair = [found.get(f"{side}{key}") for side in ("", "captum_")]
            cells = ("failed" if rate is None else f"{rate:.2f}" for rate in pair)
            lines.append(f"{name:24}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
