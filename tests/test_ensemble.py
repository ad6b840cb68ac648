"""Several runs as one, and a run seen otherwise than its config says."""

import dataclasses
import json

import numpy as np
import pytest

from seeflower_jax import ensemble, experiment, records, reproduction
from seeflower_jax.report import results
from tests import harness


def test_ensemble_of_a_run_with_itself_is_the_run(tiny_run):
    result = ensemble.combine([tiny_run, tiny_run], "typed")
    for split in ("validation", "test"):
        own, logits, labels = experiment.evaluate(tiny_run, split)
        assert result[split]["top1"] == own["top1"]
        temperature = result["members"][0]["temperature"]
        shown = np.exp(logits / temperature)
        shown /= shown.sum(-1, keepdims=True)
        loss = -np.log(shown[np.arange(len(labels)), labels]).mean()
        np.testing.assert_allclose(result[split]["loss"], loss, rtol=1e-3)
    assert result["command"] == "typed"
    assert [m["model"] for m in result["members"]] == ["inception_v3"] * 2
    assert reproduction.result_name(result) == "ensemble_official_seed0"
    assert "| ensemble | official | best |" in results.tables((), (), [result])


def test_ensemble_of_what_does_not_belong_together(tiny_run):
    with pytest.raises(ValueError, match="takes two runs or more"):
        ensemble.combine([tiny_run])
    config = tiny_run.config.copy_and_resolve_references()
    config.data.split = "reversed"
    other = dataclasses.replace(tiny_run, config=config)
    with pytest.raises(ValueError, match="not of the same split.*reversed"):
        ensemble.combine([tiny_run, other])


def test_evaluation_of_other_views_is_recorded(tiny_run, tmp_path):
    def evaluate(*flags):
        return harness.run_here(
            "evaluate",
            f"--workdir={tiny_run.workdir}",
            "--split=validation",
            f"--out={tmp_path / 'out'}",
            *flags,
        )

    row = f"--results={tmp_path}", "--ablation=two sizes"
    assert evaluate("--views=75,96:0.8", "--hflip", *row).returncode == 0
    entry = json.loads((tmp_path / "ablation.json").read_text())
    entry = entry["inception_v3"]["two sizes"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert entry["top1"] == metrics["top1"] and entry["count"] == metrics["count"]
    assert entry["config_hash"] == records.config_hash(tiny_run.config)
    assert "--views=75,96:0.8" in entry["command"]
    plain, _, _ = experiment.evaluate(tiny_run, "validation")
    assert metrics["loss"] != plain["loss"]
    assert evaluate("--views=wide").returncode == 2
    assert evaluate("--views=75", "--crop").returncode == 2


def test_ablation_table_compares_with_the_recipe():
    recipe = {"model": "vgg16", "split": "official", "recipe": "best", "seed": 0}
    recipe["validation"] = {"top1": 0.9}
    recorded = {"vgg16": {"one size": {"top1": 0.875, "config_hash": "abc"}}}
    text = results.ablation(recorded, [recipe])
    assert "| VGG16 | as it is | .9000 |  |  |" in text
    assert "| VGG16 | one size | .8750 | -.0250 | abc |" in text
    assert results.ablation({}, [recipe]) == ""
