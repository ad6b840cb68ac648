"""Test run directories that are interrupted, damaged, claimed again or in use."""

import asyncio
import contextlib
import dataclasses
import fcntl
import gc
import json
import re
import resource
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from seeflower_jax import models, records
from seeflower_jax.data import loader, oxford_flowers
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import ensemble, images, kept, precision
from seeflower_jax.experiment.evaluate import evaluate, single_view
from seeflower_jax.experiment.settings import SettingsError
from seeflower_jax.experiment.train import train
from seeflower_jax.experiment.workdir import with_recorded_dtype
from seeflower_jax.inference.run import load_config, load_run
from seeflower_jax.pretrained import converted, loading
from seeflower_jax.training import stopping
from seeflower_jax.training.checkpoint import DamagedCheckpointError
from tests import fixtures, harness, tiny_config


def _config(flowers, cache):
    config = tiny_config.make_small(tiny_config.get_config())
    config.data.update(dir=str(flowers), cache_dir=str(cache))
    config.whitening.update(enabled=True, patch_size=3, patches_per_image=4)
    return config


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(flowers, cache):
    """Return the config of `finished`: two stages of two steps, images of 32 pixels."""
    return _config(flowers, cache)


@pytest.fixture(scope="module")
def finished(flowers, cache, tmp_path_factory):
    """Return the directory of a finished run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(_config(flowers, cache), workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    """Return a copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def _result(workdir):
    """Return the metrics of a run."""
    result = json.loads((workdir / "result.json").read_text())
    return {key: result[key] for key in ("test", "validation", "calibration", "best")}


def _request_after(monkeypatch, count):
    """Ask the loop to end during step `count` of the run."""
    original, batches = loader.TrainLoader.__call__, 0

    def counted(self, start, stop):
        nonlocal batches
        for batch in original(self, start, stop):
            batches += 1
            if batches == count:
                stopping.request()
            yield batch

    monkeypatch.setattr(loader.TrainLoader, "__call__", counted)


# Within the first stage, at its end, and within the second stage.
@pytest.mark.parametrize(
    "count,step,stage", [(1, 1, "head"), (2, 2, "head"), (3, 1, "finetune")]
)
def test_request_ends_the_run_after_the_step(
    finished, config, tmp_path, monkeypatch, count, step, stage
):
    with monkeypatch.context() as patch:
        _request_after(patch, count)
        with pytest.raises(stopping.Interrupted) as caught:
            train(config, tmp_path / "run")
    stopping.clear()
    assert str(caught.value) == (
        f"interrupted after step {step} of stage '{stage}', which is saved; start the "
        "same command again to resume the run"
    )
    train(config, tmp_path / "run")
    assert _result(tmp_path / "run") == _result(finished)
    variables = [
        load_run(path).network.variables for path in (finished, tmp_path / "run")
    ]
    harness.assert_trees_equal(*variables)


