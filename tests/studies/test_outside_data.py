"""Test a small study of outside images with the real script."""

import json

import numpy as np
import pytest

from configs import quickstart
from seeflower_jax import records
from seeflower_jax.experiment.settings import read_settings
from seeflower_jax.inference.run import load_run
from seeflower_jax.studies import outside_data
from tests import harness

pytestmark = pytest.mark.long


def test_rows_differ_in_their_outside_data_alone():
    config = quickstart.get_config()
    few, many = (outside_data.configs(config, n, seed=2) for n in (12, 48))
    assert many["seed"] == many["data"]["seed"] == 2
    assert few["init"]["pretraining"]["data"].pop("species") == 12
    assert many["init"]["pretraining"]["data"].pop("species") == 48
    assert few == many
    without = read_settings(outside_data.configs(config, 0, seed=2))
    assert [stage.name for stage in without.stages] == ["scratch"]
    assert not without.pretraining and without.seed == without.data.seed == 2


def test_record_has_the_precision_of_its_runs(tmp_path):
    config = quickstart.get_config()
    config.device.matmul_precision = "float32"
    path = outside_data.record({}, config, [0], tmp_path, "command")
    assert json.loads(path.read_text())["matmul_precision"] == "float32"


@pytest.mark.slow
def test_small_study(tmp_path):
    stages = [
        f"--config.stages.{stage}.{key}={value}"
        for stage in ("pretrain", "head", "scratch")
        for key, value in (("epochs", 1), ("batch_size", 4), ("validate_every", 1))
    ]
    out, results = tmp_path / "runs/outside", tmp_path / "results"
    completed = harness.run_here(
        "outside_data",
        "--config=configs/quickstart.py",
        *(f"--out={out}", f"--results={results}", "--species=0,3", "--seeds=1"),
        f"--config.data.cache_dir={tmp_path}",
        *("--config.data.species=2", "--config.data.images_per_class=(4,1,2)"),
        "--config.init.pretraining.data.images_per_class=(4,1,0)",
        *("--config.stage_order=('head',)", *stages),
    )
    assert completed.returncode == 0, completed.stderr
    recorded = json.loads((results / "outside_data.json").read_text())
    rows = recorded["outside_species"]
    assert list(rows) == ["0", "3"] and recorded["seeds"] == [1]
    for count, row in rows.items():
        result = records.read_result(out / f"species{count}_seed1")
        assert row["top1"] == [result["test"]["top1"]]
        assert row["mean"] == np.mean(row["top1"])
        assert f"{count:>4} outside species" in completed.stdout
    before = load_run(out / "species3_seed1/pretraining").network
    assert len(before.class_names) == 3
    assert result["weights"]["name"] == "pretraining"
    assert rows["3"]["seconds"][0] > result["seconds"]["head"]


@pytest.mark.parametrize("flag", ["--species=", "--seeds=one"])
def test_usage_errors(flag, tmp_path):
    arguments = ["--config=configs/quickstart.py", f"--out={tmp_path}", flag]
    completed = harness.run_here("outside_data", *arguments)
    assert completed.returncode == 2 and "expected whole numbers" in completed.stderr


def test_config_without_a_quick_start_is_refused(tmp_path):
    arguments = ["--config=configs/vgg16.py", f"--out={tmp_path}"]
    completed = harness.run_here("outside_data", *arguments)
    assert completed.returncode == 1
    assert "config.quickstart has the keys []; expected" in completed.stderr
