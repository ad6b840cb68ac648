"""Trees of a user's own images."""

import logging
import os
import pathlib
import tempfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import cache, image_folder, sources
from seeflower_jax.data.sources import DataSettings

# Counts by class; names with spaces and other letters, sorted by code point.
CLASSES = {"Gänse blümchen": 10, "rosa": 3, "β": 2, "薔薇": 1}


def _write(folder, count, suffix=".png", size=(12, 9), start=0):
    folder.mkdir(parents=True)
    for number in range(start, start + count):
        image = Image.new("RGB", size, (number, 0, 0))
        image.save(folder / f"{number}{suffix}")


@pytest.fixture
def tree(tmp_path):
    """Class folders with images, and with files that are not images."""
    root = tmp_path / "my photos"
    for (name, count), suffix in zip(
        CLASSES.items(), (".JPG", ".webp", ".png", ".tiff"), strict=True
    ):
        _write(root / name, count, suffix)
    (root / "rosa" / "notes.txt").write_text("no image")
    (root / "rosa" / "._0.webp").write_text("what a file system leaves behind")
    (root / ".thumbnails").mkdir()
    return root


def _keys_by_split(source):
    return {
        split: {source.keys[i] for i in rows} for split, rows in source.splits.items()
    }


def test_class_folders_are_split_class_by_class(tree, caplog):
    with caplog.at_level(logging.WARNING):
        source = image_folder.load(tree)
    assert "β (validation), 薔薇 (test), 薔薇 (validation)" in caplog.text
    assert source.class_names == tuple(CLASSES) and source.name == "folder_my_photos"
    counts = {
        split: np.bincount(source.labels[rows], minlength=4).tolist()
        for split, rows in source.splits.items()
    }
    assert counts == {
        "train": [6, 1, 1, 1],
        "validation": [2, 1, 0, 0],
        "test": [2, 1, 1, 0],
    }
    assert sorted(np.concatenate(list(source.splits.values()))) == list(range(16))
    for key, label in zip(source.keys, source.labels, strict=True):
        assert key.split("/")[0] == source.class_names[label]
    opened = cache.open_cache(source, 8, tree.parent)
    for index, key in enumerate(source.keys):
        assert abs(int(opened[index][0, 0, 0]) - int(key.split("/")[1][0])) < 3


def test_split_is_a_function_of_seed_and_names_in_the_class(tree):
    first = image_folder.load(tree, "50/20/30:4")
    again, other = (image_folder.load(tree, f"50/20/30:{seed}") for seed in (4, 5))
    assert _keys_by_split(first) == _keys_by_split(again) != _keys_by_split(other)
    assert first.fingerprint == other.fingerprint  # the same pixels
    assert len(_keys_by_split(first)["test"]) == 3 + 1 + 1
    assert _keys_by_split(image_folder.load(tree, "100/0/0")).keys() == {"train"}
    _write(tree / "aster", 4)
    (tree / "rosa" / "2.webp").unlink()
    more = image_folder.load(tree, "50/20/30:4")
    assert more.fingerprint != first.fingerprint
    for split, keys in _keys_by_split(first).items():
        unchanged = {key for key in keys if not key.startswith("rosa")}
        assert unchanged <= _keys_by_split(more)[split]


def test_splits_that_are_folders(tmp_path):
    for folder, count in (("Train", 3), ("valid", 2), ("test", 1)):
        _write(tmp_path / folder / "train", count)  # a class may be called so
        _write(tmp_path / folder / "x", count)
    source = image_folder.load(tmp_path)
    assert source.class_names == ("train", "x")
    assert {split: len(rows) for split, rows in source.splits.items()} == {
        "train": 6,
        "validation": 4,
        "test": 2,
    }
    assert all(key.startswith("valid/") for key in _keys_by_split(source)["validation"])
    with pytest.raises(ValueError, match="data.split cannot be '80/10/10'"):
        image_folder.load(tmp_path, "80/10/10")


def test_letters_with_two_encodings_are_one_class(tmp_path):
    _write(tmp_path / "train" / "Ro\u0301za", 2)
    _write(tmp_path / "train" / "x", 2)
    _write(tmp_path / "test" / "R\u00f3za", 2)
    source = image_folder.load(tmp_path)
    assert source.class_names == ("R\u00f3za", "x")
    assert source.labels[source.splits["test"]].tolist() == [0, 0]


def test_trees_of_another_layout(tmp_path):
    def refused(message, split="official"):
        with pytest.raises(ValueError, match=message):
            image_folder.load(tmp_path, split)

    refused("has no class folders and 0 images")
    Image.new("RGB", (9, 9)).save(tmp_path / "loose.png")
    refused("has no class folders and 1 images")
    _write(tmp_path / "a", 2)
    refused(r"has the classes \['a'\]; expected at least two")
    (tmp_path / "b").mkdir()
    refused("/b has no images")
    _write(tmp_path / "b" / "deeper", 1)
    refused("/b has no images")
    _write(tmp_path / "c", 2)
    refused("unknown split 'offical' of a folder", "offical")
    refused("unknown split '80/10/20' of a folder", "80/10/20")
    with pytest.raises(FileNotFoundError, match="folder .*/absent does not exist"):
        image_folder.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="needs --config.data.dir=DIR"):
        image_folder.load("")


def test_splits_that_do_not_fit(tmp_path):
    _write(tmp_path / "test" / "a", 2)
    with pytest.raises(ValueError, match="has the folders of splits test; expected"):
        image_folder.load(tmp_path)
    _write(tmp_path / "train" / "a", 2)
    _write(tmp_path / "train" / "b", 2)
    _write(tmp_path / "test" / "c", 2)
    with pytest.raises(ValueError, match="test/c/0.png .*add a folder 'c' to train"):
        image_folder.load(tmp_path)
    _write(tmp_path / "d", 2)
    with pytest.raises(ValueError, match="folders of splits test, train and also d"):
        image_folder.load(tmp_path)


def test_100_000_images():
    with tempfile.TemporaryDirectory() as root:  # pytest would keep them for a while
        for label in range(50):
            folder = pathlib.Path(root, f"class {label}")
            _write(folder, 1)
            for number in range(1, 2000):
                os.link(folder / "0.png", folder / f"{number}.png")
        source = image_folder.load(root)
    assert {split: len(rows) for split, rows in source.splits.items()} == {
        "train": 70_000,
        "validation": 15_000,
        "test": 15_000,
    }
    assert np.bincount(source.labels).tolist() == [2000] * 50


def test_memory_for_decoding_does_not_grow_with_the_images(tmp_path):
    count = 1500
    _write(tmp_path / "photos" / "a", count // 2, ".bmp", (64, 64))
    _write(tmp_path / "photos" / "b", count // 2, ".bmp", (64, 64))
    source = image_folder.load(tmp_path / "photos")
    tracemalloc.start()
    opened = cache.open_cache(source, 64, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(opened) == count
    # At most one chunk of 256 images waits for the file, however fast they are decoded;
    # all images together are 18 MB.
    image_bytes = 64 * 64 * 3
    assert image_bytes < peak < 1.5 * 256 * image_bytes


def test_values_for_other_sources_do_not_matter(tree):
    settings = DataSettings(source="folder", dir=str(tree), species=7, verify=True)
    assert sources.load_source(settings).class_names == tuple(CLASSES)
    with pytest.raises(ValueError, match="did you mean 'folder'"):
        sources.load_source(DataSettings(source="folders"))
