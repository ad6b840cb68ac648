"""The pixel cache."""

import multiprocessing

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

    import dataclasses

    broken = dataclasses.replace(source, read=read)
    with pytest.raises(ValueError, match="2 of .* images") as caught:
        cache.open_cache(broken, 64, tmp_path)
    assert "image_00003.jpg" in str(caught.value)
    assert "image_00008.jpg" in str(caught.value)
    assert list((tmp_path / "pixels").iterdir()) == []
