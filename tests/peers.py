"""Skip tests that need an optional package, such as PyTorch.

A test, a fixture or a test module is skipped if it imports a missing package, or code
that compares this package with others and imports it. With SEEFLOWER_REQUIRE_PEERS it
fails.
"""

import importlib.abc
import os
import pathlib
import sys
from collections.abc import Mapping

import pytest

# {module: the extra of setup.cfg that installs it}
PEERS = {
    **dict.fromkeys(("captum", "equinox", "haiku", "keras"), "peers"),
    **dict.fromkeys(("torch", "torchvision"), "peers"),
    "gradio": "demo",
    "nbclient": "docs",
    "pillow_heif": "heif",
    "skimage": "superpixels",
}
_TESTS = pathlib.Path(__file__).parent
# Code that is of no use without the packages. All other code works without them.
_NEEDING = (_TESTS, _TESTS.parent / "seeflower_jax" / "comparison")


class Finder(importlib.abc.MetaPathFinder):
    """Skip tests that import a module that no other finder finds.

    Args:
      extras: the extra of setup.cfg that installs each module.
    """

    def __init__(self, extras: Mapping[str, str] = PEERS):
        self._extras = extras

    def find_spec(self, name, path=None, target=None):
        """Raise pytest's exception of a skipped test, or return None."""
        if name in self._extras and any(map(_importer().is_relative_to, _NEEDING)):
            message = f"this test needs {name}; pip install -e .[{self._extras[name]}]"
            if os.environ.get("SEEFLOWER_REQUIRE_PEERS"):
                pytest.fail(message)
            pytest.skip(message, allow_module_level=True)
        return None


def _importer() -> pathlib.Path:
    """Return the file of the code that imports a module now."""
    frame = sys._getframe(2)
    while frame.f_back and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return pathlib.Path(frame.f_code.co_filename)
