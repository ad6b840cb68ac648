"""A whole run, from its config to its result.

    result = train(config, workdir, command="python -m scripts.train ...")
    run = load_run(workdir)          # any run directory, for every other script

This module connects the rooms; what each does is in the room.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

import jax
import ml_collections
import numpy as np
import tqdm

from seeflower_jax import data, models, records
from seeflower_jax.data import loader, whitening
from seeflower_jax.data.cache import PixelCache, open_cache
from seeflower_jax.evaluation import calibration, metrics, predict
from seeflower_jax.network import Network
from seeflower_jax.pretrained import converted, loading
from seeflower_jax.training import loop, partition, stages
from seeflower_jax.training import step as steps
from seeflower_jax.training.checkpoint import Checkpoints

# What a trained run may change: only its result is computed again.
_AFTER_TRAINING = "test_time"


def _claim_workdir(config, workdir: pathlib.Path) -> None:
    """Writes the config into a new run directory, or compares it with the one there."""
    path = workdir / "config.json"
    if path.exists():
        there, here = json.loads(path.read_text()), records.plain(config)
        old, new = dict(records.flat(there)), dict(records.flat(here))
        free = {f"{section}.{key}" for section, key in records.LOCAL_KEYS}
        if config.data.source == "folder":  # other folders hold other pictures
            free.remove("data.dir")
        done = there["stage_order"]
        if here["stage_order"][: len(done)] == done:  # further stages may be added
            free.add("stage_order")
            free |= {k for k in new if k.startswith("stages.") and k not in old}
        differing = "\n".join(
            f"  config.{key}: {old.get(key, 'absent')} there, "
            f"{new.get(key, 'absent')} now"
            for key in sorted(old | new)
            if old.get(key, ...) != new.get(key, ...)
            and key not in free
            and not key.startswith(f"{_AFTER_TRAINING}.")
        )
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config:\n{differing}\n"
                "Give another --workdir, or the same config to go on with that run"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    records.write_json(path, config.to_dict())


def load_preprocess(config, workdir: pathlib.Path) -> Callable | None:
    """What a run applies to cropped pictures, whitening or nothing."""
    if "whitening" not in config:
        return None
    return whitening.load(workdir / whitening.FILE_NAME)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A labelled source with its decoded pixels, as the loader reads them.

    Attributes:
      source: labels, splits, names.
      cache: decoded pictures by index.
      reader: reads batches of pixels.
      preprocess: what is applied to cropped pictures, whitening or nothing.
    """

    source: data.ImageSource
    cache: PixelCache
    reader: loader.PictureReader
    preprocess: Callable | None

    @classmethod
    def open(cls, config, workdir: pathlib.Path) -> "Pictures":
        """Loads what `config.data` describes; decodes and fits what was not yet.

        Raises:
          ValueError: if the run was trained on pictures of other names; and what
            loading raises.
        """
        source = data.load(config.data)
        path, now = workdir / "data.json", source.describe()
        if not path.exists():
            records.write_json(path, now)
        there = json.loads(path.read_text())
        if there != now:
            raise ValueError(
                f"{workdir} was trained on other pictures than there are now:\n"
                f"  {there} there\n  {now} now\n"
                "Bring them back as they were, or train again in another --workdir"
            )
        cache = open_cache(
            source, config.data.shortest_side, config.data.cache_dir or None
        )
        path = workdir / whitening.FILE_NAME
        if "whitening" in config and not path.exists():
            train = (cache[index] for index in source.splits["train"])
            whitening.fit(train, config.seed, **config.whitening).save(path)
        return cls(
            source, cache, loader.PictureReader(cache), load_preprocess(config, workdir)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Network):
    """A trained network, on pictures as its evaluation sees them.

    Attributes:
      workdir: the run directory.
      config: its config.
      step: of the run, that the variables, the best by validation, are from.
    """

    workdir: pathlib.Path
    config: ml_collections.ConfigDict
    step: int

    @classmethod
    def of(
        cls,
        workdir: pathlib.Path,
        config: ml_collections.ConfigDict,
        spec: models.ModelSpec,
        **known,
    ) -> "Run":
        """A run whose config tells what pictures its network takes."""
        view = config.eval
        return cls(
            workdir=workdir,
            config=config,
            spec=spec,
            origin=str(workdir.resolve()),
            size=view.size or spec.input_size,
            crop=view.crop,
            keep_aspect=predict.keeps_aspect(view),
            shortest_side=config.data.shortest_side,
            preprocess=load_preprocess(config, workdir),
            **known,
        )


