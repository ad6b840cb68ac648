"""Test the loop of a stage: the best variables, early stopping, and checkpoints."""

import contextlib
import dataclasses
import json
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seeflower_jax import sharding
from seeflower_jax.data.loader import FeatureReader, TrainLoader
from seeflower_jax.data.view import View
from seeflower_jax.sharding import processes
from seeflower_jax.training import loop
from seeflower_jax.training.checkpoint import Checkpoints
from seeflower_jax.training.plan import StagePlan
from seeflower_jax.training.profiling import Trace
from seeflower_jax.training.progress import MetricsLog, NonFiniteLossError, Progress
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.state import TrainState

PROGRESS = Progress("head")


def _step(state, batch, key):
    """Count steps in the only parameter."""
    metrics = {"loss": 1.0, "correct": 1, "count": 2}
    metrics |= {"gradient_norm": 3.0, "update_norm": 0.5}
    trainable = {"w": state.trainable["w"] + 1}
    after = state.replace(step=state.step + 1, trainable=trainable)
    return after, jax.tree.map(jnp.asarray, metrics)


def _batches(count):
    """Return batches of two of a number of images."""
    images = np.arange(count)
    reader = FeatureReader(np.zeros((count, 1), np.float32), images, images)
    labels = np.zeros(count, np.int32)
    return TrainLoader(reader, labels, images, 2, sharding.make_mesh(), (0,))


def _plan(values, metric="top1", step=_step, **changes):
    """Return a plan with one step an epoch; its validations return `values` in turn."""
    settings = {"epochs": len(values), "batch_size": 2, "rules": (), "index": 0}
    settings |= {"learning_rate": 0.1, "view": View(1, 1)}
    remaining = iter(values)
    return StagePlan(
        stage=Stage(name="head", **settings | changes),
        step=jax.jit(step, donate_argnums=0),
        batches=_batches(2),
        validate=lambda variables: dict.fromkeys(("top1", "loss"), next(remaining)),
        metric=metric,
        key=jax.random.key(0),
        learning_rate=optax.linear_schedule(1.0, 0.0, 4),
    )


class _Scalar:
    """A scalar of a step on the device; `events` records when the host fetches it."""

    def __init__(self, value, step, events):
        self._value, self._note = value, lambda: events.append(f"fetch {step}")

    def __array__(self):
        self._note()
        return np.asarray(self._value)


def _state():
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, {"w": jnp.zeros(())}, {}, {}, (), {})


