"""Test a training step: what it changes, what it keeps, and what it costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import inception
from seeflower_jax import models
from seeflower_jax.data.augmentation import augment
from seeflower_jax.data.view import View
from seeflower_jax.experiment.settings import read_settings
from seeflower_jax.training import step
from seeflower_jax.training.losses import Distillation, Loss
from seeflower_jax.training.optimizer import make_optimizer
from seeflower_jax.training.state import create_state
from tests import fixtures, harness

SPEC = models.get_spec("small", num_classes=5, width=0.25, dropout=0.1)
INCEPTION = models.get_spec(
    "inception_v3", num_classes=5, width=fixtures.NARROW_WIDTH, dropout=0.1
)
WHOLE = (("head/.*", 3.0), ("backbone/.*", 1.0))
SIZE = 96


@pytest.fixture(scope="module")
def variables():
    return fixtures.random_variables(SPEC, 0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "canvas": jnp.asarray(rng.integers(0, 256, (4, 100, 120, 3), dtype=np.uint8)),
        "sizes": jnp.array([[100, 120]] * 4, jnp.int32),
        "labels": jnp.array([0, 1, 2, 3], jnp.int32),
        "indices": jnp.arange(4),
    }


def _stage(name, augment=None, **changes):
    """Return a stage of the Inception-v3 recipe for small images."""
    config = inception.three_stages()
    config.stages[name].augment.update({"size": SIZE, **(augment or {})})
    stages = {stage.name: stage for stage in read_settings(config).stages}
    return dataclasses.replace(stages[name], **changes, view=View(SIZE, 100))


def _prepare(stage, variables, spec=SPEC):
    optimizer = make_optimizer(stage, stage.schedule(10))
    state = create_state(variables, stage, optimizer)
    return state, jax.jit(step.make_image_step(spec, stage, optimizer))


def _flops(compiled):
    analysis = compiled.cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


@pytest.mark.long
def test_head_stage_costs_a_forward_pass_and_moves_the_head_alone(variables, batch):
    augmentation = {"enabled": True, "mixup": 0.0, "cutmix": 0.0}
    stage = _stage("head", augmentation, clip_norm=1.0, weight_decay=0.1)
    state, train_step = _prepare(stage, variables)
    key = jax.random.key(1)
    compiled = train_step.lower(state, batch, key).compile()

    def forward(variables, batch, key):
        keys = step.example_keys(key, batch["indices"])
        images = augment(keys, batch["canvas"], batch["sizes"], stage.augmentation)
        return models.apply(SPEC, variables, images)[0]

    plain = jax.jit(forward).lower(variables, batch, key).compile()
    assert _flops(compiled) < 1.1 * _flops(plain)

    elements = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    head = jax.tree.leaves(variables["params"]["head"])
    assert elements == 2 * sum(leaf.size for leaf in head)
    before = jax.device_get(state)
    for _ in range(3):
        state, metrics = compiled(state, batch, key)
    assert np.isfinite(metrics["loss"]) and int(state.step) == 3
    harness.assert_trees_equal(state.frozen, before.frozen)
    harness.assert_trees_equal(state.batch_stats, before.batch_stats)
    for name, value in before.trainable.items():
        assert not np.array_equal(state.trainable[name], value)


@pytest.mark.long
def test_finetune_stage_keeps_stem_and_statistics(batch):
    variables = fixtures.random_variables(INCEPTION, 0)
    stage = _stage("finetune", ema_decay=0.5, warmup_steps=0)
    state, train_step = _prepare(stage, variables, INCEPTION)
    after, _ = train_step(state, batch, jax.random.key(1))
    assert set(state.frozen) == {
        f"backbone/{name}/{leaf}"
        for name in SHAPES_OF_STEM
        for leaf in ("conv/kernel", "bn/bias")
    }
    harness.assert_trees_equal(after.frozen, state.frozen)
    harness.assert_trees_equal(after.batch_stats, state.batch_stats)
    moved = [
        not np.array_equal(after.trainable[name], state.trainable[name])
        for name in state.trainable
    ]
    assert np.mean(moved) > 0.9
    # After the first step, the average keeps one tenth of the initial value.
    name = "head/logits/kernel"
    expected = 0.1 * state.trainable[name] + 0.9 * after.trainable[name]
    np.testing.assert_allclose(after.average[name], expected, rtol=1e-4, atol=1e-7)


SHAPES_OF_STEM = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
)


@pytest.mark.long
def test_batch_statistics_train_where_asked(variables, batch):
    stage = _stage("finetune", train_batch_stats=True, rules=WHOLE)
    state, train_step = _prepare(stage, variables)
    after, _ = train_step(state, batch, jax.random.key(1))
    for block, before in state.batch_stats["backbone"].items():
        mean = after.batch_stats["backbone"][block]["bn"]["mean"]
        assert not np.array_equal(mean, before["bn"]["mean"])


@pytest.mark.long
def test_step_is_a_function_of_key_and_step(variables, batch):
    stage = _stage("finetune", rules=WHOLE)
    state, train_step = _prepare(stage, variables)
    first = train_step(state, batch, jax.random.key(1))[1]["loss"]
    again = train_step(state, batch, jax.random.key(1))[1]["loss"]
    later = train_step(state.replace(step=state.step + 1), batch, jax.random.key(1))
    assert first == again and first != later[1]["loss"]


def test_loss_is_the_cross_entropy_with_smoothed_labels(variables):
    features = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)
    features = features[:, : variables["params"]["head"]["logits"]["kernel"].shape[0]]
    batch = {
        "features": jnp.asarray(features),
        "labels": jnp.array([1, 4]),
        "indices": jnp.arange(2),
    }
    spec = dataclasses.replace(SPEC, dropout=0.0)
    log_p = np.asarray(jax.nn.log_softmax(models.apply_head(spec, variables, features)))
    label_log_p = log_p[[0, 1], [1, 4]]
    for smoothing in (0.0, 0.3):
        stage = _stage("head", label_smoothing=smoothing)
        optimizer = make_optimizer(stage, stage.schedule(10))
        state = create_state(variables, stage, optimizer)
        train_step = step.make_feature_step(spec, stage, optimizer)
        _, metrics = train_step(state, batch, jax.random.key(0))
        expected = (1 - smoothing) * label_log_p + smoothing * log_p.mean(-1)
        np.testing.assert_allclose(metrics["loss"], -expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_head_that_equals_its_teacher_stays_as_it_is(variables, parts):
    width = variables["params"]["head"]["logits"]["kernel"].shape[0]
    features = np.random.default_rng(0).normal(size=(4, width)).astype(np.float32)
    spec = dataclasses.replace(SPEC, dropout=0.0)
    stage = _stage("head", accum_steps=parts)
    optimizer = make_optimizer(stage, stage.schedule(10))
    state = create_state(variables, stage, optimizer)
    loss = Loss(distillation=Distillation(weight=1.0, temperature=3.0))
    train_step = jax.jit(step.make_feature_step(spec, stage, optimizer, loss))
    own = models.apply_head(spec, variables, features)
    norms = []
    for teacher in (own, own[::-1]):
        batch = {
            "features": jnp.asarray(features),
            "labels": jnp.arange(4),
            "indices": jnp.arange(4),
            "teacher": teacher,
        }
        _, metrics = train_step(state, batch, jax.random.key(1))
        norms.append((float(metrics["loss"]), float(metrics["gradient_norm"])))
    np.testing.assert_allclose(norms[0], 0, atol=1e-4)
    assert min(norms[1]) > 1e-2


@pytest.mark.long
@pytest.mark.parametrize("name", ["head", "finetune"])
def test_accumulated_gradients_are_those_of_the_batch(variables, batch, name):
    spec, variables = dataclasses.replace(SPEC, dropout=0.0), variables
    after = []
    for parts in (1, 2, 4):
        stage = _stage(name, accum_steps=parts, warmup_steps=0, optimizer="sgd")
        stage = dataclasses.replace(stage, weight_decay=0.0, learning_rate=1.0)
        if name == "finetune":
            stage = dataclasses.replace(stage, rules=WHOLE)
        state, train_step = _prepare(stage, variables, spec)
        after.append(train_step(state, batch, jax.random.key(1)))
    for state, metrics in after[1:]:
        assert metrics["count"] == 4 and metrics["correct"] == after[0][1]["correct"]
        for key in ("loss", "gradient_norm", "update_norm"):
            np.testing.assert_allclose(metrics[key], after[0][1][key], rtol=1e-4)
        for parameter, value in state.trainable.items():
            before = variables["params"]
            for part in parameter.split("/"):
                before = before[part]
            moved, expected = value - before, after[0][0].trainable[parameter] - before
            scale = float(jnp.abs(expected).max()) + 1e-6
            np.testing.assert_allclose(moved, expected, atol=2e-3 * scale)


@pytest.mark.long
def test_without_augmentation_it_trains_on_what_evaluation_sees(variables, batch):
    """The loss of a step without randomness is the loss on the view."""
    spec = dataclasses.replace(SPEC, dropout=0.0)
    stage = _stage("head", label_smoothing=0.0)
    assert stage.augmentation is None
    state, train_step = _prepare(stage, variables, spec)
    images = stage.view(batch["canvas"], batch["sizes"])
    logits, _ = models.apply(spec, variables, images)
    expected = -jax.nn.log_softmax(logits)[jnp.arange(4), batch["labels"]].sum()
    _, metrics = train_step(state, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)


def test_gradient_norm_is_of_what_is_trained(variables, batch):
    stage = _stage("head", optimizer="sgd", weight_decay=0.0, learning_rate=0.5)
    stage = dataclasses.replace(stage, schedule_name="constant")
    state, train_step = _prepare(stage, variables)
    after, metrics = train_step(state, batch, jax.random.key(1))
    moves = [after.trainable[k] - v for k, v in state.trainable.items()]
    norm = np.sqrt(sum(float((move**2).sum()) for move in moves))
    np.testing.assert_allclose(metrics["update_norm"], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["gradient_norm"], norm / 0.5, rtol=1e-4)


def test_example_keys_do_not_depend_on_the_batch():
    key = jax.random.key(0)
    together = step.example_keys(key, jnp.array([7, 3]))
    alone = step.example_keys(key, jnp.array([3]))
    assert jax.random.key_data(together)[1].tolist() == (
        jax.random.key_data(alone)[0].tolist()
    )


@pytest.mark.parametrize(
    "name,values", [("cosine", (0, 1, 0)), ("constant", (0, 1, 1))]
)
def test_schedules(name, values):
    stage = _stage("finetune", schedule_name=name, learning_rate=1.0, warmup_steps=10)
    schedule = stage.schedule(100)
    rates = [float(schedule(at)) for at in (0, 10, 100)]
    np.testing.assert_allclose(rates, values, atol=1e-6)
    with pytest.raises(ValueError, match="unknown schedule 'linear' in stage"):
        _stage("finetune", schedule_name="linear").schedule(100)
