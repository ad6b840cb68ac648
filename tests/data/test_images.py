"""Lists of images: files of a folder, a pattern or a list, and parts of them."""

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.data.images import Images, find_files


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three images of different widths and one broken file."""
    for number, name in enumerate(("a.jpg", "b.png", "c.jpg")):
        Image.new("RGB", (40 + number, 20)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def test_files_are_found(folder):
    assert [path.name for path in find_files(folder / "*.jpg")] == [
        *("a.jpg", "broken.jpg", "c.jpg")
    ]
    listed = folder / "list.txt"
    listed.write_text("c.jpg\n\na.jpg\n")
    assert find_files(listed) == [folder / "c.jpg", folder / "a.jpg"]
    assert find_files(folder / "b.png") == [folder / "b.png"]
    empty = folder / "empty"
    empty.mkdir()
    for nothing in (empty, folder / "*.xyz", folder / "absent"):
        with pytest.raises(FileNotFoundError, match="no image in"):
            find_files(nothing)


def test_parts_keep_names_labels_and_readers(folder):
    images = Images.of_files([folder / "*.png", folder / "*.jpg"], shortest_side=10)
    assert len(images) == 4 and images.labels == [None] * 4
    for part in (images[[3, 0]], images[:][::-1][[0, 3]], images[::-1][::3]):
        assert part.names == [str(folder / "c.jpg"), str(folder / "b.png")]
        assert part.original_size(0) == (42, 20)
        assert part.original_size(1) == (41, 20)
        assert part.read(0).shape == (10, 20, 3)  # Cut to 2:1.
        np.testing.assert_array_equal(part.read(1), images.read(0))
    with pytest.raises(UnreadableImage, match="broken.jpg cannot be read as an image"):
        images[2:].read(0)


def test_folder_of_a_class_is_the_label(folder):
    folder = folder.rename(folder.with_name("rose"))
    images = Images.of_files(folder, 10, class_names=("tulip", "rose"))
    assert set(images.labels) == {1}
