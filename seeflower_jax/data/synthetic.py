"""Flowers drawn by a program, of species that differ as real ones do.

    source = load("target", species=16, pictures=(10, 5, 20))
    picture, mask = draw(species("target", 3), seed=0, index=7)

A species is a set of numbers: how many petals, their outline, colours and markings, the
disc in the middle, the leaves. A picture of it varies in everything else: pose, size,
place, light, and the clutter of blades, leaves and other blossoms around and in front
of it. Many species share a colour, so that the details tell them apart. What belongs to
the flower is known for each pixel.
"""

import colorsys
import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from seeflower_jax.data.source import ImageSource

NAME = "synthetic"
SIDE = 96  # of the pictures, in pixels
# Species of different splits are different ones.
SPLITS = ("source", "target")
PARTS = ("train", "validation", "test")
MAX_SPECIES = 100  # of a split: there are so many names
_STEMS = ("al", "be", "cor", "da", "el", "fen", "gil", "ho", "is", "jun")
_ENDINGS = {
    "source": "ria lina nola tessa vane mira wyn phora gea dris".split(),
    "target": "bella santhe lume rosa quilla zinda kara thys vora peta".split(),
}
_HUES = (0.92, 0.83, 0.74, 0.62, 0.0, 0.06, 0.13, 0.16)  # pink to yellow
_POLLEN = np.array([1.0, 0.9, 0.4], np.float32)
# The outline of a leaf, in its length and its width.
_T = np.linspace(0, 1, 9)
_BOW = np.sin(np.pi * _T**0.8) / 2
_LEAF = np.stack([np.r_[_T, _T[::-1]], np.r_[_BOW, -_BOW[::-1]]], 1)
_PETALS = (4, 5, 5, 6, 6, 7, 8, 9, 11, 13, 16)


@dataclasses.dataclass(frozen=True)
class SyntheticSource(ImageSource):
    """Drawn pictures.

    Attributes:
      mask: index -> where the flower is, bool [SIDE, SIDE].
    """

    mask: Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Species:
    """What the flowers of a species share; lengths in radii of the flower.

    Attributes:
      key: integers that only this species has; they seed its pictures.
      name: an invented one.
      petals: how many, in each ring.
      rings: of petals, one within the other.
      width: half of a petal's, at its widest.
      base, tip: exponents of the outline at its ends: from 0.3, round, to 1.5, pointed.
      notch: depth of the cut in the tip.
      colours: RGB in [0, 1] of a petal's base, its tip and its markings, [3, 3].
      veins: how many lines a side of a petal has.
      marking: 0 for none, otherwise its length from the middle.
      disc: radius of the middle.
      disc_colour: RGB in [0, 1].
      stamens: dots on the disc.
      leaf: width of the leaves over their length.
    """

    key: tuple[int, ...]
    name: str
    petals: int
    rings: int
    width: float
    base: float
    tip: float
    notch: float
    colours: np.ndarray
    veins: int
    marking: float
    disc: float
    disc_colour: np.ndarray
    stamens: int
    leaf: float


def _rgb(hue, saturation, value) -> np.ndarray:
    saturation, value = min(max(saturation, 0), 1), min(max(value, 0), 1)
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


