"""The training loop of one stage.

    progress = fit(state, step_fn, batches, validate, settings, ...)

It only drives: what a step is, where batches come from and how variables are judged are
arguments. Early stopping, the best and the latest checkpoint and the log are its own.
"""

import dataclasses
import json
import logging
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import tqdm

from seeflower_jax.training.checkpoint import Checkpoints
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.step import TrainState


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass
class Progress:
    """Where a run stands; saved with the latest checkpoint.

    Attributes:
      stage: name of the stage.
      step: steps done in the stage.
      run_step: steps done in the run.
      best: largest (or smallest, for the loss) validation value of the run, or None.
      best_stage: the stage it is from.
      since_best: validations of this stage since its own best.
      stage_best: as `best`, of this stage.
      seconds: spent in each stage, over all resumptions.
      images: trained on in each stage.
      sums: of the training metrics since the last epoch ended.
      done: whether the stage has ended.
    """

    stage: str
    step: int = 0
    run_step: int = 0
    best: float | None = None
    best_stage: str | None = None
    since_best: int = 0
    stage_best: float | None = None
    seconds: dict = dataclasses.field(default_factory=dict)
    images: dict = dataclasses.field(default_factory=dict)
    sums: dict = dataclasses.field(default_factory=dict)
    done: bool = False

    def next_stage(self, name: str) -> "Progress":
        """The progress at the start of another stage."""
        return dataclasses.replace(
            self, stage=name, step=0, since_best=0, stage_best=None, done=False
        )


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with the step of the run."""

    def __init__(self, path: pathlib.Path, run_step: int):
        self._path = path
        # Lines after the step that a run goes on from will be written again.
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["run_step"] <= run_step]
        path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, **values) -> None:
        """Appends a line."""
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def improves(value: float, best: float | None, metric: str, min_delta: float) -> bool:
    """Whether a validation value is better than the best so far by over `min_delta`."""
    if best is None:
        return True
    gain = best - value if metric == "loss" else value - best
    return gain > min_delta


def fit(
    stage: Stage,
    state: TrainState,
    step_fn: Callable,
    batches: Callable,
    validate: Callable | None,
    progress: Progress,
    steps_per_epoch: int,
    checkpoints: Checkpoints,
    log: MetricsLog,
    meta: dict,
    metric: str,
    key: jax.Array,
    checkpoint_seconds: float = 300.0,
) -> Progress:
    """Trains a stage to its end, from wherever `progress` says it stands.

    Args:
      stage: its config has `epochs`, `validate_every` (epochs) and `early_stopping`
        with `patience` (validations, 0 is off) and `min_delta`.
      state: after `progress.step` steps.
      step_fn: jitted (state, batch, key) -> (state, sums of loss, correct, count).
      batches: (start step, stop step) -> iterator of batches.
      validate: variables -> metrics; None where there is no validation split, and the
        last variables count as the best.
      progress: updated in place.
      steps_per_epoch: of training.
      checkpoints, log: of the run.
      meta: saved with every checkpoint.
      metric: what is best: 'top1', 'mean_class_top1', 'top5' or 'loss'.
      key: of the stage.
      checkpoint_seconds: the latest state is saved when a step ends this long after the
        last time, and at the end.

    Returns:
      `progress`. The best variables of the run are in the best checkpoint.

    Raises:
      NonFiniteLossError: names the step; the checkpoints from before it are kept.
    """
    config, stop = stage.config, stage.config.epochs * steps_per_epoch
    patience, delta = config.early_stopping.patience, config.early_stopping.min_delta
    best = None  # (run step, variables, metrics), not yet written
    earlier = progress.seconds.get(stage.name, 0.0)
    earlier_images = progress.images.get(stage.name, 0)
    started = saved = time.monotonic()
    sums = progress.sums

    def save():
        nonlocal best, saved
        progress.seconds[stage.name] = earlier + time.monotonic() - started
        if best:
            checkpoints.save_best(best[0], best[1], meta | best[2])
            best = None
        checkpoints.save_latest(
            progress.run_step, state, meta | {"progress": dataclasses.asdict(progress)}
        )
        saved = time.monotonic()

    def rate():
        done = progress.images[stage.name] - earlier_images
        return done / (time.monotonic() - started)

    def account(step, metrics):
        metrics = jax.device_get(metrics)
        if not np.isfinite(metrics["loss"]):
            raise NonFiniteLossError(
                f"the loss is {metrics['loss']} at step {step} of stage "
                f"{stage.name!r}; the checkpoints from before it are kept. Lower "
                f"config.stages.{stage.name}.learning_rate or set its clip_norm"
            )
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0) + value.item()
        count = sums["count"]
        bar.set_postfix_str(
            f"loss {sums['loss'] / count:.3f}, accuracy {sums['correct'] / count:.3f}, "
            f"{rate():.1f} images/s",
            refresh=False,
        )
        bar.update()

    def after_epoch():
        nonlocal best
        epoch = progress.step // steps_per_epoch
        line = {
            "run_step": progress.run_step,
            "stage": stage.name,
            "epoch": epoch,
            "step": progress.step,
            "train": {
                "loss": sums["loss"] / sums["count"],
                "top1": sums["correct"] / sums["count"],
            },
        }
        progress.done = progress.step == stop
        if validate is None:
            if progress.done:
                best = progress.run_step, state.variables(), {}
        elif progress.done or epoch % config.validate_every == 0:
            line["validation"] = metrics = validate(state.variables())
            value = metrics[metric]
            if improves(value, progress.best, metric, 0.0):
                progress.best, progress.best_stage = value, stage.name
                best = progress.run_step, state.variables(), {"validation": metrics}
            if improves(value, progress.stage_best, metric, delta):
                progress.stage_best, progress.since_best = value, 0
            else:
                progress.since_best += 1
            if patience and progress.since_best >= patience:
                progress.done = True
            bar.write(
                f"{stage.name} epoch {epoch}: train loss {line['train']['loss']:.3f}, "
                f"validation top-1 {metrics['top1']:.4f}, loss {metrics['loss']:.3f}",
                file=sys.stderr,
            )
        log.write(**line)
        sums.clear()

    pending = None
    with tqdm.tqdm(
        total=stop, initial=progress.step, desc=stage.name, unit="step", mininterval=0.5
    ) as bar:
        for batch in batches(progress.step, stop):
            state, metrics = step_fn(state, batch, key)
            # The host looks at a step's loss while the device computes the next one.
            if pending:
                account(*pending)
            progress.step += 1
            progress.run_step += 1
            progress.images[stage.name] = (
                progress.images.get(stage.name, 0) + batch["labels"].shape[0]
            )
            pending = progress.step, metrics
            epoch_ends = progress.step % steps_per_epoch == 0
            due = time.monotonic() - saved > checkpoint_seconds
            if epoch_ends or due:
                account(*pending)
                pending = None
            if epoch_ends:
                after_epoch()
            if progress.done:
                break
            if due:
                save()
    if progress.step:
        save()
    checkpoints.wait()
    logging.info(
        "stage %s: %d steps, %.0f s",
        stage.name,
        progress.step,
        progress.seconds[stage.name],
    )
    return progress