def test_interruption_before_the_first_step_says_how_to_resume(
    config, tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loader.TrainLoader, "__init__", interrupt)
    with pytest.raises(stopping.Interrupted, match="start the same command again"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_directory_that_has_trained_nothing_is_claimed_anew(
    finished, config, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loader.TrainLoader, "__call__", None)  # fails before a step
        config.seed, config.whitening.patch_size = 7, 5
        with pytest.raises(TypeError):
            train(config, workdir)
    assert load_config(workdir)["seed"] == 7
    names = {path.name for path in workdir.iterdir()}
    assert names >= {"config.json", "data.json", "whitening.npz", "features_head.npy"}
    (workdir / "partial_features_head.npy").touch()
    config.seed, config.whitening.patch_size = 0, 3
    train(config, workdir)
    assert _result(workdir) == _result(finished)
    assert load_config(workdir)["seed"] == 0
    assert not list(workdir.glob("partial_*"))
    config.seed = 7
    with pytest.raises(ValueError, match="config.seed: 0 there, 7 now"):
        train(config, workdir)


def test_failed_command_leaves_no_directory(config, tmp_path):
    config.data.dir = str(tmp_path / "absent")
    with pytest.raises((OSError, ValueError)):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_directory_in_use_is_refused(run, config):
    with open(run / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(records.FolderInUseError, match="run is in use: another"):
            train(config, run)
        for path in run.glob("logits_*"):
            path.unlink()
        with pytest.raises(records.FolderInUseError):
            evaluate(load_run(run), "test")
    evaluate(load_run(run), "test")


def test_run_of_other_weights_is_not_resumed(config, tmp_path, monkeypatch):
    original = loading.load_pretrained

    def load(sha256):
        def replaced(*arguments, **options):
            spec, variables, _ = original(*arguments, **options)
            return spec, variables, {"name": "a.h5", "sha256": sha256, "exact": None}

        return replaced

    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_pretrained", load("a" * 64))
        _request_after(patch, 1)
        with pytest.raises(stopping.Interrupted):
            train(config, tmp_path / "run")
    stopping.clear()
    monkeypatch.setattr(loading, "load_pretrained", load("b" * 64))
    with pytest.raises(
        ValueError, match="was started with the weights a.h5 .SHA-256 a"
    ):
        train(config, tmp_path / "run")


def _write_weights(folder, seed):
    """Write random weights of the network of `config`; return their path."""
    spec = models.get_spec("small", width=0.5)
    source = {"name": f"{seed}.h5", "sha256": f"{seed}" * 64, "exact": None}
    variables = fixtures.random_variables(spec, seed)
    converted.save(folder / f"weights{seed}", spec, variables, source)
    return str(folder / f"weights{seed}")


def test_weights_of_a_run_may_move_but_not_change(config, run, tmp_path):
    """`run` is finished and started from random weights."""
    started_from, others = (_write_weights(tmp_path, seed) for seed in (1, 2))
    config.init.weights = others
    with pytest.raises(ValueError, match="was started with random weights, not the we"):
        train(config, run)
    assert load_config(run)["init"]["weights"] == ""

    config.init.weights = started_from
    result = train(config, tmp_path / "new")
    for path in (others, ""):
        config.init.weights = path
        with pytest.raises(ValueError, match="was started with the weights 1.h5"):
            train(config, tmp_path / "new")
    config.init.weights = str(tmp_path / "moved")
    shutil.move(started_from, config.init.weights)
    assert train(config, tmp_path / "new") == result
    shutil.rmtree(config.init.weights)  # A finished run does not need it.
    assert train(config, tmp_path / "new") == result


def test_own_weights_of_a_pretraining_may_move(config, tmp_path):
    started_from = _write_weights(tmp_path, 1)
    own = {"stage_order": ("head",), "init": {"weights": started_from}}
    config.init.pretraining = ConfigDict(own)
    result = train(config, tmp_path / "run")
    config.init.pretraining.init.weights = str(tmp_path / "moved")
    shutil.move(started_from, tmp_path / "moved")
    assert train(config, tmp_path / "run") == result
    config.init.pretraining.init.weights = _write_weights(tmp_path, 2)
    with pytest.raises(ValueError, match="was started with the weights 1.h5"):
        train(config, tmp_path / "run")
    config.init.pretraining = ConfigDict()
    with pytest.raises(ValueError, match="pretraining.init.weights: .* there, absent"):
        train(config, tmp_path / "run")


def test_weights_of_a_pretraining_may_not_change(config, tmp_path):
    started_from, others = (_write_weights(tmp_path, seed) for seed in (1, 2))
    config.init.pretraining = ConfigDict({"stage_order": ("head",)})
    config.init.weights = started_from
    result = train(config, tmp_path / "run")
    for finished in (True, False):
        config.init.weights = others
        with pytest.raises(ValueError, match="was started with the weights 1.h5"):
            train(config, tmp_path / "run")
        if finished:
            config.init.weights = started_from
            assert train(config, tmp_path / "run") == result
            (tmp_path / "run/result.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints")  # Only the pretraining has trained.
    with pytest.raises(ValueError, match="pretraining was started with the weights 1"):
        train(config, tmp_path / "run")


def test_values_that_come_from_weights_may_not_change(config, tmp_path, monkeypatch):
    """They decide what features are, and a resumed run must keep them."""
    original = loading.load_pretrained

    def load(epsilon):
        def replaced(*arguments, **options):
            spec, *others = original(*arguments, **options)
            return dataclasses.replace(spec, epsilon=epsilon), *others

        return replaced

    def features(folder):
        return np.load(folder / "features_head.npy")

    for epsilon, folder in ((1e-3, "run"), (0.5, "run"), (0.5, "new")):
        with monkeypatch.context() as patch:
            patch.setattr(loading, "load_pretrained", load(epsilon))
            patch.setattr(loader.TrainLoader, "__call__", None)  # fails before a step
            with pytest.raises(TypeError):
                train(config, tmp_path / folder)
    np.testing.assert_array_equal(
        features(tmp_path / "run"), features(tmp_path / "new")
    )

    with monkeypatch.context() as patch:
        _request_after(patch, 1)
        with pytest.raises(stopping.Interrupted):
            train(config, tmp_path / "run")
    stopping.clear()
    monkeypatch.setattr(loading, "load_pretrained", load(0.5))
    with pytest.raises(ValueError, match="network: epsilon: 0.001 there, 0.5 now"):
        train(config, tmp_path / "run")


def test_run_continues_in_its_type_on_another_kind_of_device(
    config, tmp_path, monkeypatch
):
    config.model.dtype = "auto"
    with monkeypatch.context() as patch:
        patch.setattr(precision, "resolve", lambda dtype: "bfloat16")
        _request_after(patch, 1)
        with pytest.raises(stopping.Interrupted):
            train(config, tmp_path / "run")
    stopping.clear()
    train(config, tmp_path / "run")  # 'auto' means float32 here
    assert load_config(tmp_path / "run")["model"]["dtype"] == "bfloat16"
    config.model.dtype = "float32"
    with pytest.raises(ValueError, match="model.dtype: bfloat16 there, float32 now"):
        train(config, tmp_path / "run")


def test_type_of_a_run_is_that_of_its_trained_part(config, tmp_path, monkeypatch):
    first, trained = tmp_path / records.PRETRAINING, []
    first.mkdir()
    for folder, dtype in ((tmp_path, "float32"), (first, "bfloat16")):
        content = {"model": {"dtype": dtype}, "stage_order": []}
        records.write_json(folder / "config.json", content)
    has_trained = f"{with_recorded_dtype.__module__}.has_trained"
    monkeypatch.setattr(has_trained, lambda folder: folder in trained)
    config.model.dtype = "auto"

    def dtype():
        return with_recorded_dtype(tmp_path, config)["model"]["dtype"]

    trained.append(first)
    assert dtype() == "auto"  # The pretraining is left from another config.
    config.init.pretraining = ConfigDict({"seed": 1})
    assert dtype() == "bfloat16"
    config.init.pretraining = ConfigDict({"model": {"dtype": "float16"}})
    assert dtype() == "auto"
    trained.append(tmp_path)
    assert dtype() == "float32"
    for wrong in (None, {"model": "vgg16"}, {"data": "folder"}, {"data": None}):
        values = config.to_dict()
        values["init"]["pretraining"] = wrong
        with pytest.raises(SettingsError, match="config.init.pretraining"):
            train(values, tmp_path)


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "flipped": lambda content: (
        content[:-30] + bytes([content[-30] ^ 4]) + content[-29:]
    ),
}


def _damage(path, how):
    path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_logits_are_computed_again(run, how, caplog):
    loaded = load_run(run)
    logits = evaluate(loaded, "test").logits
    path = run / "logits_test.npz"
    _damage(path, how)
    np.testing.assert_array_equal(evaluate(loaded, "test").logits, logits)
    assert re.fullmatch(
        f"{path} is damaged .* and is computed again", caplog.messages[0]
    )
    assert kept.read_rows(path, "another origin", len(logits)) is None
    assert len(caplog.messages) == 1


def _interrupt(monkeypatch, after):
    """Interrupt computations after a number of batches, and list their sizes."""
    monkeypatch.setattr(kept, "_SECONDS", 0.0)
    original, seen = Evaluator.stream, []

    def stream(self, *arguments):
        for rows in original(self, *arguments):
            if len(seen) == after:
                seen.append("interrupted")
                raise KeyboardInterrupt
            seen.append(len(rows))
            yield rows

    monkeypatch.setattr(Evaluator, "stream", stream)
    return seen


def test_interrupted_evaluation_continues(run, monkeypatch):
    loaded = load_run(run)
    expected = evaluate(loaded, "test").logits
    (run / "logits_test.npz").unlink()
    seen = _interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(loaded, "test")
    assert not (run / "logits_test.npz").exists()
    np.testing.assert_array_equal(evaluate(loaded, "test").logits, expected)
    assert seen == [8, "interrupted", 8, 4]  # of 20 images
    assert [path.name for path in run.glob("logits_test*")] == ["logits_test.npz"]


# There are 16 training images, and then 12 validation images.
@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_features_continue(finished, config, tmp_path, monkeypatch, after):
    seen = _interrupt(monkeypatch, after)
    with pytest.raises(stopping.Interrupted):
        train(config, tmp_path)
    train(config, tmp_path)
    sizes = [8, 8, 8, 4]
    assert seen[:5] == [*sizes[:after], "interrupted", *sizes[after:]]
    whole, parts = (
        np.load(folder / "features_head.npy") for folder in (finished, tmp_path)
    )
    np.testing.assert_array_equal(whole, parts)
    assert not list(tmp_path.glob("*_so_far"))


def test_batches_after_an_interruption_have_the_size_of_those_before(run):
    """The last 3 of 19 images are in a batch of 8, not in one of 3."""
    loaded = load_run(run)
    evaluator, dataset = single_view(loaded), images.of_run(loaded)
    seen = []

    def compute(variables, batch):
        seen.append(batch["sizes"].shape[0])
        return batch["sizes"]

    indices = dataset.indices("test")[:19]
    given = compute, {}, dataset.reader, indices, ""
    whole, rest = (
        np.concatenate(list(evaluator.stream(*given, first))) for first in (0, 16)
    )
    assert seen == [8, 8, 8, 8]
    np.testing.assert_array_equal(rest, whole[16:])


def test_chunks_of_another_origin_and_after_a_damaged_one_are_not_used(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(kept, "_SECONDS", 0.0)
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    folder, starts = tmp_path / "rows_so_far", []

    def rows(first, last=6):
        starts.append(first)
        for row in range(first, last):
            yield values[row : row + 1]
        if last < 6:
            raise KeyboardInterrupt

    def read(origin, compute=rows):
        return kept.features(tmp_path / "rows.npy", origin, 6, compute)

    for origin in ("one", "other"):
        with pytest.raises(KeyboardInterrupt):
            read(origin, lambda first: rows(first, 4))
    assert len(list(folder.iterdir())) == 4
    _damage(folder / "00001.npz", "half")
    np.testing.assert_array_equal(read("other"), values)
    assert starts == [0, 0, 1] and not folder.exists()


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_features_are_computed_again(tmp_path, how, caplog):
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    path = tmp_path / "features.npy"
    kept.write_features(path, "origin", (features[:2], features[2:]), 5)
    np.testing.assert_array_equal(kept.read_features(path, "origin", 5), features)
    assert kept.read_features(path, "another", 5) is None and not caplog.messages
    content = path.read_bytes()
    if how == "flipped":  # a byte of the features; the last bytes are the origin
        path.write_bytes(content[:140] + bytes([content[140] ^ 1]) + content[141:])
    else:
        _damage(path, how)
    assert kept.read_features(path, "origin", 5) is None
    assert f"{path} is damaged" in caplog.messages[0]


@pytest.mark.parametrize("how", [*DAMAGES, "absent"])
def test_damaged_whitening_is_named_and_fitted_again(run, finished, config, how):
    path = run / "whitening.npz"
    path.unlink() if how == "absent" else _damage(path, how)
    with pytest.raises((records.DamagedFileError, FileNotFoundError)) as caught:
        load_run(run)
    assert str(caught.value).startswith(f"{path} is ")
    assert str(caught.value).endswith(
        "start the training command again to fit it again"
    )
    train(config, run)
    assert _result(run) == _result(finished)
    np.testing.assert_array_equal(
        load_run(run).network.preprocess.kernel,
        load_run(finished).network.preprocess.kernel,
    )


@pytest.mark.parametrize("how", ["empty", "half", "zeros"])
def test_damaged_json_files_are_named_and_written_again(run, finished, config, how):
    for name, load in (("result.json", load_run), ("config.json", load_config)):
        _damage(run / name, how)
        with pytest.raises(
            records.DamagedFileError, match=f"{name} is damaged: .* start"
        ):
            load(run)
        train(config, run)
        assert _result(run) == _result(finished)
        load(run)
    _damage(run / "data.json", how)
    with pytest.raises(
        records.DamagedFileError, match="data.json is .*; remove the file"
    ):
        evaluate(load_run(run), "test")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"calibration": 1},
        {"calibration": {"temperature": "x"}},
        {"validation": {"top1": "x"}},
        {"test": []},
        {"best": 1},
    ],
)
def test_result_without_its_keys(run, finished, config, content):
    (run / "result.json").write_text(json.dumps(content))
    train(config, run)
    assert _result(run) == _result(finished)


