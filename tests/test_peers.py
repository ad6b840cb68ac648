"""Test that tests without their framework are skipped, or fail if required."""

import sys

import pytest

from tests import harness, peers


@pytest.fixture
def finder(monkeypatch):
    finder = peers.Finder({"no_such_framework": "peers"})
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])


def test_test_without_its_framework_is_skipped(finder, monkeypatch):
    monkeypatch.delenv("SEEFLOWER_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no_such_framework.*\.\[peers\]"):
        import no_such_framework  # noqa: F401


def test_test_without_its_framework_can_fail(finder, monkeypatch):
    monkeypatch.setenv("SEEFLOWER_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="no_such_framework"):
        import no_such_framework  # noqa: F401


def test_other_code_sees_that_a_framework_is_missing(finder):
    """A library may try a framework that it does not need."""
    program = compile("import no_such_framework", "/elsewhere/library.py", "exec")
    with pytest.raises(ModuleNotFoundError):
        exec(program, {})


def test_comparisons_are_skipped_as_tests_are(finder, monkeypatch):
    monkeypatch.delenv("SEEFLOWER_REQUIRE_PEERS", raising=False)
    file = harness.ROOT / "seeflower_jax" / "comparison" / "pairs.py"
    program = compile("import no_such_framework", str(file), "exec")
    with pytest.raises(pytest.skip.Exception):
        exec(program, {})
