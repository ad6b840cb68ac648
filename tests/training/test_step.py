"""A training step: what moves, what stays, what it costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import inception
from seeflower_jax import models
from seeflower_jax.data import augment
from seeflower_jax.training import partition, stages, step
from tests import fixtures

SPEC = models.get_spec(
    "inception_v3", num_classes=5, width=fixtures.NARROW_WIDTH, dropout=0.1
)
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


def _stage(name, **changes):
    config = inception.get_config().stages[name]
    config.update(changes)
    config.augment.size = SIZE
    return stages.Stage(name, 0, config)


def _prepare(stage, variables):
    optimizer = partition.make_optimizer(stage.config, stage.rules, stage.schedule(10))
    state = step.create_state(variables, stage.rules, optimizer, stage.config.ema_decay)
    return state, jax.jit(step.make_train_step(SPEC, stage.config, optimizer))


def _flops(compiled):
    analysis = compiled.cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


def test_head_stage_costs_a_forward_pass_and_moves_the_head_alone(variables, batch):
    stage = _stage("head", clip_norm=1.0, weight_decay=0.1)
    stage.config.augment.update(enabled=True, mixup=0.0, cutmix=0.0)
    state, train_step = _prepare(stage, variables)
    key = jax.random.key(1)
    compiled = train_step.lower(state, batch, key).compile()
    options = stage.config.augment.to_dict()
    for name in ("enabled", "size", "mixup", "cutmix"):
        options.pop(name)

    def forward(variables, batch, key):
        keys = step.example_keys(key, batch["indices"])
        images = augment.augment(keys, batch["canvas"], batch["sizes"], SIZE, **options)
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
    jax.tree.map(np.testing.assert_array_equal, state.frozen, before.frozen)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, before.batch_stats)
    for name, value in before.trainable.items():
        assert not np.array_equal(state.trainable[name], value)


def test_finetune_stage_keeps_stem_and_statistics(variables, batch):
    stage = _stage("finetune", ema_decay=0.5, warmup_steps=0)
    state, train_step = _prepare(stage, variables)
    after, _ = train_step(state, batch, jax.random.key(1))
    assert set(state.frozen) == {
        f"backbone/{name}/{leaf}"
        for name in SHAPES_OF_STEM
        for leaf in ("conv/kernel", "bn/bias")
    }
    jax.tree.map(np.testing.assert_array_equal, after.frozen, state.frozen)
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, state.batch_stats)
    moved = [
        not np.array_equal(after.trainable[name], state.trainable[name])
        for name in state.trainable
    ]
    assert np.mean(moved) > 0.9
    # After the first step the average has forgotten 9 tenths of the initial value.
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


def test_batch_statistics_train_where_asked(variables, batch):
    stage = _stage("finetune", train_batch_stats=True)
    state, train_step = _prepare(stage, variables)
    after, _ = train_step(state, batch, jax.random.key(1))
    name = "mixed5_branch1x1"
    assert not np.array_equal(
        after.batch_stats["backbone"][name]["bn"]["mean"],
        state.batch_stats["backbone"][name]["bn"]["mean"],
    )


def test_step_is_a_function_of_key_and_step(variables, batch):
    stage = _stage("finetune")
    state, train_step = _prepare(stage, variables)
    first = train_step(state, batch, jax.random.key(1))[1]["loss"]
    again = train_step(state, batch, jax.random.key(1))[1]["loss"]
    later = train_step(state.replace(step=state.step + 1), batch, jax.random.key(1))
    assert first == again and first != later[1]["loss"]


def test_loss_is_the_cross_entropy_with_smoothed_labels(variables):
    features = np.random.default_rng(0).normal(size=(2, 103)).astype(np.float32)
    features = features[:, : variables["params"]["head"]["logits"]["kernel"].shape[0]]
    batch = {
        "features": jnp.asarray(features),
        "labels": jnp.array([1, 4]),
        "indices": jnp.arange(2),
    }
    spec = dataclasses.replace(SPEC, dropout=0.0)
    log_p = np.asarray(jax.nn.log_softmax(models.apply_head(spec, variables, features)))
    own = log_p[[0, 1], [1, 4]]
    for smoothing in (0.0, 0.3):
        stage = _stage("head", label_smoothing=smoothing)
        optimizer = partition.make_optimizer(
            stage.config, stage.rules, stage.schedule(10)
        )
        state = step.create_state(variables, stage.rules, optimizer, 0.0)
        train_step = step.make_train_step(spec, stage.config, optimizer)
        _, metrics = train_step(state, batch, jax.random.key(0))
        expected = (1 - smoothing) * own + smoothing * log_p.mean(-1)
        np.testing.assert_allclose(metrics["loss"], -expected.sum(), rtol=1e-5)


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
    stage = _stage("finetune", schedule=name, learning_rate=1.0, warmup_steps=10)
    schedule = stage.schedule(100)
    found = [float(schedule(at)) for at in (0, 10, 100)]
    np.testing.assert_allclose(found, values, atol=1e-6)
    with pytest.raises(ValueError, match="unknown schedule 'linear' in stage"):
        _stage("finetune", schedule="linear").schedule(100)


def test_unknown_stage_name():
    config = inception.get_config()
    config.stage_order = ("head", "fintune")
    with pytest.raises(ValueError, match="stage_order names \\['fintune'\\]"):
        stages.stages(config)
