"""Trees of a user's own images."""

import errno
import json
import logging
import os
import pathlib
import tempfile
import unicodedata

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import cache, image_folder, sources
from seeflower_jax.data.images import Images, find_files
from seeflower_jax.data.sources import DataSettings
from tests import harness

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


def test_names_of_files_need_not_be_utf8(tree):
    image = tree / "rosa" / "0.webp"
    image.rename(image.with_name(os.fsdecode(b"a\xe9.webp")))
    source = image_folder.load(tree, "70/15/15")
    assert os.fsdecode(b"rosa/a\xe9.webp") in source.keys
    assert sum(map(len, source.splits.values())) == len(source.keys) == 16
    assert len(source.read(source.keys.index(os.fsdecode(b"rosa/a\xe9.webp")))) > 0


def test_splits_that_are_folders(tmp_path):
    for folder, count in (("Train", 3), ("valid", 2), ("test", 1)):
        _write(tmp_path / folder / "train", count)  # a class may have this name
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


def test_letters_with_two_encodings_have_one_split(tmp_path):
    keys_by_split = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        _write(root / unicodedata.normalize(form, "Gänseblümchen"), 12)
        _write(root / "rosa", 3)
        assigned = _keys_by_split(image_folder.load(root))
        keys_by_split.append(
            {
                split: {unicodedata.normalize("NFC", key) for key in keys}
                for split, keys in assigned.items()
            }
        )
    assert keys_by_split[0] == keys_by_split[1]


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
    (tmp_path / "b" / "0.raw").write_bytes(b"")
    (tmp_path / "b" / "notes.md").write_text("no image")
    refused("/b has no images .*, only 1 .raw, 1 .md; add images or remove")
    _write(tmp_path / "b" / "deeper", 2)
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


def test_every_image_of_a_class_is_taken_and_other_files_are_counted(tmp_path, caplog):
    for ending in (".jpg", ".jfif", ".avif", ".JPE"):
        (tmp_path / "a" / f"of {ending}").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "a" / f"1{ending}")
        Image.new("RGB", (9, 9)).save(tmp_path / "a" / f"of {ending}" / f"2{ending}")
    _write(tmp_path / "b", 3)
    (tmp_path / "b" / "folder.jpg").mkdir()
    _write(tmp_path / "b" / ".ipynb_checkpoints", 1)
    _write(tmp_path / "b" / "__MACOSX", 1)
    (tmp_path / "b" / "._0.png").write_bytes(b"what a file system leaves behind")
    (tmp_path / "b" / "circle").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "broken.png").symlink_to(tmp_path / "absent")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "loose.png").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        source = image_folder.load(tmp_path, "100/0/0")
    assert np.bincount(source.labels).tolist() == [8, 3]
    assert "a/of .jfif/2.jfif" in source.keys
    assert "4 images in sub-folders belong to the classes a" in caplog.text
    (line,) = (r.getMessage() for r in caplog.records if "left out" in r.getMessage())
    assert line.startswith(f"{tmp_path}: left out 7 files: ")
    for part in (
        *("3 hidden", "1 .txt", "1 in no folder of a class"),
        *("1 links to a folder above", "1 .png that cannot be opened"),
    ):
        assert part in line
    # Lists of images follow the same rule.
    listed = {str(path.relative_to(tmp_path)) for path in find_files(tmp_path)}
    assert listed == {*source.keys, "loose.png"}


@pytest.mark.parametrize(
    "folders",
    [
        ("Training", "Validation", "Test"),
        ("training_set", "dev-set", "test_set"),
        ("trainset", "valid", "testing"),
        ("TRAIN", "val images", "Test Data"),
    ],
)
def test_names_of_split_folders(tmp_path, folders):
    for folder, count in zip(folders, (3, 2, 1), strict=True):
        _write(tmp_path / folder / "a", count)
        _write(tmp_path / folder / "b", count)
    counts = {
        split: len(rows) for split, rows in image_folder.load(tmp_path).splits.items()
    }
    assert counts == {"train": 6, "validation": 4, "test": 2}


