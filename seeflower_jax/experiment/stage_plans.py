"""Plan a stage: its step, its batches and its validation.

    start = Start(settings, folder, dataset, spec, variables, ...)
    plan, state = plan_stage(start, settings.stages[0], variables)

A stage that trains the head alone trains on features, which are computed once.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray

from seeflower_jax import models, records, sharding
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.loader import (
    Annotated,
    FeatureReader,
    InTurns,
    Reader,
    TrainLoader,
)
from seeflower_jax.data.packed import PackedReader
from seeflower_jax.data.resident import ResidentLoader, Store, is_resident, put
from seeflower_jax.evaluation import metrics
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import head_features
from seeflower_jax.experiment.settings import Settings
from seeflower_jax.experiment.teacher import Teacher
from seeflower_jax.pretrained.types import WeightRecord
from seeflower_jax.sharding import processes
from seeflower_jax.training import partition, ridge, step
from seeflower_jax.training.losses import Loss, log_prior
from seeflower_jax.training.optimizer import make_optimizer
from seeflower_jax.training.plan import Batches, StagePlan
from seeflower_jax.training.profiling import Trace
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.state import TrainState, create_state

_DRAWS = 2**32 - 1  # folded into the key of a stage; no step has this number


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """The values that all stages of a run share.

    Attributes:
      settings: typed values of the config.
      folder: the run directory.
      dataset: images of the run.
      spec, variables: the network before the first stage.
      weights: record of the origin of the variables.
      preprocess: whitening, or None.
      teacher: logits that the network learns from, or None.
      mesh: the devices, from `sharding.make_mesh`.
      provenance: command, code, versions and device of this call.
      checkpoint_seconds: time between checkpoints, see `StagePlan`.
      traced_steps: number of steps of each stage in a trace in `profile/`.
    """

    settings: Settings
    folder: pathlib.Path
    dataset: Dataset
    spec: models.ModelSpec
    variables: dict
    weights: WeightRecord
    preprocess: Callable | None
    teacher: Teacher | None
    mesh: Mesh
    provenance: dict
    checkpoint_seconds: float
    traced_steps: int = 0

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Return an evaluator with the single view that a prediction uses."""
        return Evaluator(
            self.spec,
            (self.settings.view,),
            self.settings.batch_size,
            self.mesh,
            preprocess=self.preprocess,
        )

    @functools.cached_property
    def store(self) -> Store | None:
        """Return the training images on the devices; None if they stay on the host."""
        choice, cache = self.settings.data.on_device, self.dataset.cache
        indices = self.dataset.indices("train")
        if not processes.agree(is_resident(choice, cache, indices, self.mesh)):
            return None
        return put(cache, indices, self.mesh)

    @functools.cached_property
    def targets(self) -> dict[str, np.ndarray]:
        """Return the arrays that join the labels in a batch, a row for each image."""
        return {"teacher": self.teacher.by_index(self.dataset)} if self.teacher else {}

    @functools.cached_property
    def loss(self) -> Loss:
        """Return the loss of the stages that are trained by gradients."""
        strength, adjustment = self.settings.data.logit_adjustment, None
        if strength:
            labels = self.dataset.labels("train")
            adjustment = log_prior(labels, self.spec.num_classes, strength)
        return Loss(adjustment, self.settings.distillation)

    @property
    def description(self) -> dict:
        """Return the values that a program needs to use a checkpoint."""
        return {
            "spec": self.spec.to_dict(),
            "class_names": list(self.dataset.source.class_names),
            "view": self.settings.view.to_dict(),
            "config_hash": self.settings.config_hash,
            "weights": self.weights,
            "teacher": self.teacher.sha256 if self.teacher else None,
            "provenance": self.provenance,
        }


