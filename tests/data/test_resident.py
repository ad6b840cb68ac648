"""Training images that live on the devices."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from seeflower_jax import sharding
from seeflower_jax.data import loader, resident
from seeflower_jax.data.balance import SAMPLING
from tests.data.test_packed import COUNT, INDICES, Images

IMAGES = Images()
LABELS = (np.arange(COUNT) ** 2 % 5).astype(np.int32)
TEACHER = np.arange(COUNT, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def loaders():
    """Return a function from a balance to the same batches from host and device."""
    mesh = sharding.make_mesh()
    store = resident.put(IMAGES, INDICES, mesh)
    reader = loader.Annotated(loader.ImageReader(IMAGES), "teacher", TEACHER)

    def make(balance):
        train = loader.TrainLoader(
            reader, LABELS, INDICES, 4, mesh, (0, 1), balance=balance
        )
        return train, resident.ResidentLoader(train, store, {"teacher": TEACHER})

    return make


@pytest.mark.parametrize("balance", ["none", SAMPLING])
def test_batches_are_those_of_the_host(loaders, balance):
    host, device = loaders(balance)
    assert device.steps_per_epoch == host.steps_per_epoch == 5
    pairs = zip(device(3, 12), host(3, 12), strict=True)
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys() - {"canvas"} | {"pixels", "starts"}
        for name in ("labels", "indices", "sizes", "teacher"):
            np.testing.assert_array_equal(ours[name], theirs[name], name)
            assert ours[name].dtype == theirs[name].dtype
        pixels = np.asarray(ours["pixels"])
        canvas = np.asarray(theirs["canvas"])
        for row, start, (height, width) in zip(
            canvas, np.asarray(ours["starts"]), np.asarray(ours["sizes"]), strict=True
        ):
            seen = pixels[start : start + height * width].reshape(height, width, 3)
            np.testing.assert_array_equal(seen, row[:height, :width])


def test_a_step_reads_nothing_from_the_host(loaders):
    batches = loaders("none")[1](0, 10)
    next(batches), next(batches)  # compiles, and sends the order of the epoch
    with jax.transfer_guard("disallow_explicit"):
        for _ in range(3):
            next(batches)
        with pytest.raises(Exception, match="[Dd]isallowed"):
            next(batches)  # the order of the next epoch


@dataclasses.dataclass
class Device:
    """A device that reports its memory."""

    platform: str = "gpu"
    limit: int | None = None

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit}


def test_automatic_choice():
    """Images live on GPUs if they take at most an eighth of the smallest memory."""
    needed = 8 * sum(IMAGES[index].size for index in INDICES)

    def choose(*devices, choice="auto"):
        mesh = types.SimpleNamespace(local_devices=devices)
        return resident.is_resident(choice, IMAGES, INDICES, mesh)

    assert choose(Device(limit=needed), Device(limit=2 * needed))
    assert not choose(Device(limit=needed), Device(limit=needed - 1))
    assert not choose(Device())  # It does not report its memory.
    assert not choose(Device("cpu", 2 * needed))
    assert choose(Device("cpu"), choice="always")
    assert not choose(Device(limit=needed), choice="never")


def test_too_many_pixels_for_positions():
    huge = types.SimpleNamespace(sizes=np.full((4, 2), 30_000, np.int32))
    with pytest.raises(ValueError, match="'always', but .* 3600000000 pixels"):
        resident.is_resident("always", huge, np.arange(4), None)
    mesh = types.SimpleNamespace(local_devices=[Device(limit=2**40)])
    assert not resident.is_resident("auto", huge, np.arange(4), mesh)
