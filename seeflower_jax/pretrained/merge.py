"""Puts loaded variables in the place of initialised ones.

variables = merge(loaded, initialised, allow_missing=["params/head/.*"])
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from flax import traverse_util


class MergeError(ValueError):
    """Loaded and initialised variables do not fit each other."""


def merge(loaded: Mapping, initialised: Mapping, allow_missing: Iterable[str] = ()):
    """The loaded variables, completed by initialised ones where a rule allows it.

    Args:
      loaded, initialised: trees of arrays.
      allow_missing: regular expressions on whole names (`params/head/logits/kernel`) of
        variables that `loaded` may lack.

    Returns:
      A tree with the structure of `initialised`; loaded arrays as float32.

    Raises:
      MergeError: lists every variable that only one side has (- is missing, + is too
        much), every other shape and every array with a value that is not finite.
    """
    flat = traverse_util.flatten_dict(loaded, sep="/")
    wanted = traverse_util.flatten_dict(initialised, sep="/")
    allow_missing, errors, merged = list(allow_missing), [], {}
    for name, value in wanted.items():
        merged[name] = value
        if name not in flat:
            if not any(re.fullmatch(rule, name) for rule in allow_missing):
                errors.append(f"- {name} {tuple(value.shape)} is missing")
        elif flat[name].shape != value.shape:
            errors.append(
                f"! {name} has shape {flat[name].shape}, expected {tuple(value.shape)}"
            )
        elif not np.isfinite(flat[name]).all():
            errors.append(f"! {name} has values that are not finite")
        else:
            merged[name] = np.asarray(flat[name], np.float32)
    errors += [
        f"+ {name} {flat[name].shape} is not expected"
        for name in flat
        if name not in wanted
    ]
    if errors:
        raise MergeError(
            "the loaded variables do not fit the network:\n  " + "\n  ".join(errors)
        )
    empty = {name: {} for name, value in initialised.items() if not value}
    return empty | traverse_util.unflatten_dict(merged, sep="/")
