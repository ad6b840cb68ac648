"""Image files: damaged, unusual, and too large.

Each is predicted by the intact export. An accepted image has the pixels of the intact
one, and the probabilities that these pixels give.
"""

import io
import json
import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from tests.stress import damage
from tests.stress.cases import Case, Check
from tests.stress.world import World, photo

OWNER = "data"
FORMATS = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "gif": {},
    "bmp": {},
    "tif": {},
    "webp": {"lossless": True},
    "avif": {"quality": 95},
}
INTACT = photo(0, 1)
GRAY = INTACT.convert("L")
_WIDE = np.asarray(GRAY).astype(np.uint16) * 257


def encode(image: Image.Image, kind: str, **options) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    name = {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind)
    image.save(buffer, name, **FORMATS.get(kind, {}) | options)
    return buffer.getvalue()


def shows(image: Image.Image, tolerance: float = 4.0, stretched: bool = False) -> Check:
    """Check that what was read is this image, and that its prediction is correct.

    With `stretched`, its darkest pixel may be black and its brightest white: a file may
    not tell the range of its values.
    """
    references = [image.convert("RGB")]
    if stretched:
        references.append(ImageOps.autocontrast(image).convert("RGB"))

    def check(completed, folder: pathlib.Path, world: World) -> None:
        printed = json.loads(completed.stdout.splitlines()[0])
        path = pathlib.Path(printed["image"])
        pixels = world.pixels(path)
        size = pixels.shape[1::-1]
        resized = [np.asarray(image.resize(size, 1), float) for image in references]
        error = min(np.abs(pixels - expected).mean() for expected in resized)
        assert error < tolerance, f"pixels differ by {error:.1f} of 255 on average"
        details = {c["name"]: c["probability"] for c in printed["classes"]}
        expected = world.probabilities(path)
        assert all(abs(details[n] - expected[n]) < 1e-3 for n in details), (
            details,
            expected,
        )

    return check


def finite(completed, folder: pathlib.Path, world: World) -> None:
    """Check that all probabilities are numbers and that the image is not black."""
    for line in completed.stdout.splitlines():
        printed = json.loads(line)
        values = [c["probability"] for c in printed["classes"]]
        assert np.isfinite(values).all() and abs(sum(values) - 1) < 1e-3, values
        assert world.pixels(pathlib.Path(printed["image"])).any(), "black"


