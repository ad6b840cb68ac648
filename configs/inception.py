"""Train Inception-v3 on Oxford 102 Flowers, official split.

    python -m scripts.train --config=configs/inception.py

The recipe has the paper's two stages, which train first the head alone and then the
network, in the run directory `pretraining/`. The head of the recipe `linear` then
replaces the head. Seed 0 has test top-1 0.9540 and mean class accuracy 0.9616, from
approximate ImageNet weights. On two CPU cores, the training takes 36 minutes and the
evaluation 32 minutes. `linear` alone trains in 5 minutes, with test top-1 0.9510 and
mean class accuracy 0.9593.
"""

from ml_collections import ConfigDict

from configs import base, paper

VARIANTS = ("best", "linear", "three_stages", "short", "zca", *paper.RECIPES)

_POOLED = ("mixed[3-8]_.*",)  # the convolutions that the head of `linear` reads


def get_config(variant: str = "best") -> ConfigDict:
    """Return the config of the run; configs/base.py has all keys.

    Args:
      variant: name of the recipe. `base.linear` describes 'linear', and `three_stages`
        describes 'three_stages'. 'short' is 'three_stages' with few epochs, for the
        reversed split on a CPU. 'zca' is 'best' with whitened images. configs/paper.py
        describes 'paper' and 'corrected'.
    """
    paper.check_variant(variant, VARIANTS)
    config = three_stages()
    if variant == "linear":
        return base.linear(config, _POOLED)
    if variant in paper.RECIPES:
        return _paper(config, variant)
    if variant == "three_stages":
        config.recipe = variant
        return config
    if variant == "short":
        config.recipe = variant
        config.stages.head.epochs = 30
        config.stages.finetune.update(epochs=4, validate_every=4)
        config.stages.settle.update(epochs=1, validate_every=1)
        return config
    if variant == "zca":
        config.recipe = variant
        config.whitening.enabled = True
    # Fine-tuning takes few epochs, on images of about the size of the evaluation.
    head, finetune = config.stages.head, config.stages.settle
    head.epochs = 30
    finetune.update(epochs=6, validate_every=6)
    config.stage_order = ("head", "finetune")
    config.stages = ConfigDict({"head": head, "finetune": finetune})
    return base.linear_after_tuning(config, _POOLED)


def three_stages() -> ConfigDict:
    """Return the config of long fine-tuning, which other configs start from.

    It trains the head on `mixed10`, then the network on small, mixed crops, and then
    the network on larger images.
    """
    config = base.get_config()
    head = base.get_stage()
    finetune = base.get_stage()
    finetune.epochs = 28
    finetune.batch_size = 34
    # The stem (edge and colour filters) is frozen. Without its gradients, a step takes
    # two thirds of the time on a CPU.
    finetune.partition = (
        ("head/.*", 3.0),
        ("backbone/mixed.*", 1.0),
        ("backbone/Conv2d.*", None),
    )
    finetune.learning_rate = 2e-4
    finetune.warmup_steps = 30
    finetune.weight_decay = 0.05
    finetune.ema_decay = 0.99
    finetune.validate_every = 14
    finetune.augment.enabled = True

    # Small, mixed crops differ from the images of the evaluation. Training therefore
    # ends on larger, unmixed images at about the size of the evaluation.
    settle = finetune.copy_and_resolve_references()
    settle.epochs = 14
    settle.learning_rate = 1e-4
    settle.warmup_steps = 10
    settle.ema_decay = 0.98
    settle.validate_every = 7
    settle.augment.update(size=288, crop_area=(0.5, 1.0), mixup=0.0, cutmix=0.0)

    config.stage_order = ("head", "finetune", "settle")
    config.stages = ConfigDict({"head": head, "finetune": finetune, "settle": settle})
    return config


def _paper(config: ConfigDict, recipe: str) -> ConfigDict:
    """Return the recipe of the paper's code: three epochs of the head, then all layers.

    The function changes `config` in place.
    """
    config.model.dropout = 0.0
    head = paper.stage(
        config.stages.head,
        epochs=3,
        batch_size=16,
        learning_rate=1e-4,
        train_batch_stats=True,
        # In training, Keras of 2018 normalised even frozen layers by batch statistics.
        keep_batch_stats=True,
    )
    finetune = paper.stage(
        config.stages.finetune,
        epochs=200,
        batch_size=16,
        learning_rate=1e-5,
        partition=((".*", 1.0),),
        train_batch_stats=True,
    )
    return paper.change(config, recipe, head=head, finetune=finetune)
