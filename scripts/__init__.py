"""The command line: `python -m scripts.NAME --help`.

Python looks for a module in its package, which is imported before: here, where a
mistyped name can still be answered.
"""

import pathlib
import sys

from seeflower_jax import hints


def names() -> list[str]:
    """What may be run: train and others."""
    there = {path.stem for path in pathlib.Path(__file__).parent.glob("[a-z]*.py")}
    return sorted(there - {"console", "network_flags", "run_flags", "usage"})


def _check(module: str) -> None:
    """Ends the program if there is no such script."""
    package, _, name = module.partition(".")
    if package == "scripts" and name not in names():
        near = [
            f"did you mean scripts.{meant}?" for meant in hints.nearest(name, names())
        ]
        hint = near[0] if near else f"there are scripts.{{{','.join(names())}}}"
        print(f"{module} is no script; {hint}", file=sys.stderr)
        sys.exit(2)


if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:  # it is looked for now
    _check(sys.orig_argv[sys.orig_argv.index("-m") + 1])
