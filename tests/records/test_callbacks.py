"""Test that expected errors of callbacks are not printed."""

import sys
import types

import pytest

from seeflower_jax.records import callbacks


@pytest.fixture
def printed(monkeypatch):
    errors = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: errors.append(u.exc_value))
    return errors


def _raise(error):
    sys.unraisablehook(types.SimpleNamespace(exc_type=type(error), exc_value=error))


def test_only_expected_errors_are_silenced(printed):
    closed, other = RuntimeError("Event loop is closed"), RuntimeError("other")
    interruption = KeyboardInterrupt()
    for _ in range(2):
        callbacks.silence_closed_loops()
        hook = sys.unraisablehook
        for error in (closed, interruption, other):
            _raise(error)
    assert hook is sys.unraisablehook  # one hook, even if it is set several times
    assert printed == [interruption, other] * 2
    callbacks.silence_interruptions()
    callbacks.silence_closed_loops()
    hook = sys.unraisablehook
    callbacks.silence_interruptions()
    assert hook is sys.unraisablehook
    printed.clear()
    for error in (closed, interruption, other):
        _raise(error)
    assert printed == [other]
