"""Maps that processes compute together; this process acts as the second of two."""

import pytest

from seeflower_jax.explain import together
from seeflower_jax.sharding import processes
from tests.explain import small


@pytest.mark.parametrize("what", ["images", "networks"])
def test_processes_compare_their_work_before_it(tmp_path, monkeypatch, what):
    def compute(*_, **__):
        raise AssertionError("maps are computed before the check")

    def of_process_0(value):
        network = isinstance(value, dict)
        return "another" if network == (what == "networks") else value

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 1)
    monkeypatch.setattr(processes, "check_shared", lambda _: None)
    monkeypatch.setattr(processes, "barrier", lambda _: None)
    monkeypatch.setattr(processes, "agree", of_process_0)
    monkeypatch.setattr(together.single, "attribute", compute)
    with pytest.raises(ValueError, match=f"process 1 has other {what} than process 0"):
        together.attribute(small.baseline(), small.images(2), ["saliency"], tmp_path)
