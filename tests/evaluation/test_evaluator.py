"""Tests of computing outputs in batches."""

import jax
import numpy as np
import pytest

from seeflower_jax import models, sharding
from seeflower_jax.data import loader
from seeflower_jax.data.view import View
from seeflower_jax.evaluation.evaluator import Evaluator


def test_the_next_output_is_computed_while_one_is_fetched(monkeypatch):
    mesh, order = sharding.make_mesh(), []
    spec = models.get_spec("baseline", num_classes=2)
    evaluator = Evaluator(spec, (View(32, 40),), mesh.size, mesh)
    monkeypatch.setattr(loader, "eval_batches", lambda *_: iter(range(3)))
    monkeypatch.setattr(
        sharding,
        "fetch",
        lambda output, _: order.append(f"fetch {output[0]}") or output,
    )

    def compute(_, number):
        order.append(f"compute {number}")
        return np.full(mesh.size, number)

    list(evaluator.stream(compute, {}, None, np.arange(3 * mesh.size)))
    assert order == [
        *("compute 0", "compute 1", "fetch 0"),
        *("compute 2", "fetch 1", "fetch 2"),
    ]


def _looks_at_drawn_images(sizes, mirror):
    mesh = sharding.make_mesh()
    spec = models.get_spec("small", num_classes=3)
    views = tuple(View(size, size + 16) for size in sizes)
    evaluator = Evaluator(spec, views, mesh.size, mesh, mirror)
    generator = np.random.default_rng(0)
    batch = {
        "canvas": generator.integers(0, 256, (mesh.size, 64, 64, 3), np.uint8),
        "sizes": np.full((mesh.size, 2), 64, np.int32),
    }
    return evaluator, models.init(spec, jax.random.key(0)), batch


def test_every_look_is_what_it_is_alone():
    sizes = (32, 48, 32)
    evaluator, variables, batch = _looks_at_drawn_images(sizes, True)
    network, alone = jax.jit(models.bind(evaluator.spec, variables)), []
    for size in sizes:
        for mirror in (False, True):
            images = View(size, size + 16)(batch["canvas"], batch["sizes"], mirror)
            alone.append(network(images)[0])
    logits = evaluator.compute_logits(variables, batch)
    np.testing.assert_allclose(logits, np.mean(alone, 0), rtol=1e-4, atol=1e-5)
    features = evaluator.compute_features(variables, batch)
    for look, expected in enumerate(alone):
        ours = models.apply_head(evaluator.spec, variables, features[:, look])
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


# Networks side by side would take the memory of all looks at once.
@pytest.mark.parametrize("kind", ["compute_logits", "compute_features"])
@pytest.mark.parametrize("sizes,networks", [((32, 32), 1), ((32, 32, 48), 2)])
def test_looks_of_a_size_share_a_network(kind, sizes, networks):
    def convolutions(sizes, mirror):
        evaluator, *arguments = _looks_at_drawn_images(sizes, mirror)
        program = jax.make_jaxpr(getattr(evaluator, kind))(*arguments)
        return str(program).count("convolution[")

    assert convolutions(sizes, True) == networks * convolutions((32,), False) > 0
