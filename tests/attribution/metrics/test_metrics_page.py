"""docs/attribution_metrics.md: its examples run, and it lists all metrics."""

import re

import pytest

from seeflower_jax.explain import score_table
from tests import harness

pytestmark = pytest.mark.long

PAGE = (harness.ROOT / "docs/attribution_metrics.md").read_text()
FIRST, SECOND = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_metrics_of_the_first_example():
    names = {}
    exec(FIRST, names)
    for name in ("deletion", "combined", "errors", "changes"):
        assert names[name].shape == (2,)


def test_localisation_has_the_values_of_its_comments():
    names = {}
    exec(SECOND, names)
    assert names["hit"].tolist() == names["energy"].tolist() == [1]
    assert names["overlap"].tolist() == names["box_overlap"].tolist() == [9 / 16]
    assert names["in_box"].tolist() == [1]


def test_all_groups_are_in_the_table():
    groups = re.findall(r"^\|[^|]*\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert list(dict.fromkeys(groups)) == list(score_table.METRICS)
