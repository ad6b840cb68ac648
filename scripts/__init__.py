"""The commands of the project: `python -m scripts.NAME --help`."""

import pathlib
import sys

# Scripts find their modules and configs here when installed as seeflower_jax.scripts.
if __name__ != "scripts":
    sys.path.append(str(pathlib.Path(__file__).parent.parent))


def names() -> list[str]:
    """Return the names of all scripts, without the modules that scripts share."""
    files = pathlib.Path(__file__).parent.glob("*.py")
    return sorted(
        path.stem for path in files if "\n    console.run(main" in path.read_text()
    )
