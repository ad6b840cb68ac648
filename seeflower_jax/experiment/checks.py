"""Check every value of a config: its type and its range.

    errors = check_values(config)        # config: nested dicts; [] without errors

`RULES` and `STAGE_RULES` have a rule for each key that the code reads. configs/base.py
has a default for each key.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seeflower_jax import hints, models, records
from seeflower_jax.data import resident
from seeflower_jax.data.balance import BALANCES
from seeflower_jax.data.sources import SOURCES
from seeflower_jax.data.view import MAX_SIDE
from seeflower_jax.experiment import precision
from seeflower_jax.models.classifier import POOLING
from seeflower_jax.models.spec import is_expression
from seeflower_jax.pretrained.loading import HEADS
from seeflower_jax.training.stages import SCHEDULES, SOLVERS

# The largest values that memory and the types of JAX allow.
_MAX_BATCH, _MAX_COUNT = 2**16, 2**31 - 1
_MAX_FLOAT = float(np.finfo(np.float32).max)
METRICS = ("top1", "mean_class_top1", "top5", "loss")
# Sections whose keys this module does not check.
_OPEN = ("stages.", "init.pretraining.", "quickstart.")


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule for the values of a key.

    Attributes:
      expected: description of the allowed values, for error messages.
      accepts: function that returns whether a value is allowed.
    """

    expected: str
    accepts: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that float32 can hold, up to rounding."""
    if not (_is_integer(value) or isinstance(value, float)):
        return False
    return abs(value) <= _MAX_FLOAT and (value == 0 or bool(np.float32(value)))


def _seed() -> Rule:
    return Rule(
        "a whole number from 0 to below 2**32",
        lambda v: _is_integer(v) and 0 <= v < 2**32,
    )


def _integer(low: int, high: int = _MAX_COUNT) -> Rule:
    return Rule(
        f"a whole number from {low} to {high}",
        lambda v: _is_integer(v) and low <= v <= high,
    )


def _number(expected: str, accepts: Callable[[float], bool]) -> Rule:
    """Return a rule for numbers, which is checked again after rounding to float32."""
    return Rule(
        f"a number {expected}",
        lambda v: _is_number(v) and accepts(v) and accepts(float(np.float32(v))),
    )


def _choice(names: Sequence[str]) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda v: v in names)


def _optional(rule: Rule) -> Rule:
    return Rule(
        f"{rule.expected}, or None for the network's own",
        lambda v: v is None or rule.accepts(v),
    )


def _all(values: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple) and all(map(accepts, values))


def _pairs(values: Any, accepts: Callable[[Any, Any], bool]) -> bool:
    return _all(values, lambda v: _all(v, lambda _: True) and len(v) == 2) and all(
        accepts(*pair) for pair in values
    )


def _is_range(values: Any, low: float, high: float) -> bool:
    return (
        _all(values, _is_number)
        and len(values) == 2
        and low <= values[0] <= values[1] <= high
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_option(value: Any) -> bool:
    """Return whether a value may be an argument of an optimizer."""
    return isinstance(value, str | bool | None) or _is_number(value)


def _is_alpha(value: float) -> bool:
    """Return whether samples of Beta(value, value) are finite in float32."""
    return 0.999e-6 <= value <= 1.001e6


_BOOLEAN = Rule("True or False", lambda v: isinstance(v, bool))
_TEXT = Rule("a string without null characters", _is_text)
_NAME = Rule("a string that is not empty", lambda v: _is_text(v) and v != "")
_NOT_NEGATIVE = _number("of 0 or more that float32 can hold", lambda v: v >= 0)
_POSITIVE = _number("above 0 that float32 can hold", lambda v: v > 0)
_SHARE = _number("from 0 to below 1", lambda v: 0 <= v < 1)
_SHARE_OR_ALL = _number("from 0 to 1", lambda v: 0 <= v <= 1)
_CROP = Rule("a number from 0.01 to 1", lambda v: _is_number(v) and 0.01 <= v <= 1)
_SIDE, _SIDE_OR_OWN = _integer(1, MAX_SIDE), _integer(0, MAX_SIDE)
_ALPHA = _number("that is 0, or from 1e-6 to 1e6", lambda v: v == 0 or _is_alpha(v))
_NAMES = Rule("names, such as ('head', 'finetune')", lambda v: _all(v, _NAME.accepts))

RULES: dict[str, Rule] = {
    "recipe": _NAME,
    "seed": _seed(),
    "metric": _choice(METRICS),
    "model.name": _NAME,
    "model.dropout": _SHARE,
    "model.dtype": _choice(precision.DTYPES),
    "model.pooling": _optional(_choice(tuple(POOLING))),
    "model.pooled": _optional(
        Rule(
            "regular expressions on names of endpoints, such as ('block[345]_conv.',)",
            lambda v: _all(v, is_expression),
        )
    ),
    "model.standardize": _optional(_BOOLEAN),
    "model.hidden": _optional(
        Rule(
            f"whole numbers from 1 to {2**16}",
            lambda v: _all(v, _integer(1, 2**16).accepts),
        )
    ),
    "model.width": _optional(_number("above 0, at most 16", lambda v: 0 < v <= 16)),
    "model.input_size": _optional(_SIDE),
    "model.preprocess": _optional(_choice(tuple(models.PREPROCESS))),
    "init.weights": _TEXT,
    "init.head": _choice(HEADS),
    "init.pretrained_share": _SHARE_OR_ALL,
    "data.source": _NAME,
    "data.dir": _TEXT,
    "data.split": _NAME,
    "data.balance": _choice(BALANCES),
    "data.logit_adjustment": _number("from 0 to 100", lambda v: 0 <= v <= 100),
    "data.verify": _BOOLEAN,
    "data.cache_dir": _TEXT,
    "data.shortest_side": _SIDE,
    "data.on_device": _choice(resident.CHOICES),
    "data.species": _integer(2, 10**5),
    "data.images_per_class": Rule(
        "three whole numbers up to 100000, for training (1 or more), validation and "
        "test",
        lambda v: _all(v, _integer(0, 10**5).accepts) and len(v) == 3 and v[0] > 0,
    ),
    "data.seed": _seed(),
    "device.compilation_cache": _BOOLEAN,
    "device.matmul_precision": _choice(precision.OF_PRODUCTS),
    "distillation.logits": _TEXT,
    "distillation.weight": _SHARE_OR_ALL,
    "distillation.temperature": _number(
        "from 0.01 to 100", lambda v: 0.0099 <= v <= 100
    ),
    "whitening.enabled": _BOOLEAN,
    "whitening.patch_size": Rule(
        "an odd whole number from 1 to 31",
        lambda v: _integer(1, 31).accepts(v) and v % 2 == 1,
    ),
    "whitening.patches_per_image": _integer(1, 10**5),
    "whitening.epsilon": _POSITIVE,
    "eval.size": _SIDE_OR_OWN,
    "eval.crop": _CROP,
    "eval.keep_aspect": _BOOLEAN,
    "eval.batch_size": _integer(1, _MAX_BATCH),
    "test_time.views": Rule(
        f"pairs of a size up to {MAX_SIDE} pixels and a crop from 0.01 to 1, such as "
        "((320, 1.0),)",
        lambda v: (
            _pairs(v, lambda a, b: _SIDE_OR_OWN.accepts(a) and _CROP.accepts(b))
            and len(v) > 0
        ),
    ),
    "test_time.hflip": _BOOLEAN,
    "stage_order": Rule(
        "names of config.stages, such as ('head', 'finetune')",
        lambda v: _NAMES.accepts(v) and len(v) > 0,
    ),
}
STAGE_RULES: dict[str, Rule] = {
    "solver": _choice(SOLVERS),
    "all_views": _BOOLEAN,
    "draws": _integer(0, 1000),
    "epochs": _integer(0, 10**5),
    "batch_size": _integer(1, _MAX_BATCH),
    "accum_steps": _integer(1),
    "partition": Rule(
        "pairs of a regular expression and a factor above 0 or None, such as "
        "(('head/.*', 1.0), ('backbone/.*', None))",
        lambda v: (
            _pairs(
                v,
                lambda rule, factor: (
                    is_expression(rule)
                    and (factor is None or _POSITIVE.accepts(factor))
                ),
            )
            and len(v) > 0
        ),
    ),
    "optimizer": _NAME,
    "optimizer_options": Rule(
        "pairs of a name and a value, such as (('b1', 0.8),)",
        lambda v: _pairs(v, lambda k, value: isinstance(k, str) and _is_option(value)),
    ),
    "learning_rate": _POSITIVE,
    "schedule": _choice(SCHEDULES),
    "warmup_steps": _integer(0),
    "weight_decay": _NOT_NEGATIVE,
    "clip_norm": _NOT_NEGATIVE,
    "label_smoothing": _SHARE,
    "ema_decay": _SHARE,
    "train_batch_stats": _BOOLEAN,
    "keep_batch_stats": _BOOLEAN,
    "validate_every": _integer(1),
    "early_stopping.patience": _integer(0),
    "early_stopping.min_delta": _NOT_NEGATIVE,
    "augment.enabled": _BOOLEAN,
    "augment.size": _SIDE_OR_OWN,
    "augment.rotation": _number("of degrees from 0 to 180", lambda v: 0 <= v <= 180),
    "augment.shear": _number(
        "of radians from 0 to below pi / 2", lambda v: 0 <= v < math.pi / 2
    ),
    "augment.shift": _SHARE_OR_ALL,
    "augment.zoom": _number("from 0 to 0.99", lambda v: 0 <= v <= 0.991),
    "augment.hflip": _BOOLEAN,
    "augment.vflip": _BOOLEAN,
    "augment.crop_area": Rule(
        "() or a range of shares from 0.001 to 1, such as (0.2, 1.0)",
        lambda v: _all(v, _is_number) and (len(v) == 0 or _is_range(v, 0.001, 1)),
    ),
    "augment.crop_ratio": Rule(
        "a range from 0.01 to 100, such as (0.75, 1.333)",
        lambda v: _is_range(v, 0.01, 100),
    ),
    "augment.keep_aspect": _BOOLEAN,
    "augment.brightness": _SHARE_OR_ALL,
    "augment.contrast": _SHARE_OR_ALL,
    "augment.erasing": _SHARE_OR_ALL,
    "augment.mixup": _ALPHA,
    "augment.cutmix": _ALPHA,
}


def _check_section(
    section: Mapping, rules: Mapping[str, Rule], prefix: str
) -> Iterator[str]:
    values = {
        key: value
        for key, value in records.flat(section)
        if not f"{key}.".startswith(_OPEN)
    }
    parts = {key.split(".")[0] for key in rules if "." in key}
    for part in sorted(parts):
        if not isinstance(section.get(part), Mapping):
            yield (
                f"{prefix}{part} is {section.get(part)!r}; expected a section with the "
                "keys of configs/base.py"
            )
            values.pop(part, None)
            rules = {
                k: rule for k, rule in rules.items() if not k.startswith(f"{part}.")
            }
    for key, rule in rules.items():
        if key not in values:
            yield (
                f"{prefix}{key} is missing; expected {rule.expected}, such as the "
                "default in configs/base.py"
            )
        elif not rule.accepts(values[key]):
            yield f"{prefix}{key} is {values[key]!r}; expected {rule.expected}"
    for key in values.keys() - rules.keys():
        hint = hints.did_you_mean(key, rules)
        yield f"{prefix}{key} is not a known key{hint}"


def check_values(config: Mapping) -> list[str]:
    """Return a line for each value of a config that is not allowed.

    Args:
      config: nested dicts with the keys of configs/base.py.
    """
    sections = {name.split(".")[0] for name in RULES if "." in name} | {"stages"}
    errors = [
        f"config.{name} is {config.get(name)!r}; expected a section with the keys of "
        "configs/base.py"
        for name in sorted(sections)
        if not isinstance(config.get(name), Mapping)
    ]
    if errors:
        return errors
    errors = list(_check_section(config, RULES, "config."))
    pretraining = config["init"].get("pretraining")
    if not isinstance(pretraining, Mapping):
        errors.append(
            f"config.init.pretraining is {pretraining!r}; expected the values that "
            "differ in the pretraining run, or {}"
        )
    for name, stage in config["stages"].items():
        prefix = f"config.stages.{name}."
        if isinstance(stage, Mapping):
            errors += _check_section(stage, STAGE_RULES, prefix)
        else:
            errors.append(f"{prefix[:-1]} is {stage!r}; expected the keys of a stage")
    for name, known in (("model.name", models.MODELS), ("data.source", SOURCES)):
        section, key = name.split(".")
        value = config[section].get(key)
        if isinstance(value, str) and value not in known:
            hint = hints.did_you_mean(value, known)
            errors.append(
                f"config.{name} is {value!r}; expected one of {', '.join(known)}{hint}"
            )
    return errors
