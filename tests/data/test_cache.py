"""The pixel cache, and the partial files that interrupted writers leave."""

import dataclasses
import errno
import multiprocessing
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import cache, decode, decoding, image_folder, oxford_flowers


def _build(folder, cache_dir, queue=None):
    source = oxford_flowers.load(folder, verify=False)
    opened = cache.open_cache(source, 64, cache_dir)
    if queue:
        queue.put(int(sum(opened[i].sum(dtype=np.int64) for i in range(len(opened)))))
    return source, opened


def test_images_keep_their_aspect_ratio_and_are_decoded_once(flowers, tmp_path):
    source, opened = _build(flowers, tmp_path)
    assert len(opened) == len(source.keys)
    assert (opened.sizes.min(axis=1) == 64).all()
    for index in (0, 11, len(opened) - 1):
        image = decode.decode(source.read(index))
        assert opened[index].shape[1] / opened[index].shape[0] == pytest.approx(
            image.width / image.height, rel=0.02
        )
        expected = np.asarray(decode.resize(image, 64))
        np.testing.assert_array_equal(opened[index], expected)
    (path,) = (tmp_path / "pixels").iterdir()
    before = path.stat().st_mtime_ns
    _build(flowers, tmp_path)
    assert path.stat().st_mtime_ns == before


def test_two_processes_at_once(flowers, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=_build, args=(flowers, tmp_path, queue))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    sums = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert sums[0] == sums[1] > 0
    assert len(list((tmp_path / "pixels").iterdir())) == 1


def test_corrupt_images_are_listed_and_nothing_is_left(flowers, tmp_path):
    source = oxford_flowers.load(flowers, verify=False)
    good = source.read

    def read(index):
        if index == 2:
            return good(index)[:300]
        return b"no image" if index == 7 else good(index)

    broken = dataclasses.replace(source, read=read)
    with pytest.raises(ValueError, match="2 of .* images") as caught:
        cache.open_cache(broken, 64, tmp_path)
    assert "image_00003.jpg" in str(caught.value)
    assert "image_00008.jpg" in str(caught.value)
    assert list((tmp_path / "pixels").iterdir()) == []


def _pixels(opened):
    return [opened[index].tolist() for index in range(len(opened))]


def _foreign(path):
    np.save(path, np.zeros((3, 4), np.float32))


def _transposed(path):
    pixels = np.load(path)
    with open(path, "r+b") as file:
        # The size of the last image and the checksum are before the digest.
        file.seek(-8 - decoding.DIGEST_SIZE, os.SEEK_END)
        file.write(np.array([64, 70_000], np.int32).tobytes())
    assert pixels.dtype == np.uint8


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no cache"),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by one": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer by one": lambda path: path.open("ab").write(b"x"),
    "foreign array": _foreign,
    "wrong size": _transposed,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_named_and_written_again(flowers, tmp_path, damage, caplog):
    source, opened = _build(flowers, tmp_path)
    expected = _pixels(opened)
    (path,) = (tmp_path / "pixels").iterdir()
    DAMAGES[damage](path)
    with pytest.raises(cache.DamagedCacheError, match=path.name):
        cache.PixelCache(path)
    assert _pixels(cache.open_cache(source, 64, tmp_path)) == expected
    assert str(path) in caplog.text and "decoding the images again" in caplog.text
    caplog.clear()
    cache.open_cache(source, 64, tmp_path)
    assert not caplog.text and list((tmp_path / "pixels").iterdir()) == [path]


def test_cache_of_other_images_is_noticed(flowers, tmp_path, caplog):
    source, _ = _build(flowers, tmp_path)
    (path,) = (tmp_path / "pixels").iterdir()
    fewer = dataclasses.replace(source, keys=source.keys[:-1], fingerprint="fewer")
    for other, side in ((fewer, 64), (source, 32)):
        name = f"{other.name}_{other.fingerprint}{cache._ending(side)}"
        (path.parent / name).write_bytes(path.read_bytes())
        assert len(cache.open_cache(other, side, tmp_path)) == len(other.keys)
        assert name in caplog.text


