"""Test scripts.evaluate: its output, its files, and refused command lines."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

from seeflower_jax import records
from seeflower_jax.evaluation import metrics
from seeflower_jax.experiment import evaluate
from seeflower_jax.records import locks
from tests import harness

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def workdir(tiny_run, tmp_path_factory):
    """Return the directory of a copy of the tiny run."""
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    return workdir


def _evaluate(workdir, *arguments) -> str:
    """Return what the script prints."""
    completed = harness.run_here("evaluate", f"--workdir={workdir}", *arguments)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_metrics_of_the_result(workdir):
    lines = _evaluate(workdir).splitlines()
    folder, result = workdir / "evaluation_test", records.read_result(workdir)
    assert lines[:2] == metrics.format_table({"test": result["test"]}).splitlines()
    temperature = result["calibration"]["temperature"]
    assert lines[2] == (
        f"temperature {temperature:.2f}; the calibration error needs 200 images or more"
    )
    assert lines[3:] == [str(folder)]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("confusion_matrix.csv", "confusion_matrix.png", "metrics.json"),
        *("per_class.csv", "reliability.png"),
    ]
    written = json.loads((folder / "metrics.json").read_text())
    assert written == json.loads(_evaluate(workdir, "--json"))
    assert written["top1"] == result["test"]["top1"]


def test_other_views_and_a_closer_look(workdir):
    losses = {
        suffix: json.loads(_evaluate(workdir, "--json", *arguments))["loss"]
        for suffix, arguments in {
            "": [],
            "_views": ["--views=75,96:0.8", "--hflip"],
            "_crop": ["--crop"],
        }.items()
    }
    for suffix in losses:
        assert (workdir / f"evaluation_test{suffix}" / "metrics.json").exists()
    assert np.isfinite(losses["_views"]) and losses["_views"] != losses[""]
    # The last layer has one pixel for views of 80 pixels, so the crop is the whole
    # view.
    assert losses["_crop"] == pytest.approx(losses[""], rel=1e-5)


def test_views_of_the_config_are_no_other_views(workdir):
    text = _evaluate(workdir, "--views=80", "--nohflip", "--split=validation")
    assert text.splitlines()[-1] == str(workdir / "evaluation_validation")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--views=wide"], "--views=wide: invalid literal"),
        (["--views=80:1.5"], "--views=80:1.5: a view has crop 1.5"),
        (["--views=0"], "--views=0: a view has size 0"),
        (["--views=-5"], "--views=-5: a view has size -5"),
        (["--views=80:nan"], "--views=80:nan: a view has crop nan"),
        (["--views=75", "--crop"], "--crop excludes --views and --hflip"),
        (["--views=80", "--crop"], "--crop excludes --views and --hflip"),
        (["--hflip", "--crop"], "--crop excludes --views and --hflip"),
        (["--ablation=row", "--split=test"], "--ablation needs --split=validation"),
        (["--results=results"], "--results needs --ablation=NAME"),
    ],
)
def test_usage_errors(workdir, arguments, message):
    completed = harness.run_here("evaluate", f"--workdir={workdir}", *arguments)
    assert completed.returncode == 2 and message in completed.stderr


def test_out_that_is_a_file_is_refused_before_the_evaluation(
    workdir, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluate, "evaluate", None)
    (tmp_path / "out").touch()
    out = f"--out={tmp_path / 'out'}"
    completed = harness.run_here("evaluate", f"--workdir={workdir}", out)
    assert completed.returncode == 1
    assert "out is a file, expected a folder" in completed.stderr


def test_run_in_a_folder_that_is_read_only(workdir, tmp_path, monkeypatch):
    result, logits = records.read_result(workdir), workdir / "logits_test.npz"
    logits.unlink()
    open_lock = locks._open_lock

    def refuse(folder):
        if folder == workdir:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), f"{folder}/.lock")
        return open_lock(folder)

    monkeypatch.setattr(locks, "_open_lock", refuse)
    flags = f"--workdir={workdir}", f"--out={tmp_path / 'out'}"
    completed = harness.run_here("evaluate", *flags)
    assert completed.returncode == 0, completed.stderr
    reason = f"{logits} is not kept, because its folder cannot be written to: Read-only"
    assert reason in completed.stderr
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["top1"] == result["test"]["top1"]
    assert content["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)
    assert not logits.exists()


def test_rows_of_another_seed_are_refused_before_the_evaluation(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    records.write_json(path, json.loads(path.read_text()) | {"seed": 1})
    flags = [f"--results={tmp_path}", f"--out={tmp_path / 'out'}", "--ablation=row"]
    completed = harness.run_here(
        "evaluate", f"--workdir={path.parent}", "--split=validation", *flags
    )
    assert completed.returncode == 1
    assert f"config.seed of {path.parent} is 1; expected 0" in completed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