def test_config_that_is_lost_is_not_replaced_by_another(run, config):
    (run / "config.json").unlink()
    config.seed = 7
    with pytest.raises(ValueError, match="config.json is missing or damaged"):
        train(config, run)
    config.seed = 0
    train(config, run)
    assert load_config(run)["seed"] == 0


def test_config_with_wrong_values_is_named(run):
    values = json.loads((run / "config.json").read_text())
    values["eval"]["batch_size"] = "many"
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(SettingsError, match="run/config.json: config.eval.batch_size"):
        evaluate(load_run(run), "test")
    (run / "config.json").write_text("{}")
    with pytest.raises(records.DamagedFileError, match="has no section 'model'"):
        load_run(run)


def test_damaged_checkpoint_is_named(run, config):
    for path in (run / "checkpoints").rglob("metadata"):
        path.write_bytes(b"")
    for use in (load_run, lambda folder: train(config, folder)):
        with pytest.raises(DamagedCheckpointError, match=r"checkpoints/4 is damaged: "):
            use(run)


def test_damaged_arrays_are_named_in_one_line(run):
    (path,) = run.glob("checkpoints/*/best/manifest.ocdbt")
    _damage(path, "half")
    done = harness.run_apart("export", f"--workdir={run}", f"--out={run}/network")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "checkpoints/4 is damaged: its arrays cannot be read" in done.stderr


