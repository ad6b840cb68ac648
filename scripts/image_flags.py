"""Define the flags that name images: files, or a split of a run.

    flags.adopt_module_key_flags(image_flags)
    network, images = image_flags.load_network_and_images()

`network_flags` defines the flags of the network.
"""

from absl import app, flags

from scripts import network_flags
from seeflower_jax.data.images import Images
from seeflower_jax.inference.network import Network

_IMAGES = flags.DEFINE_string("images", None, "A folder, a pattern or a .txt list.")
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "A split of the run's images."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the images, if it has moved since the training."
)
flags.register_validator("images", lambda path: path != "", "expected a path")


def load_network_and_images() -> tuple[Network, Images]:
    """Load the network and the images that the command line names.

    Raises:
      app.UsageError: unless the command line has one network and one list of images.
        Errors of loading them are raised, too.
    """
    split = _SPLIT.value
    if (_IMAGES.value is None) == (split is None):
        raise app.UsageError("expected one of --images and --split")
    if split is None:
        if _DATA_DIR.value is not None:
            raise app.UsageError("--data_dir goes with --split only")
        network = network_flags.load_network()
        return network, network.images(str(_IMAGES.value))
    network_flags.check()
    if network_flags.WORKDIR.value is None:
        raise app.UsageError("--split needs a run: give --workdir, or --images")
    # Only a run needs optax and orbax.
    from seeflower_jax.experiment.images import of_run
    from seeflower_jax.inference.run import load_run

    run = load_run(network_flags.WORKDIR.value, _DATA_DIR.value)
    return run.network, of_run(run).images(split)
