"""Decoding of images."""

import errno
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, TiffTags

from seeflower_jax.data import decode, value_range


def _encode(array, file_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, file_format, **options)
    return buffer.getvalue()


def test_long_images_are_cut_to_their_centre():
    image = Image.fromarray(np.arange(100, dtype=np.uint8)[None].repeat(10, 0))
    cut = np.asarray(decode.resize(image, 10))
    assert cut.shape == (10, 20) and cut[0, 0] == 40 and cut[0, -1] == 59


def test_all_kinds_of_images_become_rgb():
    gray = np.full((4, 6), 100, np.uint8)
    assert np.asarray(decode.decode(_encode(gray))).tolist()[0][0] == [100] * 3
    deep = np.full((4, 6), 100 * 256, np.uint16)
    assert np.asarray(decode.decode(_encode(deep))).tolist()[0][0] == [100] * 3
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[0, 0, 3] = 255  # an opaque pixel; transparent black is shown on white
    assert np.asarray(decode.decode(_encode(clear))).sum() == 23 * 3 * 255
    real = np.full((4, 6), 100, np.float32)
    assert np.asarray(decode.decode(_encode(real, "TIFF"))).tolist()[0][0] == [100] * 3
    real[1, 2] = np.nan
    with pytest.raises(decode.UnreadableImage, match="1 of 24 pixels are not finite"):
        decode.decode(_encode(real, "TIFF"))
    buffer = io.BytesIO()
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(buffer, "JPEG")
    red = np.asarray(decode.decode(buffer.getvalue()))
    assert red.shape == (4, 6, 3) and red[..., 0].min() > red[..., 1].max()


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation,size", [(3, (20, 10)), (6, (10, 20))])
def test_exif_orientation_is_applied(file_format, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation  # rotated by 180 or 90 degrees
    encoded = _encode_exif(exif, file_format)
    assert decode.decode(encoded).size == size
    assert decode.upright_size(lambda: io.BytesIO(encoded)) == size


def _encode_exif(exif: Image.Exif | bytes, file_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, file_format, exif=exif)
    return buffer.getvalue()


def test_all_orientations_give_the_pixels_of_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        encoded = _encode(pixels, exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        np.testing.assert_array_equal(decode.decode(encoded), expected)


def test_damaged_metadata_never_refuses_the_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    # A rational of -1 / 0, which Pillow reads and cannot write.
    rational = (-1).to_bytes(4, signed=True) + bytes(4)
    written = exif.tobytes().replace((72).to_bytes(4) + (1).to_bytes(4), rational)
    assert rational in written
    assert decode.decode(_encode_exif(written)).size == (10, 20)
    for file_format in ("JPEG", "PNG", "WEBP"):
        broken = _encode_exif(b"Exif\0\0MM\0+" + bytes(9), file_format)
        assert decode.decode(broken).size == (20, 10)
        assert decode.upright_size(lambda b=broken: io.BytesIO(b)) == (20, 10)
    for name, text in (
        ("Raw profile type exif", "\nexif\n 8\nno number\n"),
        ("XML:com.adobe.xmp", "x" * 2_000_000),  # more than Pillow reads
    ):
        info = PngImagePlugin.PngInfo()
        info.add_itxt(name, text, zip=True)
        encoded = _encode(np.full((4, 6, 3), 9, np.uint8), pnginfo=info)
        assert np.asarray(decode.decode(encoded)).tolist() == [[[9] * 3] * 6] * 4
        assert decode.upright_size(lambda e=encoded: io.BytesIO(e)) == (6, 4)


def test_damaged_chunks_of_a_png_never_refuse_the_pixels():
    turned = Image.Exif()
    turned[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a rose")
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    intact = _encode(pixels, pnginfo=info, dpi=(72, 72), exif=turned)
    upright = np.rot90(pixels, -1).tolist()
    assert np.asarray(decode.decode(intact)).tolist() == upright

    def flip(name: bytes) -> bytes:
        """Flip a bit of the data of a chunk."""
        content = bytearray(intact)
        content[intact.index(name) + 4] ^= 1
        return bytes(content)

    # More text than Pillow reads, after the pixels and before the last chunk.
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000)))
    for encoded, expected, size in (
        (flip(b"tEXt"), upright, (4, 6)),
        (flip(b"pHYs"), upright, (4, 6)),
        (flip(b"eXIf"), pixels.tolist(), (6, 4)),
        (intact[:-12] + text + intact[-12:], upright, (4, 6)),
    ):
        assert np.asarray(decode.decode(encoded)).tolist() == expected
        assert decode.upright_size(lambda e=encoded: io.BytesIO(e)) == size
    with pytest.raises(decode.UnreadableImage, match="broken PNG|not an image"):
        decode.decode(flip(b"IHDR"))


