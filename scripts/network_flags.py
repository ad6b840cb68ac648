"""The flags that name a network: a run, a weight file or an export.

classifier = network_flags.load(
    classify.from_run, classify.from_weights, classify.from_export
)
"""

from collections.abc import Callable
from typing import TypeVar

from absl import app, flags

WORKDIR = flags.DEFINE_string("workdir", None, "The directory of a trained run.")
_MODEL = flags.DEFINE_string("model", None, "The network of --weights.")
_WEIGHTS = flags.DEFINE_string("weights", None, "A weight file with a classifier.")
_EXPORT = flags.DEFINE_string("export", None, "A folder of scripts.export.")

Loaded = TypeVar("Loaded")


def load(
    from_run: Callable[[str], Loaded],
    from_weights: Callable[[str, str], Loaded],
    from_export: Callable[[str], Loaded],
) -> Loaded:
    """What the function of the flag that was given makes of its value.

    Raises:
      app.UsageError: unless one of them was given, --weights with --model.
    """
    given = [WORKDIR.value, _WEIGHTS.value, _EXPORT.value]
    if given.count(None) != 2:
        raise app.UsageError("expected one of --workdir, --weights and --export")
    if _EXPORT.value is not None:
        return from_export(_EXPORT.value)
    if WORKDIR.value is not None:
        return from_run(WORKDIR.value)
    if _MODEL.value is None:
        raise app.UsageError("--weights needs --model")
    return from_weights(_MODEL.value, _WEIGHTS.value)
