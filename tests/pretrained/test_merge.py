"""Test the merging of loaded into initialised variables."""

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
