"""The quick start: a small one by the real script, and its whole claim."""

import json

import pytest
from PIL import Image

from seeflower_jax.data import synthetic
from seeflower_jax.inference.run import load_run
from seeflower_jax.studies import quickstart
from tests import harness

pytestmark = pytest.mark.long


def _train(*arguments):
    config = "--config=configs/quickstart.py"
    completed = harness.run_apart("train", config, "--json", *arguments)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def test_small_quickstart(tmp_path):
    workdir = tmp_path / "run"
    arguments = [
        f"--workdir={workdir}",
        f"--config.data.cache_dir={tmp_path}",
        "--config.data.species=3",
        "--config.data.images_per_class=(4,1,2)",
        "--config.init.pretraining.data.species=4",
        "--config.init.pretraining.data.images_per_class=(4,1,0)",
        "--config.eval.batch_size=6",
        "--config.quickstart.maximise_steps=2",
        *(
            f"--config.stages.{stage}.{key}={value}"
            for stage in ("pretrain", "head", "finetune", "scratch")
            for key, value in (("epochs", 1), ("batch_size", 6))
        ),
    ]
    result = _train(*arguments)
    assert result["weights"]["name"] == "pretraining"
    assert result["seconds"].keys() == {"head", "finetune", "evaluation"}
    summary = result["quickstart"]
    assert summary == json.loads((workdir / "quickstart.json").read_text())
    scratch = json.loads((workdir / "from_scratch" / "result.json").read_text())
    assert scratch["weights"]["name"] is None and scratch["split"] == "target"
    assert scratch["seconds"].keys() == {"scratch", "evaluation"}
    assert summary["gain"] == result["test"]["top1"] - scratch["test"]["top1"]
    assert summary["test_pictures"] == 6 == result["test"]["count"]
    before = load_run(workdir / "pretraining").network.class_names
    assert before == synthetic.load("source", 4, (1, 0, 0)).class_names
    class_names = load_run(workdir).network.class_names
    assert class_names[0] not in before
    scores = summary["pointing_game"]
    assert scores.keys() == {"chance", "saliency", "grad_cam", "finer_cam"}
    assert all(0 <= score <= 1 for score in scores.values()) and scores["chance"] < 0.5
    assert summary["activation_max"]["classes"] == 3
    assert quickstart.sentences(summary).endswith(" of 3")
    for name in ("attributions/grad_cam.png", "activation_max/sheet.png"):
        assert Image.open(workdir / name).size[0] > 300
    titles = [
        json.loads(line)["image"][:-8]
        for line in (workdir / "attributions/index.jsonl").read_text().splitlines()
    ]
    assert titles[:3] == list(class_names)

    written = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.npy")}
    (workdir / "result.json").unlink()  # as if it had not come so far
    again = _train(*arguments)
    assert again["test"] == result["test"] and again["quickstart"] == summary
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*.npy")} == written
    stages = "--config.stage_order=('head','finetune','scratch')"
    other = _train(*arguments, stages)
    assert other["quickstart"]["config_hash"] == other["config_hash"]
    assert other["quickstart"]["transfer"]["top1"] == other["test"]["top1"]
    assert other["config_hash"] != result["config_hash"]


@pytest.mark.slow
def test_transfer_gains_and_maps_point_at_the_flower(tmp_path):
    result = _train(
        f"--workdir={tmp_path / 'run'}", f"--config.data.cache_dir={tmp_path}"
    )
    summary = result["quickstart"]
    errors = [summary[k]["standard_error"] for k in ("transfer", "from_scratch")]
    assert summary["gain"] > max(0.08, 2 * sum(errors))
    assert summary["pointing_game"]["grad_cam"] > 2 * summary["pointing_game"]["chance"]
