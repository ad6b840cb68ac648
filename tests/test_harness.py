"""Test the harness of the other tests."""

import logging

import numpy as np
import pytest
from absl import flags

from tests import harness


@pytest.mark.parametrize("run", [harness.run_here, harness.run_apart])
def test_output_and_status_are_captured(run):
    done = run("report", "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "python -m scripts.report" in done.stdout
    done = run("report", "--workdir=/absent")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("scripts.report: /absent is not a run directory")


def test_script_in_this_process_leaves_no_trace():
    before = set(flags.FLAGS), logging.root.handlers[:], logging.root.level
    harness.run_here("report", "--workdir=/absent")
    assert (set(flags.FLAGS), logging.root.handlers, logging.root.level) == before


def test_environment_of_a_new_interpreter(tmp_path):
    (tmp_path / "plugin.py").write_text("import os; print(os.environ['WORD'])")
    arguments = ["--workdir=/absent", "--plugins=plugin"]
    variables = {"PYTHONPATH": str(tmp_path), "WORD": "rose"}
    done = harness.run_apart("report", *arguments, **variables)
    assert done.returncode == 1 and done.stdout == "rose\n"


def test_first_leaf_that_differs_is_named():
    tree = {"params": {"head": [np.zeros(2), np.ones(3)]}, "step": 4}
    harness.assert_trees_equal(tree, tree)
    near = {"params": {"head": [np.zeros(2), np.ones(3) + 1e-6]}, "step": 4}
    harness.assert_trees_close(near, tree, rtol=1e-5)
    with pytest.raises(AssertionError, match=r"at \['params'\]\['head'\]\[1\]"):
        harness.assert_trees_close(near, tree)
    with pytest.raises(AssertionError, match=r"at \['params'\]\['head'\]\[1\]"):
        harness.assert_trees_equal(near, tree)
    with pytest.raises(AssertionError, match=r"\['step'\] is missing"):
        harness.assert_trees_equal({"params": tree["params"]}, tree)
    with pytest.raises(AssertionError, match=r"\['step'\] is not expected"):
        harness.assert_trees_equal(tree, {"params": tree["params"]})
