"""Track the progress of a run as an immutable value, and log its metrics.

progress = Progress("head")
progress = progress.account(metrics)                   # metrics of one step
progress = progress.end_epoch(validation, plan)
log.write(**progress.to_dict())
"""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Mapping

import numpy as np

from seeflower_jax import records
from seeflower_jax.sharding import processes
from seeflower_jax.training.plan import Metrics, StagePlan


class NonFiniteLossError(RuntimeError):
    """The loss, a norm or a validation value became NaN or infinite."""


def improves(value: float, best: float | None, metric: str, min_delta: float) -> bool:
    """Return whether a value is better than the best so far by over `min_delta`."""
    if best is None:
        return True
    gain = best - value if metric == "loss" else value - best
    return gain > min_delta


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run, which every checkpoint includes.

    Attributes:
      stage: name of the current stage.
      step: number of finished steps of the stage.
      run_step: number of finished steps of the run.
      best: best validation value of the run, or None.
      best_stage: stage of the best variables.
      best_step: step of the run that gave the best variables.
      stage_best: best validation value of the current stage, or None.
      since_best: number of validations of the stage since its last gain of `min_delta`.
      seconds: training time of each stage in seconds, over all resumptions.
      images: number of images that each stage has trained on.
      sums: sums of the metrics of all steps since the last epoch ended.
      done: whether the stage has ended.
    """

    stage: str
    step: int = 0
    run_step: int = 0
    best: float | None = None
    best_stage: str | None = None
    best_step: int | None = None
    stage_best: float | None = None
    since_best: int = 0
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    images: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    done: bool = False

    def to_dict(self) -> dict:
        """Return a JSON-serialisable form; `Progress(**values)` restores it."""
        return dataclasses.asdict(self)

    def start_stage(self, name: str) -> "Progress":
        """Return the progress at the start of another stage."""
        return dataclasses.replace(
            self, stage=name, step=0, stage_best=None, since_best=0, done=False
        )

    def account(self, metrics: Mapping[str, np.ndarray]) -> "Progress":
        """Return the progress after one more step.

        Args:
          metrics: metrics of the step, on the host; see `step.make_image_step`.

        Raises:
          NonFiniteLossError: if the loss or a norm is NaN or infinite; the message
            names the step.
        """
        values = {name: np.asarray(value).item() for name, value in metrics.items()}
        step = self.step + 1
        for name in ("loss", "gradient_norm", "update_norm"):
            if not np.isfinite(values[name]):
                raise NonFiniteLossError(
                    f"the {name} is {values[name]} at step {step} of stage "
                    f"{self.stage!r}; earlier checkpoints are kept. Lower "
                    f"config.stages.{self.stage}.learning_rate or set its clip_norm"
                )
        values["steps"] = 1
        sums = {name: self.sums.get(name, 0) + value for name, value in values.items()}
        images = self.images.get(self.stage, 0) + values["count"]
        return dataclasses.replace(
            self,
            step=step,
            run_step=self.run_step + 1,
            images={**self.images, self.stage: images},
            sums=sums,
        )

    def train_metrics(self) -> dict[str, float]:
        """Return the means of the training metrics since the last epoch ended."""
        sums, count = self.sums, self.sums["count"]
        return {
            "loss": sums["loss"] / count,
            "top1": sums["correct"] / count,
            "gradient_norm": sums["gradient_norm"] / sums["steps"],
            "update_norm": sums["update_norm"] / sums["steps"],
        }

    def end_epoch(self, validation: Metrics | None, plan: StagePlan) -> "Progress":
        """Return the progress after an epoch, with the best value and early stopping.

        Early stopping counts validations without a gain of `min_delta` over the best
        value of the stage.

        Args:
          validation: metrics of the validation split; None if it was not evaluated.
            Without a validation split, the last variables count as the best.
          plan: plan of the stage.

        Raises:
          NonFiniteLossError: if the validation value or the validation loss is NaN or
            infinite.
        """
        done = self.step == plan.steps
        progress = dataclasses.replace(self, sums={}, done=done)
        if validation is None:
            if done and plan.validate is None:
                return progress._mark_best(None)
            return progress
        stage, value = plan.stage, validation[plan.metric]
        for name in (plan.metric, "loss"):
            if not np.isfinite(validation[name]):
                raise NonFiniteLossError(
                    f"the validation {name} is {validation[name]} after step "
                    f"{self.step} of stage {self.stage!r}; the last checkpoint is "
                    f"kept. Lower config.stages.{self.stage}.learning_rate or set its "
                    "clip_norm"
                )
        if improves(value, self.best, plan.metric, 0.0):
            progress = progress._mark_best(value)
        gained = improves(value, self.stage_best, plan.metric, stage.min_delta)
        since_best = 0 if gained else self.since_best + 1
        stopped = 0 < stage.patience <= since_best
        return dataclasses.replace(
            progress,
            stage_best=value if gained else self.stage_best,
            since_best=since_best,
            done=done or stopped,
        )

    def _mark_best(self, value: float | None) -> "Progress":
        return dataclasses.replace(
            self, best=value, best_stage=self.stage, best_step=self.run_step
        )

    @property
    def is_best(self) -> bool:
        """Return whether the variables of this step are the best of the run."""
        return self.best_step == self.run_step

    def spend(self, seconds: float) -> "Progress":
        """Return the progress after `seconds` more seconds in the stage."""
        total = self.seconds.get(self.stage, 0.0) + seconds
        return dataclasses.replace(self, seconds={**self.seconds, self.stage: total})


class Stopwatch:
    """A stopwatch with laps."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since the start or the last `lap`."""
        return time.monotonic() - self._since

    def lap(self) -> float:
        """Return `seconds` and start a new lap."""
        seconds = self.seconds
        self._since += seconds
        return seconds


class MetricsLog:
    """The log `metrics.jsonl`, with a JSON object and the step of the run on each line.

    Only the first of several processes writes it.

    Args:
      workdir: the run directory.
      run_step: last step of the run to keep. Later lines are dropped, because the
        resumed run writes them again. A last line that an interruption left incomplete
        is dropped too.
    """

    def __init__(self, workdir: pathlib.Path, run_step: int):
        self._path = workdir / records.LOG_FILE
        if not processes.is_main():
            return
        lines = [x for x in records.read_log(workdir) if x["run_step"] <= run_step]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if not self._path.exists() or self._path.read_bytes() != content:
            with records.replacing(self._path) as partial:
                partial.write_bytes(content)

    def write(self, **values) -> None:
        """Append a line with the values, and wait until it is on disk.

        Raises:
          FullDiskError: if the disk is full.
        """
        if not processes.is_main():
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(values) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if records.is_full_disk(error):
                raise records.FullDiskError(self._path) from error
            raise
