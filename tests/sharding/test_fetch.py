"""Tests of fetching outputs from the devices."""

from seeflower_jax import sharding


def test_the_next_output_is_computed_while_one_is_fetched():
    order = []

    def outputs():
        for number in range(3):
            order.append(f"compute {number}")
            yield number

    for number in sharding.one_ahead(outputs()):
        order.append(f"fetch {number}")
    assert order == [
        *("compute 0", "compute 1", "fetch 0"),
        *("compute 2", "fetch 1", "fetch 2"),
    ]