def _fit(workdir, plan, progress=PROGRESS):
    """Run a stage; return its progress and the best value of the parameter."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        log = MetricsLog(workdir, 0)
        _, progress = loop.fit(plan, _state(), progress, checkpoints, log)
        like = {"params": {"w": np.zeros((), np.float32)}, "batch_stats": {}}
        best = checkpoints.restore_best(like)
        assert checkpoints.meta()["progress"] == progress.to_dict()
    return progress, float(best["params"]["w"])


@pytest.mark.parametrize("metric,best_step", [("top1", 2), ("loss", 4)])
def test_best_is_kept_whatever_comes_later(tmp_path, metric, best_step):
    values = [0.5, 0.9, 0.7, 0.4, 0.8]
    progress, best = _fit(tmp_path, _plan(values, metric))
    assert best == best_step == progress.best_step
    assert progress.best == values[best_step - 1]
    assert progress.done and progress.step == 5


@pytest.mark.parametrize(
    "patience,min_delta,stops",
    [(2, 0.0, 4), (3, 0.0, 7), (2, 0.15, 4), (1, 0.3, 2), (0, 0.3, 7)],
)
def test_early_stopping(tmp_path, patience, min_delta, stops):
    values = [0.5, 0.7, 0.6, 0.65, 0.8, 0.79, 0.78]
    progress, best = _fit(
        tmp_path, _plan(values, patience=patience, min_delta=min_delta)
    )
    assert progress.step == stops and progress.done
    assert best == 1 + int(np.argmax(values[:stops]))


def test_a_stage_validates_at_its_end(tmp_path):
    progress, best = _fit(tmp_path, _plan([0.5, 0.6], epochs=3, validate_every=2))
    assert progress.step == 3 and best == 3


def test_log_has_learning_rate_norms_and_speed(tmp_path):
    _fit(tmp_path, _plan([0.5, 0.6]))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["learning_rate"], second["learning_rate"]) == (1.0, 0.75)
    assert first["train"] == {
        "loss": 0.5,
        "top1": 0.5,
        "gradient_norm": 3.0,
        "update_norm": 0.5,
    }
    assert first["images_per_second"] > 0 and second["validation"]["top1"] == 0.6


def test_speed_leaves_out_the_compilation(tmp_path):
    def step(state, batch, key):
        time.sleep(1)  # while JAX traces the step
        return _step(state, batch, key)

    plan = dataclasses.replace(_plan([0.5], step=step), batches=_batches(6))
    _fit(tmp_path, plan)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 3 and line["images_per_second"] > 6


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "update_norm"])
def test_metric_that_is_not_finite_keeps_the_checkpoint_before(tmp_path, name):
    def step(state, batch, key):
        state, metrics = _step(state, batch, key)
        return state, metrics | {name: jnp.where(state.step == 3, jnp.nan, 1.0)}

    plan = _plan([0.5, 0.6, 0.7], step=step)
    object.__setattr__(plan, "checkpoint_seconds", 0.0)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        log = MetricsLog(tmp_path, 0)
        message = f"the {name} is nan at step 3 of stage 'head'"
        with pytest.raises(NonFiniteLossError, match=message):
            loop.fit(plan, _state(), PROGRESS, checkpoints, log)
        assert checkpoints.meta()["progress"]["step"] == 2
        assert float(checkpoints.restore_state(_state()).trainable["w"]) == 2


def test_validation_that_is_not_finite_is_no_best_value(tmp_path):
    plan = _plan([0.5, np.nan, 0.6], metric="loss")
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        log = MetricsLog(tmp_path, 0)
        with pytest.raises(NonFiniteLossError, match="loss is nan after step 2"):
            loop.fit(plan, _state(), PROGRESS, checkpoints, log)


class _LateVote:
    """A vote of several processes, whose outcome is known one round later."""

    def __init__(self):
        self._last = (False, False)

    def __call__(self, *votes):
        last, self._last = self._last, votes
        return last


@pytest.mark.parametrize(
    "vote,saved",
    [(processes.Vote, [3, 6, 9, 10]), (_LateVote, [4, 8, 10])],
    ids=["one process", "several processes"],
)
def test_an_interval_has_one_checkpoint(tmp_path, monkeypatch, vote, saved):
    """Each of the ten steps takes a second."""
    seconds, steps = [0.0], []

    def step(state, batch, key):
        seconds[0] += 1.0
        return _step(state, batch, key)

    clock = types.SimpleNamespace(monotonic=lambda: seconds[0])
    monkeypatch.setattr("seeflower_jax.training.progress.time", clock)
    monkeypatch.setattr(processes, "Vote", vote)
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *_: steps.append(step))
    plan = dataclasses.replace(
        _plan([0.5]), step=step, batches=_batches(20), checkpoint_seconds=2.5
    )
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        log = MetricsLog(tmp_path, 0)
        loop.fit(plan, _state(), PROGRESS, checkpoints, log)
    assert steps == saved


def test_only_the_clock_of_the_first_process_counts(tmp_path, monkeypatch):
    votes = []

    class Vote:
        def __call__(self, *cast):
            votes.append(cast)
            return cast

    monkeypatch.setattr(processes, "Vote", Vote)
    monkeypatch.setattr(processes, "is_main", lambda: False)
    plan = dataclasses.replace(_plan([0.5, 0.6]), checkpoint_seconds=0.0)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        log = MetricsLog(tmp_path, 0)
        loop.fit(plan, _state(), PROGRESS, checkpoints, log)
    assert votes == [(False, False)] * 2


def test_validation_loss_that_is_not_finite_ends_the_stage(tmp_path):
    values = {"top1": 0.5, "loss": np.nan}
    plan = dataclasses.replace(_plan([0.5, 0.6]), validate=lambda variables: values)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        log = MetricsLog(tmp_path, 0)
        with pytest.raises(NonFiniteLossError, match="loss is nan after step 1"):
            loop.fit(plan, _state(), PROGRESS, checkpoints, log)


def test_log_forgets_what_comes_after_the_step_gone_on_from(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(tmp_path, 0)
    for run_step in (1, 2, 3):
        log.write(run_step=run_step)
    MetricsLog(tmp_path, 2).write(run_step=3, again=True)
    assert path.read_text().splitlines()[2:] == ['{"run_step": 3, "again": true}']
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("cut", range(1, 16))
def test_log_drops_a_line_that_was_interrupted(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(tmp_path, 0)
    log.write(run_step=1)
    log.write(run_step=2)
    path.write_text(path.read_text()[:-cut])
    MetricsLog(tmp_path, 1).write(run_step=2)
    assert path.read_text() == '{"run_step": 1}\n{"run_step": 2}\n'


def test_progress_is_a_value():
    metrics = {"loss": 2.0, "correct": 1, "count": 4}
    metrics |= {"gradient_norm": 1.0, "update_norm": 1.0}
    first = PROGRESS.account(metrics)
    second = first.account(metrics).spend(2.0)
    assert PROGRESS == Progress("head") and first.step == 1 and second.step == 2
    assert second.images == {"head": 8} and second.seconds == {"head": 2.0}
    assert second.train_metrics()["loss"] == 0.5
    assert Progress(**json.loads(json.dumps(second.to_dict()))) == second
    following = second.start_stage("finetune")
    assert (following.step, following.run_step) == (0, 2)


def test_metrics_of_a_step_are_fetched_once_the_next_one_has_started(tmp_path):
    events = []

    def step(state, batch, key):
        number = int(state.step) + 1
        events.append(f"start {number}")
        after, metrics = _step(state, batch, key)
        return after, {k: _Scalar(v, number, events) for k, v in metrics.items()}

    plan = dataclasses.replace(_plan([0.5]), step=step, batches=_batches(6))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        log = MetricsLog(tmp_path, 0)
        loop.fit(plan, _state(), PROGRESS, checkpoints, log)
    scalars = 5  # in each step; the last step is fetched at the end of its epoch
    assert events == [
        *("start 1", "start 2", *["fetch 1"] * scalars),
        *("start 3", *["fetch 2"] * scalars, *["fetch 3"] * scalars),
    ]


def test_trace_of_a_step_is_written(tmp_path):
    trace = Trace(tmp_path / "profile", steps=1)
    plan = dataclasses.replace(_plan([0.1, 0.2, 0.3, 0.4]), trace=trace)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        log = MetricsLog(tmp_path, 0)
        loop.fit(plan, _state(), PROGRESS, checkpoints, log)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
