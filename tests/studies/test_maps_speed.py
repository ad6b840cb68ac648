"""Test the benchmark of the maps of many images."""

import json

import pytest

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


def test_too_few_images_for_the_rate_of_shards():
    done = harness.run_here("benchmark_maps", "--workdirs=a", "--images=b", "--count=9")
    assert done.returncode == 2 and "--count" in done.stderr
