"""Train a run: all stages of a config, then its evaluation and result.

result = train(config, "runs/inception_seed0", command="python -m scripts.train ...")
result["test"]["mean_class_top1"]
"""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax

from seeflower_jax import models, records, sharding
from seeflower_jax.data import whitening
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.experiment import evaluate, images, precision, workdir
from seeflower_jax.experiment.inputs import Inputs, open_inputs
from seeflower_jax.experiment.network_checks import check_network
from seeflower_jax.experiment.settings import (
    Settings,
    derive,
    read_settings,
    settings_of,
)
from seeflower_jax.experiment.stage_plans import Start, plan_stage
from seeflower_jax.inference.run import Run, load_run
from seeflower_jax.pretrained import converted, loading
from seeflower_jax.pretrained.types import Variables
from seeflower_jax.sharding import compilation, processes
from seeflower_jax.training import loop, partition, stopping
from seeflower_jax.training.checkpoint import Checkpoints
from seeflower_jax.training.progress import MetricsLog, Progress, Stopwatch


@dataclasses.dataclass(frozen=True)
class _Options:
    """The arguments of `train` that do not change the trained network."""

    command: str
    checkpoint_seconds: float
    test: bool
    traced_steps: int


def train(
    config: Mapping,
    folder: str | os.PathLike,
    command: str = "",
    checkpoint_seconds: float = 300.0,
    test: bool = True,
    traced_steps: int = 0,
) -> dict:
    """Train all stages of a config, evaluate the best variables, record the result.

    If the run directory holds a run of the same config, training resumes, even if the
    config now has further stages. A finished run is only read. If `config.test_time`
    has changed, a finished run is evaluated again, see `workdir.check_workdir`.

    Args:
      config: a ConfigDict of configs/, or nested dicts. If `init.pretraining` is set,
        the pretraining run is trained first, in `pretraining/`. Its best variables are
        the initial weights.
      folder: the run directory.
      command: command line, for the record.
      checkpoint_seconds: seconds between checkpoints; the end of a stage is always
        saved.
      test: whether to evaluate the test split too. To choose between several runs, set
        `test` to False. Then evaluate the test split of the chosen run in a later call.
      traced_steps: number of steps of each stage in a trace in `profile/` for XProf and
        Perfetto; 0 writes none.

    Returns:
      The content of `result.json`.

    Raises:
      ValueError: if the config has wrong values, if the run directory holds a run of
        another config, if images or weights cannot be loaded, or if they differ among
        the processes.
      FolderInUseError: if another process is writing to the run directory.
      FullDiskError: if the disk is full.
      Interrupted: if the run is interrupted. Within a stage, its state is saved.
    """
    folder = pathlib.Path(folder).expanduser()
    if not checkpoint_seconds >= 0:
        raise ValueError(
            f"checkpoint_seconds is {checkpoint_seconds}; expected seconds, 0 or more"
        )
    with records.lock(folder):
        settings = read_settings(workdir.with_recorded_dtype(folder, config))
        compilation.keep(settings.data.cache_dir, settings.device.compilation_cache)
        processes.check_shared(folder)
        result = processes.on_main(lambda: _finished_result(settings, folder, test))
        if result:
            logging.info("%s is finished", folder)
            return result
        try:
            with precision.of_products(settings.device.matmul_precision):
                options = _Options(command, checkpoint_seconds, test, traced_steps)
                return _train(settings, folder, options)
        except KeyboardInterrupt as error:
            advice = "interrupted; start the same command again to resume the run"
            raise stopping.Interrupted(str(error) or advice) from error


def _finished_result(settings: Settings, folder: pathlib.Path, test: bool) -> dict:
    """Return the result of a finished run; {} if there is work left."""
    workdir.check_workdir(folder, settings)
    try:
        result = records.read_result(folder)
    except records.DamagedFileError as error:
        logging.warning("%s", error)
        (folder / "result.json").unlink()
        return {}
    same = result.get("config_hash") == settings.config_hash
    whitened = settings.whitening is None or _has_whitening(folder)
    if not (same and whitened and workdir.has_trained(folder)):
        return {}
    wanted = {"validation", "test"} if test else {"validation"}
    images_by_split = (workdir.read_images(folder)[0] or {}).get("images", {})
    seen = result.get("test_seen") or not test
    if not seen or wanted & images_by_split.keys() - result.keys():
        return {}
    records.write_json(folder / workdir.CONFIG, settings.config)
    return result


