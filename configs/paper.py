"""The recipe of the paper's own code: what its networks share.

    python -m scripts.train --config=configs/inception.py:paper
    python -m scripts.train --config=configs/inception.py:corrected

`paper` is what the author's code does, as far as a result could depend on it: pictures
are squashed to squares, and every network gets values in [0, 1], also those whose
weights expect others. `corrected` differs in these two points alone. The augmentation
is the code's; its ZCA whitening was never fitted there and so did nothing.

Left as they are here: pictures are resized by Lanczos and bilinear interpolation, not
to the nearest pixel; those of the validation are not augmented; and the decay of 1e-6
a step that SGD has there, 2.5 % in all, is absent.
"""

from ml_collections import ConfigDict

from seeflower_jax import hints

RECIPES = ("paper", "corrected")


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Refuses a variant that a config does not have, with the nearest one it has."""
    if variant not in known:
        hint = hints.did_you_mean(variant, known)
        raise ValueError(f"unknown variant {variant!r}; there are {known}{hint}")


def stage(like: ConfigDict, **changes) -> ConfigDict:
    """A stage with the code's augmentation and stopping, and without what it lacks.

    Args:
      like: a stage, for the keys that are neither set here nor in `changes`.
      **changes: what the stage has of its own.
    """
    config = like.copy_and_resolve_references()
    config.update(
        optimizer="adam",
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
    """Squashes pictures to squares, in training and evaluation, whole as they are."""
    config.eval.keep_aspect = False
    for name in config.stage_order:
        config.stages[name].augment.keep_aspect = False


def change(config: ConfigDict, recipe: str, **stages: ConfigDict) -> ConfigDict:
    """Turns the config of an ImageNet network into a recipe of the paper.

    Args:
      config: changed in place; its head is the caller's.
      recipe: of `RECIPES`.
      **stages: in their order.
    """
    config.recipe = recipe
    config.metric = "loss"
    config.eval.update(size=0, crop=1.0)
    config.test_time = ConfigDict({"views": ((0, 1.0),), "hflip": False})
    config.stage_order = tuple(stages)
    config.stages = ConfigDict(stages)
    if recipe == "paper":
        config.model.preprocess = "unit"
        squash(config)
    return config
