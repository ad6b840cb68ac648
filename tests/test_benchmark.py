"""The speed benchmark, on a small picture and without the other frameworks."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _benchmark(*arguments):
    command = [sys.executable, "-m", "scripts.benchmark", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_both_passes_are_timed_and_a_missing_framework_is_named(tmp_path):
    """PyTorch is not among the test requirements: it may be there or not."""
    out = tmp_path / "benchmark.json"
    done = _benchmark(
        "train",
        "--batch_size=1",
        "--size=75",
        "--steps=1",
        "--rounds=1",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    rates = record["images_per_second"]
    for framework in ("seeflower_jax", "keras"):
        assert rates[framework]["forward"] > rates[framework]["finetune"] > 0
        assert framework in done.stdout
    assert record["command"].startswith("python -m scripts.benchmark train")
    assert isinstance(rates["torch"], dict) or "torch" in rates["torch"]


@pytest.mark.parametrize("arguments", [(), ("train", "forward"), ("tarin",)])
def test_unknown_command(arguments):
    done = _benchmark(*arguments)
    assert done.returncode != 0 and "'train'" in done.stdout + done.stderr
