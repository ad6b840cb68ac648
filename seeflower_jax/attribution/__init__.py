"""Attribution: maps of the image regions that a network's score depends on.

    from seeflower_jax import attribution as attr

    network = functools.partial(models.apply, spec, variables)
    maps = attr.grad_cam(network, images, targets, layer="mixed10")   # [N, H, W]

A method is a pure function `method(network, images, targets, ...) -> maps`. The caller
may jit it.

- `network(images, taps=None)` returns `(logits, endpoints)`. It is a pure function with
  its variables bound. Any function of this form works, see `types.NetworkFunction`.
- `images` are RGB in [0, 255], [N, H, W, 3].
- `targets` says which score the maps explain, see `targets`. The default is the logit
  of the predicted class.
- `maps` are float32 [N, H, W], at the size of the images. They are raw: normalise them
  only for display. Only signed methods return negative values.

In inference, the images of a batch do not influence one another. One gradient of the
sum of all scores therefore holds the gradient of each score.

`methods` holds one method a file. `registry` lists the methods by name, and `batch`
runs methods by name. `localisation` and `faithfulness` measure maps. `activation_max`
synthesises images of a class.

The package imports a function or a module only when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seeflower_jax.attribution.methods.eigen_cam import eigen_cam
    from seeflower_jax.attribution.methods.finer_cam import finer_cam
    from seeflower_jax.attribution.methods.grad_cam import grad_cam
    from seeflower_jax.attribution.methods.grad_cam_plus_plus import grad_cam_plus_plus
    from seeflower_jax.attribution.methods.guided_grad_cam import guided_grad_cam
    from seeflower_jax.attribution.methods.hires_cam import hires_cam
    from seeflower_jax.attribution.methods.integrated_gradients import (
        integrated_gradients,
    )
    from seeflower_jax.attribution.methods.layer_cam import layer_cam
    from seeflower_jax.attribution.methods.occlusion import occlusion
    from seeflower_jax.attribution.methods.saliency import (
        guided_saliency,
        paper_saliency,
        saliency,
        signed_saliency,
    )
    from seeflower_jax.attribution.methods.score_cam import score_cam
    from seeflower_jax.attribution.methods.smooth_grad import smooth_grad

__all__ = [
    "eigen_cam",
    "finer_cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "guided_grad_cam",
    "guided_saliency",
    "hires_cam",
    "integrated_gradients",
    "layer_cam",
    "occlusion",
    "paper_saliency",
    "saliency",
    "score_cam",
    "signed_saliency",
    "smooth_grad",
]

# The modules of the functions whose modules have other names.
_HOMES = {
    "guided_saliency": "methods.saliency",
    "paper_saliency": "methods.saliency",
    "signed_saliency": "methods.saliency",
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