def _has_whitening(folder: pathlib.Path) -> bool:
    try:
        return whitening.load_from(folder) is not None
    except records.DamagedFileError:  # `images.fit_whitening` logs the error.
        return False


def _train(settings: Settings, folder: pathlib.Path, options: _Options) -> dict:
    """Train what is left of a run, and return its result."""
    check_network(settings)
    # The provenance describes the code before the training.
    provenance = records.provenance(options.command)
    inputs = open_inputs(settings, folder)
    before = {}
    if settings.pretraining:
        weights, before = _pretrain(settings, folder, options, inputs.dataset)
        settings = dataclasses.replace(settings, weights=weights)
    start = _prepare(settings, folder, options, inputs, provenance)
    progress, trained_by = _run_stages(start)
    result = {
        "model": start.spec.name,
        "recipe": settings.recipe,
        "split": settings.data.split,
        "seed": settings.seed,
        "weights": start.weights,
        **({"pretraining": before} if before else {}),
        **({"teacher": start.teacher.sha256} if start.teacher else {}),
        "config_hash": settings.config_hash,
        **trained_by,
        "test_seen": options.test,
        "best": {
            "stage": progress.best_stage,
            "step": progress.best_step,
            "metric": settings.metric,
        },
        "seconds": {k: round(v, 1) for k, v in progress.seconds.items()},
        "images_per_second": {
            name: round(progress.images[name] / seconds, 2)
            for name, seconds in progress.seconds.items()
        },
    }
    if evaluated_by := {
        key: value for key, value in provenance.items() if value != trained_by.get(key)
    }:
        result["evaluation"] = evaluated_by
    splits = ("validation", "test") if options.test else ("validation",)
    seconds, evaluation = evaluate.final(
        load_run(folder, in_training=True), start.dataset, splits
    )
    result["seconds"]["evaluation"] = round(seconds, 1)
    result |= evaluation
    if processes.is_main():
        records.write_json(folder / "result.json", result)
    return result


def _pretrain(
    settings: Settings, folder: pathlib.Path, options: _Options, dataset: Dataset
) -> tuple[str, dict]:
    """Train the pretraining run; return the folder of its weights, and its record.

    A run that has started from these weights keeps them. If the config gets further
    stages later, the pretraining does not train them.

    Raises:
      ValueError: if it would train on validation or test images of the run, or if its
        images changed since its start.
    """
    config = derive(settings.config, settings.pretraining)
    run_folder = folder / records.PRETRAINING

    def result_of_start() -> dict:
        return records.read_result(run_folder) if workdir.has_trained(folder) else {}

    kept = processes.on_main(result_of_start)
    if not kept:
        with processes.main_first("images of the pretraining"):
            source = images.open_source(read_settings(config), run_folder)
        images.check_apart(source, dataset.source)
    command, seconds = options.command, options.checkpoint_seconds
    result = kept or train(
        config, run_folder, command, seconds, False, options.traced_steps
    )
    source = {
        "name": run_folder.name,
        "sha256": None,
        "exact": result["weights"]["exact"],  # of the file that it started from
        "config_hash": result["config_hash"],
    }
    keys = "weights", "config_hash", "best", "seconds", "images_per_second"
    record = {key: result[key] for key in (*keys, "validation") if key in result}
    write = functools.partial(
        _write_weights, run_folder, source, bool(kept), settings.pretrained_share
    )
    return processes.on_main(write), record


def _write_weights(
    run_folder: pathlib.Path, source: Mapping[str, Any], keep: bool, share: float
) -> str:
    """Write the best variables of a pretraining run, and return their folder.

    Args:
      run_folder: the run directory of the pretraining.
      source: the description of the variables, for `result.json`.
      keep: whether variables that were written before stay.
      share: the share of the pretraining in the backbone, see `Settings`.
    """
    weights = run_folder / "weights"
    # `save` writes model.json last.
    if not (keep and (weights / "model.json").exists()):
        shutil.rmtree(weights, ignore_errors=True)
        run = load_run(run_folder)
        variables = run.network.variables if share == 1 else _interpolate(run, share)
        converted.save(weights, run.network.spec, variables, source)
    return str(weights)


