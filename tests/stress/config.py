"""A config of two short stages on tiny images, for the stress test.

    python -m scripts.train --config=tests/stress/config.py --config.data.dir=DIR
    python -m scripts.train --config=tests/stress/config.py:'{"seed": -1}' ...

The text after the colon is a Python literal: {key: value} with keys as "model.name". It
sets values that the command line could not, for example values of another type.
"""

import ast
import os

from ml_collections import ConfigDict

from configs import base

SIDE = 32


def get_config(changes: str = "{}") -> ConfigDict:
    """Return the config with `changes`; `nan` and `inf` are allowed values.

    The environment variables STRESS_DATA and STRESS_CACHE name the default folders.
    """
    config = base.get_config()
    config.recipe = "stress"
    config.model.update(name="small", width=0.2)
    config.init.weights = ""
    config.data.source = "folder"
    config.data.dir = os.environ.get("STRESS_DATA", "")
    config.data.cache_dir = os.environ.get("STRESS_CACHE", "")
    config.data.shortest_side = SIDE
    config.eval.update(size=SIDE, batch_size=8)
    config.test_time.views = ((SIDE, 1.0),)
    head, finetune = base.get_stage(), base.get_stage()
    head.update(epochs=20, batch_size=6, validate_every=10, learning_rate=0.03)
    finetune.update(epochs=2, batch_size=6, validate_every=1, learning_rate=1e-3)
    finetune.partition = ((".*", 1.0),)
    finetune.augment.update(enabled=True, size=SIDE)
    config.stages = ConfigDict({"head": head, "finetune": finetune})
    config.stage_order = ("head", "finetune")
    for key, value in _literal(changes).items():
        *path, last = key.split(".")
        section = config
        for name in path:
            section = section[name]
        with section.ignore_type():
            section[last] = value
    return config


def _literal(text: str) -> dict:
    """Evaluate a literal in which the names nan and inf are numbers."""
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in ("nan", "inf"):
            raise ValueError(f"unexpected name {node.id!r} in {text!r}")
    return eval(  # only literals, nan and inf
        compile(tree, "<changes>", "eval"),
        {"__builtins__": {}, "nan": float("nan"), "inf": float("inf")},
    )
