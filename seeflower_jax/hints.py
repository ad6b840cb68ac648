"""What a mistyped name was meant to be.

raise ValueError(f"unknown model {name!r}{hints.did_you_mean(name, MODELS)}")
"""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence


def nearest(
    name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6
) -> list[str]:
    """The known names most like `name`, the most similar first.

    Args:
      name: what was typed.
      known: what could have been meant.
      count: at most so many.
      cutoff: the least similarity, in [0, 1], of `difflib.SequenceMatcher.ratio`.
    """
    return difflib.get_close_matches(str(name), list(known), count, cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message, `; did you mean 'vgg16'?`; '' if nothing is near."""
    near = nearest(name, known)
    return f"; did you mean {near[0]!r}?" if near else ""


def matching(patterns: Iterable[str], known: Sequence[str], what: str) -> set[str]:
    """The known names that match one of the patterns with `*`; all without patterns.

    Raises:
      ValueError: for a pattern that nothing matches; says `what` there is none of, and
        what is near.
    """
    found = set()
    for pattern in patterns:
        matches = fnmatch.filter(known, pattern)
        if not matches:
            near = nearest(pattern, known, count=3, cutoff=0.4) or known
            raise ValueError(f"no {what} is called {pattern!r}; near are {near}")
        found.update(matches)
    return found or set(known)
