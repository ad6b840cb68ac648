"""Test that importing the package is fast and loads only what is used."""

import time

from tests import harness

_IMPORT = """
import sys, time
start = time.process_time()
import seeflower_jax
print(time.process_time() - start)
heavy = {"jax", "flax", "optax", "orbax", "numpy", "matplotlib", "PIL"}
loaded = heavy & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
"""
_FACE = """
import seeflower_jax as sf
from seeflower_jax.explain.attribute import attribute
from seeflower_jax.inference.load import load
assert sf.load is load and sf.attribute is attribute
assert sf.models.get_spec("small").name == "small"
try:
    sf.lod
except AttributeError as error:
    assert "no attribute 'lod'" in str(error), error
else:
    raise AssertionError("lod exists")
"""


def test_import_is_quick():
    started = time.monotonic()
    completed = harness.run_python("-c", _IMPORT)
    assert completed.returncode == 0, completed.stderr
    # Processor time does not depend on other processes of the machine.
    assert float(completed.stdout) < 0.2, time.monotonic() - started


def test_public_names():
    completed = harness.run_python("-c", _FACE)
    assert completed.returncode == 0, completed.stderr
