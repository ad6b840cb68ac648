"""The flags of what makes runs by itself: where the files are, and the precision.

plan = reproduction.plan(rows, seeds, out, budget, **run_flags.options())
"""

import os

from absl import flags

_DATA_DIR = flags.DEFINE_string("data_dir", "", "The pictures; downloads by default.")
_CACHE_DIR = flags.DEFINE_string("cache_dir", "", "For decoded pictures and downloads.")
_WEIGHTS_DIR = flags.DEFINE_string(
    "weights_dir", "", "Folder of Keras' weight files; downloads by default."
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of the computation; the recipe's by default.",
)


def options() -> dict:
    """`changes`, values of every config by their flat keys, and `weights_dir`."""
    changes = {
        "data.dir": os.path.expanduser(_DATA_DIR.value),
        "data.cache_dir": os.path.expanduser(_CACHE_DIR.value),
        "model.dtype": _DTYPE.value,
    }
    return {
        "changes": {key: value for key, value in changes.items() if value},
        "weights_dir": os.path.expanduser(_WEIGHTS_DIR.value),
    }
