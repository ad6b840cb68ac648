"""Read a config once, into typed, frozen, validated values.

    settings = read_settings(config)        # a ConfigDict or nested dicts
    settings.stages[0].learning_rate, settings.view.size, settings.spec(num_classes=102)

Every value is checked before data or weights are read. The error has a line for each
wrong value, with its key, the value and the expected values.
"""

import copy
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from seeflower_jax import models, records
from seeflower_jax.data.augmentation import Augmentation
from seeflower_jax.data.balance import NONE
from seeflower_jax.data.sources import DataSettings
from seeflower_jax.data.view import View
from seeflower_jax.experiment import precision
from seeflower_jax.experiment.checks import check_values
from seeflower_jax.experiment.stage_checks import check_stage
from seeflower_jax.inference.run import Run
from seeflower_jax.training.losses import Distillation
from seeflower_jax.training.stages import SOLVERS, Stage

# Keys of `data` that say which images a run has, and in which splits.
_IMAGES = ("source", "dir", "split", "species", "images_per_class", "seed")


class SettingsError(ValueError):
    """A config has values that are not allowed."""


@dataclasses.dataclass(frozen=True)
class WhiteningSettings:
    """The arguments of `data.whitening.fit`."""

    patch_size: int
    patches_per_image: int
    epsilon: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """The typed values of a config.

    Attributes:
      recipe: name of the recipe, for records.
      seed: seed of all random numbers.
      metric: metric that selects the best variables.
      model: name of the network.
      model_changes: attributes of the network's `ModelSpec` that the config sets.
      weights: initial weights, as `pretrained.loading.load_pretrained` takes them.
      head: which layers of a weight file's head are loaded, one of
        `pretrained.loading.HEADS`.
      pretraining: config values that differ in the pretraining run; {} if there is no
        pretraining.
      pretrained_share: where the run starts on the line from the weights before the
        pretraining (0) to the weights after it (1).
      teacher: file of a teacher's logits; '' if there is none.
      distillation: how the network learns from the teacher; None if there is none.
      device: how the devices compute.
      data: the images of the run.
      whitening: how to fit the whitening; None if the run has no whitening.
      view: what the network sees of an image.
      views: test-time views; their logits are averaged for the result.
      mirror: whether the mirror image of each test-time view is averaged too.
      batch_size: number of images in a batch of the evaluation.
      stages: settings of the stages in order, without stages of 0 epochs.
      config: the whole config, as JSON represents it.
    """

    recipe: str
    seed: int
    metric: str
    model: str
    model_changes: Mapping[str, Any]
    weights: str
    head: str
    pretraining: Mapping[str, Any]
    pretrained_share: float
    teacher: str
    distillation: Distillation | None
    device: precision.DeviceSettings
    data: DataSettings
    whitening: WhiteningSettings | None
    view: View
    views: tuple[View, ...]
    mirror: bool
    batch_size: int
    stages: tuple[Stage, ...]
    config: dict

    @property
    def config_hash(self) -> str:
        """Return the hash of the config without its local paths."""
        return records.config_hash(self.config)

    def spec(self, num_classes: int) -> models.ModelSpec:
        """Return the spec of the network for a number of classes."""
        changes = {**self.model_changes, "num_classes": num_classes}
        return models.get_spec(self.model, **changes)

    @property
    def balanced(self) -> bool:
        """Return whether training weights all classes equally."""
        return self.data.balance != NONE or self.data.logit_adjustment > 0

    @property
    def averages_views(self) -> bool:
        """Return whether the result uses other views than a prediction."""
        return self.views != (self.view,) or self.mirror


def derive(config: Mapping, changes: Mapping) -> dict:
    """Return the config of a run that differs from a main run in some values.

    Args:
      config: config of the main run; its pretraining and its quick start are left out.
        So is its teacher if the images differ.
      changes: nested dicts of the values that differ.
    """
    derived = copy.deepcopy(records.to_dict(config))
    derived.pop("quickstart", None)
    changes = records.to_dict(changes)
    data, changed = derived["data"], changes.get("data", {})
    if not isinstance(changed, Mapping) or any(
        changed.get(key, data.get(key)) != data.get(key) for key in _IMAGES
    ):
        derived.pop("distillation", None)
    derived["init"] |= {"pretraining": {}, "pretrained_share": 1.0}

    def update(target: dict, source: Mapping) -> None:
        for key, value in source.items():
            if isinstance(value, Mapping) and isinstance(target.get(key), dict):
                update(target[key], value)
            else:
                target[key] = copy.deepcopy(value)

    update(derived, changes)
    return derived


