"""Writes the report of a run: one page with its result and what its network sees.

    python -m scripts.report --workdir=runs/inception_seed0

The page, report.html in the run directory, opens without a network and needs no other
file. scripts.train writes it at its end; this writes it again, for one with the
pictures that scripts.activation_max made in the meantime in activation_max/ of the run
directory, and for a run that is not finished, without its test split.
"""

from absl import flags

from scripts import console
from seeflower_jax import reporting

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the run found it."
)


def main(_) -> None:
    path = str(reporting.write(_WORKDIR.value, _DATA_DIR.value))
    console.show({"report": path}, path)


if __name__ == "__main__":
    console.run(main)
