"""Test training end to end: the real scripts on small files in the real layouts."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import inception
from seeflower_jax import models, records
from seeflower_jax.data import loader
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import train as train_module
from seeflower_jax.experiment.evaluate import evaluate
from seeflower_jax.experiment.settings import derive
from seeflower_jax.experiment.train import train
from seeflower_jax.inference.run import load_run
from seeflower_jax.pretrained import converted
from seeflower_jax.report import collect
from seeflower_jax.studies import record, tables
from seeflower_jax.training.progress import NonFiniteLossError
from tests import fixtures, harness, tiny_config

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def arguments(flowers, narrow_weights, tmp_path_factory):
    return [
        "--config=tests/tiny_config.py",
        f"--config.data.dir={flowers}",
        f"--config.data.cache_dir={tmp_path_factory.mktemp('cache')}",
        f"--config.init.weights={narrow_weights}",
    ]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """Return the directory of a run of the real script."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    done = harness.run_apart("train", *arguments, f"--workdir={workdir}", "--json")
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.fixture(scope="module")
def small_finished(flowers, tmp_path_factory):
    """Return the directory, the config and the result of a run of the network `small`.

    Its two stages have two epochs of two steps each.
    """
    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(
        dir=str(flowers), cache_dir=str(tmp_path_factory.mktemp("cache"))
    )
    config.stages.head.epochs = config.stages.finetune.epochs = 2
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, config, train(config, workdir)


@pytest.fixture
def config(small_finished):
    """Return a copy of the config of `small_finished`."""
    return small_finished[1].copy_and_resolve_references()


def test_run_directory_and_result(finished):
    workdir, done = finished
    result = json.loads(done.stdout)
    assert result == json.loads((workdir / "result.json").read_text())
    assert set(result) >= {
        *("model", "recipe", "split", "seed", "weights", "command", "config_hash"),
        *("git_commit", "versions", "device", "seconds", "images_per_second"),
    }
    count = fixtures.CLASSES * fixtures.TEST
    assert result["test"]["count"] == count
    assert set(result["validation"]) == {
        *("top1", "mean_class_top1", "top5", "loss", "count")
    }
    assert result["seconds"].keys() == {"head", "finetune", "evaluation"}
    assert result["weights"]["name"] == "narrow_notop.h5"
    fitted = result["calibration"]
    assert fitted["fitted_on"] == "validation" and 0.1 <= fitted["temperature"] <= 10
    assert load_run(workdir).network.temperature == fitted["temperature"]
    assert (workdir / "config.json").exists()
    assert (workdir / "learning_curves.png").read_bytes()[1:4] == b"PNG"
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["stage"] for r in records] == ["head"] * 2 + ["finetune"] * 2
    assert [r["run_step"] for r in records] == [2, 4, 6, 8]
    assert "backbone/Conv2d_1a_3x3 ... backbone/mixed10_branch_pool" in done.stderr
    assert "images/s" in done.stderr and "finetune epoch 2" in done.stderr


