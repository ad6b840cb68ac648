"""Ranges of the options of attribution methods.

    check_ranges(steps=8, spacing=2.0)

An option has the same range in all methods, except where the name of a method precedes
it in `_RANGES`.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class _Range:
    """The values that an option may have.

    Attributes:
      expected: the values, for error messages.
      accepts: whether a finite number, or a word, is one of them.
      is_word: whether the values are words.
    """

    expected: str
    accepts: Callable[[Any], bool]
    is_word: bool = False


def _count(low: int) -> _Range:
    return _Range(
        f"a whole number, {low} or more",
        lambda value: isinstance(value, numbers.Integral) and int(value) >= low,
    )


def _choice(*words: str) -> _Range:
    return _Range(" or ".join(map(repr, words)), lambda word: word in words, True)


_NUMBER = _Range("a finite number", lambda _: True)
_RANGES = {
    "samples": _count(1),
    "steps": _count(1),
    "window": _count(1),
    "stride": _count(1),
    "cells": _count(1),
    "batch_size": _count(1),
    "references": _count(1),
    "channels": _count(0),
    "noise": _Range("a finite number, 0 or more", lambda value: value >= 0),
    "spacing": _Range("a finite number above 0", lambda value: value > 0),
    "radius": _Range("a finite number above 0", lambda value: value > 0),
    "sigma": _Range("a finite number above 0", lambda value: value > 0),
    "epsilon": _Range("a finite number, 0 or more", lambda value: value >= 0),
    "gamma": _Range("a finite number, 0 or more", lambda value: value >= 0),
    "depth": _Range("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "visible": _Range("a number between 0 and 1", lambda value: 0 < value < 1),
    "baseline": _NUMBER,
    "baselines": _NUMBER,
    "strength": _NUMBER,
    "align": _choice("receptive_field", "stretch"),
    # With one mask or without noise, all values of a map would be zero.
    "rise.samples": _count(2),
    "var_grad.samples": _count(2),
    "var_grad.noise": _Range("a finite number above 0", lambda value: value > 0),
}


def check_ranges(method: str = "", /, **options: Any) -> None:
    """Check that options are within their ranges.

    An option that is not listed here, such as one of a registered method, may be any
    finite number. Arrays and other objects are not checked.

    Args:
      method: name of the method, for its own ranges and for the message.
      **options: values by name.

    Raises:
      ValueError: an option is out of its range. The message has its name, value and
        range.

    Example:
      >>> check_ranges("smooth_grad", samples=0)
      Traceback (most recent call last):
      ValueError: smooth_grad.samples is 0; expected a whole number, 1 or more
    """
    for name, value in options.items():
        is_word = isinstance(value, str)
        is_known = name in _RANGES
        if not isinstance(value, numbers.Real) and not (is_word and is_known):
            continue
        allowed = _RANGES.get(f"{method}.{name}") or _RANGES.get(name, _NUMBER)
        is_right_kind = is_word if allowed.is_word else not is_word
        is_finite = is_word or math.isfinite(value)
        if not (is_right_kind and is_finite and allowed.accepts(value)):
            key = f"{method}.{name}" if method else name
            raise ValueError(f"{key} is {value!r}; expected {allowed.expected}")
