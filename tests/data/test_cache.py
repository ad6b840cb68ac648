"""The pixel cache."""

import io
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import augment, cache, oxford_flowers


def _encode(array, file_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, file_format, **options)
    return buffer.getvalue()


def _build(folder, cache_dir, queue=None):
    source = oxford_flowers.load(folder, verify=False)
    opened = cache.open_cache(source, 64, cache_dir)
    if queue:
        queue.put(int(sum(opened[i].sum(dtype=np.int64) for i in range(len(opened)))))
    return source, opened


def test_pictures_keep_their_aspect_ratio_and_are_decoded_once(flowers, tmp_path):
    source, opened = _build(flowers, tmp_path)
    assert len(opened) == len(source.keys)
    assert (opened.sizes.min(axis=1) == 64).all()
    for index in (0, 11, len(opened) - 1):
        image = cache.decode(source.read(index))
        assert opened[index].shape[1] / opened[index].shape[0] == pytest.approx(
            image.width / image.height, rel=0.02
        )
        expected = np.asarray(cache.resize(image, 64))
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


def test_corrupt_pictures_are_listed_and_nothing_is_left(flowers, tmp_path):
    source = oxford_flowers.load(flowers, verify=False)
    good = source.read

    def read(index):
        if index == 2:
            return good(index)[:300]
        return b"no picture" if index == 7 else good(index)

    import dataclasses

    broken = dataclasses.replace(source, read=read)
    with pytest.raises(ValueError, match="2 of .* pictures") as caught:
        cache.open_cache(broken, 64, tmp_path)
    assert "image_00003.jpg" in str(caught.value)
    assert "image_00008.jpg" in str(caught.value)
    assert list((tmp_path / "pixels").iterdir()) == []


def test_long_pictures_are_cut_to_their_centre():
    image = Image.fromarray(np.arange(100, dtype=np.uint8)[None].repeat(10, 0))
    cut = np.asarray(cache.resize(image, 10))
    assert cut.shape == (10, 20) and cut[0, 0] == 40 and cut[0, -1] == 59


def test_all_kinds_of_pictures_become_rgb():
    gray = np.full((4, 6), 100, np.uint8)
    assert np.asarray(cache.decode(_encode(gray))).tolist()[0][0] == [100] * 3
    deep = np.full((4, 6), 100 * 256, np.uint16)
    assert np.asarray(cache.decode(_encode(deep))).tolist()[0][0] == [100] * 3
    clear = np.zeros((4, 6, 4), np.uint8)  # transparent black is shown on white
    assert np.asarray(cache.decode(_encode(clear))).min() == 255
    real = np.full((4, 6), 100, np.float32)
    real[1, 2] = np.nan  # becomes black
    assert np.asarray(cache.decode(_encode(real, "TIFF"))).tolist()[1][1:3] == [
        *([100] * 3, [0] * 3)
    ]
    buffer = io.BytesIO()
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(buffer, "JPEG")
    red = np.asarray(cache.decode(buffer.getvalue()))
    assert red.shape == (4, 6, 3) and red[..., 0].min() > red[..., 1].max()


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "JPEG", exif=exif)
    assert cache.decode(buffer.getvalue()).size == (10, 20)
    assert cache.upright_size(buffer) == (10, 20)


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("size", [(300, 200), (180, 260), (240, 240), (900, 200)])
def test_box_in_a_view_is_found_in_the_picture(size, keep_aspect):
    width, height = size
    box = [width // 2 - 70, height // 2 - 60, width // 2 + 10, height // 2 + 40]
    picture = np.zeros((height, width), np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    resized = cache.resize(Image.fromarray(picture).convert("RGB"), 160)
    seen = cache.center_view(resized, 128, 0.8, keep_aspect)[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 128
    found = cache.view_to_picture(edges, size, 0.8, keep_aspect)
    # A pixel of the view has up to 2.5 of the widest picture.
    assert np.abs(np.subtract(found, box)).max() <= 3
    whole = cache.view_to_picture([0, 0, 1, 1], size, 1.0, keep_aspect)
    kept = min(width, 2 * height) if not keep_aspect else min(size)
    assert whole[2] - whole[0] == kept and whole[0] == (width - kept) / 2


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_center_view_is_the_crop_on_the_device_but_for_the_filter(keep_aspect):
    y, x = np.mgrid[:60, :90]
    picture = np.stack([y * 4, x * 2.8, x + y], -1).astype(np.uint8)
    view = cache.center_view(Image.fromarray(picture), 48, 0.8, keep_aspect)
    sizes = np.array([picture.shape[:2]], np.int32)
    crop = augment.center_crop(picture[None], sizes, 48, 0.8, keep_aspect=keep_aspect)[
        0
    ]
    assert view.shape == (48, 48, 3) and np.abs(view - crop).max() < 3
    assert (view[:, -1, 1].mean() > 210) == (not keep_aspect)