def _rows(
    compute, name, config, variables, pictures, indices, mesh
) -> Iterator[np.ndarray]:
    """Rows of `compute` for some pictures, a batch at a time, with a progress bar."""
    with tqdm.tqdm(total=len(indices), desc=name, unit="image") as bar:
        for rows in predict.stream(
            compute,
            loader.replicate(variables, mesh),
            pictures.reader,
            indices,
            config.eval.batch_size,
            mesh,
        ):
            bar.update(len(rows))
            yield rows


def _compute_logits(run: Run, pictures: Pictures, split: str, predictor) -> np.ndarray:
    """What a predictor gives for a split, [N, num_classes]."""
    indices, mesh = pictures.source.splits[split], loader.make_mesh()
    rows = _rows(predictor, split, run.config, run.variables, pictures, indices, mesh)
    return np.concatenate(list(rows))


def _logits(run: Run, pictures: Pictures, split: str) -> np.ndarray:
    """Logits [N, num_classes] of a split, averaged over the test-time views.

    They are kept in a file of the run with what they are of: the config, the pictures
    and the step of the variables.
    """
    path, config = run.workdir / f"logits_{split}.npz", run.config
    of = (
        f"config {records.config_hash(config)}, {pictures.source.fingerprint}, "
        f"step {run.step}"
    )
    if path.exists():
        with np.load(path) as kept:
            if kept["of"] == of:
                return kept["logits"]
    predictor = predict.make_predictor(
        run.spec, config.eval, pictures.preprocess, config.test_time
    )
    logits = _compute_logits(run, pictures, split, predictor)
    partial = path.with_name("partial_" + path.name)
    np.savez(partial, logits=logits, of=of)
    os.replace(partial, path)
    return logits


def _stage_features(spec, config, variables, pictures, mesh, path):
    """Features of all training and validation pictures, kept in a file of the run."""
    splits = pictures.source.splits
    indices = np.concatenate([splits["train"], splits.get("validation", [])])
    indices = indices.astype(np.int64)
    if not path.exists():
        compute = predict.make_feature_extractor(spec, config.eval, pictures.preprocess)
        partial, features, done = path.with_name("partial_" + path.name), None, 0
        for rows in _rows(
            compute, "features", config, variables, pictures, indices, mesh
        ):
            if features is None:
                shape = len(indices), rows.shape[1]
                features = np.lib.format.open_memmap(partial, "w+", rows.dtype, shape)
            features[done : done + len(rows)] = rows
            done += len(rows)
        features.flush()
        os.replace(partial, path)
    return loader.FeatureReader(np.load(path, mmap_mode="r"), indices)


def _run_stage(stage, spec, config, variables, pictures, mesh, resume, **run):
    """Trains one stage; `resume` says whether the latest checkpoint is of it."""
    checkpoints, progress, workdir = run["checkpoints"], run["progress"], run["workdir"]
    splits, labels = pictures.source.splits, pictures.source.labels
    reader = pictures.reader
    if stage.freezes_backbone(spec.head) and not stage.config.augment.enabled:
        path = workdir / f"features_{stage.name}.npy"
        reader = _stage_features(spec, config, variables, pictures, mesh, path)
    per_epoch = loader.steps_per_epoch(len(splits["train"]), stage.config.batch_size)
    optimizer = partition.make_optimizer(
        stage.config,
        stage.rules,
        stage.schedule(stage.config.epochs * per_epoch),
    )
    state = steps.create_state(
        variables, stage.rules, optimizer, stage.config.ema_decay
    )
    state = loader.replicate(state, mesh)
    if resume:
        state = checkpoints.restore_latest(state)

    predictor = predict.make_predictor(spec, config.eval, pictures.preprocess)

    def validate(variables):
        logits = predict.run(
            predictor,
            variables,
            reader,
            splits["validation"],
            config.eval.batch_size,
            mesh,
        )
        return metrics.evaluate(logits, labels[splits["validation"]])

    def batches(start, stop):
        return loader.train_batches(
            reader,
            labels,
            splits["train"],
            stage.config.batch_size,
            mesh,
            seed=(config.seed, stage.index),
            start=start,
            stop=stop,
        )

    loop.fit(
        stage,
        state,
        jax.jit(
            steps.make_train_step(spec, stage.config, optimizer, pictures.preprocess)
        ),
        batches,
        validate if "validation" in splits else None,
        progress,
        per_epoch,
        checkpoints,
        run["log"],
        run["meta"] | {"stage": stage.name},
        config.metric,
        jax.random.fold_in(jax.random.key(config.seed), 1 + stage.index),
        run["checkpoint_seconds"],
    )


