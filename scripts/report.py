"""Write the report page of a run.

    python -m scripts.report --workdir=runs/inception_seed0

The page shows the result, the training and examples of predictions. It is report.html
in the run directory, one file that needs no network connection. scripts.train writes
the page at the end of a run. Write it again to add the images of scripts.activation_max
from activation_max/ in the run directory, unless the network was trained further since.
The page of an unfinished run does not show the test split.
"""

from absl import flags

from scripts import console
from seeflower_jax.report import collect

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder of the images, if they have moved since training."
)


def main(_) -> None:
    path = str(collect.write(_WORKDIR.value, _DATA_DIR.value))
    console.show({"report": path}, path)


if __name__ == "__main__":
    console.run(main)
