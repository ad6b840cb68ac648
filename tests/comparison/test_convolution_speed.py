"""Test the benchmark of convolutions."""

import itertools
import json

import pytest

from seeflower_jax.comparison import convolution_speed
from tests import harness

pytestmark = pytest.mark.long


def test_script_measures_all_convolutions_of_a_network(tmp_path):
    done = harness.run_here(
        "benchmark_convolutions",
        *("--model=small", "--batch_size=2", "--size=32", "--rounds=1"),
        f"--out={tmp_path / 'convolutions.json'}",
    )
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "convolutions.json").read_text())
    rows = {tuple(row["image"]): row for row in table["convolutions"]}
    # In each of 2 images: places, channels and outputs of the convolutions of 3x3.
    operations = {
        (32, 32, 3): 2 * 2 * 256 * 9 * 3 * 24,
        (16, 16, 24): 2 * 2 * 256 * 9 * 24 * 32,
        (8, 8, 32): 2 * 2 * 64 * 9 * 32 * 64,
        (4, 4, 64): 2 * 2 * 16 * 9 * 64 * 128,
        (4, 4, 128): 2 * 2 * 16 * 9 * 128 * 128,
    }
    assert rows.keys() == operations.keys()
    assert table["gflop"] == pytest.approx(sum(operations.values()) / 1e9)
    for name, form, dtype in itertools.product(
        convolution_speed.PASSES, convolution_speed.FORMS, convolution_speed.DTYPES
    ):
        column = f"{form}_{dtype}"
        seconds = [
            n / 1e9 / rows[image][name][column] for image, n in operations.items()
        ]
        assert table["seconds"][name][column] == pytest.approx(sum(seconds))
    *_, product = done.stdout.splitlines()
    expected = table["gflop"] / table["product_gflops"]["float32"]
    assert product.startswith("matrix product")
    assert float(product.split()[2]) == pytest.approx(expected, abs=6e-4)
