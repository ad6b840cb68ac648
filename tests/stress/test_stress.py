"""The stress test: its short form, and that it sees faults."""

import concurrent.futures
import json
import os

import pytest

from tests.harness import Completed
from tests.stress import children, malformed, suite, worker
from tests.stress.cases import Case, judge


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Return the counts of the short form."""
    import torch  # noqa: F401 - some inputs are files of PyTorch

    folder = tmp_path_factory.mktemp("stress")
    return suite.run(folder, suite.PARTS, short=True, jobs=2)


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_silently_wrong(result):
    # A random kill can come after the end of a short run; those at writes cannot.
    assert result["write_points"]["count"] >= 3
    assert result["malformed"]["count"] >= 50
    assert suite.failed(result) == 0, json.dumps(result, indent=1)


def test_enough_malformed_inputs():
    assert sum(len(worker.load(kind)) for kind in worker.KINDS) >= 900


@pytest.mark.parametrize(
    "expect,status,stderr,problem,verdict",
    [
        ("refused", 1, "scripts.x: a.png is empty\n", "", "correct"),
        ("refused", 1, "a warning\nscripts.x: a.png is empty\n", "", "correct"),
        ("refused", 1, "scripts.x: it is empty\n", "", "unnamed"),
        ("refused", 1, "scripts.x: a.png:\n  is empty\n", "", "correct"),
        ("refused", 3, "skipped: a.png is empty\n", "", "correct"),
        ("refused", 0, "", "", "accepted_wrong"),
        ("refused", 1, "Traceback (most recent call last):\nE: a.png", "", "traceback"),
        ("refused", 1, "", "", "unnamed"),
        ("accepted", 0, "", "", "correct"),
        ("accepted", 0, "", "black", "accepted_wrong"),
        ("accepted", 1, "scripts.x: a.png is empty\n", "", "refused_wrong"),
        ("either", 0, "", "black", "accepted_wrong"),
        ("either", 1, "scripts.x: a.png is empty\n", "", "correct"),
    ],
)
def test_verdicts(expect, status, stderr, problem, verdict):
    case = Case("a", "x", [], expect, r"a\.png")
    assert judge(case, Completed(status, "", stderr), problem)[0] == verdict


def test_summary_counts_each_verdict():
    outcomes = {"images": {"a": {"verdict": "correct"}, "b": {"verdict": "traceback"}}}
    outcomes["runs"] = {"c": {"verdict": "hang"}}
    summary = malformed.summarise(outcomes)
    assert (summary["count"], summary["tracebacks"], summary["hangs"]) == (3, 1, 1)
    assert summary["by_kind"]["images"]["tracebacks"] == 1
    assert suite.failed({"malformed": summary}) == 2


def test_statuses_of_processes_that_several_threads_start():
    """A thread that starts a process asks for the statuses of all others."""

    def run(_):
        return children.status(children.fork(os.getpid, (), ()), 60)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(60))) == {0}