def read_settings(config: Mapping) -> Settings:
    """Return the typed values of a config.

    Args:
      config: a ConfigDict of configs/, or nested dicts such as a run's config.json.

    Raises:
      SettingsError: if values are not allowed; the message lists all of them.
    """
    values = records.with_later_keys(records.to_dict(config))
    errors = check_values(values) or _check_order(values)
    if errors:
        raise SettingsError("\n".join(errors))
    values["model"]["dtype"] = precision.resolve(values["model"]["dtype"])
    model, data, evaluation = values["model"], values["data"], values["eval"]
    test_time, whitening = values["test_time"], dict(values["whitening"])
    distillation = dict(values["distillation"])
    teacher = distillation.pop("logits")
    enabled = whitening.pop("enabled")
    changes = {k: v for k, v in model.items() if k != "name" and v is not None}
    spec = models.get_spec(model["name"], **changes)
    view = View(
        size=evaluation["size"] or spec.input_size,
        shortest_side=data["shortest_side"],
        crop=evaluation["crop"],
        keep_aspect=evaluation["keep_aspect"],
    )
    views = tuple(
        dataclasses.replace(view, size=size or spec.input_size, crop=crop)
        for size, crop in test_time["views"]
    )
    stages = tuple(
        _read_stage(name, index, values, view, spec)
        for index, name in enumerate(values["stage_order"])
        if values["stages"][name]["epochs"] > 0
    )
    settings = Settings(
        recipe=values["recipe"],
        seed=values["seed"],
        metric=values["metric"],
        model=model["name"],
        model_changes=changes,
        weights=values["init"]["weights"],
        head=values["init"]["head"],
        pretraining=values["init"]["pretraining"],
        pretrained_share=values["init"]["pretrained_share"],
        teacher=teacher,
        distillation=Distillation(**distillation) if distillation["weight"] else None,
        device=precision.DeviceSettings(**values["device"]),
        data=DataSettings(
            **data | {"images_per_class": tuple(data["images_per_class"])}
        ),
        whitening=WhiteningSettings(**whitening) if enabled else None,
        view=view,
        views=views,
        mirror=test_time["hflip"],
        batch_size=evaluation["batch_size"],
        stages=stages,
        config=records.plain(values),
    )
    if errors := _check_together(settings, spec):
        raise SettingsError("\n".join(errors))
    return settings


def settings_of(run: Run) -> Settings:
    """Return the settings of a run.

    Raises:
      SettingsError: if its config.json has values that are not allowed.
    """
    try:
        return read_settings(run.config)
    except SettingsError as error:
        raise SettingsError(f"{run.workdir / 'config.json'}: {error}") from error


