r"""Pretrain on a folder of outside images, then train on Oxford 102 Flowers.

    python -m scripts.train --config=configs/outside_data.py \
        --config.init.pretraining.data.dir=DIR

`DIR/<class>/*.jpg` holds the outside images, in classes of any names. The pretraining
run starts from ImageNet weights. It trains a head for these classes, and then the
network. The main run starts from this network, with a new head for the flowers.
"""

from ml_collections import ConfigDict

from configs import inception


def get_config() -> ConfigDict:
    """Return the config of the run; configs/inception.py has the other values."""
    config = inception.three_stages()
    config.recipe = "outside_data"
    config.init.pretraining = ConfigDict(
        {
            "data": {"source": "folder", "dir": "", "split": "official"},
            "stage_order": ("head", "finetune"),
        }
    )
    return config
