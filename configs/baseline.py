"""The paper's baseline network on Oxford 102 Flowers, from random parameters.

    python -m scripts.train --config=configs/baseline.py:a

The three settings of the paper's table 4.1: `a` the official split, `b` with
augmentation, `c` with augmentation and the splits reversed, 6,149 training pictures.
The paper has test top-1 .181, .302 and .448. The optimizer, dropout and augmentation
are those of the author's code: RMSprop, at most 100 epochs, no validation gain of .002
in 10 ends them.
"""

from ml_collections import ConfigDict

from configs import inception


def get_config(setting: str = "a") -> ConfigDict:
    """The config of one of the settings 'a', 'b', 'c'."""
    if setting not in ("a", "b", "c"):
        raise ValueError(f"unknown setting {setting!r}; there are 'a', 'b' and 'c'")
    config = inception.get_config()
    config.recipe = f"paper_{setting}"
    config.model = ConfigDict({"name": "baseline", "dropout": 0.25, "dtype": "float32"})
    config.init.weights = ""  # none: random parameters
    config.data.split = "reversed" if setting == "c" else "official"
    config.data.shortest_side = 40
    config.eval.size = 32
    config.test_time = ConfigDict({"views": ((32, 1.0),), "hflip": False})

    stage = config.stages.finetune
    stage.epochs = 100
    stage.batch_size = 32
    stage.partition = ((".*", 1.0),)
    stage.optimizer = "rmsprop"
    stage.learning_rate = 1e-3
    stage.schedule = "constant"
    stage.update(warmup_steps=0, weight_decay=0.0, label_smoothing=0.0, ema_decay=0.0)
    stage.validate_every = 1
    stage.early_stopping = ConfigDict({"patience": 10, "min_delta": 0.002})
    stage.augment.update(
        enabled=setting != "a",
        size=32,
        rotation=30.0,
        shear=0.2,
        zoom=0.2,
        shift=0.2,
        hflip=True,
        vflip=True,
        crop_area=(),
        brightness=0.0,
        contrast=0.0,
        mixup=0.0,
        cutmix=0.0,
    )
    config.stage_order = ("train",)
    config.stages = ConfigDict({"train": stage})
    return config