def _read_stage(
    name: str, index: int, values: Mapping, view: View, spec: models.ModelSpec
) -> Stage:
    """Return the settings of a stage; the values of the config are already checked."""
    stage = dict(values["stages"][name])
    augment, stopping = dict(stage.pop("augment")), stage.pop("early_stopping")
    size = augment.pop("size") or spec.input_size
    for key in ("crop_area", "crop_ratio"):
        augment[key] = tuple(augment[key])
    augmentation = None
    if augment.pop("enabled"):
        # Images that become much smaller need several samples for each pixel.
        oversampling = max(1, view.shortest_side // size)
        augmentation = Augmentation(size=size, oversampling=oversampling, **augment)
    return Stage(
        name=name,
        index=index,
        rules=tuple((rule, factor) for rule, factor in stage.pop("partition")),
        optimizer_options=tuple((k, v) for k, v in stage.pop("optimizer_options")),
        schedule_name=stage.pop("schedule"),
        patience=stopping["patience"],
        min_delta=stopping["min_delta"],
        augmentation=augmentation,
        view=view,
        **stage,
    )


def _check_order(values: Mapping) -> list[str]:
    """Return what is wrong with the order of the stages, as a list of lines."""
    order, stages = list(values["stage_order"]), values["stages"]
    if unknown := [name for name in order if name not in stages]:
        return [
            f"config.stage_order names {unknown}; expected names of config.stages, "
            f"which has {list(stages)}"
        ]
    if repeated := sorted({name for name in order if order.count(name) > 1}):
        return [
            f"config.stage_order names {repeated} more than once; expected each stage "
            "once"
        ]
    if not any(stages[name]["epochs"] for name in order):
        return [
            f"config.stages.*.epochs are all 0 in {order}; expected 1 or more in one"
        ]
    return []


def pretraining_of(settings: Settings) -> Settings | None:
    """Return the settings of the pretraining run of a run; None without one.

    Raises:
      SettingsError: if values are not allowed.
    """
    if not settings.pretraining:
        return None
    return read_settings(derive(settings.config, settings.pretraining))


def image_sizes(settings: Settings, spec: models.ModelSpec) -> dict[str, int]:
    """Return the sizes of all images that the network gets, by their config keys."""
    sizes = {"config.eval.size": settings.view.size}
    sizes |= {
        f"config.test_time.views[{i}]": view.size
        for i, view in enumerate(settings.views)
    }
    return sizes | {
        f"config.stages.{stage.name}.augment.size": stage.augmentation.size
        for stage in settings.stages
        if stage.augmentation
    }


def lines_of_pretraining(lines: Iterable[str], known: Collection[str]) -> list[str]:
    """Return lines about the pretraining run with its key, without `known` lines."""
    return [f"config.init.pretraining: {line}" for line in lines if line not in known]


def _check_targets(settings: Settings, solvers: Collection[str]) -> list[str]:
    """Return a line for each value of the loss that does not fit the others.

    Args:
      settings: the settings.
      solvers: the solvers of all stages, also of the pretraining run.
    """
    errors, strength = [], settings.data.logit_adjustment
    name = f"config.data.logit_adjustment is {strength}; expected 0"
    if strength and settings.data.balance != NONE:
        errors.append(
            f"{name}, because config.data.balance is {settings.data.balance!r}, which "
            "makes all classes equally frequent"
        )
    if strength and "gradient" not in solvers:
        errors.append(
            f"{name}, because no stage is trained by gradients; config.data.balance "
            "weights the classes of a closed-form head"
        )
    if strength and settings.distillation:
        errors.append(f"{name}, because config.distillation.weight is not 0")
    if bool(settings.teacher) != bool(settings.distillation):
        expected = (
            "the file of scripts.ensemble --teacher" if settings.distillation else "''"
        )
        weight = settings.config["distillation"]["weight"]
        errors.append(
            f"config.distillation.logits is {settings.teacher!r}; expected {expected}, "
            f"because config.distillation.weight is {weight}"
        )
    return errors


def _check_together(settings: Settings, spec: models.ModelSpec) -> list[str]:
    """Return a line for each combination of values that is not allowed."""
    before: Settings | None = None
    of_pretraining: list[str] = []
    solvers = {stage.solver for stage in settings.stages}
    try:
        if before := pretraining_of(settings):
            solvers |= {stage.solver for stage in before.stages}
    except SettingsError as error:
        of_pretraining = str(error).splitlines()
        solvers |= set(SOLVERS)  # Its stages may have any solver.
    errors = _check_targets(settings, solvers)
    data = settings.data
    if data.source == "folder" and not data.dir:
        errors.append(
            "config.data.dir is ''; expected the folder of the images, because "
            "config.data.source is 'folder'"
        )
    whitening, side = settings.whitening, data.shortest_side
    if whitening and whitening.patch_size > side:
        errors.append(
            f"config.whitening.patch_size is {whitening.patch_size}; expected at most "
            f"config.data.shortest_side, {side}"
        )
    if settings.head != "new" and not (settings.weights or settings.pretraining):
        errors.append(
            f"config.init.head is {settings.head!r}; expected 'new', because "
            "config.init.weights names no file"
        )
    starts = of_pretraining or (before and before.weights)
    if settings.pretrained_share != 1 and not starts:
        cause = "is {}" if not settings.pretraining else "starts from random weights"
        errors.append(
            f"config.init.pretrained_share is {settings.pretrained_share}; expected 1, "
            f"because config.init.pretraining {cause}"
        )
    for stage in settings.stages:
        errors += check_stage(stage, spec, settings.view, settings.views)
    if spec.pooling == "flatten":
        errors += [
            f"{key} is {size}; expected {spec.input_size}, the network's size, because "
            "its head takes flattened features (config.model.pooling)"
            for key, size in image_sizes(settings, spec).items()
            if size != spec.input_size
        ]
    return errors + lines_of_pretraining(of_pretraining, errors)