def case(
    name: str,
    content: bytes | Callable[[pathlib.Path], object],
    expect: str = "either",
    file: str = "x.png",
    check: Check | None = None,
) -> Case:
    """Return the case of an image file that is predicted."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        path = folder / file
        content(path) if callable(content) else path.write_bytes(content)

    arguments = ["--export={world}/export", "--json", "--top=3", f"{{folder}}/{file}"]
    check = check or shows(INTACT)
    return Case(name, "predict", arguments, expect, _pattern(file), prepare, check)


def written(make: Callable[[], bytes]) -> Callable[[pathlib.Path], object]:
    """Return a function that makes a large file only when the case is run."""
    return lambda path: path.write_bytes(make())


def _pattern(file: str) -> str:
    return file.replace(".", r"\.")


def cases() -> Iterator[Case]:
    """Yield all cases of images."""
    yield from _damaged()
    yield from _endings()
    yield from _modes()
    yield from _metadata()
    yield from _sizes()
    yield from _no_images()
    yield from _names()


def _damaged() -> Iterator[Case]:
    for kind in FORMATS:
        content, file = encode(INTACT, kind), f"x.{kind}"

        def damaged(change: damage.Damage, content: bytes = content):
            return lambda path: (path.write_bytes(content), change(path))

        yield case(f"{kind}_intact", content, "accepted", file)
        for name, change in damage.GONE.items():
            yield case(f"{kind}_{name}", damaged(change), "either", file)
        for less in (1, 2, 4, 16):
            change = damage.cut(1, less)
            yield case(f"{kind}_less_{less}", damaged(change), "either", file)
        for name, change in damage.flips(9):
            yield case(f"{kind}_{name}", damaged(change), "either", file, finite)
        for seed in range(3):
            change = damage.flip(100 + seed, 2, 0, 0.05)
            name = f"{kind}_head_flip_{seed}"
            yield case(name, damaged(change), "either", file, finite)
        rubbish = damage.append(b"\0rubbish" * 99)
        yield case(f"{kind}_with_rubbish", damaged(rubbish), "accepted", file)


def _endings() -> Iterator[Case]:
    kinds = list(FORMATS)
    for shift in (1, 2, 3):
        for place, kind in enumerate(kinds):
            other = kinds[(place + shift) % len(kinds)]
            content = encode(INTACT, kind)
            yield case(f"{kind}_as_{other}", content, "accepted", f"x.{other}")
    for ending in ("jfif", "jpe", "JPG", "JpEg", "TIFF", "dat", "jpg.png"):
        yield case(f"as_{ending}", encode(INTACT, "jpg"), "accepted", f"x.{ending}")
    yield case("no_ending", encode(INTACT, "png"), "accepted", "x")


def _tiff(image: Image.Image, tags: dict | None = None, **options) -> bytes:
    from PIL import TiffImagePlugin

    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        info[tag] = value
    return encode(image, "tif", tiffinfo=info, **options)


def _modes() -> Iterator[Case]:
    """Yield modes and depths; what cannot be scaled for certain may be refused."""
    gray, wide = shows(GRAY, stretched=True), np.asarray(GRAY).astype(np.float32)
    rgba = INTACT.copy()
    rgba.putalpha(255)
    half = INTACT.copy()
    half.putalpha(Image.fromarray(np.tri(40, 48, dtype=np.uint8) * 255))
    on_white = Image.alpha_composite(Image.new("RGBA", half.size, "white"), half)
    palette, bit = INTACT.quantize(256), GRAY.convert("1")
    sixteen = Image.fromarray(_WIDE)
    big = Image.frombytes("I;16B", GRAY.size, _WIDE.astype(">u2").tobytes())
    whole = Image.fromarray
    floats = whole(wide / 255)
    rows = [
        ("L_png", encode(GRAY, "png"), "accepted", gray),
        ("L_jpg", encode(GRAY, "jpg"), "accepted", gray),
        ("L_tif", encode(GRAY, "tif"), "accepted", gray),
        ("LA_png", encode(GRAY.convert("LA"), "png"), "accepted", gray),
        ("RGBA_png", encode(rgba, "png"), "accepted", shows(INTACT)),
        ("RGBA_webp", encode(rgba, "webp"), "accepted", shows(INTACT)),
        ("RGBA_tif", encode(rgba, "tif"), "accepted", shows(INTACT)),
        ("half_transparent", encode(half, "png"), "accepted", shows(on_white)),
        ("P_png", encode(palette, "png"), "accepted", shows(INTACT, 6)),
        ("P_gif", encode(palette, "gif"), "accepted", shows(INTACT, 6)),
        ("P_bmp", encode(palette, "bmp"), "accepted", shows(INTACT, 6)),
        ("P_4_bits", encode(GRAY.quantize(16), "png", bits=4), "accepted", shows(GRAY, 9)),
        ("1_png", encode(bit, "png"), "accepted", shows(bit)),
        ("1_tif_group4", encode(bit, "tif", compression="group4"), "accepted", shows(bit)),
        ("CMYK_jpg", encode(INTACT.convert("CMYK"), "jpg"), "accepted", shows(INTACT)),
        ("CMYK_tif", encode(INTACT.convert("CMYK"), "tif"), "accepted", shows(INTACT)),
        ("YCbCr_tif", encode(INTACT.convert("YCbCr"), "tif"), "either", shows(INTACT)),
        ("LAB_tif", encode(_lab(), "tif"), "either", shows(INTACT, 8)),
        ("I16_png", encode(sixteen, "png"), "accepted", gray),
        ("I16_tif", encode(sixteen, "tif"), "accepted", gray),
        ("I16_big_endian", _tiff(big), "accepted", gray),
        ("I16_12_bits", _tiff(whole(_WIDE >> 4), {281: 4095}), "either", gray),
        ("I16_8_bits", _tiff(whole(_WIDE >> 8), {281: 255}), "either", gray),
        ("I_of_8_bits", encode(whole(wide.astype(np.int32)), "tif"), "either", gray),
        ("I_of_16_bits", encode(whole(_WIDE.astype(np.int32)), "tif"), "either", gray),
        ("I_full", encode(whole(_WIDE.astype(np.int32) << 15), "tif"), "either", gray),
        ("I_negative", encode(whole(wide.astype(np.int32) - 300), "tif"), "either", finite),
        ("F_to_1", encode(floats, "tif"), "either", gray),
        ("F_to_255", encode(whole(wide), "tif"), "either", gray),
        ("F_nan", encode(whole(wide * np.nan), "tif"), "refused", gray),
        ("F_with_nan", encode(whole(np.where(wide > 99, np.nan, wide)), "tif"), "refused", None),
        ("F_inf", encode(whole(wide * np.inf), "tif"), "refused", gray),
        ("F_huge", encode(whole(wide * 1e30), "tif"), "either", gray),
        ("F_negative", encode(whole(wide / 255 - 2), "tif"), "either", finite),
        ("tif_lzw", encode(INTACT, "tif", compression="tiff_lzw"), "accepted", None),
        ("tif_deflate", encode(INTACT, "tif", compression="tiff_deflate"), "accepted", None),
        ("tif_packbits", encode(INTACT, "tif", compression="packbits"), "accepted", None),
        ("tif_jpeg", encode(INTACT, "tif", compression="jpeg"), "accepted", None),
        ("tif_pages", encode(INTACT, "tif", save_all=True, append_images=[GRAY.convert("RGB")]), "accepted", None),
        ("tif_big", encode(INTACT, "tif", big_tiff=True), "accepted", None),
        ("gif_animated", encode(INTACT, "gif", save_all=True, append_images=[GRAY.convert("RGB")]), "accepted", shows(INTACT, 8)),
        ("webp_animated", encode(INTACT, "webp", save_all=True, append_images=[GRAY.convert("RGB")]), "accepted", None),
        ("png_animated", encode(INTACT, "png", save_all=True, append_images=[GRAY.convert("RGB")]), "accepted", None),
        ("jpg_progressive", encode(INTACT, "jpg", progressive=True), "accepted", None),
        ("jpg_420", encode(INTACT, "jpg", subsampling=2), "accepted", shows(INTACT, 6)),
        ("jpg_restart", encode(INTACT, "jpg", restart_marker_blocks=1), "accepted", None),
        ("jpeg2000", encode(INTACT, "jpeg2000"), "accepted", None),
        ("ppm", encode(INTACT, "ppm"), "accepted", None),
        ("ico", encode(INTACT, "ico", sizes=[(48, 40)]), "either", None),
        ("tga", encode(INTACT, "tga"), "accepted", None),
        ("png_transparent_colour", encode(INTACT, "png", transparency=(1, 2, 3)), "accepted", None),
    ]  # fmt: skip
    for name, content, expect, check in rows:
        file = f"x.{name.split('_')[-1]}" if name.endswith(("png", "tif")) else "x.tif"
        yield case(f"mode_{name}", content, expect, file, check)


def _lab() -> Image.Image:
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(INTACT, srgb, lab, outputMode="LAB")


def _exif(orientation: int = 1, tag: int = 0x829A, kind: int = 5, value: bytes = b""):
    """Return an EXIF block with an orientation and one more entry as raw bytes."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", tag, kind, 1, 38)
    return (
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4) + value
    )