def test_finished_run_is_only_read(finished, arguments):
    workdir, done = finished
    before = (workdir / "result.json").stat().st_mtime_ns
    again = harness.run_apart("train", *arguments, f"--workdir={workdir}")
    lines = again.stdout.splitlines()
    assert again.returncode == 0 and lines[0] == str(workdir)
    test = json.loads(done.stdout)["test"]
    assert lines[-1].split()[:2] == ["test", tables.share(test["top1"])]
    assert (workdir / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_devices_train_the_same_run(finished, arguments, tmp_path):
    _, one = finished
    flags = "--xla_force_host_platform_device_count=2"
    arguments = [*arguments, f"--workdir={tmp_path}", "--json"]
    two = harness.run_apart("train", *arguments, XLA_FLAGS=flags)
    assert two.returncode == 0, two.stderr
    one, two = json.loads(one.stdout), json.loads(two.stdout)
    assert two["device"].startswith("2 x cpu") and one["device"].startswith("1 x cpu")
    assert two["test"]["loss"] == pytest.approx(one["test"]["loss"], rel=1e-3)


def test_workdir_of_another_config(finished, arguments):
    workdir, _ = finished
    done = harness.run_apart(
        "train", *arguments, f"--workdir={workdir}", "--config.seed=7"
    )
    assert done.returncode != 0
    assert "config.seed: 0 there, 7 now" in done.stderr


def test_further_stage_and_other_views_of_a_finished_run(
    small_finished, config, tmp_path
):
    whole = small_finished[2]
    config.stage_order = ("head",)
    blind = train(config, tmp_path, test=False)
    assert "test" not in blind and not list(tmp_path.glob("logits_test*"))
    assert train(config, tmp_path, test=False) == blind
    with pytest.raises(ValueError, match="has no metrics of a test split"):
        record.record(tmp_path, tmp_path)
    head = train(config, tmp_path)
    assert head["validation"] == blind["validation"] and "test" in head
    assert train(config, tmp_path, test=False) == head
    config.stage_order = ("head", "finetune")
    both = train(config, tmp_path)
    assert head["seconds"].keys() == {"head", "evaluation"}
    assert both["test"] == whole["test"] and both["validation"] == whole["validation"]
    log = (tmp_path / "metrics.jsonl").read_text()
    config.test_time.hflip = True
    mirrored = train(config, tmp_path)
    assert mirrored["config_hash"] != both["config_hash"]
    assert json.loads((tmp_path / "result.json").read_text()) == mirrored
    assert (tmp_path / "metrics.jsonl").read_text() == log
    assert mirrored["test"]["loss"] != both["test"]["loss"]
    config.stage_order = ("finetune",)
    with pytest.raises(ValueError, match=r"stage_order: \['head', 'finetune'\] there"):
        train(config, tmp_path)


@pytest.mark.parametrize(
    "override,message",
    [
        ("--config.stages.head.epoch=3", "epoch"),
        ("--config.sead=3", "sead"),
        ("--config.stages.head.epochs=many", "many"),
    ],
)
def test_mistyped_config_key_or_value(arguments, tmp_path, override, message):
    done = harness.run_apart("train", *arguments, f"--workdir={tmp_path}", override)
    assert done.returncode != 0
    assert any(message in line for line in done.stderr.splitlines()[-2:])
    assert list(tmp_path.iterdir()) == []


def test_evaluate_script_repeats_the_result_and_writes_tables(finished):
    workdir, train = finished
    done = harness.run_apart(
        "evaluate", f"--workdir={workdir}", "--split=test", "--json"
    )
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), json.loads(train.stdout)["test"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["top1"] == expected["top1"]
    out = workdir / "evaluation_test"
    assert json.loads((out / "metrics.json").read_text()) == found
    with open(out / "confusion_matrix.csv") as file:
        rows = list(csv.reader(file))
    confusion = np.array([row[1:] for row in rows[1:]], int)
    assert confusion.shape == (102, 102) and confusion.sum() == found["count"]
    assert np.trace(confusion) == round(found["top1"] * found["count"])
    with open(out / "per_class.csv") as file:
        classes = list(csv.DictReader(file))
    assert classes[0]["name"] == "pink primrose"
    assert sum(int(row["correct"]) for row in classes) == np.trace(confusion)
    for name in ("confusion_matrix.png", "reliability.png"):
        assert (out / name).read_bytes()[1:4] == b"PNG"
    fitted = json.loads(train.stdout)["calibration"]
    assert found["calibration"]["temperature"] == fitted["temperature"]


def test_logits_are_kept_for_the_variables_they_are_of(tiny_run, monkeypatch):
    logits = evaluate(tiny_run, "test").logits
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "stream", None)  # would compute other logits
        np.testing.assert_array_equal(evaluate(tiny_run, "test").logits, logits)
        with pytest.raises(TypeError):
            evaluate(dataclasses.replace(tiny_run, step=7), "test")