@functools.cache
def species(split: str, number: int) -> Species:
    """A species, from 0, of a split: always the same."""
    key = (SPLITS.index(split), number)
    rng = np.random.default_rng(key)
    hue = rng.choice(_HUES) + rng.normal(0, 0.01)
    saturation = rng.choice([0.1, 0.45, 0.7, 0.85])
    petals = int(rng.choice(_PETALS))
    sector = np.pi / petals
    marking = float(rng.choice([0.0, rng.uniform(0.3, 0.6)]))
    return Species(
        key=key,
        name=_STEMS[number % 10] + _ENDINGS[split][number // 10],
        petals=petals,
        rings=int(rng.choice([1, 1, 2, 3])),
        width=float(np.clip(sector * rng.uniform(0.5, 1.1), 0.1, 0.55)),
        base=float(rng.uniform(0.4, 1.3)),
        tip=float(rng.choice([0.35, 0.5, 0.8, 1.3])),
        notch=float(rng.choice([0, 0, 0.12, 0.25])),
        colours=np.stack(
            [
                _rgb(hue + rng.normal(0, 0.05), saturation * rng.uniform(0.2, 1), 0.95),
                _rgb(hue, saturation, rng.uniform(0.75, 1)),
                _rgb(rng.choice(_HUES), rng.uniform(0.5, 1), rng.uniform(0.3, 0.9)),
            ]
        ),
        veins=int(rng.choice([0, 2, 4])),
        marking=marking,
        disc=float(rng.choice([0.12, 0.18, 0.26, 0.34])),
        disc_colour=_rgb(rng.choice([0.1, 0.13, 0.16, 0.25, 0.05, 0.8]), 0.8, 0.85)
        * rng.choice([0.4, 1.0]),
        stamens=int(rng.choice([0, 8, 14])),
        leaf=float(rng.uniform(0.15, 0.45)),
    )


def _fill(colour) -> tuple[int, ...]:
    return tuple(int(255 * c) for c in np.clip(colour, 0, 1))


def _green(rng) -> np.ndarray:
    return _rgb(rng.uniform(0.2, 0.42), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.65))


def _leaf(pen, start, angle, length, width, colour) -> None:
    """A pointed leaf from `start`, with its midrib; `width` is a share of `length`."""
    along = length * np.array([np.cos(angle), np.sin(angle)])
    across = width * np.array([-along[1], along[0]])
    outline = start + _LEAF @ np.stack([along, across])
    pen.polygon(outline.ravel().tolist(), fill=_fill(colour))
    rib = np.concatenate([start, start + 0.9 * along])
    pen.line(rib.tolist(), fill=_fill(0.75 * colour), width=3)


def _blossom(pen, rng, side) -> None:
    """A flower far away, as a ring of dots."""
    center, r = rng.uniform(0, side, 2), side * rng.uniform(0.03, 0.11)
    colour = _fill(_rgb(rng.choice(_HUES), rng.uniform(0.1, 0.9), rng.uniform(0.6, 1)))
    count, turn = rng.integers(4, 9), rng.uniform(0, 6)
    for angle in turn + 2 * np.pi / count * np.arange(count):
        x, y = center + r * np.array([np.cos(angle), np.sin(angle)])
        pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=colour)


