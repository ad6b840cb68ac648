"""VGG19 on Oxford 102 Flowers, official split: the recipe and heads of VGG16.

python -m scripts.train --config=configs/vgg19.py
"""

from ml_collections import ConfigDict

from configs import vgg16


def get_config() -> ConfigDict:
    """The config of the run; all but the network is as in configs/vgg16.py."""
    config = vgg16.get_config()
    config.model.name = "vgg19"
    return config
