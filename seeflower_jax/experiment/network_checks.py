"""Check that a network fits the other values of a config, without data or weights.

    check_network(settings)     # raises SettingsError

Only shapes are computed, which takes a few seconds for a large network.
"""

import dataclasses
import functools

import jax
from flax import traverse_util

from seeflower_jax import models
from seeflower_jax.experiment.settings import (
    Settings,
    SettingsError,
    image_sizes,
    lines_of_pretraining,
    pretraining_of,
)
from seeflower_jax.models.functional import endpoint_shapes
from seeflower_jax.training import partition


def check_network(settings: Settings) -> None:
    """Check partition rules and image sizes against the shapes of the network.

    The pretraining run, if there is one, is checked too.

    Raises:
      SettingsError: lists every value that does not fit the network.
    """
    if errors := _errors(settings):
        raise SettingsError("\n".join(errors))


def _errors(settings: Settings) -> list[str]:
    """Return a line for each value that does not fit, also of the pretraining run."""
    errors, before = _own_errors(settings), pretraining_of(settings)
    if before is None:
        return errors
    errors += lines_of_pretraining(_errors(before), errors)
    return errors or _backbone_errors(settings, before)


def _backbone_errors(settings: Settings, before: Settings) -> list[str]:
    """Return a line if the main run cannot load the network of its pretraining."""
    names = [
        {f"{name} {value.shape}" for name, value in _backbone(run).items()}
        for run in (settings, before)
    ]
    if not (differing := sorted(names[0] ^ names[1])):
        return []
    return [
        "config.init.pretraining.model describes other layers below the head than "
        f"config.model ({differing[0]}); expected the same layers, which name and "
        "width decide"
    ]


def _backbone(settings: Settings) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the parameters below the head, by their names."""
    params = _shapes(settings.spec(num_classes=2))["params"]
    return traverse_util.flatten_dict(params["backbone"], sep="/")


def _own_errors(settings: Settings) -> list[str]:
    """Return a line for each value of a run that does not fit the network."""
    spec = settings.spec(num_classes=2)
    try:
        _shapes(spec)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        return [
            f"config.model describes a network that cannot be built: {_line(error)}; "
            "expected values that fit each other"
        ]
    errors = [
        f"{key} is {size}; expected more pixels, because {problem}"
        for key, size in image_sizes(settings, spec).items()
        if (problem := empty_endpoint(spec, size))
    ]
    solvers = {stage.solver for stage in settings.stages}
    if spec.standardize and settings.head != "all" and "ridge" not in solvers:
        errors.append(
            "config.model.standardize is True; expected False, because neither a stage "
            "with the solver 'ridge' nor a loaded head (config.init.head 'all') sets "
            "the means and variances of the features"
        )
    for stage in settings.stages:
        # Weight files decide whether batch normalisation has a scale.
        scaled = dataclasses.replace(spec, batch_norm_scale=not spec.batch_norm_scale)
        problem = _partition_error(spec, stage.rules)
        if problem and _partition_error(scaled, stage.rules):
            errors.append(f"config.stages.{stage.name}.partition: {problem}")
    return errors


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


@functools.lru_cache(maxsize=32)
def _shapes(spec: models.ModelSpec) -> dict:
    return models.shapes(spec)


def empty_endpoint(spec: models.ModelSpec, size: int) -> str:
    """Return which endpoint has no pixels for images of this size; '' if none."""
    try:
        endpoints = endpoint_shapes(spec, size)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        return f"the network cannot be applied: {_line(error)}"
    empty = [name for name, value in endpoints.items() if 0 in value.shape]
    return f"{empty[0]} would have none" if empty else ""


def _partition_error(spec: models.ModelSpec, rules: partition.Rules) -> str:
    """Return what is wrong with partition rules; '' if they are valid."""
    try:
        partition.split(_shapes(spec)["params"], rules)
    except ValueError as error:
        return str(error)
    return ""