def test_cache_that_cannot_be_written_is_named(flowers, tmp_path, monkeypatch):
    source = oxford_flowers.load(flowers, verify=False)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="pixel cache .*file/pixels.* give another"):
        cache.open_cache(source, 64, tmp_path / "file")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(OSError, match=r"pixels/ox.*written: No space left.*cache_dir"):
        cache.open_cache(source, 64, tmp_path)
    assert not list((tmp_path / "pixels").glob("*.npy"))


def test_cache_that_cannot_be_opened_now_is_kept(flowers, tmp_path, monkeypatch):
    source, _ = _build(flowers, tmp_path)
    (path,) = (tmp_path / "pixels").iterdir()
    before = path.stat()

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(cache.np, "load", refuse)
    with pytest.raises(OSError, match=r"\.npy cannot be opened: Too many open files"):
        cache.open_cache(source, 64, tmp_path)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


TORN = {
    "nothing": lambda folder: None,
    "pixels without entries": lambda folder: _append(folder / "pixels", 999),
    "half an entry": lambda folder: _append(folder / "journal", 10),
    "zeros": lambda folder: _append(folder / "journal", 96),
    "lost pixels": lambda folder: os.truncate(folder / "pixels", 100_000),
}


def _append(path, count):
    with path.open("ab") as file:
        file.write(bytes(count))


@pytest.mark.parametrize("tear", TORN)
def test_decoding_goes_on_after_an_interruption(flowers, tmp_path, monkeypatch, tear):
    monkeypatch.setattr(decoding, "_CHUNK", 8)
    source, whole = _build(flowers, tmp_path / "whole")
    read, good = [], source.read

    def interrupted(index):
        if index == 20:
            raise KeyboardInterrupt
        return good(index)

    def noted(index):
        read.append(index)
        return good(index)

    with pytest.raises(KeyboardInterrupt):
        broken = dataclasses.replace(source, read=interrupted)
        cache.open_cache(broken, 64, tmp_path)
    (folder,) = (tmp_path / "pixels").iterdir()
    TORN[tear](folder)
    opened = cache.open_cache(dataclasses.replace(source, read=noted), 64, tmp_path)
    assert _pixels(opened) == _pixels(whole)
    first = min(read)
    assert first == 16 if tear != "lost pixels" else 0 < first < 16
    assert sorted(read) == list(range(first, len(source.keys)))
    (path,) = (tmp_path / "pixels").iterdir()
    (complete,) = (tmp_path / "whole" / "pixels").iterdir()
    assert path.read_bytes() == complete.read_bytes()


