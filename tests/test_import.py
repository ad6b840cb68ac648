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
_WITHOUT_PEERS = """
import sys

PEERS = {"keras", "equinox", "haiku", "torch", "captum", "skimage", "tensorflow"}

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in PEERS:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker)

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from seeflower_jax import attribution as attr

def forward(kernel, images):
    return checkpoint_name(images / 255, "pixels").mean((1, 2)) @ kernel

images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), maxval=255)
module = nn.Sequential([nn.Conv(4, (3, 3)), lambda x: x.mean((1, 2))])
linen = attr.from_linen(module, module.init(jax.random.key(1), images))
function = attr.from_function(forward, jax.numpy.eye(3))
assert all(getattr(attr, name) for name in attr.__all__)
for network in (linen, function):
    maps = attr.explain(network, images, ["saliency", "hires_cam"])
    assert all(x.shape == (2, 8, 8) and x.any() for x in maps.values()), maps
try:
    attr.from_keras(None)
except ImportError as error:
    assert str(error) == "keras is blocked", error
else:
    raise AssertionError("keras is not blocked")
loaded = PEERS & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
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


def test_attribution_needs_no_optional_package():
    completed = harness.run_python("-c", _WITHOUT_PEERS)
    assert completed.returncode == 0, completed.stderr