def _clutter(rng, side: int) -> Image.Image:
    """Light and shade, blossoms out of focus, leaves and blades."""
    far = [_green(rng), _rgb(rng.uniform(0.05, 0.6), 0.3, rng.uniform(0.2, 0.9))]
    coarse = rng.random((4, 4, 1)) * far[0] + rng.random((4, 4, 1)) * far[1]
    image = Image.fromarray((255 * coarse.clip(0, 1)).astype(np.uint8))
    image = image.resize((side // 2, side // 2), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 8)):
        _blossom(pen, rng, side / 2)
    blur = ImageFilter.GaussianBlur(side * rng.uniform(0.003, 0.015))
    image = image.filter(blur).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(6, 20)):
        start, angle = rng.uniform(-0.1, 1.1, 2) * side, rng.uniform(0, 2 * np.pi)
        length, width = side * rng.uniform(0.15, 0.6), rng.uniform(0.05, 0.5)
        _leaf(pen, start, angle, length, width, _green(rng))
    return image


def _petals(kind: Species, rng, u, v, size, turn, pixel):
    """A ring of petals: (colour [H, W, 3], share of each pixel covered [H, W]).

    Args:
      u, v: float32 [H, W], places in radii of the flower, from its middle.
      size: of the petals, in radii.
      turn: angle of the first one.
      pixel: side of a pixel in radii, over which edges are smooth.
    """
    lengths, bends, shades = rng.standard_normal((3, kind.petals), np.float32)
    sector = 2 * np.pi / kind.petals
    radius, angle = np.hypot(u, v), np.arctan2(v, u) - np.float32(turn)
    nearest = np.round(angle / sector)
    neighbour = nearest + np.sign(angle / sector - nearest)
    a, b = kind.base, kind.tip
    peak = a**a * b**b / (a + b) ** (a + b)  # of x**a * (1 - x)**b
    colour, alpha = np.zeros((*u.shape, 3), np.float32), np.zeros_like(u)
    # No petal reaches further than the middle of the next; the nearest is on top.
    for petal in (neighbour, nearest):
        number = petal.astype(int) % kind.petals
        local = angle - sector * (petal + 0.12 * bends[number])
        scaled = radius / (size * (1 + 0.06 * lengths[number]))
        along, across = scaled * np.cos(local), np.abs(scaled * np.sin(local))
        if kind.notch:
            along = along + kind.notch * np.exp(-((across / (0.5 * kind.width)) ** 2))
        t = along.clip(1e-4, 1)
        outline = (kind.width / peak) * t**a * (1 - t) ** b
        covered = ((outline - across) * (size / pixel) + 0.5).clip(0, 1)
        covered *= (along > 0) & (along < 1)
        aside = (across / np.maximum(outline, 1e-3)).clip(0, 1)
        shade = (1 + 0.05 * shades[number]) * (1 - 0.35 * aside**4)
        if kind.veins:
            shade *= 1 - 0.1 * (np.cos(2 * np.pi * kind.veins * aside) > 0.6)
        own = kind.colours[0] + t[..., None] * (kind.colours[1] - kind.colours[0])
        if kind.marking:
            mark = ((kind.marking - t * (1 + 0.6 * aside)) * 8).clip(0, 0.85)
            own += mark[..., None] * (kind.colours[2] - own)
        colour += covered[..., None] * (own * shade[..., None] - colour)
        alpha = np.maximum(alpha, covered)
    # Towards the middle, petals lie in each other's shade.
    return colour * (0.75 + 0.5 * radius / size).clip(0, 1)[..., None], alpha


def _disc(kind: Species, rng, u, v, pixel):
    """The middle of the flower, as `_petals`."""
    radius = np.hypot(u, v)
    alpha = ((kind.disc - radius) / pixel + 0.5).clip(0, 1)
    grain = 0.15 * rng.standard_normal(u.shape, np.float32)
    colour = (
        kind.disc_colour * (1 - 0.25 * (radius / kind.disc) ** 2 + grain)[..., None]
    )
    if kind.stamens:
        sector = 2 * np.pi / kind.stamens
        angle = np.arctan2(v, u) / sector
        aside = radius * np.sin(sector * (angle - np.round(angle)))
        dots = np.hypot(radius - 1.15 * kind.disc, aside)
        dots = ((0.05 - dots) / pixel + 0.5).clip(0, 1)
        colour += dots[..., None] * (_POLLEN - colour)
        alpha = np.maximum(alpha, dots)
    return colour, alpha


def _flower(kind: Species, rng, x, y, size: float):
    """The flower without its stem, as `_petals`; x and y in radii, `size` in pixels."""
    lean, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(1, 1.7)
    u = np.cos(lean) * x + np.sin(lean) * y
    v = (np.cos(lean) * y - np.sin(lean) * x) * tilt  # seen from aside
    turn, light = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.12, 2)
    parts = [
        _petals(
            kind,
            rng,
            *(u, v),
            1 - 0.28 * ring,
            turn + ring * np.pi / kind.petals,
            tilt / size,
        )
        for ring in range(kind.rings)
    ]
    colour, alpha = parts[0]
    for above, covered in (*parts[1:], _disc(kind, rng, u, v, tilt / size)):
        colour += covered[..., None] * (above - colour)
        alpha = np.maximum(alpha, covered)
    return colour * (1 + light[0] * x + light[1] * y)[..., None], alpha


