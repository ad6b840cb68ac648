"""Infer the spec of a network from the shapes of its parameters.

spec = infer_spec(models.get_spec("vgg16"), variables["params"], "vgg16.h5")
spec.width, spec.num_classes, spec.hidden, spec.pooling
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seeflower_jax import models
from seeflower_jax.models.classifier import POOLING
from seeflower_jax.pretrained.errors import WeightFileError

# Nested dicts of arrays, and of their shapes.
Params = Mapping[str, Any]
Shapes = dict[str, Any]


def infer_spec(
    spec: models.ModelSpec, params: Params, path: str | os.PathLike
) -> models.ModelSpec:
    """Return the spec with the width and the head that the parameters have.

    Args:
      spec: the network; fields that no parameter determines are kept.
      params: {'backbone': ..., 'head': ...}; the head is optional.
      path: the weight file, for the error message.

    Raises:
      WeightFileError: if a layer lacks parameters, or if no head fits the parameters.
    """
    shapes = jax.tree.map(np.shape, params)
    if _fits(spec, shapes):
        return spec
    head = shapes.get("head", {})
    try:
        spec = dataclasses.replace(spec, width=_infer_width(spec, params["backbone"]))
        if "logits" not in head:
            return spec
        layers = [head[name] for name in ("fc1", "fc2", "logits") if name in head]
        *hidden, num_classes = [layer["bias"][0] for layer in layers]
    except (KeyError, IndexError) as error:
        raise WeightFileError(
            f"{path} does not hold {spec.name}: a layer lacks its kernel or bias, or "
            f"has one of another shape ({type(error).__name__}: {error})"
        ) from error
    spec = dataclasses.replace(spec, num_classes=num_classes, hidden=tuple(hidden))
    for pooling in POOLING:
        candidate = dataclasses.replace(spec, pooling=pooling)
        if _fits(candidate, shapes):
            return candidate
    kernels = {name: layer["kernel"] for name, layer in head.items()}
    raise WeightFileError(
        f"{path} holds a classifier with kernels {kernels}, which does not fit "
        f"{spec.name} of width {spec.width:.3g} at {spec.input_size} pixels"
    )


def _fits(spec: models.ModelSpec, shapes: Shapes) -> bool:
    """Return whether the network of a spec has these shapes of parameters."""
    params = models.shapes(spec)["params"]
    expected = jax.tree.map(lambda leaf: leaf.shape, params)
    return all(shapes[part] == expected[part] for part in shapes)


def _infer_width(spec: models.ModelSpec, backbone: Params) -> float:
    """Return the factor on channels of a network with these shapes of parameters."""
    published = models.shapes(models.get_spec(spec.name))["params"]["backbone"]
    low, high = 0.0, np.inf
    for name, layer in published.items():
        # A layer is a convolution, or a convolution and a batch normalisation.
        full, actual = (
            part.get("conv", part)["kernel"].shape[-1]
            for part in (layer, backbone[name])
        )
        # The number of channels is rounded, so each layer allows an interval of
        # factors.
        low = max(low, (actual - 0.5) / full)
        high = min(high, (actual + 0.5) / full)
    return (low + high) / 2
