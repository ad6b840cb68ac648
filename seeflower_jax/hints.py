"""What a mistyped name was meant to be.

raise ValueError(f"unknown model {name!r}{hints.did_you_mean(name, MODELS)}")
"""

import difflib
from collections.abc import Iterable


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
