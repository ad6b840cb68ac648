"""Attribution: maps of the image regions that a network's score depends on.

    from seeflower_jax import attribution as attr

    network = attr.from_linen(module, variables)
    maps = attr.grad_cam(network, images, targets, layer="block3/conv")   # [N, H, W]

A method is a pure function `method(network, images, targets, ...) -> maps`. The caller
may jit it.

- `network(images, taps=None)` returns `(logits, endpoints)`. It is a pure function with
  its variables bound. Any function of this form works, see `types.NetworkFunction`.
  `models.bind` returns it for the networks of this package. The adapters
  `from_linen`, `from_nnx`, `from_keras`, `from_equinox`, `from_haiku` and
  `from_function` return it for networks of other frameworks.
- `images` are RGB in [0, 255], [N, H, W, 3].
- `targets` selects the score that the maps explain, see the module `targets`. The
  default is the logit of the predicted class.
- `maps` are float32 [N, H, W], at the size of the images, or float64 for images in
  float64. They are raw: normalise them only for display. Only signed methods return
  negative values.

In inference, the images of a batch do not influence one another. One gradient of the
sum of all scores therefore holds the gradient of each score.

`methods` has one file per method. `registry` lists the methods by name, and `batch`
runs methods by name. `metrics` measures maps. `activation_max` synthesises images of a
class. `rules` replaces the derivatives of a network, for DeepLIFT and LRP.

The package imports a function or a module only when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seeflower_jax.attribution.adapters.equinox import from_equinox
    from seeflower_jax.attribution.adapters.function import from_function
    from seeflower_jax.attribution.adapters.haiku import from_haiku
    from seeflower_jax.attribution.adapters.keras import from_keras
    from seeflower_jax.attribution.adapters.linen import from_linen
    from seeflower_jax.attribution.adapters.nnx import from_nnx
    from seeflower_jax.attribution.batch import explain
    from seeflower_jax.attribution.methods.ablation_cam import ablation_cam
    from seeflower_jax.attribution.methods.attention_relevance import (
        attention_relevance,
    )
    from seeflower_jax.attribution.methods.attention_rollout import attention_rollout
    from seeflower_jax.attribution.methods.deconvnet_saliency import deconvnet_saliency
    from seeflower_jax.attribution.methods.deep_lift import deep_lift
    from seeflower_jax.attribution.methods.eigen_cam import eigen_cam
    from seeflower_jax.attribution.methods.feature_ablation import feature_ablation
    from seeflower_jax.attribution.methods.finer_cam import finer_cam
    from seeflower_jax.attribution.methods.full_grad import full_grad
    from seeflower_jax.attribution.methods.grad_cam import grad_cam
    from seeflower_jax.attribution.methods.grad_cam_plus_plus import grad_cam_plus_plus
    from seeflower_jax.attribution.methods.gradient_shap import gradient_shap
    from seeflower_jax.attribution.methods.guided_grad_cam import guided_grad_cam
    from seeflower_jax.attribution.methods.hires_cam import hires_cam
    from seeflower_jax.attribution.methods.input_x_gradient import input_x_gradient
    from seeflower_jax.attribution.methods.integrated_gradients import (
        integrated_gradients,
    )
    from seeflower_jax.attribution.methods.kernel_shap import kernel_shap
    from seeflower_jax.attribution.methods.layer_cam import layer_cam
    from seeflower_jax.attribution.methods.layer_conductance import layer_conductance
    from seeflower_jax.attribution.methods.lrp import lrp
    from seeflower_jax.attribution.methods.occlusion import occlusion
    from seeflower_jax.attribution.methods.rise import rise
    from seeflower_jax.attribution.methods.saliency import (
        guided_saliency,
        paper_saliency,
        saliency,
        signed_saliency,
    )
    from seeflower_jax.attribution.methods.score_cam import score_cam
    from seeflower_jax.attribution.methods.smooth_grad import smooth_grad
    from seeflower_jax.attribution.methods.smooth_grad_squared import (
        smooth_grad_squared,
    )
    from seeflower_jax.attribution.methods.var_grad import var_grad
    from seeflower_jax.attribution.methods.xgrad_cam import xgrad_cam
    from seeflower_jax.attribution.registry import METHODS
    from seeflower_jax.attribution.rules.interpreter import with_rules
    from seeflower_jax.attribution.segments import superpixels
    from seeflower_jax.attribution.tokens import tokens_to_grid

__all__ = [
    "METHODS",
    "ablation_cam",
    "attention_relevance",
    "attention_rollout",
    "deconvnet_saliency",
    "deep_lift",
    "eigen_cam",
    "explain",
    "feature_ablation",
    "finer_cam",
    "from_equinox",
    "from_function",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "full_grad",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_shap",
    "guided_grad_cam",
    "guided_saliency",
    "hires_cam",
    "input_x_gradient",
    "integrated_gradients",
    "kernel_shap",
    "layer_cam",
    "layer_conductance",
    "lrp",
    "occlusion",
    "paper_saliency",
    "rise",
    "saliency",
    "score_cam",
    "signed_saliency",
    "smooth_grad",
    "smooth_grad_squared",
    "superpixels",
    "tokens_to_grid",
    "var_grad",
    "with_rules",
    "xgrad_cam",
]

# Where a name is defined, unless in the module `methods.<name>`.
_HOMES = {
    "METHODS": "registry",
    "explain": "batch",
    "from_equinox": "adapters.equinox",
    "from_function": "adapters.function",
    "from_haiku": "adapters.haiku",
    "from_keras": "adapters.keras",
    "from_linen": "adapters.linen",
    "from_nnx": "adapters.nnx",
    "guided_saliency": "methods.saliency",
    "paper_saliency": "methods.saliency",
    "signed_saliency": "methods.saliency",
    "superpixels": "segments",
    "tokens_to_grid": "tokens",
    "with_rules": "rules.interpreter",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = _HOMES.get(name, f"methods.{name}")
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    try:  # a module, as in `attr.targets`
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
