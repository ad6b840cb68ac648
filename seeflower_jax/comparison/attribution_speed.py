"""Speed and peak memory of attribution methods, compared with captum.

    measure("vgg16:captum:grad_cam", batch_size=8, steps=1, rounds=3)

Both frameworks run the same network with the same variables. A network is the name of a
model with random variables, or a run directory.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from seeflower_jax import attribution as attr
from seeflower_jax import hints, models, records, sharding
from seeflower_jax.attribution import registry, rules
from seeflower_jax.comparison import timing
from seeflower_jax.inference.run import load_config, load_run
from seeflower_jax.pretrained import torch_state
from seeflower_jax.pretrained.types import Variables

FRAMEWORKS = ("seeflower_jax", "captum")
_SECONDS = 5.0  # The calls of a measurement take at least this time.
# Fewer steps and samples than the defaults. The rates are proportional to them.
STEPS, SAMPLES, NOISE, WINDOW, STRIDE, CELLS, BASELINE = 8, 8, 0.15, 96, 64, 4, 127.5
# torchvision's Inception-v3 calls ReLU as a function, whose derivative captum cannot
# replace.
_OF_RELU = "guided_saliency guided_grad_cam deconvnet_saliency deep_lift lrp".split()
METHODS: dict[str, Callable] = {
    "saliency": attr.saliency,
    "input_x_gradient": functools.partial(attr.input_x_gradient, baseline=0.0),
    "guided_saliency": attr.guided_saliency,
    "deconvnet_saliency": attr.deconvnet_saliency,
    "grad_cam": functools.partial(attr.grad_cam, align="stretch"),
    "guided_grad_cam": functools.partial(attr.guided_grad_cam, align="stretch"),
    "layer_conductance": functools.partial(
        attr.layer_conductance, align="stretch", steps=STEPS, spacing=1.0
    ),
    "integrated_gradients": functools.partial(
        attr.integrated_gradients, steps=STEPS, spacing=1.0
    ),
    "smooth_grad": functools.partial(attr.smooth_grad, samples=SAMPLES, noise=NOISE),
    "gradient_shap": functools.partial(
        attr.gradient_shap, samples=SAMPLES, noise=NOISE
    ),
    "deep_lift": attr.deep_lift,
    "lrp": functools.partial(attr.lrp, rule=rules.epsilon(1e-9)),
    "occlusion": functools.partial(attr.occlusion, window=WINDOW, stride=STRIDE),
    "feature_ablation": functools.partial(attr.feature_ablation, cells=CELLS),
    "kernel_shap": functools.partial(attr.kernel_shap, cells=CELLS, samples=SAMPLES),
}

Images: TypeAlias = Float[np.ndarray, "n h w 3"]
# (variables, images, targets) -> maps, or logits of the method 'forward'.
MapFunction: TypeAlias = Callable[
    [Variables, Float[Array, "n h w 3"], Int[Array, "n"]], Float[Array, "n ..."]
]
# Returns the peak of the accelerator's memory in bytes, None without an accelerator.
PeakBytes: TypeAlias = Callable[[], int | None]


def shared_methods(model: str) -> list[str]:
    """Return the methods that captum also has for a network."""
    has_modules = model != "inception_v3"
    return [name for name in METHODS if has_modules or name not in _OF_RELU]


def are_different(networks: Sequence[str]) -> bool:
    """Return whether there are networks, none of them empty or repeated."""
    return all(networks) and 0 < len(networks) == len(set(networks))


def _is_run(network: str) -> bool:
    return os.path.isdir(os.path.expanduser(network))


def check_head(fields: Mapping[str, Any], network: str) -> None:
    """Check that `torch_networks` can build the head of a network.

    Args:
      fields: the fields of a ModelSpec; None stands for a default.
      network: the name of the network, for the error.

    Raises:
      ValueError: if it cannot; the message names the fields.
    """
    pooled = fields.get("pooled") or ()
    valid = {
        "pooling": fields.get("pooling") in (None, "average", "root_average"),
        "pooled": all(re.fullmatch("block[1-5]_pool", name) for name in pooled),
        "standardize": not fields.get("standardize"),
        "hidden": not fields.get("hidden"),
    }
    wrong = [f"{key} {fields[key]!r}" for key in valid if not valid[key]]
    if wrong:
        raise ValueError(
            f"{network} cannot be compared with PyTorch, because its head has "
            f"{', '.join(wrong)}; expected a linear head on means of whole blocks, as "
            "in the recipes three_stages and two_stages, or the name of a model"
        )


def _model_of(network: str) -> str:
    """Return the name of the model of a run that can be compared, or of a model.

    It computes nothing, because a GPU's memory is for the processes that are measured.
    """
    if _is_run(network):
        config = load_config(network)
        check_head(config["model"], network)
        model = config["model"]["name"]
    else:
        model = models.get_spec(network).name
    if model not in torch_state.RULES:
        raise ValueError(
            f"{network} cannot be compared with PyTorch, because torchvision does not "
            f"have {model}; expected one of {list(torch_state.RULES)}, or a run of one"
        )
    return model


def load_network(network: str) -> tuple[models.ModelSpec, Variables]:
    """Return the spec and the variables of a run, or a model with random variables.

    Average pooling counts padding, because torchvision has no other average pooling.

    Args:
      network: a run directory or the name of a model.

    Raises:
      ValueError: if `network` is neither.
    """
    if _is_run(network):
        loaded = load_run(network).network
        spec, variables = loaded.spec, loaded.variables
    else:
        spec = models.get_spec(network, num_classes=102, pooling="average")
        variables = models.init(spec, jax.random.key(0))
    return dataclasses.replace(spec, count_include_pad=True), variables


def _random_images(spec: models.ModelSpec, batch_size: int) -> Images:
    side = spec.input_size
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (batch_size, side, side, 3)).astype(np.float32)


def make_map_function(spec: models.ModelSpec, method: str) -> MapFunction:
    """Return a jitted function (variables, images, targets) -> maps.

    Args:
      spec: the network.
      method: a key of `METHODS`, or 'forward' for logits.
    """

    @jax.jit
    def map_function(variables, images, targets):
        network = functools.partial(models.apply, spec, variables)
        if method == "forward":
            return network(images)[0]
        known = registry.METHODS[method]
        options = {"layer": spec.cam_layer} if known.layered else {}
        if known.random:
            options["keys"] = jax.random.split(jax.random.key(0), len(images))
        return METHODS[method](network, images, targets, **options)

    return map_function


def _seeflower_jax(
    spec: models.ModelSpec, variables: Variables, method: str, images: Images
) -> tuple[timing.Call, PeakBytes]:
    map_function = make_map_function(spec, method)
    mesh = sharding.make_mesh()
    rows = sharding.shard_rows((images, np.arange(len(images))), mesh)
    arguments = sharding.replicate(variables, mesh), *rows

    def peak_bytes():
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    return lambda: jax.block_until_ready(map_function(*arguments)), peak_bytes


def _captum(
    spec: models.ModelSpec, variables: Variables, method: str, images: Images
) -> tuple[timing.Call, PeakBytes]:
    import torch

    from seeflower_jax.comparison import captum_reference, torch_networks

    device = timing.torch_device()
    network, layer = torch_networks.torch_network(spec, variables)
    network = network.to(device).to(memory_format=torch.channels_last)
    tensor = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    tensor = tensor.to(device, memory_format=torch.channels_last)
    targets = torch.arange(len(tensor), device=tensor.device)

    def run():
        if method == "forward":
            with torch.no_grad():
                return network(tensor).cpu()
        inputs = tensor.clone().requires_grad_()
        maps = captum_reference.captum_maps(method, network, layer, inputs, targets)
        return maps.detach().cpu()

    is_gpu = device == "cuda"
    return run, lambda: torch.cuda.max_memory_allocated() if is_gpu else None


def workers(networks: Sequence[str], methods: Sequence[str] = ()) -> list[str]:
    """Return the names of all measurements, "network:framework:method".

    The frameworks of a method follow each other, so that their calls can alternate.

    Args:
      networks: run directories or names of models.
      methods: keys of `METHODS` or patterns; by default all. Methods that captum does
        not have for a network are left out.

    Raises:
      ValueError: if a name is unknown, torchvision does not have a network, or
        PyTorch's network cannot have the head of a run, see `check_head`.
    """
    selected = hints.matching(methods, list(METHODS), "method")
    shared = {name: shared_methods(_model_of(name)) for name in networks}
    return [
        f"{network}:{framework}:{method}"
        for network in networks
        for method in ["forward", *(m for m in shared[network] if m in selected)]
        for framework in FRAMEWORKS
    ]


def measure(worker: str, batch_size: int, steps: int, rounds: int) -> dict[str, float]:
    """Return {'rate', 'peak_mib'}, measured in this process.

    'rate' is of the fastest round, in maps/s, or in images/s for 'forward'. All rounds
    are in one process, because its start takes longer than most of them.

    Args:
      worker: one of `workers`.
      batch_size: the number of images in a batch.
      steps: the number of timed calls of a round. If they take less than 5 seconds,
        more are timed.
      rounds: the number of rounds.
    """
    network, framework, method = worker.rsplit(":", 2)
    spec, variables = load_network(network)
    images = _random_images(spec, batch_size)
    prepare = {"seeflower_jax": _seeflower_jax, "captum": _captum}[framework]
    run, peak_bytes = prepare(spec, variables, method, images)
    run()  # compiles
    seconds = min(
        timing.seconds(run, steps, warm=0, at_least=_SECONDS) for _ in range(rounds)
    )
    return {"rate": batch_size / seconds, "peak_mib": timing.peak_mib(peak_bytes())}


def table(measurements: Mapping[str, timing.Measurement]) -> dict[str, dict[str, Any]]:
    """Arrange measurements by network and method.

    Args:
      measurements: the result of `measure` for each name of `workers`; a text is the
        error of a measurement that failed.

    Returns:
      {network: {'forward_images_per_second': ..., 'methods': {method: figures}}}. The
      names of captum's figures start with `captum_`. A run directory also has `run`,
      the hash of its config.
    """
    networks: dict[str, dict[str, Any]] = {}
    for name, measurement in measurements.items():
        network, framework, method = name.rsplit(":", 2)
        if network not in networks:
            networks[network] = {"methods": {}}
            if _is_run(network):
                networks[network]["run"] = records.config_hash(load_config(network))
        prefix = "" if framework == "seeflower_jax" else "captum_"
        if isinstance(measurement, str):
            figures: dict[str, Any] = {f"{prefix}error": measurement}
        elif method == "forward":
            rate = round(measurement["rate"], 3)
            figures = {f"{prefix}forward_images_per_second": rate}
        else:
            figures = {
                f"{prefix}maps_per_second": round(measurement["rate"], 3),
                f"{prefix}peak_memory_mib": round(measurement["peak_mib"]),
            }
        entry = networks[network]
        row = entry if method == "forward" else entry["methods"].setdefault(method, {})
        row.update(figures)
    return networks


def text(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the rates of `table` as a table for a terminal, with the errors below."""
    lines: list[str] = []
    errors: list[str] = []
    for network, entry in networks.items():
        lines += [network, f"{'maps/s':24}{'seeflower_jax':>15}{'captum':>10}"]
        rows = {"forward": (entry, "forward_images_per_second")}
        for method, figures in entry["methods"].items():
            rows[method] = (figures, "maps_per_second")
        for method, (figures, key) in rows.items():
            rates = [figures.get(f"{prefix}{key}") for prefix in ("", "captum_")]
            cells = ["failed" if rate is None else f"{rate:.2f}" for rate in rates]
            lines.append(f"{method:24}{cells[0]:>15}{cells[1]:>10}")
            for framework, prefix in zip(FRAMEWORKS, ("", "captum_"), strict=True):
                if error := figures.get(f"{prefix}error"):
                    errors.append(f"{framework} failed: {error}")
    return "\n".join([*lines, *dict.fromkeys(errors)])
