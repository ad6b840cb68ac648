"""Define the recipe of the paper's own code, which its networks share.

    python -m scripts.train --config=configs/inception.py:paper
    python -m scripts.train --config=configs/inception.py:corrected
    python -m scripts.train --config=configs/vgg16.py:top_only

`paper` repeats the steps of the author's code. Images are squashed to squares. Every
network gets pixel values in [0, 1], even if its weights expect another range.
`corrected` differs only in these two points. The augmentation is the same as in the
code. The code also requested ZCA whitening but never fitted it, so the whitening had no
effect.

`top_only` is the code's head on a frozen VGG, and `top_only_corrected` differs from it
in the same two points. The code augments each image anew in each epoch. Here, the
features of five augmented draws of each image are computed once, and the epochs
alternate between the draws.

Five differences from the code remain. Images are resized by Lanczos and linear
interpolation, not to the nearest pixel. Validation images are not augmented. SGD does
not decay the learning rate by 1e-6 a step, which is 2.5 % in total. Adam's epsilon is
1e-8, not the 1e-7 of Keras. The initial kernels of the hidden layers `fc1` and `fc2`
have LeCun's normal distribution, not Glorot's uniform distribution.
"""

from ml_collections import ConfigDict

from seeflower_jax import hints

RECIPES = ("paper", "corrected")
TOP_ONLY = ("top_only", "top_only_corrected")


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Raise an error if a config has no such variant, and suggest the nearest name."""
    if variant not in known:
        hint = hints.did_you_mean(variant, known)
        raise ValueError(f"unknown variant {variant!r}; known are {known}{hint}")


def stage(like: ConfigDict, **changes) -> ConfigDict:
    """Return a stage with the augmentation and the early stopping of the code.

    Args:
      like: a stage with the values that neither this function nor `changes` sets.
      **changes: the values of the returned stage only.
    """
    config = like.copy_and_resolve_references()
    config.update(
        optimizer="adam",
        optimizer_options=(),
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        clip_norm=0.0,
        label_smoothing=0.0,
        ema_decay=0.0,
        validate_every=1,
        early_stopping={"patience": 20, "min_delta": 0.002},
        augment=dict(
            enabled=True,
            size=0,
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
        ),
    )
    config.update(changes)
    return config


def squash(config: ConfigDict) -> None:
    """Set a config to squash whole images to squares, in training and evaluation."""
    config.eval.keep_aspect = False
    for name in config.stage_order:
        config.stages[name].augment.keep_aspect = False


def change(config: ConfigDict, recipe: str, **stages: ConfigDict) -> ConfigDict:
    """Turn the config of an ImageNet network into a recipe of the paper.

    Args:
      config: config that is changed in place; the caller sets its head.
      recipe: name of the recipe, one of `RECIPES` or of `TOP_ONLY`.
      **stages: the stages by name, in order.
    """
    config.recipe = recipe
    config.metric = "loss"
    config.eval.update(size=0, crop=1.0)
    config.test_time.update(views=((0, 1.0),), hflip=False)
    config.stage_order = tuple(stages)
    config.stages = ConfigDict(stages)
    if recipe in ("paper", "top_only"):
        config.model.preprocess = "unit"
        squash(config)
    return config


def top_only(config: ConfigDict, recipe: str, **stage_changes) -> ConfigDict:
    """Turn the config of a VGG into the code's training of the head alone.

    In the code, `train_vgg16.py` and `train_vgg19.py` do this training. They select the
    best variables by validation accuracy.

    Args:
      config: config that is changed in place; the caller sets its head.
      recipe: name of the recipe, one of `TOP_ONLY`.
      **stage_changes: values of the stage.
    """
    top = stage(
        config.stages.head,
        batch_size=32,
        draws=5,
        early_stopping={"patience": 30, "min_delta": 0.002},
        **stage_changes,
    )
    change(config, recipe, top=top)
    config.metric = "top1"
    return config
