"""The pixel cache, and the partial files that interrupted writers leave."""

import dataclasses
import errno
import multiprocessing
import os

import numpy as np
import pytest

from seeflower_jax.data import cache, decode, oxford_flowers


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
        file.seek(-8, os.SEEK_END)  # the size of the last image
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
        name = f"{other.name}_{other.fingerprint}_{side}.npy"
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
    assert list((tmp_path / "pixels").iterdir()) == []