def test_split_folders_without_classes_are_told(tmp_path, caplog):
    for name in ("a", "b"):
        _write(tmp_path / "train" / name, 2)
    _write(tmp_path / "val" / "a", 2)
    (tmp_path / "val" / "b").mkdir()
    _write(tmp_path / "test", 3)
    (tmp_path / "logs").mkdir()
    source = image_folder.load(tmp_path)
    assert {split: len(rows) for split, rows in source.splits.items()} == {
        "train": 4,
        "validation": 2,
    }
    assert (
        "test has no folders of classes, so its 3 images have no labels" in caplog.text
    )
    assert "logs has no images and is left out" in caplog.text
    for path in (tmp_path / "val" / "a").iterdir():
        path.unlink()
    assert image_folder.load(tmp_path).splits.keys() == {"train"}


def test_trees_that_would_give_wrong_classes_are_refused(tmp_path):
    def refused(name, message):
        with pytest.raises(ValueError, match=message):
            image_folder.load(tmp_path / name)

    for split in ("train", "test"):
        _write(tmp_path / "flat" / split, 2)
        _write(tmp_path / "inside" / "rose" / split, 2)
        _write(tmp_path / "inside" / "tulip" / split, 2)
        _write(tmp_path / "twice" / split / split / "a", 2)
        _write(tmp_path / "twice" / split / split / "b", 2)
    for name in ("rose", "tulip"):
        _write(tmp_path / "above" / "photos" / name, 2)
        _write(tmp_path / "half" / "test" / name, 2)
    _write(tmp_path / "half" / "train", 2)
    refused("flat", "test, train without folders of classes in them")
    refused("inside", "only in sub-folders .*expected t[a-z]+/rose instead of rose/t")
    refused(
        "twice", "move the folders of the classes from .*twice/t[a-z]+/t[a-z]+ up one"
    )
    _write(tmp_path / "years" / "2019" / "photos" / "rose", 2)
    _write(tmp_path / "years" / "2020" / "photos" / "tulip", 2)
    refused("years", "only in sub-folders .*, so its folders are not classes")
    refused("above", "give --config.data.dir=.*above/photos")
    refused("half", "half/train has images, but no folders of classes")


def test_classes_whose_images_are_all_in_one_sub_folder(tmp_path):
    for name in ("rose", "tulip"):
        _write(tmp_path / name / "images", 2)
    source = image_folder.load(tmp_path, "100/0/0")
    assert source.class_names == ("rose", "tulip")
    assert source.labels.tolist() == [0, 0, 1, 1]


def _training_labels(source):
    train = source.splits["train"]
    return {source.keys[i].split("/")[-2]: int(source.labels[i]) for i in train}


def _labels_of_training_files(root, source):
    """Return {folder: label} of the training images, by the rule for lists of files."""
    paths = [root / source.keys[i] for i in source.splits["train"]]
    images = Images.of_files(paths, 8, source.class_names)
    pairs = zip(images.names, images.labels, strict=True)
    return {pathlib.Path(name).parent.name: label for name, label in pairs}


