"""Test the reliability of this project: interruptions, malformed inputs, full disks.

    python -m scripts.stress --out=results/reliability.json
    python -m scripts.stress --short
    python -m scripts.stress --parts=malformed --kinds=images,weights
    python -m scripts.stress --case=images/exif_cut_jpg

The full form takes about 75 minutes on two cores, --short about a minute. An
interrupted test continues if --folder and the commit are the same. --case runs one
malformed input, prints its command and its verdict, and keeps its files. The script
needs a clone of the repository, with tests/. Exit status 3 means that a test failed.
"""

import sys

from absl import app, flags

from scripts import console
from seeflower_jax import records

_OUT = flags.DEFINE_string("out", None, "The JSON file to write.")
_SHORT = flags.DEFINE_bool("short", False, "Run a few tests of each part.")
_PARTS = flags.DEFINE_list("parts", [], "Only these parts of the test.")
_KINDS = flags.DEFINE_list("kinds", [], "Only these kinds of malformed inputs.")
_CASE = flags.DEFINE_string("case", None, "One malformed input, KIND/NAME.")
_FOLDER = flags.DEFINE_string("folder", None, "Folder to work in; default: a new one.")
_JOBS = flags.DEFINE_integer("jobs", 2, "Number of processes at a time.", 1)


def main(_: list[str]) -> None:
    try:
        from tests.stress import suite
    except ImportError as error:
        raise app.UsageError(f"run this script in a clone: {error}") from error
    folder = suite.work_folder(_FOLDER.value)
    if _CASE.value:
        outcome = suite.run_case(folder, _CASE.value)
        console.show(outcome, "\n".join(f"{k}: {v}" for k, v in outcome.items()))
        sys.exit(0 if outcome["verdict"] == "correct" else 3)
    suite.check_names(_PARTS.value, _KINDS.value)
    parts, kinds = _PARTS.value or suite.PARTS, _KINDS.value
    result = suite.run(folder, parts, kinds, _SHORT.value, _JOBS.value)
    if _OUT.value:
        records.write_measurements(_OUT.value, result)
    console.show(result, suite.table(result))
    sys.exit(3 if suite.failed(result) else 0)


if __name__ == "__main__":
    console.run(main)
