"""Define the flags of scripts that train several runs: folders and precision.

plan = reproduce.plan(rows, seeds, out, budget, **run_flags.options())
"""

import os

from absl import flags

_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of the images; downloads by default."
)
_CACHE_DIR = flags.DEFINE_string("cache_dir", "", "Decoded images and downloads.")
_WEIGHTS_DIR = flags.DEFINE_string(
    "weights_dir", "", "Folder of Keras weight files; downloads by default."
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Precision of the computation; the recipe decides by default.",
)


def options() -> dict:
    """Return `changes`, {key of the config: value}, and `weights_dir`."""
    changes = {
        "data.dir": os.path.expanduser(_DATA_DIR.value),
        "data.cache_dir": os.path.expanduser(_CACHE_DIR.value),
        "model.dtype": _DTYPE.value,
    }
    return {
        "changes": {key: value for key, value in changes.items() if value},
        "weights_dir": os.path.expanduser(_WEIGHTS_DIR.value),
    }
