"""The configs of the project: `python -m scripts.train --config=configs/NAME.py`."""

import pathlib
import sys

# The configs find each other here when they are installed as seeflower_jax.configs.
if __name__ != "configs":
    sys.path.append(str(pathlib.Path(__file__).parent.parent))
