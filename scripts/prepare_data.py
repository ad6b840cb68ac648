"""Write Oxford 102 Flowers as a tensorflow-datasets folder, without TensorFlow.

    python -m scripts.prepare_data --source=DIR --data_dir=OUT

DIR holds the official files. Training with `--config.data.dir=OUT` reads the result,
and so does unmodified `tfds.builder("oxford_flowers102", data_dir=OUT)`.
"""

import contextlib
import sys

from absl import flags

from scripts import console
from seeflower_jax.data import tfds_writer

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "Folder with imagelabels.mat, setid.mat, jpg/ or 102flowers.tgz.",
    required=True,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder to write to.", required=True
)
_VERIFY = flags.DEFINE_bool(
    "verify", True, "Check hashes and counts; turn off for smaller data sets."
)


def main(_) -> None:
    with contextlib.redirect_stdout(sys.stderr):  # tfds prints its progress
        folder = tfds_writer.write(_SOURCE.value, _DATA_DIR.value, _VERIFY.value)
    console.show({"folder": str(folder)}, str(folder))


if __name__ == "__main__":
    console.run(main)
