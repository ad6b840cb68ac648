"""Test the benchmark of the maps of many images."""

import json

import pytest

from seeflower_jax.studies import maps_speed
from tests import harness


@pytest.mark.long
def test_script_compares_files_and_computation(tmp_path, small_run, flowers):
    done = harness.run_apart(
        "benchmark_maps",
        f"--workdirs={small_run},{tmp_path / 'no_run'}",
        f"--images={flowers / 'jpg'}",
        *("--count=768", "--batch_size=64", "--steps=1", "--rounds=1"),
        f"--out={tmp_path / 'maps_speed.json'}",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "maps_speed.json").read_text())
    assert (record["images"], record["batch_size"]) == (768, 64)
    row = record["runs"][str(small_run)]
    ratio = row["images_per_second"] / row["computation_images_per_second"]
    assert row["ratio"] == pytest.approx(ratio) and ratio > 0
    assert row["peak_mib"] >= row["peak_mib_few"] > 50
    assert "no_run is not a run directory" in done.stdout


def test_rate_alone_is_that_of_the_batches_before_and_after():
    files = {"images_per_second": 9.0, "peak_mib_few": 80.0, "peak_mib": 90.0}
    measured = {
        "a:before": {"images_per_second": 10.0},
        "a:files": files,
        "a:after": {"images_per_second": 15.0},
        "b:before": "KeyError: no b",
        "b:files": files,
        "b:after": {"images_per_second": 15.0},
    }
    rows = maps_speed.table(measured, ["a", "b"])
    # The same number of batches takes 1/10 and 1/15 of a second an image.
    assert rows["a"] == {"computation_images_per_second": 12.0, "ratio": 0.75, **files}
    assert rows["b"] == {"error": "KeyError: no b"}


def test_too_few_images_for_the_rate_of_shards():
    done = harness.run_here("benchmark_maps", "--workdirs=a", "--images=b", "--count=9")
    assert done.returncode == 2 and "--count" in done.stderr