def test_run_without_calibration_in_its_result(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run/result.json"
    result = json.loads(path.read_text())
    del result["calibration"]
    path.write_text(json.dumps(result))
    assert load_run(tmp_path / "run").network.temperature == 1.0


def test_evaluate_without_a_run(tmp_path):
    done = harness.run_apart("evaluate", f"--workdir={tmp_path}")
    assert done.returncode != 0 and "is not a run directory" in done.stderr


class _Interrupted(BaseException):
    pass


def _log(workdir):
    """Return the lines of metrics.jsonl, without values that depend on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"images_per_second": None} for line in lines]


def _train_and_break(config, workdir, monkeypatch, after):
    """Train on `after` batches and stop, as if the process had died."""
    count, original = 0, loader.TrainLoader.__call__

    def batches(self, start, stop):
        nonlocal count
        for batch in original(self, start, stop):
            if count == after:
                raise _Interrupted
            count += 1
            yield batch

    with monkeypatch.context() as patch, pytest.raises(_Interrupted):
        patch.setattr(loader.TrainLoader, "__call__", batches)
        train(config, workdir, checkpoint_seconds=0.0)


# Within the head stage, at its end, and twice within the second stage.
@pytest.mark.parametrize("after", [1, 4, 5, 7])
def test_interrupted_run_is_the_same_run(
    small_finished, config, tmp_path, monkeypatch, after
):
    whole, _, expected = small_finished
    parts = tmp_path / "parts"
    _train_and_break(config, parts, monkeypatch, after)
    result = train(config, parts)
    assert result["test"] == expected["test"]
    assert len(_log(whole)) == 4 and _log(whole) == _log(parts)
    best = [load_run(path).network.variables for path in (whole, parts)]
    harness.assert_trees_equal(*best)


def test_nan_loss_names_the_step_and_keeps_the_checkpoint(
    config, tmp_path, monkeypatch
):
    original = loader.TrainLoader.__call__

    def batches(self, start, stop):
        for number, batch in enumerate(original(self, start, stop)):
            if "features" in batch and number == 2:
                batch = batch | {"features": batch["features"] * np.nan}
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(loader.TrainLoader, "__call__", batches)
        with pytest.raises(NonFiniteLossError, match="step 3 of stage 'head'"):
            train(config, tmp_path / "run", checkpoint_seconds=0.0)
    variables = load_run(tmp_path / "run").network.variables
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    assert train(config, tmp_path / "run")["test"]["count"] == 20


def test_pretraining_does_not_see_the_test_split(config, tmp_path):
    config.init.pretraining = ConfigDict({"stage_order": ("head",), "seed": 1})
    result = train(config, tmp_path / "run", test=False)
    assert result["weights"]["name"] == "pretraining" and "test" not in result
    folder = tmp_path / "run/pretraining"
    assert "test" not in json.loads((folder / "result.json").read_text())
    assert not list(folder.glob("logits_test*"))


def test_a_run_starts_between_the_weights_around_the_pretraining(config, tmp_path):
    spec = models.get_spec("small", width=0.5)
    initial = fixtures.random_variables(spec, seed=5)
    source = {"name": "a", "sha256": None, "exact": None}
    converted.save(tmp_path / "weights", spec, initial, source)
    config.init.weights = str(tmp_path / "weights")
    config.init.pretraining = ConfigDict({"seed": 1})
    config.init.pretrained_share = 0.25
    train(config, tmp_path / "run", test=False)
    tuned = load_run(tmp_path / "run/pretraining").network
    _, mixed = converted.load(tmp_path / "run/pretraining/weights")
    harness.assert_trees_close(
        mixed["params"]["backbone"],
        jax.tree.map(
            lambda before, after: 0.75 * before + 0.25 * after,
            initial["params"]["backbone"],
            tuned.variables["params"]["backbone"],
        ),
        atol=1e-7,
    )
    harness.assert_trees_equal(
        mixed["params"]["head"], tuned.variables["params"]["head"]
    )


DRAWN = {"source": "synthetic", "split": "source", "species": 6, "verify": False}


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"data.dir": "absent"}, "absent"),
        ({"stages.finetune.batch_size": 50}, "a batch of 50 is more than the 16 train"),
        (
            {"distillation.logits": "absent.npz", "distillation.weight": 0.5},
            "config.distillation.logits: absent.npz does not exist",
        ),
        ({"init.pretraining.data": {"split": "reversed"}}, "on 20 validation and test"),
        ({"init.pretraining.data": {"split": "trainval"}}, "on 12 validation and test"),
    ],
)
def test_what_the_run_needs_is_checked_before_its_pretraining(
    config, tmp_path, changes, message
):
    config.init.pretraining = ConfigDict({"stage_order": ("head",), "data": DRAWN})
    for key, value in changes.items():
        *path, last = key.split(".")
        section = config
        for name in path:
            section = section[name]
        section[last] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_that_changed_after_the_pretraining_are_refused(config, tmp_path):
    config.init.pretraining = ConfigDict({"stage_order": ("head",), "seed": 1})
    folder = tmp_path / "run/pretraining"
    train(derive(config, config.init.pretraining), folder, test=False)
    path = folder / "data.json"
    data = json.loads(path.read_text())
    data["images"]["train"] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="was trained on other images"):
        train(config, tmp_path / "run")


def test_stages_that_are_appended_after_the_pretraining(config, tmp_path, monkeypatch):
    """A run starts from the whole pretraining, and then keeps what it started from."""
    config.metric = "loss"  # gets better with every stage
    config.init.pretraining = ConfigDict({"seed": 1})
    config.stage_order = ("head",)
    run = tmp_path / "run"
    prepare = train_module._prepare

    def interrupted(settings, folder, *others):
        if folder == run:
            raise KeyboardInterrupt
        return prepare(settings, folder, *others)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_prepare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, run)
    assert (run / "pretraining/weights/model.json").exists()

    config.stage_order = ("head", "finetune")
    result = train(config, run)
    assert result["pretraining"]["best"]["stage"] == "finetune"
    pretrained = load_run(run / "pretraining").network.variables
    _, started_from = converted.load(run / "pretraining/weights")
    harness.assert_trees_equal(started_from, pretrained)

    config.stages.refined = config.stages.finetune
    config.stage_order = ("head", "finetune", "refined")
    again = train(config, run)
    assert "refined" in again["seconds"]
    assert again["pretraining"] == result["pretraining"]


def test_batch_statistics_are_trained_below_a_head_alone(config, tmp_path):
    config.stage_order = ("head",)
    train(config, tmp_path / "kept")
    config.stages.head.train_batch_stats = True
    train(config, tmp_path / "trained")
    kept, trained = (
        load_run(tmp_path / name).network.variables["batch_stats"]
        for name in ("kept", "trained")
    )
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), kept, trained)
    assert all(jax.tree.leaves(moved))
    assert not (tmp_path / "trained/features_head.npy").exists()


def test_temperature_is_of_the_variables(finished, tmp_path):
    """A continued run has no temperature until it is finished again."""
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run/result.json"
    result = json.loads(path.read_text())
    for best in ({"step": -1}, {}):  # other variables; an early version of 0.2
        path.write_text(json.dumps(result | {"best": best, "config_hash": "0" * 12}))
        run = load_run(tmp_path / "run")
        assert run.network.temperature == 1.0 and run.result == {}
        assert evaluate(run, "validation").temperature == 1.0
    export = tmp_path / "export"
    done = harness.run_here("export", f"--workdir={run.workdir}", f"--out={export}")
    assert done.returncode == 0, done.stderr
    assert not json.loads((export / "model.json").read_text())["metrics"]
    for logits in run.workdir.glob("logits_test*"):
        logits.unlink()
    assert "This run is not finished" in collect.write(run.workdir).read_text()
    assert not list(run.workdir.glob("logits_test*"))


def test_provenance_is_that_of_the_training(config, tmp_path, monkeypatch):
    config.stage_order = ("head",)
    with monkeypatch.context() as patch:
        patch.setattr("seeflower_jax.records.origin.device", lambda: "1 x gpu (A)")
        blind = train(config, tmp_path, "train --notest", test=False)
    assert "evaluation" not in blind
    result = train(config, tmp_path, "train")
    assert result["command"] == "train --notest" and result["device"] == "1 x gpu (A)"
    assert result["evaluation"] == {"command": "train", "device": records.device()}
    assert result["images_per_second"] == blind["images_per_second"]
    config.stage_order = ("head", "finetune")
    again = train(config, tmp_path, "train more")
    assert again["command"] == "train more" and again["device"] == records.device()
    assert "evaluation" not in again


def test_split_without_validation_keeps_the_last_variables(config, tmp_path):
    config.data.split = "trainval"
    result = train(config, tmp_path / "run")
    assert "validation" not in result and result["best"]["stage"] == "finetune"
    assert result["calibration"] == {"fitted_on": None, "temperature": 1.0}


def test_whitened_run(config, tmp_path):
    config.whitening.enabled = True
    config.stages.finetune.epochs = 0
    result = train(config, tmp_path / "run")
    assert (tmp_path / "run/whitening.npz").exists()
    run = load_run(tmp_path / "run")
    whitened = evaluate(run, "test")
    assert whitened.metrics["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)
    plain = dataclasses.replace(run.network, preprocess=None)
    other = dataclasses.replace(run, network=plain, step=-1)  # no saved logits
    difference = np.abs(evaluate(other, "test").logits - whitened.logits).max()
    assert difference > 1e-4 * np.abs(whitened.logits).max()


@pytest.mark.parametrize("epochs", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_few_steps_on_the_real_assets(assets, tmp_path, epochs):
    """Run the committed config on the real files: the head, then some fine-tuning."""
    from seeflower_jax.pretrained import published

    config = inception.three_stages()
    config.data.dir = str(assets / "oxford_flowers102")
    config.data.cache_dir = str(tmp_path)
    config.data.shortest_side = 160  # saves time
    name = published.CATALOG["inception_v3"].url.rsplit("/", 1)[-1]
    config.init.weights = str(assets / "weights" / name)
    config.eval.update(size=96, batch_size=64)
    config.test_time.update(views=((96, 1.0),), hflip=False)
    config.stages.head.epochs = 30
    config.stages.finetune.update(epochs=epochs, batch_size=510)
    config.stages.finetune.augment.size = 75
    config.stages.settle.epochs = 0
    result = train(config, tmp_path / "run", test=False)
    images = json.loads((tmp_path / "run" / "data.json").read_text())["images"]
    assert images["test"] == 6149 and result["validation"]["count"] == 1020
    assert result["validation"]["top1"] > 0.3  # chance is 0.01
