"""Test ensembles of runs, and a run that is evaluated with other views."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from seeflower_jax import records
from seeflower_jax.evaluation import metrics
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import ensemble, images
from seeflower_jax.experiment.evaluate import evaluate
from seeflower_jax.experiment.settings import settings_of
from seeflower_jax.inference.run import load_run
from seeflower_jax.sharding import make_mesh
from seeflower_jax.studies import record, tables
from seeflower_jax.training import ridge
from tests import harness


def test_ensemble_of_a_run_with_itself_is_the_run(tiny_run):
    result = ensemble.mean_probabilities([tiny_run, tiny_run], "typed")
    for split in ("validation", "test"):
        single = evaluate(tiny_run, split)
        assert result[split]["top1"] == single.metrics["top1"]
        temperature = result["members"][0]["temperature"]
        probabilities = np.exp(single.logits / temperature)
        probabilities /= probabilities.sum(-1, keepdims=True)
        loss = -np.log(probabilities[np.arange(len(single.labels)), single.labels])
        np.testing.assert_allclose(result[split]["loss"], loss.mean(), rtol=1e-3)
    assert result["command"] == "typed"
    assert [m["model"] for m in result["members"]] == ["small"] * 2
    assert record.result_name(result) == "ensemble_official_small_tiny_seed0"
    assert "| ensemble | official | small_tiny |" in tables.paper_tables(
        (), (), [result]
    )


def test_an_ensemble_has_the_recipes_of_its_runs(tiny_run):
    other = dataclasses.replace(tiny_run, config=tiny_run.config | {"recipe": "linear"})
    result = ensemble.mean_probabilities([other, other], splits=("validation",))
    assert record.result_name(result) == "ensemble_official_small_linear_seed0"
    result = ensemble.mean_probabilities([tiny_run, other], splits=("validation",))
    assert record.result_name(result) == "ensemble_official_small_tiny_linear_seed0"


def test_an_ensemble_has_the_types_of_its_runs(tiny_run):
    model = tiny_run.config["model"] | {"dtype": "bfloat16"}
    other = dataclasses.replace(tiny_run, config=tiny_run.config | {"model": model})
    for runs, dtype in (
        ([tiny_run, tiny_run], "float32"),
        ([other, other], "bfloat16"),
        ([tiny_run, other], "float32_bfloat16"),
    ):
        result = ensemble.describe(runs, "")
        assert result["dtype"] == dtype
        ending = "" if dtype == "float32" else f"_{dtype}"
        name = f"ensemble_official_small_tiny{ending}_seed0"
        assert record.result_name(result) == name


def test_an_ensemble_of_the_networks_of_the_paper_does_not_name_them(tiny_run):
    def named(name):
        spec = dataclasses.replace(tiny_run.network.spec, name=name)
        network = dataclasses.replace(tiny_run.network, spec=spec)
        return dataclasses.replace(tiny_run, network=network)

    runs = [named(name) for name in ("inception_v3", "vgg16", "vgg19")]
    assert ensemble.describe(runs, "")["recipe"] == "tiny"
    assert ensemble.describe(runs[:2], "")["recipe"] == "inception_v3_vgg16_tiny"


def test_ensemble_of_what_does_not_belong_together(tiny_run):
    with pytest.raises(ValueError, match="needs two or more runs"):
        ensemble.mean_probabilities([tiny_run])
    config = tiny_run.config | {"data": tiny_run.config["data"] | {"split": "reversed"}}
    other = dataclasses.replace(tiny_run, config=config)
    with pytest.raises(ValueError, match="not of the same split.*reversed"):
        ensemble.mean_probabilities([tiny_run, other])


def test_ensemble_of_runs_on_different_images(tiny_run, tmp_path):
    """Image 7 of one run must not be averaged with image 7 of another."""
    other = tmp_path / "other"
    shutil.copytree(tiny_run.workdir, other)
    described = json.loads((other / "data.json").read_text())
    (other / "data.json").write_text(json.dumps(described | {"hash": "f38a56873dab"}))
    for function in (ensemble.mean_probabilities, ensemble.joint_head):
        with pytest.raises(ValueError, match="other were trained on different images"):
            function([tiny_run, load_run(other)])


def test_joint_head_of_equal_runs_is_the_head_of_one(tiny_run):
    """Two copies of features, each with half the weight, are equal to the features."""
    result = ensemble.joint_head([tiny_run, tiny_run], splits=("validation",))
    assert "test" not in result and result["recipe"] == "small_tiny_joint_head"
    dataset, settings = images.of_run(tiny_run), settings_of(tiny_run)
    evaluator = Evaluator(
        tiny_run.network.spec,
        (settings.view,),
        settings.batch_size,
        make_mesh(),
        preprocess=tiny_run.network.preprocess,
    )
    train, validation = (
        np.concatenate(
            list(
                evaluator.features(
                    tiny_run.network.variables, dataset.reader, dataset.indices(split)
                )
            )
        )
        for split in ("train", "validation")
    )
    train, validation = train[:, 0], validation[:, 0]
    fit = ridge.solve(train, dataset.labels("train"), 102)
    assert result["strength"] == pytest.approx(fit.strength)
    logits = fit(validation) / result["temperature"]
    expected = metrics.compute(logits, dataset.labels("validation"))
    assert result["validation"] == pytest.approx(expected, rel=1e-3)


@pytest.fixture
def precise_run(tiny_run, tmp_path):
    """Return a copy of a run, with matrix products in float32."""
    folder = tmp_path / "precise"
    shutil.copytree(tiny_run.workdir, folder)
    config = json.loads((folder / "config.json").read_text())
    config["device"]["matmul_precision"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    return load_run(folder)


def test_records_have_the_precision_of_their_runs(tiny_run, precise_run, tmp_path):
    split = ("validation",)
    joint = ensemble.joint_head([precise_run, tiny_run], splits=split)
    assert joint["matmul_precision"] == "float32"
    mean = ensemble.mean_probabilities([tiny_run, precise_run], splits=split)
    used = [member["matmul_precision"] for member in mean["members"]]
    assert used == ["default", "float32"]
    assert mean["matmul_precision"] == "default, float32"
    flags = f"--results={tmp_path}", "--ablation=precise", "--split=validation"
    done = harness.run_here("evaluate", f"--workdir={precise_run.workdir}", *flags)
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "ablation.json").read_text())["small"]["precise"]
    assert entry["matmul_precision"] == "float32"


def test_evaluation_of_other_views_is_recorded(tiny_run, tmp_path):
    def run_script(*flags):
        return harness.run_here(
            "evaluate",
            f"--workdir={tiny_run.workdir}",
            "--split=validation",
            f"--out={tmp_path / 'out'}",
            *flags,
        )

    row = f"--results={tmp_path}", "--ablation=two sizes"
    completed = run_script("--views=75,96:0.8", "--hflip", *row)
    assert completed.returncode == 0, completed.stderr
    entry = json.loads((tmp_path / "ablation.json").read_text())
    entry = entry["small"]["two sizes"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert entry["top1"] == metrics["top1"] and entry["count"] == metrics["count"]
    assert entry["config_hash"] == records.config_hash(tiny_run.config)
    assert "--views=75,96:0.8" in entry["command"]
    assert metrics["loss"] != evaluate(tiny_run, "validation").metrics["loss"]
    assert run_script("--views=wide").returncode == 2
    assert run_script("--views=75", "--crop").returncode == 2


@pytest.fixture
def workdirs(tiny_run, tmp_path):
    """Return the flag of a run and its copy."""
    shutil.copytree(tiny_run.workdir, tmp_path / "copy")
    return f"--workdirs={tiny_run.workdir},{tmp_path / 'copy'}"


def test_script_says_where_the_record_is(workdirs, tmp_path):
    results = tmp_path / "results"
    done = harness.run_here("ensemble", workdirs, f"--results={results}")
    assert done.returncode == 0, done.stderr
    (path,) = results.iterdir()
    assert f"{path} has the result" in done.stderr


def test_what_cannot_be_written_is_noticed_before_the_computation(
    workdirs, tmp_path, monkeypatch
):
    def refused(*flags):
        done = harness.run_here("ensemble", workdirs, *flags)
        assert done.returncode == 1 and "computed" not in done.stderr
        return done.stderr

    def compute(*_):
        raise RuntimeError("computed")

    monkeypatch.setattr(ensemble, "evaluate", compute)
    monkeypatch.setattr(ensemble, "_make_stream", compute)
    (tmp_path / "file").touch()
    results, joint = tmp_path / "results", ("--joint_head", "--notest")
    assert "file is a file, expected a" in refused(f"--results={tmp_path / 'file'}")
    path = results / "ensemble_official_small_tiny_seed0.json"
    other = harness.ROOT / "results" / "ensemble_official_linear_seed0.json"
    results.mkdir()
    shutil.copy(other, path)
    assert f"{path} has the result of another config" in refused(f"--results={results}")
    for name, reason in {
        "results": "is a folder, expected the path of a file",
        "file/teacher.npz": "file is a file, expected a folder",
    }.items():
        assert reason in refused(*joint, f"--teacher={tmp_path / name}")


def test_script_refuses_a_run_that_is_given_twice(tiny_run, tmp_path):
    (tmp_path / "link").symlink_to(tiny_run.workdir)
    runs = f"--workdirs={tiny_run.workdir},{tmp_path / 'link'}"
    done = harness.run_here("ensemble", runs)
    assert done.returncode == 2
    assert f"{tiny_run.workdir} twice; give each run once" in done.stderr


def test_the_result_of_other_runs_is_not_overwritten(tiny_run, tmp_path, monkeypatch):
    scores = {"top1": 0.5, "mean_class_top1": 0.5, "count": 20}
    result = ensemble.describe([tiny_run] * 2, "") | {"test": scores}
    path = record.keep(result, tmp_path)
    assert record.keep(result, tmp_path) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path, "~"):
        with pytest.raises(ValueError, match="_seed0.json has the result of another"):
            record.keep(result | {"config_hash": "f38a56873dab"}, folder)
        assert len(record.load_results(folder)) == 1
