"""Oxford 102 Flowers in all layouts, intact and damaged."""

import errno
import os
import pathlib
import shutil
import tarfile

import numpy as np
import pytest
import scipy.io

from seeflower_jax.data import (
    decoding,
    mat_files,
    oxford_flowers,
    sources,
    tfds_writer,
)
from seeflower_jax.data.sources import DataSettings
from tests import fixtures

# (position, bit) in setid.mat of the small set.
CRASHING_BITS = ((145, 3), (172, 7), (184, 2), (281, 5))


@pytest.fixture
def copy(flowers, tmp_path):
    """Return a copy of the small set, to damage it."""
    shutil.copytree(flowers, tmp_path / "flowers")
    return tmp_path / "flowers"


def test_official_counts_labels_and_names(assets):
    source = oxford_flowers.load(assets / "oxford_flowers102")
    assert {k: len(v) for k, v in source.splits.items()} == {
        "train": 1020,
        "validation": 1020,
        "test": 6149,
    }
    assert source.keys[0] == "image_00001.jpg"
    assert source.class_names[source.labels[0]] == "passion flower"
    assert source.class_names[7] == "bird of paradise"
    assert source.class_names[77] == "lotus"
    assert np.array_equal(
        np.bincount(source.labels[source.splits["train"]]), [10] * 102
    )


@pytest.mark.parametrize(
    "split,sizes",
    [
        ("trainval", {"train": 2040, "test": 6149}),
        ("reversed", {"train": 6149, "validation": 1020, "test": 1020}),
    ],
)
def test_other_splits(assets, split, sizes):
    official = oxford_flowers.load(assets / "oxford_flowers102")
    source = oxford_flowers.load(assets / "oxford_flowers102", split)
    assert {k: len(v) for k, v in source.splits.items()} == sizes
    parts = np.concatenate(list(source.splits.values()))
    assert len(np.unique(parts)) == len(parts) == 8189
    if split == "reversed":
        np.testing.assert_array_equal(source.splits["test"], official.splits["train"])


def test_names_are_those_of_tensorflow_datasets(tmp_path):
    import tensorflow_datasets as tfds

    builder = tfds.builder("oxford_flowers102", data_dir=tmp_path)
    assert tuple(builder.info.features["label"].names) == oxford_flowers.CLASS_NAMES


def test_archive_is_unpacked_once_beside_it(copy):
    expected = oxford_flowers.load(copy, verify=False)
    content = decoding.content_digest(expected)
    with tarfile.open(copy / "102flowers.tgz", "w:gz") as tar:
        tar.add(copy / "jpg", "jpg")
    shutil.rmtree(copy / "jpg")
    source = oxford_flowers.load(copy, verify=False)
    assert source.describe() == expected.describe()
    assert decoding.content_digest(source) == content and (copy / "jpg").is_dir()
    assert not list(copy.glob(".*partial-*"))


def test_tensorflow_datasets_folder_is_the_same_set(copy, tmp_path):
    """Read files that were written without TensorFlow, also by tensorflow-datasets."""
    import sys

    import tensorflow_datasets as tfds

    written = tfds_writer.write(copy, tmp_path / "tfds", verify=False)
    assert written == tmp_path / "tfds/oxford_flowers102/2.1.1"
    plain = oxford_flowers.load(copy, verify=False)
    stock = tfds.builder("oxford_flowers102", data_dir=tmp_path / "tfds")
    rows = stock.as_data_source()
    assert {name: len(rows[name]) for name in rows} == {
        name: len(indices) for name, indices in plain.splits.items()
    }
    example = rows["validation"][0]
    index = plain.keys.index(example["file_name"].decode())
    assert example["label"] == plain.labels[index] and example["image"].ndim == 3
    for folder in (tmp_path / "tfds", written):
        source = oxford_flowers.load(folder, verify=False)
        assert source.keys == plain.keys
        np.testing.assert_array_equal(source.labels, plain.labels)
        for name, indices in plain.splits.items():
            np.testing.assert_array_equal(source.splits[name], indices)
        assert all(source.read(i) == plain.read(i) for i in range(len(plain.keys)))
    assert "tensorflow" not in sys.modules


def test_unknown_split_and_source_suggest_the_nearest(flowers):
    with pytest.raises(ValueError, match="did you mean 'official'"):
        oxford_flowers.load(flowers, "oficial")
    with pytest.raises(ValueError, match="did you mean 'oxford_flowers102'"):
        sources.load_source(DataSettings(source="oxford_flowers"))


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
def test_missing_and_damaged_label_files(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} is not a MATLAB file"):
        oxford_flowers.load(copy, verify=False)
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        oxford_flowers.load(copy, verify=False)


def test_label_file_of_another_set_has_the_wrong_hash(copy):
    with pytest.raises(ValueError, match="imagelabels.mat has SHA-256 .* data.verify"):
        oxford_flowers.load(copy)


def test_label_file_of_the_wrong_length(copy):
    labels = scipy.io.loadmat(copy / "imagelabels.mat")["labels"]
    scipy.io.savemat(copy / "imagelabels.mat", {"labels": labels[:, :-3]})
    expected = f"has {labels.size - 3} labels, but the splits .* to {labels.size}"
    with pytest.raises(ValueError, match=expected):
        oxford_flowers.load(copy, verify=False)