def test_errors_of_disks_lose_no_decoded_image(flowers, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK", 8)
    source, whole = _build(flowers, tmp_path / "whole")
    read, good = [], source.read

    def lost(index):
        if index == 20:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return good(index)

    def noted(index):
        read.append(index)
        return good(index)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(decode.UnavailableImage, match="00021.jpg cannot be read now"):
        cache.open_cache(dataclasses.replace(source, read=lost), 64, tmp_path)
    source = dataclasses.replace(source, read=noted)
    with monkeypatch.context() as patch:
        patch.setattr(decoding.np, "save", full)
        with pytest.raises(OSError, match="cannot be written: No space left"):
            cache.open_cache(source, 64, tmp_path)
    assert min(read) == 16
    read.clear()
    assert _pixels(cache.open_cache(source, 64, tmp_path)) == _pixels(whole)
    assert not read and len(list((tmp_path / "pixels").iterdir())) == 1


def test_pixels_of_earlier_rules_are_not_used(flowers, tmp_path, monkeypatch):
    _build(flowers, tmp_path)
    monkeypatch.setattr(decode, "RULES_VERSION", decode.RULES_VERSION + 1)
    monkeypatch.setattr(decode, "resize", lambda image, side: image.resize((64, 64)))
    _, opened = _build(flowers, tmp_path)
    assert (opened.sizes == 64).all()
    assert len(list((tmp_path / "pixels").iterdir())) == 2


def test_copied_images_are_not_decoded_again(flowers, tmp_path, monkeypatch):
    for number, path in enumerate(sorted((flowers / "jpg").iterdir())[:8]):
        folder = tmp_path / "photos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    first = image_folder.load(tmp_path / "photos")
    opened = cache.open_cache(first, 32, tmp_path)
    shutil.copytree(tmp_path / "photos", tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.jpg"):
        os.utime(path, (0, 0))
    decoded, load = [], decode.load_pixels

    def noted(encoded, side, name):
        decoded.append(name)
        return load(encoded, side, name)

    monkeypatch.setattr(decode, "load_pixels", noted)
    copy = image_folder.load(tmp_path / "copy")
    assert copy.fingerprint != first.fingerprint
    assert _pixels(cache.open_cache(copy, 32, tmp_path)) == _pixels(opened)
    assert not decoded
    assert len({p.stat().st_ino for p in (tmp_path / "pixels").iterdir()}) == 1
    # A change of an image that keeps its size in bytes is detected.
    path = next((tmp_path / "copy").rglob("*.jpg"))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    cache.open_cache(image_folder.load(tmp_path / "copy"), 32, tmp_path)
    assert len(decoded) == 8


def test_files_of_another_folder_with_the_same_stamps_are_other_images(tmp_path):
    for value, folder in enumerate(("a/photos", "b/photos")):
        for name in ("rose", "tulip"):
            (tmp_path / folder / name).mkdir(parents=True)
            path = tmp_path / folder / name / "0.bmp"
            Image.new("RGB", (8, 8), (value, 0, 0)).save(path)
            os.utime(path, (0, 0))
        source = image_folder.load(tmp_path / folder, "100/0/0")
        assert cache.open_cache(source, 8, tmp_path)[0][0, 0, 0] == value


def test_replaced_image_of_the_same_size_is_decoded_again(flowers, tmp_path):
    shutil.copytree(flowers, tmp_path / "flowers")
    source, opened = _build(tmp_path / "flowers", tmp_path)
    before = opened[0].copy()
    path = tmp_path / "flowers" / "jpg" / source.keys[0]
    other = (path.parent / source.keys[-1]).read_bytes()
    size = max(len(other), path.stat().st_size)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))  # the same image
    np.testing.assert_array_equal(_build(tmp_path / "flowers", tmp_path)[1][0], before)
    path.write_bytes(other.ljust(size, b"\0"))
    _, opened = _build(tmp_path / "flowers", tmp_path)
    np.testing.assert_array_equal(opened[0], opened[len(opened) - 1])


def test_copy_that_is_interrupted_gets_no_name(flowers, tmp_path, monkeypatch):
    """On a disk without hard links."""
    for folder in ("photos", "moved"):
        for label, path in enumerate(sorted((flowers / "jpg").iterdir())[:2]):
            (tmp_path / folder / f"class{label}").mkdir(parents=True)
            shutil.copy(path, tmp_path / folder / f"class{label}")
    opened = cache.open_cache(image_folder.load(tmp_path / "photos"), 32, tmp_path)
    (path,) = (tmp_path / "pixels").iterdir()
    copyfile = shutil.copyfile

    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def interrupt(source, target):
        copyfile(source, target)
        os.truncate(target, 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "link", refuse)
    monkeypatch.setattr(cache.shutil, "copyfile", interrupt)
    moved = image_folder.load(tmp_path / "moved")
    with pytest.raises(OSError, match="written: No space left"):
        cache.open_cache(moved, 32, tmp_path)
    assert list((tmp_path / "pixels").glob("*.npy")) == [path]
    assert [p.name for p in (tmp_path / "pixels").glob(".*/**/*")] == ["lock"]
    monkeypatch.setattr(cache.shutil, "copyfile", copyfile)
    assert _pixels(cache.open_cache(moved, 32, tmp_path)) == _pixels(opened)
    assert len({p.stat().st_ino for p in (tmp_path / "pixels").iterdir()}) == 2