def draw(kind: Species, seed: int, index: int, side: int = SIDE):
    """A picture of a species.

    Args:
      kind: of `species`.
      seed: of all pictures.
      index: of the picture; another one is another flower elsewhere.
      side: in pixels.

    Returns:
      (RGB uint8 [side, side, 3], bool [side, side]: where the flower is to be seen).
    """
    rng = np.random.default_rng((seed, *kind.key, index))
    size = side * rng.uniform(0.2, 0.42)  # radius of the flower
    center = side / 2 + (side / 2 - 0.75 * size) * rng.uniform(-1, 1, 2)

    # What has hard edges is drawn at twice the size.
    image = _clutter(rng, 2 * side)
    pen, stem = ImageDraw.Draw(image), _green(rng)
    top, foot = 2 * center, 2 * (center + side * np.array([rng.uniform(-0.3, 0.3), 1]))
    pen.line([*top, *foot], fill=_fill(stem), width=max(3, round(0.14 * size)))
    for sign in (-1, 1):
        start = top + (foot - top) * rng.uniform(0.2, 0.5)
        angle = -np.pi / 2 + sign * rng.uniform(0.5, 1.3)
        _leaf(pen, start, angle, 2 * size * rng.uniform(0.8, 1.3), kind.leaf, stem)
    canvas = np.asarray(image.reduce(2), np.float32) / 255

    low = np.maximum((center - 1.2 * size).astype(int), 0)
    high = np.minimum((center + 1.2 * size).astype(int) + 1, side)
    around = slice(low[1], high[1]), slice(low[0], high[0])
    y, x = np.mgrid[around].astype(np.float32) + 0.5
    x, y = (x - center[0]) / size, (y - center[1]) / size
    flower, alpha = _flower(kind, rng, x, y, size)
    shadow = 1 - 0.35 * (1.3 - np.hypot(x - 0.1, y - 0.1)).clip(0, 1)
    behind = canvas[around] * shadow[..., None]
    canvas[around] = behind + alpha[..., None] * (flower - behind)
    mask = np.zeros((side, side), np.float32)
    mask[around] = alpha

    front = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(front)
    for _ in range(rng.integers(0, 4)):
        start, angle = 2 * side * np.array([rng.random(), 1.05]), rng.normal(-1.57, 0.4)
        _leaf(pen, start, angle, 2 * side * rng.uniform(0.4, 0.9), 0.1, _green(rng))
    front = np.asarray(front.reduce(2), np.float32) / 255
    canvas += front[..., 3:] * (front[..., :3] - canvas)
    mask *= 1 - front[..., 3]

    canvas *= (rng.uniform(0.7, 1.15) * (1 + rng.normal(0, 0.05, 3))).astype(np.float32)
    canvas += 0.02 * rng.standard_normal(canvas.shape, np.float32)
    return (255 * canvas).clip(0, 255).astype(np.uint8), mask > 0.5


def load(
    split: str, species_count: int, pictures: Sequence[int], seed: int = 0
) -> SyntheticSource:
    """Pictures of the first species of a split.

    Args:
      split: key of `SPLITS`.
      species_count: how many.
      pictures: of each species for training, validation and test; 0 leaves out one.
      seed: of the pictures; the species are always the same.

    Raises:
      ValueError: for an unknown split and for more species than there are.
    """
    if split not in SPLITS or not 0 < species_count <= MAX_SPECIES:
        raise ValueError(
            f"there are no {species_count} species of split {split!r}; expected 1 to "
            f"{MAX_SPECIES} of one of {SPLITS}"
        )
    kinds = [species(split, number) for number in range(species_count)]
    each = sum(pictures)

    def at(index):
        return draw(kinds[index // each], seed, index % each)

    def read(index):
        file = io.BytesIO()
        Image.fromarray(at(index)[0]).save(file, "PNG", compress_level=1)
        return file.getvalue()

    number = np.arange(species_count * each, dtype=np.int32) % each
    starts = np.cumsum([0, *pictures])
    splits = {
        name: np.flatnonzero((first <= number) & (number < end)).astype(np.int32)
        for name, first, end in zip(PARTS, starts, starts[1:], strict=False)
        if first < end
    }
    # A picture in the fingerprint tells when the drawing itself has changed.
    what = (split, species_count, tuple(pictures), seed, read(0))
    return SyntheticSource(
        name=f"{NAME}_{split}",
        fingerprint=hashlib.sha256(repr(what).encode()).hexdigest()[:12],
        class_names=tuple(kind.name for kind in kinds),
        keys=tuple(f"{kind.name}_{i:03d}.png" for kind in kinds for i in range(each)),
        labels=np.repeat(np.arange(species_count, dtype=np.int32), each),
        splits=splits,
        read=read,
        mask=lambda index: at(index)[1],
    )