def plan_stage(
    start: Start, stage: Stage, variables: dict
) -> tuple[StagePlan, TrainState]:
    """Return the plan of a stage, and its state before the first step."""
    settings, dataset, spec = start.settings, start.dataset, start.spec
    key = jax.random.fold_in(jax.random.key(settings.seed), 1 + stage.index)
    on_features = (
        (stage.augmentation is None or stage.draws > 0)
        and stage.freezes_backbone(spec.head)
        and not stage.train_batch_stats
    )
    reader: Reader = dataset.reader  # reads the validation images
    training: list[Reader] = []  # read features
    if stage.draws:
        training, reader = _drawn_features(start, stage, variables, key)
    elif on_features:
        reader, rows = _head_features(start, stage, variables)
        training = [reader]
    batches: Batches
    if stage.solver == "ridge":
        logits = start.teacher.logits if start.teacher else None
        batches = ridge.WholeSplit(rows, dataset.labels("train"), logits)
        stage = dataclasses.replace(stage, batch_size=len(batches.labels))
        schedule, optimizer = optax.constant_schedule(0.0), optax.identity()
        step_fn = ridge.make_ridge_step(spec, settings.balanced, settings.distillation)
    else:
        batches = (
            _feature_batches(start, stage, training)
            if training
            else _image_batches(start, stage)
        )
        schedule = stage.schedule(stage.epochs * batches.steps_per_epoch)
        optimizer = make_optimizer(stage, schedule)
        if on_features:
            step_fn = step.make_feature_step(spec, stage, optimizer, start.loss)
        else:
            step_fn = step.make_image_step(
                spec, stage, optimizer, start.preprocess, start.loss
            )
        step_fn = step.compile_step(step_fn, stage.batch_size, start.mesh)

    def validate(variables: dict) -> dict:
        indices = dataset.indices("validation")
        logits = start.evaluator.logits(variables, reader, indices)
        return processes.agree(metrics.compute(logits, dataset.labels("validation")))

    plan = StagePlan(
        stage=stage,
        step=step_fn,
        batches=batches,
        validate=validate if "validation" in dataset.source.splits else None,
        metric=settings.metric,
        key=key,
        learning_rate=schedule,
        description=start.description,
        checkpoint_seconds=start.checkpoint_seconds,
        trace=_trace(start, stage),
    )
    return plan, create_state(variables, stage, optimizer)


def _trace(start: Start, stage: Stage) -> Trace | None:
    """Return the trace of a stage; None if this process writes no trace."""
    if not start.traced_steps or not processes.is_main():
        return None
    return Trace(start.folder / "profile" / stage.name, start.traced_steps)


def _image_batches(start: Start, stage: Stage) -> TrainLoader | ResidentLoader:
    """Return the batches of a stage that trains on images."""
    dataset = start.dataset
    if stage.augmentation is None:
        reader: Reader = dataset.reader
    else:
        reader = PackedReader(dataset.cache, dataset.indices("train"))
    for name, rows in start.targets.items():
        reader = Annotated(reader, name, rows)
    batches = train_loader(stage, start.settings, dataset, reader)
    if stage.augmentation is None or start.store is None:
        return batches
    return ResidentLoader(batches, start.store, start.targets)


def _feature_batches(
    start: Start, stage: Stage, readers: Sequence[Reader]
) -> TrainLoader | InTurns:
    """Return batches of features; the epochs alternate between the readers."""
    for name, rows in start.targets.items():
        readers = [Annotated(reader, name, rows) for reader in readers]
    loaders = [
        train_loader(stage, start.settings, start.dataset, reader) for reader in readers
    ]
    return loaders[0] if len(loaders) == 1 else InTurns(tuple(loaders))


def train_loader(
    stage: Stage, settings: Settings, dataset: Dataset, reader: Reader
) -> TrainLoader:
    """Return the loader of the training examples of a stage."""
    return TrainLoader(
        reader,
        dataset.source.labels,
        dataset.indices("train"),
        stage.batch_size,
        sharding.make_mesh(),
        (settings.seed, stage.index),
        settings.data.balance,
    )


def _features_origin(start: Start, stage: Stage, variables: dict) -> str:
    """Return what the features of a stage are computed from."""
    frozen = partition.split(variables["params"], stage.rules)[1]
    computed_by = {"frozen": frozen, "batch_stats": variables["batch_stats"]}
    return (
        f"config {start.settings.config_hash}, {start.spec}, "
        f"{start.dataset.content_hash}, "
        f"variables {records.variables_hash(computed_by)}"
    )


def _drawn_features(
    start: Start, stage: Stage, variables: dict, key: PRNGKeyArray
) -> tuple[list[Reader], Reader]:
    """Return readers of the features of each draw, and of the validation images."""
    assert stage.augmentation is not None  # as the settings demand
    draws = head_features.make_draws(
        start.evaluator, stage.augmentation, jax.random.fold_in(key, _DRAWS)
    )
    return head_features.compute_draws(
        start.folder / f"features_{stage.name}.npy",
        _features_origin(start, stage, variables),
        start.dataset,
        variables,
        start.evaluator,
        [draws(number) for number in range(stage.draws)],
    )


def _head_features(
    start: Start, stage: Stage, variables: dict
) -> tuple[FeatureReader, Float[np.ndarray, "m c"]]:
    """Return the features that a stage of the head alone trains on."""
    settings, origin = start.settings, _features_origin(start, stage, variables)
    single = training = start.evaluator
    if stage.all_views:
        training = dataclasses.replace(
            single, views=settings.views, mirror=settings.mirror
        )
    path = start.folder / f"features_{stage.name}.npy"
    return head_features.compute(
        path, origin, start.dataset, variables, single, training
    )
