r"""Define a config for tests: the recipe of configs/inception.py on a narrow network.

    python -m scripts.train --config=tests/tiny_config.py --config.data.dir=DIR \
        --config.init.weights=FILE
"""

from configs import inception
from tests import fixtures


def make_small(config):
    """Change the network of a config to `small`, which trains in seconds."""
    config.model.update(name="small", width=0.5)
    config.init.weights = ""
    config.data.shortest_side = 32
    config.eval.update(size=32, batch_size=8)
    config.test_time.views = ((32, 1.0),)
    config.stages.head.update(epochs=1, validate_every=1)
    config.stages.finetune.partition = (("head/.*", 3.0), ("backbone/.*", 1.0))
    config.stages.finetune.update(epochs=1, validate_every=1)
    config.stages.finetune.augment.size = 32
    return config


def get_config():
    """Return a config with two epochs of each stage, on images of 80 pixels."""
    config = inception.three_stages()
    config.recipe = "tiny"
    config.model.width = fixtures.NARROW_WIDTH
    config.data.verify = False
    config.data.shortest_side = 80
    config.eval.update(size=80, batch_size=8)
    config.test_time.update(views=((80, 1.0),), hflip=False)
    config.stages.head.update(epochs=2, batch_size=8, validate_every=1)
    config.stages.finetune.update(epochs=2, batch_size=8, validate_every=1)
    config.stages.finetune.augment.size = 80
    config.stages.settle.epochs = 0
    return config
