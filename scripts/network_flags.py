"""Define the flags that name a network: a run, a weight file or an export.

    flags.adopt_module_key_flags(network_flags)
    network = network_flags.load_network()

`WORKDIR` is public for scripts that also need the run itself.
"""

from absl import app, flags

from seeflower_jax.inference import export, load
from seeflower_jax.inference.network import Network
from seeflower_jax.models.preprocess import PREPROCESS

WORKDIR = flags.DEFINE_string("workdir", None, "The directory of a trained run.")
_MODEL = flags.DEFINE_string("model", None, "The network of --weights, such as vgg16.")
_WEIGHTS = flags.DEFINE_string("weights", None, "A weight file with a classifier.")
_PREPROCESS = flags.DEFINE_enum(
    "preprocess", None, list(PREPROCESS), "Preprocessing of --weights, if unusual."
)
_EXPORT = flags.DEFINE_string("export", None, "A folder that scripts.export wrote.")


def check() -> None:
    """Check that the command line names one network.

    Raises:
      app.UsageError: unless the command line has exactly one of --workdir, --export and
        --weights. --model and --preprocess need --weights.
    """
    if [WORKDIR.value, _WEIGHTS.value, _EXPORT.value].count(None) != 2:
        raise app.UsageError("expected one of --workdir, --weights and --export")
    if (_MODEL.value is None) != (_WEIGHTS.value is None):
        missing = "--model" if _MODEL.value is None else "--weights"
        raise app.UsageError(f"--model and --weights go together; give {missing} too")
    if _PREPROCESS.value is not None and _WEIGHTS.value is None:
        raise app.UsageError("--preprocess goes with --weights only")


def load_network() -> Network:
    """Load the network that the command line names.

    Raises:
      app.UsageError: as for `check`. Errors of loading the network are raised, too.
    """
    check()
    if _EXPORT.value is not None:
        return export.load(_EXPORT.value)
    if WORKDIR.value is not None:
        # Only a run needs flax and orbax; an export predicts without them.
        from seeflower_jax.inference.run import load_run

        return load_run(WORKDIR.value).network
    return load.load_weights(str(_MODEL.value), str(_WEIGHTS.value), _PREPROCESS.value)
