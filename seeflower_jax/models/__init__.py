"""Networks as pure functions of a spec, variables and images.

    from seeflower_jax import models

    spec = models.get_spec("inception_v3", num_classes=102)
    variables = models.init(spec, jax.random.key(0))
    logits, endpoints = models.apply(spec, variables, images)   # RGB in [0, 255]

`spec` describes a network, `registry` lists all networks, and `functional` initialises
and applies them. `inception`, `vgg`, `small` and `baseline` are the networks.
`classifier` is the head that all networks share. Names are imported when they are used,
so `seeflower_jax.models.spec` needs neither JAX nor Flax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seeflower_jax.models.functional import (
        apply,
        apply_head,
        bind,
        build,
        features,
        init,
        init_head,
        shapes,
    )
    from seeflower_jax.models.preprocess import PREPROCESS
    from seeflower_jax.models.registry import MODELS, Model, get_spec, register
    from seeflower_jax.models.spec import ModelSpec

__all__ = [
    "MODELS",
    "PREPROCESS",
    "Model",
    "ModelSpec",
    "apply",
    "apply_head",
    "bind",
    "build",
    "features",
    "get_spec",
    "init",
    "init_head",
    "register",
    "shapes",
]

_MODULES = dict.fromkeys(__all__, "functional") | {
    "MODELS": "registry",
    "Model": "registry",
    "ModelSpec": "spec",
    "PREPROCESS": "preprocess",
    "get_spec": "registry",
    "register": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
