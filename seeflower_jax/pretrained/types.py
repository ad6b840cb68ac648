"""Types that all modules of this package share."""

from typing import Any, TypeAlias, TypedDict

# Nested dicts of arrays: {'params': {'backbone', 'head'}, 'batch_stats': {'backbone'}}.
Variables: TypeAlias = dict[str, Any]


class WeightRecord(TypedDict):
    """The origin of the weights of a network.

    Attributes:
      name: the name of the weight file; None for random variables.
      sha256: the SHA-256 of the file in hexadecimal digits, or None.
      exact: True if the file is a published file by its hash, or if it holds the same
        variables below the head as a published file. None without a file. For the
        weights of a pretraining run, it is about the file that this run started from.
    """

    name: str | None
    sha256: str | None
    exact: bool | None
