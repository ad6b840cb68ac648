"""Read configs that are older than some keys.

config = with_later_keys(old_config)      # as if it had been written today
without_later_keys(config) == old_config
"""

import copy
from collections.abc import Mapping
from typing import Any

# The keys that older configs lack, by section. The value of a key has the same effect
# as its absence. `stages` stands for each stage.
LATER_KEYS: Mapping[str, Mapping[str, Any]] = {
    "data": {"logit_adjustment": 0.0, "on_device": "auto"},
    "device": {"matmul_precision": "default", "compilation_cache": True},
    "distillation": {"logits": "", "weight": 0.0, "temperature": 1.0},
    "init": {"pretrained_share": 1.0},
    "stages": {"draws": 0},
}


def with_later_keys(config: Mapping) -> dict:
    """Return a config with the keys that it lacks, as nested dicts.

    Example:
      >>> with_later_keys({"data": {}, "stages": {"head": {}}})["stages"]
      {'head': {'draws': 0}}
    """
    filled = copy.deepcopy(dict(config))
    for section, defaults in LATER_KEYS.items():
        if section != "stages":
            values = filled.setdefault(section, {})
            if isinstance(values, dict):
                filled[section] = {**defaults, **values}
        elif isinstance(stages := filled.get(section), dict):
            filled[section] = {
                name: {**defaults, **stage} if isinstance(stage, dict) else stage
                for name, stage in stages.items()
            }
    return filled


def without_later_keys(config: Mapping) -> dict:
    """Return a config without the later keys that have no effect."""
    reduced = copy.deepcopy(dict(config))
    for section, defaults in LATER_KEYS.items():
        values = reduced.get(section, {})
        parts = [values]
        if section == "stages" and isinstance(values, dict):
            parts = list(values.values())
        for part in parts:
            for key, default in defaults.items():
                if isinstance(part, dict) and part.get(key) == default:
                    del part[key]
        if not values and config.get(section):  # has later keys only
            del reduced[section]
    return reduced