def derive(config, changes) -> ml_collections.ConfigDict:
    """The config of a run that serves another's: as that one, but for `changes`."""
    plain = config.to_dict()
    plain["init"].pop("pretraining", None)
    plain.pop("quickstart", None)
    derived = ml_collections.ConfigDict(plain)
    derived.update(changes.to_dict())
    return derived


def _pretrain(config, workdir: pathlib.Path, **options) -> str:
    """Trains what `config.init.pretraining` describes; the folder of its weights."""
    derived = derive(config, config.init.pretraining)
    train(derived, workdir, **options)
    folder = workdir / "weights"
    if not (folder / "model.json").exists():  # which is written last
        shutil.rmtree(folder, ignore_errors=True)
        source = {"name": workdir.name, "sha256": None, "exact": None}
        source["config_hash"] = records.config_hash(derived)
        run = load_run(workdir)
        converted.save(folder, run.spec, run.variables, source)
    return str(folder)


def train(
    config,
    workdir: str | os.PathLike,
    command: str = "",
    checkpoint_seconds: float = 300.0,
    test: bool = True,
) -> dict:
    """Runs all stages of a config, evaluates the best variables, records the result.

    A run directory of the same config is gone on with, also if the config has further
    stages now; a finished one is only read, or evaluated again if `config.test_time` is
    another one now.

    Args:
      config: of configs/. With `init.pretraining`, which has what another run has
        otherwise than this one, that run is trained in `pretraining/` first, and its
        best variables are the weights.
      workdir: the run directory.
      command: what was typed, for the record.
      checkpoint_seconds: how often the latest state is saved, besides at a stage's end.
      test: whether the test split is looked at too. Where runs are compared to choose
        between them, only what was chosen should see it, in a later call.

    Returns:
      The content of `result.json`.

    Raises:
      ValueError: for a config that is not consistent, and for a run directory of
        another config; and what loading data and weights raises.
    """
    workdir = pathlib.Path(workdir).expanduser()
    _claim_workdir(config, workdir)
    if result := records.read_result(workdir):
        seen = result.get("test_seen", True) or not test
        if seen and result["config_hash"] == records.config_hash(config):
            logging.info("%s is finished", workdir)
            return result

    ran = records.provenance(command)  # of the code as it is now, not when the run ends
    weights_path = config.init.weights
    if "pretraining" in config.init:
        weights_path = _pretrain(
            config,
            workdir / "pretraining",
            command=command,
            checkpoint_seconds=checkpoint_seconds,
        )
    mesh = loader.make_mesh()
    pictures = Pictures.open(config, workdir)
    source = pictures.source
    changes = {k: v for k, v in config.model.items() if k != "name"}
    spec = models.get_spec(
        config.model.name, num_classes=len(source.class_names), **changes
    )
    spec, variables, weights = loading.load_pretrained(
        spec,
        weights_path,
        config.init.get("head", "new"),
        jax.random.key(config.seed),
    )
    # The config has the last word, also over what the weights expect.
    spec = dataclasses.replace(spec, **changes)
    meta = {
        "spec": spec.to_dict(),
        "class_names": list(source.class_names),
        "config_hash": records.config_hash(config),
    }

    # However this ends, what was being saved is on disk then.
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        plan = stages.stages(config)
        latest = checkpoints.latest_meta()
        progress = loop.Progress(plan[0].name)
        if latest:
            progress = loop.Progress(**latest["progress"])
            logging.info("going on at stage %s, step %d", progress.stage, progress.step)
        log = loop.MetricsLog(workdir / "metrics.jsonl", progress.run_step)
        names = [stage.name for stage in plan]
        for stage in plan[names.index(progress.stage) :]:
            resume = latest is not None and stage.name == progress.stage
            if resume and progress.done:
                continue
            if stage.name != progress.stage:
                progress = progress.next_stage(stage.name)
            if checkpoints.best_meta() and (not resume or progress.step == 0):
                variables = checkpoints.restore_best(variables)
            _run_stage(
                stage,
                spec,
                config,
                variables,
                pictures,
                mesh,
                resume,
                progress=progress,
                workdir=workdir,
                checkpoints=checkpoints,
                log=log,
                meta=meta,
                checkpoint_seconds=checkpoint_seconds,
            )

        best, best_step = checkpoints.best_meta(), checkpoints.best_step()
        variables = checkpoints.restore_best(variables)
    result = {
        "model": spec.name,
        "recipe": config.recipe,
        "split": config.data.split,
        "seed": config.seed,
        "weights": weights,
        "config_hash": records.config_hash(config),
        **ran,
        "test_seen": test,
        "best": {"stage": best["stage"], "metric": config.metric},
        "seconds": {k: round(v, 1) for k, v in progress.seconds.items()},
        "images_per_second": {
            name: round(progress.images[name] / seconds, 2)
            for name, seconds in progress.seconds.items()
        },
    }
    run = Run.of(
        workdir,
        config,
        spec,
        variables=variables,
        class_names=source.class_names,
        step=best_step,
    )
    started = time.monotonic()
    result["calibration"] = {"fitted_on": None, "temperature": 1.0}
    for split in ("validation", "test")[: 1 + test]:
        if split in source.splits:
            logits = _logits(run, pictures, split)
            labels = source.labels[source.splits[split]]
            result[split] = metrics.evaluate(logits, labels)
            if split == "validation":
                temperature = calibration.fit_temperature(logits, labels)
                fitted = calibration.summary(logits, labels, temperature)
                result["calibration"] = {"fitted_on": split, **fitted}
    result["seconds"]["evaluation"] = round(time.monotonic() - started, 1)
    records.write_json(workdir / "result.json", result)
    return result


