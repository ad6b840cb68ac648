"""The paper's baseline network on Oxford 102 Flowers, from random parameters.

    python -m scripts.train --config=configs/baseline.py:a

The three settings of the paper's table 4.1: `a` the official split, `b` with
augmentation, `c` with augmentation and the splits reversed, 6,149 training pictures.
The paper's test top-1 is .181, .302 and .448, that of seed 0 here .1886, .3111, .4529.
The optimizer, dropout and augmentation are those of the author's code: RMSprop, at most
100 epochs, pictures squashed to squares. As for the code's other networks, no
validation gain of .002 in 20 epochs ends them.
"""

from ml_collections import ConfigDict

from configs import inception, paper

SETTINGS = ("a", "b", "c")


def get_config(setting: str = "a") -> ConfigDict:
    """The config of one of the settings 'a', 'b', 'c'."""
    if setting not in SETTINGS:
        raise ValueError(f"unknown setting {setting!r}; there are 'a', 'b' and 'c'")
    config = inception.get_config()
    config.recipe = f"paper_{setting}"
    config.model = ConfigDict({"name": "baseline", "dropout": 0.25, "dtype": "float32"})
    config.init.weights = ""  # none: random parameters
    config.data.split = "reversed" if setting == "c" else "official"
    config.data.shortest_side = 40
    config.eval.size = 32
    config.test_time = ConfigDict({"views": ((32, 1.0),), "hflip": False})
    train = paper.stage(
        config.stages.finetune,
        epochs=100,
        batch_size=32,
        optimizer="rmsprop",
        learning_rate=1e-3,
        partition=((".*", 1.0),),
        early_stopping={"patience": 20},
        augment={"enabled": setting != "a", "size": 32},
    )
    config.stage_order = ("train",)
    config.stages = ConfigDict({"train": train})
    paper.squash(config)
    return config
