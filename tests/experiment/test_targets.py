"""Test what a run learns from: a teacher, or labels with adjusted logits."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import scipy.special

from configs import inception
from seeflower_jax import records
from seeflower_jax.experiment import ensemble, evaluate, images, teacher
from seeflower_jax.experiment.settings import (
    SettingsError,
    derive,
    pretraining_of,
    read_settings,
)
from seeflower_jax.experiment.train import train
from seeflower_jax.inference.run import load_config, load_run
from seeflower_jax.training import ridge
from tests import fixtures, harness, tiny_config

pytestmark = pytest.mark.long

CLASSES = 102


@pytest.fixture(scope="module")
def logits_path(linear_run, tmp_path_factory):
    """Return the file of a teacher that reads the features of `linear_run` twice."""
    folder = tmp_path_factory.mktemp("teacher")
    path, copy = folder / "new" / "teacher.npz", folder / "copy"
    shutil.copytree(linear_run.workdir, copy)
    runs = f"--workdirs={linear_run.workdir},{copy}"
    done = harness.run_here(
        "ensemble", runs, "--joint_head", "--notest", f"--teacher={path}"
    )
    assert done.returncode == 0, done.stderr
    return path


def _solve(run, **options):
    """Solve the head of a run again, on the features in its directory."""
    labels = images.of_run(run).labels("train")
    features = np.load(run.workdir / "features_linear.npy")[: len(labels)]
    return ridge.solve(features, labels, CLASSES, **options)


def test_closed_form_head_learns_what_the_teacher_predicts(
    linear_run, linear_config, logits_path, tmp_path
):
    dataset = images.of_run(linear_run)
    taught = teacher.read(logits_path, dataset)
    np.testing.assert_allclose(taught.logits, _solve(linear_run).logits, atol=1e-3)
    config = linear_config.copy_and_resolve_references()
    config.distillation.update(logits=str(logits_path), weight=0.7, temperature=2.0)
    result = train(config, tmp_path / "run")
    assert result["teacher"] == taught.sha256
    odds = np.exp(taught.logits / 2)
    softened = odds / odds.sum(-1, keepdims=True)
    one_hot = np.eye(CLASSES)[dataset.labels("train")]
    fit = _solve(linear_run, targets=0.3 * one_hot + 0.7 * softened)
    kernel = load_run(tmp_path / "run").network.variables["params"]["head"]["logits"]
    np.testing.assert_allclose(kernel["kernel"], fit.kernel, atol=1e-4)
    np.testing.assert_allclose(kernel["bias"], fit.bias, atol=1e-4)
    # The file is a local path, so it may move, but its content must stay the same.
    moved, other = tmp_path / "moved.npz", tmp_path / "other.npz"
    shutil.copy(logits_path, moved)
    teacher.write(other, dataset, taught.logits + 1)
    config.distillation.logits = str(moved)
    assert train(config, tmp_path / "run") == result
    config.distillation.logits = str(other)
    with pytest.raises(ValueError, match="was started with a teacher of SHA-256"):
        train(config, tmp_path / "run")
    assert load_config(tmp_path / "run")["distillation"]["logits"] == str(moved)
    (tmp_path / "run/result.json").unlink()
    other.replace(moved)
    config.distillation.logits = str(moved)
    with pytest.raises(ValueError, match="was started with a teacher of SHA-256"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("taught", [True, False], ids=["teacher", "class counts"])
def test_loss_that_a_stage_logs(linear_run, logits_path, flowers, tmp_path, taught):
    """The only step hardly moves the head, so its loss is the loss of the result."""
    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(dir=str(flowers), cache_dir=str(tmp_path / "cache"))
    config.model.dropout = 0.0
    config.stage_order = ("head",)
    config.stages.head.update(
        batch_size=fixtures.CLASSES * fixtures.TRAIN,
        learning_rate=1e-9,
        weight_decay=0.0,
        label_smoothing=0.0,
    )
    if taught:
        config.distillation.update(logits=str(logits_path), weight=1.0, temperature=1.0)
    else:
        config.data.logit_adjustment = 2.0
    train(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    dataset = images.of_run(run)
    single = evaluate.single_view(run)
    logits = evaluate.evaluate(run, "train", single).logits
    if taught:
        targets = scipy.special.softmax(
            teacher.read(logits_path, dataset).logits, axis=-1
        )
        entropy = scipy.special.entr(targets).sum(-1)
    else:
        targets, entropy = np.eye(CLASSES)[dataset.labels("train")], 0.0
        counts = np.ones(CLASSES)  # a class without images counts as one image
        counts[: fixtures.CLASSES] = fixtures.TRAIN
        logits = logits + 2 * np.log(counts / counts.sum())
    cross_entropy = -(targets * scipy.special.log_softmax(logits, -1)).sum(-1)
    (line,) = (run.workdir / "metrics.jsonl").read_text().splitlines()
    expected = float(np.mean(cross_entropy - entropy))
    assert json.loads(line)["train"]["loss"] == pytest.approx(expected, rel=1e-3)


def test_files_that_are_no_teacher_of_these_images(linear_run, logits_path, tmp_path):
    dataset = images.of_run(linear_run)
    with pytest.raises(FileNotFoundError, match="config.distillation.logits: .*write"):
        teacher.read(tmp_path / "absent.npz", dataset)
    splits = dict(dataset.source.splits, train=dataset.indices("train")[1:])
    other = dataclasses.replace(
        dataset, source=dataclasses.replace(dataset.source, splits=splits)
    )
    with pytest.raises(ValueError, match="not have the logits of the training images"):
        teacher.read(logits_path, other)
    (tmp_path / "cut.npz").write_bytes(logits_path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cut.npz is damaged: .*write it with"):
        teacher.read(tmp_path / "cut.npz", dataset)


TUNED = {"solver": "gradient", "partition": [[".*", 1.0]], "all_views": False}


def test_a_teacher_that_was_trained_on_the_images_is_refused(linear_run, tmp_path):
    config = records.plain(linear_run.config)
    config["stages"]["linear"] |= TUNED
    tuned = dataclasses.replace(linear_run, config=config)
    with pytest.raises(ValueError, match="in stage 'linear', so its features reveal"):
        ensemble.joint_head([linear_run, tuned], teacher_path=tmp_path / "t.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data,learned",
    [
        ({}, True),
        ({"balance": "sampling"}, True),
        ({"shortest_side": 96}, True),
        ({"split": "trainval"}, True),
        ({"split": "reversed"}, False),
        ({"source": "synthetic", "split": "source"}, False),
    ],
)
def test_a_teacher_whose_pretraining_learned_the_images_is_refused(
    linear_run, data, learned
):
    config = records.plain(linear_run.config)
    config["init"]["pretraining"] = {
        "data": data,
        "stages": {"tuned": config["stages"]["linear"] | TUNED},
        "stage_order": ["tuned"],
    }
    tuned = dataclasses.replace(linear_run, config=config)
    if not learned:
        ensemble._check_teacher([tuned])
        return
    with pytest.raises(ValueError, match="in stage 'tuned', so its features reveal"):
        ensemble._check_teacher([tuned])


@pytest.mark.parametrize(
    "changes,message",
    [
        (
            {"distillation.weight": 0.5},
            "distillation.logits is ''; expected the file of scripts.ensemble",
        ),
        (
            {"distillation.logits": "teacher.npz"},
            "distillation.logits is 'teacher.npz'; expected '', because .*weight is 0",
        ),
        (
            {"data.logit_adjustment": 1.0},
            "logit_adjustment is 1.0; expected 0, because no stage is trained by gra",
        ),
        (
            {"data.logit_adjustment": 1.0, "data.balance": "sampling"},
            "expected 0, because config.data.balance is 'sampling'",
        ),
        (
            {
                "data.logit_adjustment": 1.0,
                "distillation.logits": "x",
                "distillation.weight": 0.5,
            },
            "expected 0, because config.distillation.weight is not 0",
        ),
    ],
)
def test_values_that_do_not_fit_each_other(linear_config, changes, message):
    config = linear_config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    with pytest.raises(SettingsError, match=message):
        read_settings(config)


def test_fine_tuning_before_a_closed_form_head_has_the_targets_of_the_run():
    config = inception.get_config()
    config.distillation.update(logits="teacher.npz", weight=0.5)
    settings = read_settings(config)
    before = pretraining_of(settings)
    assert before.teacher == "teacher.npz"
    assert before.distillation == settings.distillation
    # Other images have no rows in the teacher's file.
    other = derive(settings.config, {"data": {"dir": "other"}})
    assert read_settings(other).distillation is None
    balanced = derive(settings.config, {"data": {"balance": "sampling", "seed": 0}})
    assert read_settings(balanced).distillation == settings.distillation
    config = inception.get_config()
    config.data.update(split="reversed", logit_adjustment=1.0)
    settings = read_settings(config)
    before = pretraining_of(settings)
    assert before.data.logit_adjustment == 1.0 and settings.balanced


def test_usage(tmp_path):
    runs = f"--workdirs={tmp_path},{tmp_path}"
    done = harness.run_here("ensemble", runs, "--teacher=t.npz")
    assert done.returncode == 2 and "--teacher needs --joint_head" in done.stderr