def test_damaged_arrays_that_nobody_waits_for_are_not_logged(run, caplog):
    (path,) = run.glob("checkpoints/*/best/manifest.ocdbt")
    _damage(path, "half")
    with pytest.raises(DamagedCheckpointError):
        load_run(run)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.create_future().set_exception(ValueError("of another array"))
        gc.collect()
    assert not caplog.messages


def test_ensemble_of_a_run_without_a_result(run, finished):
    (run / "result.json").unlink()
    runs = [load_run(finished), load_run(run)]
    with pytest.raises(ValueError, match="run is not finished: .* no complete result"):
        ensemble.mean_probabilities(runs)


def test_full_disk_is_named_in_one_line(config, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(records.FullDiskError) as caught:
            train(config, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot write {tmp_path}/run/")
    train(config, tmp_path / "run")


def test_full_disk_is_noticed_at_the_end_of_features(tmp_path):
    features, path = np.zeros((5, 3), np.float32), tmp_path / "features.npy"
    kept.write_features(path, "origin", [features], 5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size - 4, before[1]))
    try:
        with pytest.raises(records.FullDiskError):
            kept.write_features(path, "origin", [features], 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_relative_folder_of_images_is_found_from_elsewhere(
    config, flowers, finished, tmp_path, monkeypatch
):
    shutil.copytree(flowers, tmp_path / "flowers")
    config.data.dir = "flowers"
    monkeypatch.chdir(tmp_path)
    train(config, "run")
    assert load_config("run")["data"]["dir"] == "flowers"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = load_run(tmp_path / "run")
    assert evaluate(run, "test").metrics == _result(finished)["test"]
    (tmp_path / "flowers").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="flowers, pass their folder as --data"):
        evaluate(load_run(tmp_path / "run"), "test")
    run = load_run(tmp_path / "run", str(tmp_path / "moved"))
    assert evaluate(run, "test").metrics == _result(finished)["test"]


def test_logits_of_replaced_images_are_computed_again(config, flowers, tmp_path):
    config.data.dir = str(shutil.copytree(flowers, tmp_path / "flowers"))
    train(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    before = evaluate(run, "test").logits
    source = oxford_flowers.load(tmp_path / "flowers", verify=False)
    first, last = (source.keys[i] for i in source.indices("test")[[0, -1]])
    shutil.copy(tmp_path / "flowers/jpg" / last, tmp_path / "flowers/jpg" / first)
    after = evaluate(load_run(tmp_path / "run"), "test").logits
    np.testing.assert_array_equal(after[1:], before[1:])
    np.testing.assert_allclose(after[0], before[-1], atol=1e-5)
    assert (after[0] != before[0]).any()


def test_evaluator_is_not_called_for_kept_logits(run, monkeypatch):
    evaluate(load_run(run), "test")
    monkeypatch.setattr(Evaluator, "stream", None)
    evaluate(load_run(run), "test")


def test_run_from_before_a_key_existed(run, config):
    """The run counts as finished, and its logits are used again."""
    old = load_config(run)
    del old["distillation"], old["data"]["logit_adjustment"]
    for stage in old["stages"].values():
        del stage["draws"]
    (run / "config.json").write_text(json.dumps(old))
    written = {path: path.stat().st_mtime_ns for path in run.glob("logits_*")}
    result = json.loads((run / "result.json").read_text())
    metrics = evaluate(load_run(run), "test").metrics
    assert metrics == result["test"] and train(config, run) == result
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert load_config(run)["distillation"]["weight"] == 0