@pytest.mark.parametrize(
    "encoded,reason",
    [
        (b"", "the file is empty"),
        (b"no image", "not an image of a known format"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (_encode(np.eye(9) > 0)[:40], "not an image of a known format"),
        (_encode(np.eye(9) > 0)[:60], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
    ],
)
def test_what_is_not_an_image(encoded, reason):
    with pytest.raises(decode.UnreadableImage) as caught:
        decode.load_pixels(encoded, 8, "photos/a.jpg")
    message = str(caught.value)
    assert message.startswith("photos/a.jpg cannot be read as an image: ")
    assert reason in message and "\n" not in message


def test_every_error_of_a_decoder_names_the_file(monkeypatch, tmp_path):
    def refuses(error):
        def load(self):
            raise error

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
        with pytest.raises(decode.UnreadableImage, match="^a.png cannot be read") as e:
            decode.load_pixels(_encode(np.eye(9) > 0), 8, "a.png")
        return str(e.value)

    for error in (TypeError("x\ny"), struct.error("x y"), KeyError(1)):
        message = refuses(error)
        assert "\n" not in message and type(error).__name__ in message
    absent = tmp_path / "absent.png"
    with pytest.raises(decode.UnreadableImage, match="absent.png .*: No such file"):
        decode.load_pixels(absent.read_bytes, 8, absent)
    with pytest.raises(decode.UnreadableImage, match="absent.png .*: No such file"):
        decode.upright_size(lambda: absent.open("rb"), absent)


def test_errors_of_a_disk_are_not_those_of_the_file():
    def failing(error):
        def read():
            raise error

        return read

    codes = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOTCONN, errno.ENOMEM)
    errors = {os.strerror(code): OSError(code, os.strerror(code)) for code in codes}
    for reason, error in (errors | {"MemoryError": MemoryError()}).items():
        message = f"^a.png cannot be read now: {reason}; start the same command again"
        with pytest.raises(decode.UnavailableImage, match=message):
            decode.load_pixels(failing(error), 8, "a.png")
        with pytest.raises(decode.UnavailableImage, match=message):
            decode.upright_size(failing(error), "a.png")
    with pytest.raises(decode.UnreadableImage, match="a.png .*: Permission denied"):
        decode.load_pixels(
            failing(OSError(errno.EACCES, "Permission denied")), 8, "a.png"
        )


def test_too_large_an_image_is_named_with_the_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    encoded = _encode(np.zeros((50, 50), np.uint8))
    with pytest.raises(decode.UnreadableImage) as caught:
        decode.load_pixels(encoded, 8, "big.png")
    assert "big.png" in str(caught.value)
    assert "2500 pixels) exceeds limit of 2000 pixels" in str(caught.value)
    assert "SEEFLOWER_MAX_PIXELS" in str(caught.value)
    set_limit = decode._set_max_pixels.__wrapped__
    monkeypatch.setattr(decode, "_set_max_pixels", set_limit)
    monkeypatch.setenv("SEEFLOWER_MAX_PIXELS", "2500")
    assert decode.load_pixels(encoded, 8, "big.png").shape == (8, 8, 3)
    monkeypatch.setenv("SEEFLOWER_MAX_PIXELS", "many")
    with pytest.raises(decode.UnreadableImage, match="is 'many'; expected a whole"):
        decode.load_pixels(encoded, 8, "big.png")


_RAMP = np.linspace(0, 1, 24).reshape(4, 6)


@pytest.mark.parametrize(
    "values",
    [
        _RAMP.astype(np.float32),
        (_RAMP * 255).astype(np.float32),
        (_RAMP * 4095).astype(np.float32),
        (_RAMP * 2 - 1).astype(np.float32),
        (_RAMP * 4095).astype(np.uint16),
        (_RAMP * 65535).astype(np.uint16),
        (_RAMP * 4095).astype(np.int32),
        (_RAMP * 2e9).astype(np.int32),
        (_RAMP * 2e6 - 1e6).astype(np.int32),
    ],
    ids=lambda values: f"{values.dtype} to {values.max():g}",
)
def test_no_range_of_values_is_clipped(values, caplog, monkeypatch):
    file_format = "PNG" if values.dtype == np.uint16 else "TIFF"
    monkeypatch.setattr(value_range, "_named", [])
    gray = np.asarray(decode.decode(_encode(values, file_format), "deep.tif"))[..., 0]
    np.testing.assert_allclose(gray, _RAMP * 255, atol=1.01)
    assert gray.min() == 0 and gray.max() == 255
    stated = values.dtype == np.uint16 and values.max() == 65535
    assert ("deep.tif does not state its range" in caplog.text) != stated
    before = len(caplog.records)
    decode.decode(_encode(values, file_format), "other.tif")
    assert len(caplog.records) == before  # one line, not a line for each image


def test_range_that_a_file_states(caplog, monkeypatch):
    monkeypatch.setattr(value_range, "_named", [])
    half = (_RAMP * 1000).astype(np.float32)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in ((340, 0.0), (341, 2000.0)):
        tags[tag], tags.tagtype[tag] = value, TiffTags.FLOAT
    gray = np.asarray(decode.decode(_encode(half, "TIFF", tiffinfo=tags)))[..., 0]
    assert abs(int(gray.max()) - 127) <= 1 and not caplog.text
    # A stated range is ignored if values are outside of it.
    tags[341] = 100.0
    gray = np.asarray(decode.decode(_encode(half, "TIFF", tiffinfo=tags)))[..., 0]
    assert gray.max() > 200 and len(np.unique(gray)) == 24
    white_is_zero = TiffImagePlugin.ImageFileDirectory_v2()
    white_is_zero[262] = 0
    deep = (_RAMP * 65535).astype(np.uint16)
    encoded = _encode(deep, "TIFF", tiffinfo=white_is_zero)
    assert Image.open(io.BytesIO(encoded)).tag_v2[262] == 0
    gray = np.asarray(decode.decode(encoded))[..., 0]
    np.testing.assert_allclose(gray, 255 - _RAMP * 255, atol=1.01)


def _chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    crc = zlib.crc32(name + data).to_bytes(4)
    return len(data).to_bytes(4) + name + data + crc


def _write_png16(values: np.ndarray) -> bytes:
    """Return a PNG of 16 bits in each of its channels, which Pillow cannot write."""
    height, width, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
    return start + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def test_colours_of_12_bits_in_16_are_refused():
    colours = np.repeat((_RAMP * 65535).astype(np.uint16)[..., None], 3, -1)
    pixels = np.asarray(decode.decode(_write_png16(colours)))
    np.testing.assert_allclose(pixels[..., 1], _RAMP * 255, atol=1.01)
    with pytest.raises(decode.UnreadableImage, match="a.png .* uses the upper 2 bits"):
        decode.decode(_write_png16(colours // 16), "a.png")
    opaque = np.full((4, 6, 1), 65535, np.uint16)
    for channels in (1, 3):  # gray and alpha, colour and alpha
        image = np.concatenate([colours[..., :channels] // 16, opaque], -1)
        with pytest.raises(decode.UnreadableImage, match="uses the upper 2 bits"):
            decode.decode(_write_png16(image))


def test_bmp_of_16_bits_for_three_channels_may_be_dark():
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    content = header + masks + struct.pack("<HH", 3 << 11 | 4, 0)
    start = struct.pack(
        "<2sIHHI", b"BM", 14 + len(content), 0, 0, 14 + len(header + masks)
    )
    red, green, blue = np.asarray(decode.decode(start + content))[0, 0].tolist()
    assert 0 < red < 32 and green == 0 and 0 < blue < 40


@pytest.mark.parametrize("file_format", ["TGA", "PNG"])
def test_alpha_that_a_file_does_not_use_is_ignored(file_format):
    image = np.full((4, 6, 4), (200, 100, 50, 0), np.uint8)
    pixels = np.asarray(decode.decode(_encode(image, file_format)))
    np.testing.assert_array_equal(pixels, image[..., :3])


def test_premultiplied_colours_are_shown_on_white():
    image = Image.new("RGBA", (6, 4), (100, 50, 0, 128))
    buffer = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[338] = 1  # associated alpha
    image.convert("RGBa").convert("RGBA").save(buffer, "TIFF", tiffinfo=info)
    assert decode.decode(buffer.getvalue()).mode == "RGB"


@pytest.mark.parametrize("ending", [".jfif", ".avif", ".jp2", ".ppm", ".qoi", ".tga"])
def test_endings_that_pillow_can_read(ending):
    assert ending in decode.SUFFIXES
    assert not {".pdf", ".eps", ".ps", ".h5", ".mpg"} & set(decode.SUFFIXES)


def test_heic():
    import pillow_heif

    buffer = io.BytesIO()
    image = Image.new("RGB", (64, 48), (200, 30, 30))
    pillow_heif.from_pillow(image).save(buffer)
    pixels = decode.load_pixels(buffer.getvalue(), 48, "a.heic")
    assert pixels.shape == (48, 64, 3) and ".heic" in decode.SUFFIXES
    np.testing.assert_allclose(pixels.mean((0, 1)), (200, 30, 30), atol=6)


@pytest.mark.parametrize("size", [(10, 50), (31, 7), (8, 8), (1, 1), (1, 400)])
def test_pixels_have_the_shortest_side(size):
    pixels = decode.load_pixels(_encode(np.zeros((*size, 3), np.uint8)), 16)
    assert min(pixels.shape[:2]) == 16
    assert max(pixels.shape[:2]) <= decode.longest_side(16)
