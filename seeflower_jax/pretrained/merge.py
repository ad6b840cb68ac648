"""Merge loaded variables into initialised variables.

variables = merge(loaded, initialised, allow_missing=["params/head/.*"])
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from seeflower_jax.pretrained.types import Variables


class MergeError(ValueError):
    """Loaded and initialised variables do not fit each other."""


def merge(
    loaded: Mapping[str, Any],
    initialised: Mapping[str, Any],
    allow_missing: Iterable[str] = (),
) -> Variables:
    """Return the loaded variables; initialised variables replace allowed gaps.

    Args:
      loaded, initialised: nested dicts of arrays.
      allow_missing: regular expressions on full names (`params/head/logits/kernel`). A
        variable that matches one of them may be missing in `loaded`.

    Returns:
      Nested dicts with the structure of `initialised`; loaded arrays are float32.

    Raises:
      MergeError: if the variables do not fit. The message lists every missing variable
        (`-`), every unexpected variable (`+`), every shape that differs and every array
        with values that are not finite float32 numbers (`!`). Integers are quantised
        weights, which mean nothing without their scales.
    """
    loaded_by_name = traverse_util.flatten_dict(loaded, sep="/")
    expected_by_name = traverse_util.flatten_dict(initialised, sep="/")
    allow_missing, errors, merged = list(allow_missing), [], {}
    for name, initial in expected_by_name.items():
        merged[name] = initial
        shape = tuple(initial.shape)
        if name not in loaded_by_name:
            if not any(re.fullmatch(rule, name) for rule in allow_missing):
                errors.append(f"- {name} {shape} is missing")
            continue
        array = loaded_by_name[name]
        if array.shape != shape:
            errors.append(f"! {name} has shape {array.shape}, expected {shape}")
        elif defect := _value_defect(array):
            errors.append(f"! {name} has {defect}")
        else:
            merged[name] = np.asarray(array, np.float32)
    errors += [
        f"+ {name} {array.shape} is not expected"
        for name, array in loaded_by_name.items()
        if name not in expected_by_name
    ]
    if errors:
        raise MergeError(
            "the loaded variables do not fit the network:\n  " + "\n  ".join(errors)
        )
    empty: Variables = {name: {} for name, value in initialised.items() if not value}
    return empty | traverse_util.unflatten_dict(merged, sep="/")


def _value_defect(array: Any) -> str:
    """Return why the values of an array cannot be float32; '' if they can."""
    if jnp.issubdtype(array.dtype, np.complexfloating):
        return "complex values, expected real values"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"values of type {array.dtype}, expected floating-point numbers"
    with np.errstate(over="ignore"):
        if np.isfinite(np.asarray(array, np.float32)).all():
            return ""
    if np.isfinite(array).all():
        return "values that are too large for float32"
    return "values that are not finite"
