"""Suggestions for mistyped names, and errors for numbers out of range.

raise ValueError(f"unknown model {name!r}{hints.did_you_mean(name, MODELS)}")
hints.check_count("batch_size", batch_size)
"""

import contextlib
import difflib
import fnmatch
import os
import pathlib
from collections.abc import Iterable, Sequence


def nearest(
    name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6
) -> list[str]:
    """Return the known names that are most similar to `name`, the most similar first.

    The case of letters does not matter.

    Args:
      name: the mistyped name.
      known: the valid names.
      count: the maximum number of names.
      cutoff: the minimum similarity, in [0, 1], of `difflib.SequenceMatcher.ratio`.
    """
    by_folded: dict[str, list[str]] = {}
    for text in known:
        by_folded.setdefault(text.casefold(), []).append(text)
    folded = str(name).casefold()
    similar = difflib.get_close_matches(folded, by_folded, count, cutoff)
    return [text for match in similar for text in by_folded[match]][:count]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message, `; did you mean 'vgg16'?`.

    The end is empty if no known name is similar.
    """
    similar = nearest(name, known)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def matching(patterns: Iterable[str], known: Sequence[str], kind: str) -> set[str]:
    """Return the known names that match one of the patterns.

    Without patterns, return all known names.

    Args:
      patterns: names, or patterns with `*`, `?` and `[...]`.
      known: the valid names.
      kind: kind of the names for the error message, such as "row".

    Raises:
      ValueError: if no name matches a pattern; the message lists similar names.
    """
    selected = set()
    for pattern in patterns:
        matches = fnmatch.filter(known, pattern)
        if not matches:
            similar = nearest(pattern, known, count=3, cutoff=0.4) or known
            raise ValueError(
                f"unknown {kind} {pattern!r}; did you mean one of {similar}?"
            )
        selected.update(matches)
    return selected or set(known)


def check_count(name: str, value: int) -> None:
    """Check that a count is 1 or more.

    Raises:
      ValueError: if it is not; the message gives the name and the value.
    """
    if value < 1:
        raise ValueError(f"{name} is {value}; expected 1 or more")


def nearest_path(path: str | os.PathLike) -> str | None:
    """Return the existing path that is most similar to a missing path, or None."""
    missing = pathlib.Path(path)
    with contextlib.suppress(RuntimeError):  # No user has the name after ~.
        missing = missing.expanduser()
    while not missing.parent.exists():
        missing = missing.parent
    if missing.exists() or not missing.parent.is_dir():
        return None
    try:
        names = os.listdir(missing.parent)
    except OSError:  # The folder may not be listed.
        return None
    near = nearest(missing.name, names)
    return str(missing.with_name(near[0])) if near else None


def did_you_mean_path(path: str | os.PathLike) -> str:
    """Return the end of an error message about a missing path, as `did_you_mean`."""
    near = nearest_path(path)
    return f"; did you mean {near}?" if near else ""
