"""Tests of computing outputs in batches."""

import numpy as np

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
