"""The figure of the maps of several layers."""

import numpy as np
import pytest

from seeflower_jax import attribution as attr
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.explain import layers
from seeflower_jax.figures import maps
from tests.explain import small


def test_each_column_has_the_maps_of_its_layer(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(maps, "write_rows", lambda *arguments: drawn.append(arguments))
    network, images = small.baseline(), small.images(3)
    names = ["conv1", "conv2"]
    layers.draw(network, images, names, tmp_path / "a.png", "hires_cam")
    ((_, rows, titles),) = drawn
    assert titles == ["image", *names]
    seen = np.stack([network.see(images.read(position)) for position in range(3)])
    logits, _ = network.bind()(seen)
    labels = [network.class_names[label] for label in logits.argmax(-1)]
    assert list(rows) == [f"{row + 1}. {label}" for row, label in enumerate(labels)]
    for column, name in enumerate(names, start=1):
        expected = attr.hires_cam(network.bind(), seen, layer=name)
        for pixels, values, row in zip(seen, expected, rows.values(), strict=True):
            np.testing.assert_allclose(row[0], pixels, atol=1)
            overlay = maps.overlay(pixels, np.asarray(values), signed=True)
            np.testing.assert_allclose(row[column], overlay, atol=3)


def test_errors(tmp_path):
    network, path = small.baseline(), tmp_path / "a.png"
    with pytest.raises(ValueError, match="saliency has no layer; expected one of grad"):
        layers.draw(network, small.images(1), ["conv1"], path, "saliency")
    with pytest.raises(UnreadableImage, match="1.png cannot be read"):
        layers.draw(network, small.images(2, unreadable=(1,)), ["conv1"], path)
    with pytest.raises(ValueError, match="at least one layer"):
        layers.draw(network, small.images(1), [], path)
    assert not path.exists()
