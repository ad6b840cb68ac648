"""Test the comparison of runs on several devices and in several processes."""

import json
import subprocess

import pytest

from seeflower_jax import records
from seeflower_jax.studies import devices
from tests import harness


def _write_log(folder, metrics):
    folder.mkdir()
    lines = [
        {
            "run_step": step,
            "train": {"loss": train, "gradient_norm": norm},
            "validation": {"loss": loss},
        }
        for step, (train, norm, loss) in enumerate(metrics)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / records.LOG_FILE).write_text(text)
    return folder


def test_difference_is_the_largest_of_any_epoch_and_metric(tmp_path):
    one = _write_log(tmp_path / "one", [(3.0, 4.0, 2.0), (1.0, 0.5, 0.5)])
    two = _write_log(tmp_path / "two", [(3.0, 6.0, 2.25), (1.125, 0.75, 0.5)])
    compared = devices._compare({1: one, 2: two}, devices._metrics(one))
    same = {"difference": 0.0, "norm_difference": 0.0}
    assert compared == {
        "1": {"train_loss": 1.0, "loss": 0.5, **same},
        "2": {
            "train_loss": 1.125,
            "loss": 0.5,
            "difference": 0.125,
            "norm_difference": 0.5,  # of 6 from 4
        },
    }


@pytest.mark.slow
def test_script_writes_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "DEVICES", (1, 2))
    arguments = [f"--out={tmp_path / 'runs'}", f"--results={tmp_path}"]
    done = harness.run_here("devices", *arguments)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "devices.json").read_text())
    for kind in ("devices", "processes"):
        assert record[kind].keys() == {"1", "2"}
        for run in record[kind].values():
            assert run["difference"] < 1e-5 and run["norm_difference"] < 2e-5
    loader, start = record["loader"], record["start_seconds"]
    assert loader["images_per_second_per_core"] > 0 and loader["threads"]["1"] > 0
    assert start["second"] < start["first"] / 2


def test_runs_use_the_cpu_of_a_machine_with_a_gpu(tmp_path, monkeypatch):
    environments = []

    class Process:
        def __init__(self, command, env, **options):
            environments.append(env)

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    devices._train([[], []], tmp_path / "run", {"XLA_FLAGS": "forced"})
    assert len(environments) == 2
    for environment in environments:
        assert environment["JAX_PLATFORMS"] == "cpu"
        assert environment["XLA_FLAGS"] == "forced"


def test_a_run_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "RECIPE", ("--config=no_such_file.py",))
    with pytest.raises(RuntimeError, match="run .* failed: .*no_such_file.py"):
        devices._train([[], []], tmp_path / "run", {})
