"""The loop of a stage: what is best, when it stops, what is kept."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from seeflower_jax.training import loop, stages, step
from seeflower_jax.training.checkpoint import Checkpoints


def _fit(workdir, values, metric="top1", **changes):
    """Runs a stage, one step an epoch, whose validations give `values` in turn.

    The only parameter is the number of steps done.
    """
    config = ml_collections.ConfigDict(
        {
            "epochs": len(values),
            "validate_every": 1,
            "early_stopping": {"patience": 0, "min_delta": 0.0},
        }
    )
    config.update(changes)
    state = step.TrainState(
        jnp.zeros((), jnp.int32), {"w": jnp.zeros(())}, {}, {}, (), {}
    )
    progress = loop.Progress("head")
    checkpoints = Checkpoints(workdir)
    given = iter(values)

    def step_fn(state, batch, key):
        metrics = {"loss": 1.0, "correct": 1, "count": 2}
        after = state.replace(
            step=state.step + 1, trainable={"w": state.trainable["w"] + 1}
        )
        return after, jax.tree.map(jnp.asarray, metrics)

    loop.fit(
        stages.Stage("head", 0, config),
        state,
        step_fn,
        lambda start, stop: ({"labels": np.zeros(2)} for _ in range(start, stop)),
        lambda variables: dict.fromkeys(("top1", "loss"), next(given)),
        progress,
        1,
        checkpoints,
        loop.MetricsLog(workdir / "metrics.jsonl", 0),
        {},
        metric,
        jax.random.key(0),
    )
    best = checkpoints.restore_best({"params": {"w": 0.0}, "batch_stats": {}})
    meta = checkpoints.best_meta()
    checkpoints.close()
    return progress, float(best["params"]["w"]), meta


@pytest.mark.parametrize("metric,at", [("top1", 2), ("loss", 4)])
def test_best_is_kept_whatever_comes_later(tmp_path, metric, at):
    values = [0.5, 0.9, 0.7, 0.4, 0.8]
    progress, best, meta = _fit(tmp_path, values, metric)
    assert best == at and progress.best == values[at - 1]
    assert meta["validation"][metric] == values[at - 1]
    assert progress.done and progress.step == 5


@pytest.mark.parametrize(
    "patience,min_delta,stops",
    [(2, 0.0, 4), (3, 0.0, 7), (2, 0.15, 4), (1, 0.3, 2), (0, 0.3, 7)],
)
def test_early_stopping(tmp_path, patience, min_delta, stops):
    values = [0.5, 0.7, 0.6, 0.65, 0.8, 0.79, 0.78]
    stopping = {"patience": patience, "min_delta": min_delta}
    progress, best, _ = _fit(tmp_path, values, early_stopping=stopping)
    assert progress.step == stops and progress.done
    assert best == 1 + int(np.argmax(values[:stops]))


def test_a_stage_validates_at_its_end(tmp_path):
    progress, best, _ = _fit(tmp_path, [0.5, 0.6], epochs=3, validate_every=2)
    assert progress.step == 3 and best == 3


def test_log_forgets_what_comes_after_the_step_gone_on_from(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = loop.MetricsLog(path, 0)
    for run_step in (1, 2, 3):
        log.write(run_step=run_step)
    loop.MetricsLog(path, 2).write(run_step=3, again=True)
    assert path.read_text().splitlines()[2:] == ['{"run_step": 3, "again": true}']
