"""What tells images apart."""

import dataclasses

from PIL import Image

from seeflower_jax.data.images import Images
from seeflower_jax.explain import identity
from tests.explain import small


def test_images_of_a_split_are_the_same_in_every_folder(tmp_path, monkeypatch):
    images = small.images(2)
    monkeypatch.chdir(tmp_path)
    elsewhere = identity.of_images(images)
    for name in images.names:
        (tmp_path / name).write_bytes(b"a file of the same name")
    assert identity.of_images(images) == elsewhere
    renamed = dataclasses.replace(images, names=["a.png", "b.png"])
    assert identity.of_images(renamed) != elsewhere


def test_files_differ_by_their_size(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 32)).save(path)
    first = identity.of_images(Images.of_files(path, 32))
    assert identity.of_images(Images.of_files([path], 32)[:1]) == first
    path.write_bytes(path.read_bytes() + b"more")
    assert identity.of_images(Images.of_files(path, 32)) != first
