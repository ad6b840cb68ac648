"""Test the merging of loaded into initialised variables."""

import ml_dtypes
import numpy as np
import pytest

from seeflower_jax.pretrained.merge import MergeError, merge

INITIALISED = {
    "params": {
        "body": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)},
        "head": {"kernel": np.full((3, 5), 7.0)},
    }
}


def test_takes_loaded_and_keeps_what_a_rule_excuses():
    loaded = {"params": {"body": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}}
    merged = merge(loaded, INITIALISED, ["params/head/.*"])["params"]
    assert merged["body"]["kernel"].sum() == 6
    assert merged["body"]["bias"].dtype == np.float32
    assert merged["head"]["kernel"].sum() == 105


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "int64"])
def test_quantised_arrays_are_refused(dtype):
    body = {"kernel": np.ones((2, 3), dtype), "bias": np.ones(3)}
    message = f"body/kernel has values of type {dtype}, expected floating-point"
    with pytest.raises(MergeError, match=message):
        merge({"params": {"body": body}}, INITIALISED, ["params/head/.*"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floating_point_arrays_become_float32(dtype):
    body = {"kernel": np.full((2, 3), 0.5, dtype), "bias": np.ones(3, dtype)}
    merged = merge({"params": {"body": body}}, INITIALISED, ["params/head/.*"])
    kernel = merged["params"]["body"]["kernel"]
    assert kernel.dtype == np.float32 and (kernel == 0.5).all()


def test_lists_both_sides_shapes_and_bad_values_at_once():
    loaded = {
        "params": {
            "body": {"kernel": np.ones((3, 2)), "bias": np.array([1, np.nan, 1])},
            "tail": {"kernel": np.ones(1)},
        }
    }
    with pytest.raises(MergeError) as caught:
        merge(loaded, INITIALISED)
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.strip()[0] for line in lines) == ["!", "!", "+", "-"]
    assert "params/head/kernel (3, 5) is missing" in str(caught.value)
    assert "params/tail/kernel (1,) is not expected" in str(caught.value)
    assert "(3, 2), expected (2, 3)" in str(caught.value)
    assert "params/body/bias has values that are not finite" in str(caught.value)
