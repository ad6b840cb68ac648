"""Decoded pixels of a source in one memory-mapped file.

    cache = open_cache(source, shortest_side=320)
    picture = cache[7]        # uint8 [h, w, 3], min(h, w) == 320

A picture is decoded and resized once, ever. The file is written under a name of its own
and renamed when complete, so that several runs may start at once and an interrupted one
leaves nothing that looks finished.
"""

import concurrent.futures
import io
import os
import pathlib
import uuid
from collections.abc import Sequence

import numpy as np
import tqdm
from PIL import ExifTags, Image, ImageOps

from seeflower_jax.data.source import ImageSource

_DEFAULT_DIR = "~/.cache/seeflower_jax"
_MAX_LISTED = 10
MAX_ASPECT = 2.0  # of decoded pictures; of longer ones the centre is kept


class PixelCache:
    """Pictures of different sizes, by index.

    Attributes:
      sizes: int32 [N, 2], height and width.
    """

    def __init__(self, path: str | os.PathLike):
        self._pixels = np.load(path, mmap_mode="r")
        # The file is a .npy of all pixels followed by a .npy of all sizes.
        with open(path, "rb") as file:
            file.seek(self._pixels.offset + self._pixels.nbytes)
            self.sizes = np.load(file)
        ends = np.cumsum(self.sizes.astype(np.int64).prod(axis=1) * 3)
        self._starts = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> np.ndarray:
        flat = self._pixels[self._starts[index] : self._starts[index + 1]]
        return flat.reshape(*self.sizes[index], 3)


def decode(encoded: bytes) -> Image.Image:
    """An encoded picture as RGB, upright by its EXIF orientation.

    Raises:
      OSError: if it is no picture, or an incomplete one.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def resize(image: Image.Image, shortest_side: int) -> Image.Image:
    """Resizes to a shortest side; of one longer than `MAX_ASPECT`, keeps the centre."""
    longest = round(min(image.size) * MAX_ASPECT)
    if max(image.size) > longest:
        width, height = (min(side, longest) for side in image.size)
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    scale = shortest_side / min(image.size)
    if scale == 1:
        return image
    size = [max(shortest_side, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)


def center_view(
    image: Image.Image, out_size: int, crop: float, keep_aspect: bool = True
) -> np.ndarray:
    """What a network sees of a picture, uint8 [out_size, out_size, 3].

    Args:
      image: the picture.
      out_size: side in pixels.
      crop: the central square's share of the shortest side.
      keep_aspect: False takes that share of both sides instead, squashed to a square.
    """
    sides = (min(image.size),) * 2 if keep_aspect else image.size
    x, y = (
        (whole - side * crop) / 2 for whole, side in zip(image.size, sides, strict=True)
    )
    box = (x, y, image.width - x, image.height - y)
    return np.asarray(image.resize((out_size,) * 2, Image.Resampling.LANCZOS, box))


def upright_size(file: str | os.PathLike | io.BytesIO) -> tuple[int, int]:
    """(width, height) of a picture as `decode` gives it, from the file's header."""
    with Image.open(file) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size


def view_to_picture(
    box: Sequence[float],
    size: tuple[int, int],
    crop: float,
    keep_aspect: bool = True,
) -> list[int]:
    """A box in what a network sees of a picture, in pixels of the picture itself.

    Args:
      box: left, top, right, bottom in the `center_view` of what `resize` gave, as
        fractions of its side.
      size: (width, height) of the picture before `resize`.
      crop, keep_aspect: as of `center_view`.

    Returns:
      Left, top, right, bottom, where the upper left corner is at 0, 0.
    """
    kept = [min(side, min(size) * MAX_ASPECT) for side in size]
    seen = [crop * (min(size) if keep_aspect else side) for side in kept]
    # All of them have one centre.
    edges = [
        whole / 2 + (place - 0.5) * side
        for place, whole, side in zip(box, size * 2, seen * 2, strict=True)
    ]
    return [round(float(edge)) for edge in edges]


def open_cache(
    source: ImageSource,
    shortest_side: int,
    cache_dir: str | os.PathLike | None = None,
) -> PixelCache:
    """The decoded pixels of a source; decodes them if no file has them.

    Args:
      source: the pictures.
      shortest_side: in pixels; the aspect ratio is kept.
      cache_dir: `pixels/` is made in it; ~/.cache/seeflower_jax by default.

    Raises:
      ValueError: lists the pictures that cannot be decoded.
    """
    folder = pathlib.Path(cache_dir or _DEFAULT_DIR).expanduser() / "pixels"
    path = folder / f"{source.name}_{source.fingerprint}_{shortest_side}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{path.stem}.{uuid.uuid4().hex}.partial"
        try:
            _write(source, shortest_side, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return PixelCache(path)


def _write(source: ImageSource, shortest_side: int, path: pathlib.Path) -> None:
    def load(index):
        try:
            return np.asarray(resize(decode(source.read(index)), shortest_side))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            return f"{source.keys[index]}: {error}"

    count, total = len(source.keys), 0
    sizes = np.zeros((count, 2), np.int32)
    broken = []
    with (
        open(path, "wb") as file,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm.tqdm(total=count, desc="decoding", unit="image") as bar,
    ):
        header = {"descr": "|u1", "fortran_order": False}
        # NumPy pads this header with room for a larger shape, filled in at the end.
        np.lib.format.write_array_header_1_0(file, header | {"shape": (0,)})
        start = file.tell()
        for first in range(0, count, 256):  # a bounded number in memory
            chunk = range(first, min(first + 256, count))
            for index, pixels in zip(chunk, pool.map(load, chunk), strict=True):
                if isinstance(pixels, str):
                    broken.append(pixels)
                elif not broken:
                    sizes[index] = pixels.shape[:2]
                    total += pixels.size
                    file.write(pixels.tobytes())
                bar.update()
        if broken:
            listed = "\n  ".join(broken[:_MAX_LISTED])
            more = len(broken) - _MAX_LISTED
            raise ValueError(
                f"{len(broken)} of {count} pictures of {source.name} cannot be decoded:"
                f"\n  {listed}"
                + (f"\n  and {more} more" if more > 0 else "")
                + "\nReplace these files by intact copies"
            )
        np.save(file, sizes)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header | {"shape": (total,)})
        if file.tell() != start:
            raise RuntimeError(f"the header of {path} changed its length")
