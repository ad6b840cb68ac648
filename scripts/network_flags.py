"""Define the flags that name a network: a run, a weight file or an export.

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
    """Load the network that the command line names, by the function for its kind.

    Raises:
      app.UsageError: unless the command line has exactly one of --workdir, --export
        and --weights, and --model with --weights.
    """
    workdir, weights, export = WORKDIR.value, _WEIGHTS.value, _EXPORT.value
    if [workdir, weights, export].count(None) != 2:
        raise app.UsageError("expected one of --workdir, --weights and --export")
    if export is not None:
        return from_export(export)
    if workdir is not None:
        return from_run(workdir)
    if _MODEL.value is None or weights is None:
        raise app.UsageError("--weights needs --model")
    return from_weights(_MODEL.value, weights)