def test_label_out_of_range_and_shared_image(copy):
    labels = scipy.io.loadmat(copy / "imagelabels.mat")["labels"]
    scipy.io.savemat(copy / "imagelabels.mat", {"labels": labels * 0 + 103})
    with pytest.raises(ValueError, match="103 to 103; expected 1 to 102"):
        oxford_flowers.load(copy, verify=False)
    scipy.io.savemat(copy / "imagelabels.mat", {"labels": labels})
    ids = scipy.io.loadmat(copy / "setid.mat")
    ids = {name: ids[name] for name in ("trnid", "valid", "tstid")}
    ids["valid"][0, 0] = ids["trnid"][0, 0]
    scipy.io.savemat(copy / "setid.mat", ids)
    with pytest.raises(ValueError, match="share images"):
        oxford_flowers.load(copy, verify=False)


def test_wrong_counts_are_refused_though_hashes_match(copy, monkeypatch):
    from seeflower_jax import download

    hashes = {
        name: download.file_hash(copy / name)
        for name in ("imagelabels.mat", "setid.mat")
    }
    monkeypatch.setattr(oxford_flowers, "SHA256", hashes)
    count = fixtures.CLASSES * fixtures.TRAIN
    with pytest.raises(ValueError, match=f"trnid has {count} images"):
        oxford_flowers.load(copy)


def test_missing_image_and_missing_archive(copy):
    (copy / "jpg/image_00003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 .* image_00003.jpg"):
        oxford_flowers.load(copy, verify=False)
    shutil.rmtree(copy / "jpg")
    with pytest.raises(FileNotFoundError, match="neither jpg/ nor 102flowers.tgz"):
        oxford_flowers.load(copy, verify=False)


def test_archive_with_hostile_paths_writes_into_its_folder_alone(copy, tmp_path):
    content = decoding.content_digest(oxford_flowers.load(copy, verify=False))
    with tarfile.open(copy / "102flowers.tgz", "w:gz") as tar:
        tar.add(copy / "jpg", "jpg")
        for name in ("../jpg/evil.jpg", f"{tmp_path}/jpg/evil.jpg", "../evil.jpg"):
            tar.add(next((copy / "jpg").iterdir()), name)
        link = tarfile.TarInfo("jpg/evil_link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    shutil.rmtree(copy / "jpg")
    before = set(tmp_path.rglob("*"))
    source = oxford_flowers.load(copy, verify=False)
    assert decoding.content_digest(source) == content
    written = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert {path.parent for path in written} == {copy / "jpg"}
    assert not any(path.is_symlink() for path in written)


def test_truncated_archive_leaves_nothing(copy):
    with tarfile.open(copy / "102flowers.tgz", "w:gz") as tar:
        tar.add(copy / "jpg", "jpg")
    shutil.rmtree(copy / "jpg")
    content = (copy / "102flowers.tgz").read_bytes()
    (copy / "102flowers.tgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="102flowers.tgz cannot be unpacked"):
        oxford_flowers.load(copy, verify=False)
    assert not (copy / "jpg").exists() and not list(copy.glob(".*partial-*"))


def test_damaged_label_files_do_not_end_the_process(copy, monkeypatch):
    """SciPy's reader ends its process with a segmentation fault for some files."""
    monkeypatch.setattr(
        mat_files, "_PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    mat_files._read_apart.cache_clear()
    with pytest.raises(ValueError, match="imagelabels.mat is not a MATLAB .* SIGSEGV"):
        oxford_flowers.load(copy, verify=False)
    monkeypatch.setattr(mat_files, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(mat_files, "_SECONDS", 0.1)
    with pytest.raises(ValueError, match="imagelabels.mat .* takes more than 0.1 sec"):
        oxford_flowers.load(copy, verify=False)
    mat_files._read_apart.cache_clear()


def test_flipped_bits_of_label_files(copy):
    """Each of these files ends a process that reads it with SciPy."""
    content = (copy / "setid.mat").read_bytes()
    for position, bit in CRASHING_BITS:
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        (copy / "setid.mat").write_bytes(damaged)
        with pytest.raises(ValueError, match="setid.mat is not a MATLAB file"):
            oxford_flowers.load(copy, verify=False)


@pytest.mark.parametrize("values", [[1.5], [np.nan], [2.0**40], ["a"], []])
def test_values_that_are_no_integers(tmp_path, values):
    path = tmp_path / "labels.mat"
    scipy.io.savemat(path, {"labels": np.array(values)})
    with pytest.raises(ValueError, match="is not a MATLAB .* a variable has"):
        mat_files.read(path, ("labels",))


def test_full_disk_is_not_blamed_on_the_archive(copy, monkeypatch):
    with tarfile.open(copy / "102flowers.tgz", "w:gz") as tar:
        tar.add(copy / "jpg", "jpg")
    shutil.rmtree(copy / "jpg")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="cannot be unpacked to .*jpg: No space left"):
        oxford_flowers.load(copy, verify=False)
    assert not list(copy.glob(".*partial-*"))