class NoCheckpointError(FileNotFoundError):
    """A run directory has no best variables yet."""


def load_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """The config of a run directory.

    Raises:
      FileNotFoundError: if it is no run directory.
    """
    path = pathlib.Path(workdir).expanduser() / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} is no run directory: it has no config.json; "
            "give the --workdir of scripts.train"
        )
    return ml_collections.ConfigDict(json.loads(path.read_text()))


def load_run(workdir: str | os.PathLike, data_dir: str | None = None) -> Run:
    """The best variables of a run directory, whether it is finished or not.

    Args:
      workdir: the run directory.
      data_dir: where the data is, if not where the run found it.

    Raises:
      FileNotFoundError: if it is no run directory.
      NoCheckpointError: if it has no best checkpoint yet.
    """
    workdir = pathlib.Path(workdir).expanduser()
    config = load_config(workdir)
    if data_dir is not None:
        config.data.dir = data_dir
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        meta = checkpoints.best_meta()
        if meta is None:
            raise NoCheckpointError(f"{workdir} has no checkpoint yet; train it first")
        spec = models.ModelSpec(**meta["spec"])
        variables = checkpoints.restore_best(models.shapes(spec))
        step = checkpoints.best_step()
    fitted = records.read_result(workdir).get("calibration", {})
    return Run.of(
        workdir,
        config,
        spec,
        variables=variables,
        class_names=tuple(meta["class_names"]),
        step=step,
        temperature=fitted.get("temperature", 1.0),
    )


def evaluate(
    run: Run, split: str, predictor: Callable | None = None
) -> tuple[dict, np.ndarray, np.ndarray]:
    """Metrics, logits [N, C] and labels [N] of a split of the run's data.

    Args:
      run: of `load_run`.
      split: of its data.
      predictor: jitted function of (variables, batch) that gives logits; the run's
        test-time views by default.

    The logits of the run's own views are kept in its directory, and not computed again.

    Raises:
      ValueError: if the run's data has no such split.
    """
    pictures = Pictures.open(run.config, run.workdir)
    labels = pictures.source.labels[pictures.source.part(split)]
    if predictor:
        logits = _compute_logits(run, pictures, split, predictor)
    else:
        logits = _logits(run, pictures, split)
    return metrics.evaluate(logits, labels), logits, labels
