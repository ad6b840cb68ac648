"""Run the training loop of a stage.

    state, progress = fit(plan, state, progress, checkpoints, log)

The plan provides the training step, the batches and the validation. The progress
decides which variables are the best and when the stage ends.
"""

import sys
from contextlib import nullcontext

import jax
import tqdm

from seeflower_jax.records.progress_bar import progress_bar
from seeflower_jax.sharding import processes
from seeflower_jax.training import stopping
from seeflower_jax.training.checkpoint import Checkpoints, host_copy
from seeflower_jax.training.plan import StagePlan
from seeflower_jax.training.progress import MetricsLog, Progress, Stopwatch
from seeflower_jax.training.speed import Speed
from seeflower_jax.training.state import TrainState


def fit(
    plan: StagePlan,
    state: TrainState,
    progress: Progress,
    checkpoints: Checkpoints,
    log: MetricsLog,
) -> tuple[TrainState, Progress]:
    """Train a stage from its current progress to its end.

    Args:
      plan: the plan of the stage.
      state: the state after `progress.step` steps; the first step reuses its memory.
      progress: the progress of the run.
      checkpoints: the checkpoints of the run; `fit` adds the best variables and the
        latest state.
      log: the metrics log of the run; `fit` adds a line for each epoch.

    Returns:
      The state and the progress at the end of the stage.

    Raises:
      NonFiniteLossError: if the loss, a norm or a validation value is NaN or infinite.
        The last checkpoint is kept.
      Interrupted: if `stopping.request` was called, after the step under way. The state
        is saved.
    """
    with stopping.after_step():
        return _fit(plan, state, progress, checkpoints, log)


def _fit(
    plan: StagePlan,
    state: TrainState,
    progress: Progress,
    checkpoints: Checkpoints,
    log: MetricsLog,
) -> tuple[TrainState, Progress]:
    name, epoch_steps = plan.stage.name, plan.batches.steps_per_epoch
    pending = None  # the metrics of the last step, not yet added to the progress
    run_clock, save_clock, vote = Stopwatch(), Stopwatch(), processes.Vote()
    speed = Speed(plan.step, progress.step)
    is_main = processes.is_main()
    shown = progress_bar(name, plan.steps, "step", progress.step, not is_main)
    with shown as bar, plan.trace or nullcontext():
        batches = plan.batches(progress.step, plan.steps)
        for step, batch in enumerate(batches, progress.step + 1):
            if plan.trace is not None:
                plan.trace.before_step(pending)
            # ---- Start a step on the device, then account for the previous step
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, metrics = plan.step(state, batch, plan.key)
            if pending is not None:
                progress = _account(progress, pending, plan, bar)
                speed.leave_out_first(progress.step)
            pending = metrics
            epoch_ends = step % epoch_steps == 0
            due = is_main and save_clock.seconds > plan.checkpoint_seconds
            if due:  # The outcome may come a step later, and must not come twice.
                save_clock.lap()
            save_due, interrupted = vote(due, stopping.requested())
            if not epoch_ends and not save_due and not interrupted:
                continue
            progress, pending = _account(progress, pending, plan, bar), None

            # ---- At the end of an epoch: validate, keep the best variables, log
            if epoch_ends:
                rate, arguments = speed.of_epoch(step), (state, batch, plan.key)
                line = _log_line(plan, progress, rate * plan.stage.batch_size)
                line |= speed.metrics(rate, arguments)
                validation = None
                if plan.validate is not None and plan.validates_after(step):
                    validation = plan.validate(state.variables())
                    line["validation"] = validation
                    _announce(bar, line)
                progress = progress.end_epoch(validation, plan)
                if progress.is_best:
                    checkpoints.best = host_copy(state.variables())
                log.write(**line)
                speed.start_epoch(step)

            # ---- Save a checkpoint to resume from
            if save_due or progress.done or interrupted:
                progress = progress.spend(run_clock.lap())
                checkpoints.save(progress.run_step, state, _meta(plan, progress))
                save_clock.lap()
            if interrupted:
                checkpoints.wait()
                processes.barrier("saved")
                raise stopping.Interrupted(
                    f"interrupted after step {step} of stage {name!r}, which is saved; "
                    "start the same command again to resume the run"
                )
            if progress.done:
                break
    checkpoints.wait()
    return state, progress


def _log_line(plan: StagePlan, progress: Progress, rate: float) -> dict:
    """Return the line of `metrics.jsonl` at the end of an epoch."""
    return {
        "run_step": progress.run_step,
        "stage": plan.stage.name,
        "epoch": progress.step // plan.batches.steps_per_epoch,
        "step": progress.step,
        "learning_rate": float(plan.learning_rate(progress.step - 1)),
        "images_per_second": round(rate, 2),
        "train": progress.train_metrics(),
    }


def _account(
    progress: Progress, metrics: dict, plan: StagePlan, bar: tqdm.tqdm
) -> Progress:
    """Add a step to the progress, and show the progress of the stage."""
    progress = progress.account(jax.device_get(metrics))
    count = progress.sums["count"]
    rate = (bar.format_dict["rate"] or 0) * plan.stage.batch_size
    shown = f", {rate:.1f} images/s" if rate else ""  # unknown in the first step
    bar.set_postfix_str(
        f"loss {progress.sums['loss'] / count:.3f}, "
        f"accuracy {progress.sums['correct'] / count:.3f}{shown}",
        refresh=False,
    )
    bar.update()
    return progress


def _announce(bar: tqdm.tqdm, line: dict) -> None:
    if bar.disable:
        return
    bar.write(
        f"{line['stage']} epoch {line['epoch']}: "
        f"train loss {line['train']['loss']:.3f}, "
        f"validation top-1 {line['validation']['top1']:.4f}, "
        f"loss {line['validation']['loss']:.3f}",
        file=sys.stderr,
    )


def _meta(plan: StagePlan, progress: Progress) -> dict:
    return {**plan.description, "progress": progress.to_dict()}