def _metadata() -> Iterator[Case]:
    """Yield metadata that is broken; it never refuses the pixels."""
    stored_turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    for number, turn in stored_turns.items():
        stored = INTACT.transpose(Image.Transpose(turn))
        exif = Image.Exif()
        exif[0x0112] = number
        yield case(f"orientation_{number}", encode(stored, "jpg", exif=exif), "accepted", "x.jpg")  # fmt: skip
    blocks = {
        "rational_by_zero": _exif(1, 0x829A, 10, struct.pack("<ii", -1, 0)),
        "rational_0_0": _exif(1, 0x829A, 5, bytes(8)),
        "orientation_0": _exif(0),
        "orientation_9": _exif(9),
        "orientation_65535": _exif(65535),
        "orientation_text": _exif(1, 0x0112, 2, b"abc\0"),
        "cut": _exif()[:20],
        "no_entries": b"Exif\0\0II*\0\x08\0\0\0",
        "only_head": b"Exif\0\0",
        "rubbish": b"Exif\0\0" + bytes(range(256)) * 4,
        "offset_beyond": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "loop": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8),
        "many_entries": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(60000),
        "type_unknown": _exif(1, 0x829A, 99, bytes(8)),
        "big_endian_rubbish": b"Exif\0\0MM\0*" + b"\xff" * 64,
    }  # fmt: skip
    for name, block in blocks.items():
        for kind in ("jpg", "webp", "png"):
            file = f"x.{kind}"
            content = encode(INTACT, kind, exif=block)
            yield case(f"exif_{name}_{kind}", content, "accepted", file)
    for name, key, text in (
        ("raw_exif", "Raw profile type exif", "\nexif\n      12\nnot hexadecimal"),
        ("raw_exif_empty", "Raw profile type exif", ""),
        ("raw_exif_odd", "Raw profile type exif", "\nexif\n 3\n457"),
        ("xmp", "XML:com.adobe.xmp", "<x:xmpmeta tiff:Orientation='"),
        ("xmp_orientation", "XML:com.adobe.xmp", 'tiff:Orientation="99"'),
        ("dpi", "dpi", "nan"),
    ):
        info = PngImagePlugin.PngInfo()
        add = info.add_itxt if name.startswith("xmp") else info.add_text
        add(key, text)
        yield case(f"text_{name}", encode(INTACT, "png", pnginfo=info), "accepted")
    for kind in ("jpg", "png", "tif", "webp"):
        content = encode(INTACT, kind, icc_profile=b"no profile" * 30)
        yield case(f"icc_{kind}", content, "accepted", f"x.{kind}")
    comment = encode(INTACT, "jpg", comment=b"\xff\xd8\xff" * 9999)
    yield case("jpg_comment", comment, "accepted", "x.jpg")
    tags = {"software": {305: "x" * 70_000}, "unknown": {65000: "x" * 5000}}
    for name, tag in tags.items():
        yield case(f"tiff_tag_{name}", _tiff(INTACT, tag), "accepted", "x.tif")


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _png(
    width: int, height: int, data: bytes, depth: int = 8, colour: int = 0
) -> bytes:
    """Return a PNG whose header may not fit its data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _patched(kind: str, place: int, form: str, *values: int) -> bytes:
    """Return an intact file with other numbers in its header."""
    content = bytearray(encode(INTACT, kind))
    struct.pack_into(form, content, place, *values)
    return bytes(content)


def _sizes() -> Iterator[Case]:
    """Yield sizes that are huge, zero or extreme."""
    for side in (0, 20_000, 60_000, 2**31 - 1):
        yield case(f"png_{side}", _png(side, side, bytes(99)), "refused")
    bomb = written(lambda: _png(20_000, 20_000, bytes(20_001 * 20_000)))
    yield case("png_bomb", bomb, "refused")
    yield case("png_too_little", _png(48, 40, bytes(99)), "refused")
    yield case("png_depth_3", _png(48, 40, bytes(49 * 40), depth=3), "refused")
    yield case("png_colour_9", _png(48, 40, bytes(49 * 40), colour=9), "refused")
    yield case("png_text_bomb", written(_text_bomb), "either")
    for side in (65_535, 0):
        gif = _patched("gif", 6, "<HH", side, side)
        yield case(f"gif_{side}", gif, "either", "x.gif")
    for width, height in ((2**31 - 1, 1), (60_000, 60_000), (-48, 40), (0, 0)):
        bmp = _patched("bmp", 18, "<ii", width, height)
        yield case(f"bmp_{width}_{height}", bmp, "refused", "x.bmp")
    yield case(
        "bmp_upside_down", _patched("bmp", 22, "<i", -40), "either", "x.bmp", finite
    )
    jpeg = encode(INTACT, "jpg")
    place = jpeg.index(b"\xff\xc0") + 5
    for side in (65_535, 0):
        content = _patched("jpg", place, ">HH", side, side)
        yield case(f"jpg_{side}", content, "refused", "x.jpg")
    for width, height in ((1, 1), (1, 3000), (3000, 1), (2, 2), (5000, 5000)):
        image = INTACT.resize((width, height))
        check = finite if 1 in (width, height) else shows(image, 6)
        content = written(lambda i=image: encode(i, "png", compress_level=1))
        yield case(f"side_{width}_{height}", content, "accepted", check=check)


def _text_bomb() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 80_000_000, zip=True)
    return encode(INTACT, "png", pnginfo=text)


def _no_images() -> Iterator[Case]:
    """Yield files that are something else."""
    texts = {
        "html": damage.HTML,
        "lfs": damage.LFS,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(99),
        "apple_double": b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(99),
        "json": b'{"a": 1}',
        "zip": b"PK\x05\x06" + bytes(18),
    }
    for name, content in texts.items():
        yield case(f"no_image_{name}", content, "refused", "x.jpg")
    yield case("pipe", os.mkfifo, "refused", "x.jpg")
    yield case("endless", lambda p: p.symlink_to("/dev/zero"), "refused", "x.jpg")
    yield case("socket_like_null", lambda p: p.symlink_to("/dev/null"), "refused", "x.jpg")  # fmt: skip
    yield case("loop", lambda p: p.symlink_to(p), "refused", "x.jpg")


def _names() -> Iterator[Case]:
    """Yield names of intact files that are hard to handle."""
    names = ["ü ñ 薔薇.png", "e\u0301.png", "a b.png", "-x.png", "x[1].png", "a*b.png"]
    names += ["100%.png", "x\ny.png", "$HOME.png", "'\".png", "x" * 240 + ".png"]
    names += ["~.png", "#.png", "bad\udcff.png", "\u202egnp.png", "a?.png", "{0}.png"]
    content = encode(INTACT, "png")
    for number, name in enumerate(names):
        yield case(f"name_{number}", content, "accepted", name)