@pytest.mark.parametrize("name", ["class_names.json", "cat_to_name.json"])
@pytest.mark.parametrize("place", ["", "photos", "photos/train"])
def test_names_of_numeric_folders(tmp_path, name, place):
    root = tmp_path / "photos"
    for split in ("train", "test") if place.endswith("train") else ("",):
        for number, folder in enumerate(("1", "10", "02")):
            _write(root / split / folder, 2 + number)
    names = {"1": "rose", "2": " Gänseblümchen", "10": "tulip", "3": "not here"}
    path = tmp_path / place / name
    path.write_text(json.dumps(names), "utf-8-sig")
    source = image_folder.load(root)
    assert source.class_names == ("Gänseblümchen", "rose", "tulip")  # order of folders
    assert _labels_of_training_files(root, source) == _training_labels(source)

    def refused(content, message):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{name} {message}"):
            image_folder.load(root)

    refused('{"1": "rose"}', "has no name for 2 of 3 folders: 02, 10; add")
    if place:  # Above the tree, the file may belong to something else.
        refused("{", "is not JSON")
        refused('["rose", "tulip"]', 'does not have the name .* such as {"1": "rose"')
    path.write_text('{"1": "crane", "2": "crane", "10": "tulip"}')
    source = image_folder.load(root)
    assert source.class_names == ("crane (02)", "crane (1)", "tulip")
    assert _labels_of_training_files(root, source) == _training_labels(source)
    path.write_text('{"7": "rose"}')
    assert image_folder.load(root).class_names == ("02", "1", "10")


@pytest.mark.parametrize("content", ["{", '["rose"]', '{"classes": ["rose"]}'])
def test_file_of_something_else_above_the_tree(tmp_path, caplog, content):
    for folder in ("1", "2"):
        _write(tmp_path / "photos" / folder, 3)
    path = tmp_path / "class_names.json"
    path.write_text(content)
    assert image_folder.load(tmp_path / "photos").class_names == ("1", "2")
    assert f"{path} " in caplog.text and "the file is not used" in caplog.text
    path.rename(tmp_path / "photos" / "class_names.json")
    with pytest.raises(ValueError, match="class_names.json (is not|does not)"):
        image_folder.load(tmp_path / "photos")


def test_names_of_folders_with_two_encodings(tmp_path):
    for folder in ("Ro\u0301za", "x"):
        _write(tmp_path / folder, 3)
    names = {"Ro\u0301za": "rose", "x": "tulip"}
    (tmp_path / "class_names.json").write_text(json.dumps(names))
    assert image_folder.load(tmp_path).class_names == ("rose", "tulip")
    images = Images.of_files(tmp_path / "Ro\u0301za", 8, ("rose", "tulip"))
    assert images.labels == [0, 0, 0]


def test_names_of_classes_that_cannot_be_read(tmp_path, monkeypatch):
    _write(tmp_path / "1", 2)
    (tmp_path / "class_names.json").write_text('{"1": "rose"}')
    assert Images.of_files(tmp_path / "1", 8, ("rose",)).labels == [0, 0]

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    assert Images.of_files(tmp_path / "1", 8, ("rose",)).labels == [None, None]


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


_DECODE = """
import sys, tracemalloc
from seeflower_jax.data import cache, image_folder

source = image_folder.load(sys.argv[1])
tracemalloc.start()
opened = cache.open_cache(source, 64, sys.argv[2])
print(len(opened), tracemalloc.get_traced_memory()[1])
"""


def test_memory_for_decoding_does_not_grow_with_the_images(tmp_path):
    count = 1500
    _write(tmp_path / "photos" / "a", count // 2, ".bmp", (64, 64))
    _write(tmp_path / "photos" / "b", count // 2, ".bmp", (64, 64))
    # In a process of its own, because threads of other tests allocate memory, too.
    done = harness.run_python("-c", _DECODE, tmp_path / "photos", tmp_path)
    assert done.returncode == 0, done.stderr
    opened, peak = map(int, done.stdout.split())
    assert opened == count
    # At most one chunk of 256 images waits for the file, however fast they are decoded;
    # all images together are 18 MB.
    image_bytes = 64 * 64 * 3
    assert image_bytes < peak < 1.5 * 256 * image_bytes


def test_values_for_other_sources_do_not_matter(tree):
    settings = DataSettings(source="folder", dir=str(tree), species=7, verify=True)
    assert sources.load_source(settings).class_names == tuple(CLASSES)
    with pytest.raises(ValueError, match="did you mean 'folder'"):
        sources.load_source(DataSettings(source="folders"))
