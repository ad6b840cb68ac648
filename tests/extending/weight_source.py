"""A new weight source: .npz files of the network `small` with PyTorch's names.

config.init.weights = "small.npz"
"""

import numpy as np
from flax import traverse_util

from seeflower_jax import models
from seeflower_jax.pretrained import readers
from seeflower_jax.pretrained.errors import WeightFileError

LAYERS = {
    "conv.weight": "params/backbone/block{}/conv/kernel",
    "norm.weight": "params/backbone/block{}/bn/scale",
    "norm.bias": "params/backbone/block{}/bn/bias",
    "norm.running_mean": "batch_stats/backbone/block{}/bn/mean",
    "norm.running_var": "batch_stats/backbone/block{}/bn/var",
}
NAMES = {
    f"layer{block}.{theirs}": ours.format(block)
    for block in range(1, 6)
    for theirs, ours in LAYERS.items()
}


def read(model, path):
    """Return (variables, spec) of a file; `merge` checks for missing variables."""
    with np.load(path) as file:
        arrays = dict(file)
    errors = [f"{name} is not expected" for name in arrays if name not in NAMES]
    if model != "small" or errors:
        raise WeightFileError.of(path, f"{model} by PyTorch's names", errors)
    flat = {
        NAMES[name]: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        for name, array in arrays.items()
    }
    # The weights also determine the preprocessing and the epsilon of the network.
    spec = models.get_spec(model, preprocess="torch", epsilon=1e-5)
    return traverse_util.unflatten_dict(flat, sep="/"), spec


readers.register([".npz"], read)
