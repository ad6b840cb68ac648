"""Train the paper's baseline network on Oxford 102 Flowers from random parameters.

    python -m scripts.train --config=configs/baseline.py:a

The config has the three settings of the paper's table 4.1. This table shows test top-1:

    setting  split                         augmentation  paper  seed 0 here
    a        official                      no            0.181  0.1886
    b        official                      yes           0.302  0.3111
    c        reversed, 6,149 for training  yes           0.448  0.4529

Without augmentation, training and evaluation use the same view of an image. The
recorded 0.1886 of setting `a` is older than this rule. Its training used the central
square of each image, and its evaluation used the whole image, squashed to a square.

Optimizer, dropout and augmentation are as in the author's code: RMSprop, at most 100
epochs, images squashed to squares. As in the other networks of the code, 20 epochs
without a validation gain of 0.002 end the training.

Two details differ from Keras of 2018. RMSprop divides by `sqrt(v + 1e-7)`, and Keras by
`sqrt(v) + 1e-7`. Keras draws all initial kernels from Glorot's uniform distribution.
Here, only the kernel of the logits is drawn so. The convolutions have He's normal
distribution, and the hidden layer `fc1` has LeCun's.
"""

from ml_collections import ConfigDict

from configs import inception, paper

SETTINGS = ("a", "b", "c")


def get_config(setting: str = "a") -> ConfigDict:
    """Return the config of one of the settings 'a', 'b', 'c'."""
    if setting not in SETTINGS:
        raise ValueError(f"unknown setting {setting!r}; expected 'a', 'b' or 'c'")
    config = inception.three_stages()
    config.recipe = f"paper_{setting}"
    config.model.update(name="baseline", dropout=0.25)
    config.init.weights = ""  # random parameters
    config.data.split = "reversed" if setting == "c" else "official"
    config.data.shortest_side = 40
    config.eval.size = 32
    config.test_time.update(views=((32, 1.0),), hflip=False)
    train = paper.stage(
        config.stages.finetune,
        epochs=100,
        batch_size=32,
        optimizer="rmsprop",
        optimizer_options=(("eps", 1e-7),),
        learning_rate=1e-3,
        partition=((".*", 1.0),),
        early_stopping={"patience": 20},
        augment={"enabled": setting != "a", "size": 32},
    )
    config.stage_order = ("train",)
    config.stages = ConfigDict({"train": train})
    paper.squash(config)
    return config
