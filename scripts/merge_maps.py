r"""Merge the attribution maps that several machines computed.

    python -m scripts.attribute --workdir=runs/inception_seed0 --split=test \
        --shard=1/2 --out=maps         # on one machine; --shard=2/2 on the other
    python -m scripts.merge_maps --out=maps
    python -m scripts.merge_maps --parts=a/part_1_of_2,b/part_2_of_2 --out=maps

Each part is a folder part_1_of_2 in the --out of its scripts.attribute. The script
writes the folder that a single command without --shard would have written. It refuses
parts that are missing, incomplete or of different settings. It links files if all
folders are on one disk, and copies them if not. The parts stay as they are.
"""

import glob
import os

from absl import flags

from scripts import console
from seeflower_jax.explain import merge
from seeflower_jax.explain.store import MapStore

_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_PARTS = flags.DEFINE_list("parts", None, "Folders of all parts; default OUT/part_*.")
flags.register_validator("out", lambda path: path != "", "expected a folder")


def main(_: list[str]) -> None:
    out = os.path.expanduser(_OUT.value)
    pattern = os.path.join(glob.escape(out), "part_*_of_*")
    folders = _PARTS.value or sorted(glob.glob(pattern))
    merge.merge(folders, out)
    skipped = MapStore.open(out).skipped()
    console.show({"out": out, "parts": len(folders), "skipped": skipped}, out)


if __name__ == "__main__":
    console.run(main)
