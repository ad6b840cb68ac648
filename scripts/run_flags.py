"""Define the flags of scripts that train several runs: the folders of their files.

plan = reproduce.plan(rows, seeds, out, budget, **run_flags.options())
"""

import os

from absl import flags

from seeflower_jax.studies.rows import FLAGS

flags.DEFINE_string("data_dir", "", "Folder of the images; downloads by default.")
flags.DEFINE_string("cache_dir", "", "Decoded images and downloads.")
_WEIGHTS_DIR = flags.DEFINE_string(
    "weights_dir", "", "Folder of Keras weight files; downloads by default."
)


def options() -> dict:
    """Return `changes`, {key of the config: value}, and `weights_dir`.

    The changes are those of the flags in `rows.FLAGS` that the script has.
    """
    values = {k: flags.FLAGS[f].value for k, f in FLAGS.items() if f in flags.FLAGS}
    return {
        "changes": {k: os.path.expanduser(v) for k, v in values.items() if v},
        "weights_dir": os.path.expanduser(_WEIGHTS_DIR.value),
    }
