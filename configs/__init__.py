"""The configs of the project: `python -m scripts.train --config=configs/NAME.py`."""

import pathlib
import sys

# Installed as seeflower_jax.configs, the configs find each other here.
if __name__ != "configs":
    sys.path.append(str(pathlib.Path(__file__).parent.parent))
