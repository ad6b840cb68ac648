"""The recipe of the paper's own code: what its networks share.

    python -m scripts.train --config=configs/inception.py:paper
    python -m scripts.train --config=configs/inception.py:corrected

`paper` is what the author's code does, as far as a result could depend on it. Images
are squashed to squares. Every network gets values in [0, 1], even if its weights expect
others. `corrected` differs in these two points alone. The augmentation is that of the
code; its ZCA whitening was never fitted there and so did nothing.

Three differences from the code remain. Images are resized by Lanczos and linear
interpolation, not to the nearest pixel. Validation images are not augmented. SGD has no
decay of 1e-6 a step, 2.5 % in all.
"""

from ml_collections import ConfigDict

from seeflower_jax import hints

RECIPES = ("paper", "corrected")


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Refuse a variant that a config does not have; suggest the nearest it has."""
    if variant not in known:
        hint = hints.did_you_mean(variant, known)
        raise ValueError(f"unknown variant {variant!r}; known are {known}{hint}")


def stage(like: ConfigDict, **changes) -> ConfigDict:
    """Return a stage with the augmentation and the stopping of the code.

    Args:
      like: a stage, for the keys that are set neither here nor in `changes`.
      **changes: the values of this stage alone.
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
    """Squash whole images to squares, in training and evaluation."""
    config.eval.keep_aspect = False
    for name in config.stage_order:
        config.stages[name].augment.keep_aspect = False


def change(config: ConfigDict, recipe: str, **stages: ConfigDict) -> ConfigDict:
    """Turn the config of an ImageNet network into a recipe of the paper.

    Args:
      config: changed in place; the caller sets its head.
      recipe: of `RECIPES`.
      **stages: in their order.
    """
    config.recipe = recipe
    config.metric = "loss"
    config.eval.update(size=0, crop=1.0)
    config.test_time.update(views=((0, 1.0),), hflip=False)
    config.stage_order = tuple(stages)
    config.stages = ConfigDict(stages)
    if recipe == "paper":
        config.model.preprocess = "unit"
        squash(config)
    return config