def _interpolate(run: Run, share: float) -> Variables:
    """Return variables between those that a run started from and its best ones.

    The head stays as it is. Source: Wortsman et al. 2022, WiSE-FT, arXiv 2109.01903,
    equation 3.
    """
    settings, network = settings_of(run), run.network
    key = jax.random.key(settings.seed)
    _, start, _ = loading.load_pretrained(
        network.spec,
        settings.weights,
        settings.head,
        key,
        preprocess=network.spec.preprocess,
    )
    mixed = jax.tree.map(
        lambda before, after: (1 - share) * before + share * after,
        {name: start[name] for name in network.variables},
        network.variables,
    )
    for name, values in network.variables.items():
        if "head" in values:
            mixed[name]["head"] = values["head"]
    return mixed


def _prepare(
    settings: Settings,
    folder: pathlib.Path,
    options: _Options,
    inputs: Inputs,
    provenance: dict,
) -> Start:
    """Load the weights, and claim the run directory."""
    dataset = inputs.dataset
    with processes.main_first("weights"):
        spec, variables, weights = loading.load_pretrained(
            settings.spec(len(dataset.source.class_names)),
            settings.weights,
            settings.head,
            jax.random.key(settings.seed),
            preprocess=settings.model_changes.get("preprocess"),
        )
    processes.check_same("weights", f"SHA-256 {weights['sha256']}")
    # The values of the config override the values that the weights expect.
    spec = dataclasses.replace(spec, **settings.model_changes)
    with processes.main_first("whitening"):
        if processes.is_main():
            workdir.claim_workdir(folder, settings, dataset.source.describe())
        preprocess = images.fit_whitening(settings, dataset, folder)
    return Start(
        settings,
        folder,
        dataset,
        spec,
        variables,
        weights,
        preprocess,
        inputs.teacher,
        sharding.make_mesh(),
        provenance,
        options.checkpoint_seconds,
        options.traced_steps,
    )


def _run_stages(start: Start) -> tuple[Progress, dict]:
    """Train the remaining stages.

    Returns:
      The progress at their end, and the provenance of the call that trained last.
    """
    stages, trained_by = start.settings.stages, start.provenance
    # Closing waits until the last checkpoint is on disk, even after an exception.
    with processes.main_first("checkpoints"):
        checkpoints = Checkpoints(start.folder)
    with contextlib.closing(checkpoints):
        meta = processes.on_main(checkpoints.meta)
        progress = Progress(stages[0].name)
        if meta:
            progress = Progress(**meta["progress"])
            trained_by = meta.get("provenance", trained_by)
            _check_start(start, meta)
            logging.info("resuming at stage %s, step %d", progress.stage, progress.step)
            if meta["has_best"]:
                checkpoints.best = checkpoints.restore_best(start.variables)
        log = MetricsLog(start.folder, progress.run_step)
        names = [stage.name for stage in stages]
        for stage in stages[names.index(progress.stage) :]:
            resume = meta is not None and stage.name == progress.stage
            if resume and progress.done:
                continue
            trained_by = start.provenance
            if stage.name != progress.stage:
                progress = progress.start_stage(stage.name)
            variables = checkpoints.best or start.variables
            clock = Stopwatch()
            plan, state = plan_stage(start, stage, variables)
            progress = progress.spend(clock.seconds)  # of the features
            if resume:
                state = checkpoints.restore_state(state)
            logging.info(
                "stage %s\n%s",
                stage.name,
                partition.describe(state.trainable, state.frozen),
            )
            state = sharding.replicate(state, start.mesh)
            _, progress = loop.fit(plan, state, progress, checkpoints, log)
    processes.barrier("trained")  # The last checkpoint is on disk.
    return progress, trained_by


def _check_start(start: Start, meta: Mapping) -> None:
    """Raise an error if a run is resumed from another start than its checkpoint.

    Args:
      start: the start of this call.
      meta: the `meta` of the checkpoint.
    """
    description = start.description
    if "weights" in meta:
        workdir.check_weights(start.folder, meta["weights"], start.weights)
    workdir.check_teacher(start.folder, meta.get("teacher"), description["teacher"])
    before, now = models.ModelSpec(**meta["spec"]).to_dict(), description["spec"]
    if differing := "; ".join(
        f"{key}: {before[key]} there, {value} now"
        for key, value in now.items()
        if value != before[key]
    ):
        raise ValueError(
            f"{start.folder} was started with another network: {differing}; give "
            "weights with the same values to resume that run, or another --workdir"
        )
