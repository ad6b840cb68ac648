"""Draw flowers of invented species that differ like real species.

    image, mask = draw(species("target", 3), seed=0, index=7)

A species is a set of numbers: the number of petals, their outline, colours and
markings, the disc in the middle and the leaves. The images of a species vary in
everything else: pose, size, position, light and clutter. Blades, leaves and other
blossoms lie around and in front of the flower. Many species share a colour, so a
classifier has to use the details. The mask of each image marks the pixels of the
flower.
"""

import colorsys
import dataclasses
import functools
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFilter

SIDE = 96  # side of the images in pixels
# The two splits have no species in common.
SPLITS = ("source", "target")
MAX_SPECIES = 100  # species of a split; the name parts below give 100 names
_STEMS = ("al", "be", "cor", "da", "el", "fen", "gil", "ho", "is", "jun")
_ENDINGS = {
    "source": "ria lina nola tessa vane mira wyn phora gea dris".split(),
    "target": "bella santhe lume rosa quilla zinda kara thys vora peta".split(),
}
_HUES = (0.92, 0.83, 0.74, 0.62, 0.0, 0.06, 0.13, 0.16)  # pink to yellow
_POLLEN = np.array([1.0, 0.9, 0.4], np.float32)
# The outline of a leaf. The unit of the first coordinate is the length of the leaf, the
# unit of the second coordinate is its width.
_T = np.linspace(0, 1, 9)
_BOW = np.sin(np.pi * _T**0.8) / 2
_LEAF = np.stack([np.r_[_T, _T[::-1]], np.r_[_BOW, -_BOW[::-1]]], 1)
_PETALS = (4, 5, 5, 6, 6, 7, 8, 9, 11, 13, 16)

Rgb: TypeAlias = Float[np.ndarray, "3"]
Coordinates: TypeAlias = Float32[np.ndarray, "h w"]
# (colour in [0, 1], the share of each pixel that is covered)
Layer: TypeAlias = tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]
Mask: TypeAlias = Bool[np.ndarray, "side side"]


@dataclasses.dataclass(frozen=True)
class Species:
    """The properties that all flowers of a species share.

    The unit of lengths is the radius of the flower. Colours are RGB in [0, 1].

    Attributes:
      key: integers that identify the species; they seed its images.
      name: an invented name.
      petals: the number of petals in each ring.
      rings: the number of concentric rings of petals.
      width: half the largest width of a petal.
      base, tip: the exponents of the outline at both ends of a petal, from 0.3 (round)
        to 1.5 (pointed).
      notch: the depth of the cut in the tip.
      colours: the colours of a petal's base, tip and markings.
      veins: the number of lines on each side of a petal.
      marking: the length of the marking from the middle; 0 for no marking.
      disc: the radius of the disc in the middle.
      disc_colour: the colour of the disc.
      stamens: the number of dots on the disc.
      leaf: the width of the leaves divided by their length.
    """

    key: tuple[int, ...]
    name: str
    petals: int
    rings: int
    width: float
    base: float
    tip: float
    notch: float
    colours: Float[np.ndarray, "3 3"]
    veins: int
    marking: float
    disc: float
    disc_colour: Rgb
    stamens: int
    leaf: float


def _rgb(hue: float, saturation: float, value: float) -> Rgb:
    saturation, value = min(max(saturation, 0), 1), min(max(value, 0), 1)
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


@functools.cache
def species(split: str, number: int) -> Species:
    """Return a species of a split; the same arguments always give the same species.

    Args:
      split: one of `SPLITS`.
      number: from 0 to `MAX_SPECIES` - 1.
    """
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


def _fill(colour: Rgb) -> tuple[int, ...]:
    return tuple(int(255 * c) for c in np.clip(colour, 0, 1))


def _green(rng: np.random.Generator) -> Rgb:
    return _rgb(rng.uniform(0.2, 0.42), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.65))


def _draw_leaf(
    pen: ImageDraw.ImageDraw,
    start: Float[np.ndarray, "2"],
    angle: float,
    length: float,
    width: float,
    colour: Rgb,
) -> None:
    """Draw a pointed leaf with its midrib; `width` is in units of `length`."""
    along = length * np.array([np.cos(angle), np.sin(angle)])
    across = width * np.array([-along[1], along[0]])
    outline = start + _LEAF @ np.stack([along, across])
    pen.polygon(outline.ravel().tolist(), fill=_fill(colour))
    rib = np.concatenate([start, start + 0.9 * along])
    pen.line(rib.tolist(), fill=_fill(0.75 * colour), width=3)


def _draw_blossom(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, side: float
) -> None:
    """Draw a distant flower as a ring of dots."""
    center, r = rng.uniform(0, side, 2), side * rng.uniform(0.03, 0.11)
    colour = _fill(_rgb(rng.choice(_HUES), rng.uniform(0.1, 0.9), rng.uniform(0.6, 1)))
    count, turn = rng.integers(4, 9), rng.uniform(0, 6)
    for angle in turn + 2 * np.pi / count * np.arange(count):
        x, y = center + r * np.array([np.cos(angle), np.sin(angle)])
        pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=colour)


def _draw_background(rng: np.random.Generator, side: int) -> Image.Image:
    """Draw light and shade, blurred blossoms, leaves and blades."""
    far = [_green(rng), _rgb(rng.uniform(0.05, 0.6), 0.3, rng.uniform(0.2, 0.9))]
    coarse = rng.random((4, 4, 1)) * far[0] + rng.random((4, 4, 1)) * far[1]
    image = Image.fromarray((255 * coarse.clip(0, 1)).astype(np.uint8))
    image = image.resize((side // 2, side // 2), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 8)):
        _draw_blossom(pen, rng, side / 2)
    blur = ImageFilter.GaussianBlur(side * rng.uniform(0.003, 0.015))
    image = image.filter(blur).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(6, 20)):
        start, angle = rng.uniform(-0.1, 1.1, 2) * side, rng.uniform(0, 2 * np.pi)
        length, width = side * rng.uniform(0.15, 0.6), rng.uniform(0.05, 0.5)
        _draw_leaf(pen, start, angle, length, width, _green(rng))
    return image


def _draw_petals(
    kind: Species,
    rng: np.random.Generator,
    u: Coordinates,
    v: Coordinates,
    size: float,
    turn: float,
    pixel: float,
) -> Layer:
    """Draw a ring of petals.

    Args:
      kind: the species.
      rng: the random generator.
      u, v: the coordinates of the pixels, in radii of the flower from its middle.
      size: the length of the petals, in radii.
      turn: the angle of the first petal.
      pixel: the side of a pixel in radii; edges are smooth over a pixel.
    """
    lengths, bends, shades = rng.standard_normal((3, kind.petals), np.float32)
    sector = 2 * np.pi / kind.petals
    radius, angle = np.hypot(u, v), np.arctan2(v, u) - np.float32(turn)
    nearest = np.round(angle / sector)
    neighbour = nearest + np.sign(angle / sector - nearest)
    a, b = kind.base, kind.tip
    peak = a**a * b**b / (a + b) ** (a + b)  # the maximum of x**a * (1 - x)**b
    colour, alpha = np.zeros((*u.shape, 3), np.float32), np.zeros_like(u)
    # No petal extends beyond the middle of its neighbour. The nearest petal is on top.
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
        petal_colour = kind.colours[0] + t[..., None] * (
            kind.colours[1] - kind.colours[0]
        )
        if kind.marking:
            mark = ((kind.marking - t * (1 + 0.6 * aside)) * 8).clip(0, 0.85)
            petal_colour += mark[..., None] * (kind.colours[2] - petal_colour)
        colour += covered[..., None] * (petal_colour * shade[..., None] - colour)
        alpha = np.maximum(alpha, covered)
    # Near the middle, the petals shade each other.
    return colour * (0.75 + 0.5 * radius / size).clip(0, 1)[..., None], alpha


def _draw_disc(
    kind: Species,
    rng: np.random.Generator,
    u: Coordinates,
    v: Coordinates,
    pixel: float,
) -> Layer:
    """Draw the disc in the middle of the flower; see `_draw_petals` for arguments."""
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


def _draw_flower(
    kind: Species,
    rng: np.random.Generator,
    x: Coordinates,
    y: Coordinates,
    size: float,
) -> Layer:
    """Draw the flower without its stem; x and y are in radii, `size` is in pixels."""
    lean, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(1, 1.7)
    u = np.cos(lean) * x + np.sin(lean) * y
    v = (np.cos(lean) * y - np.sin(lean) * x) * tilt  # the flower is tilted
    turn, light = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.12, 2)
    parts = [
        _draw_petals(
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
    for above, covered in (*parts[1:], _draw_disc(kind, rng, u, v, tilt / size)):
        colour += covered[..., None] * (above - colour)
        alpha = np.maximum(alpha, covered)
    return colour * (1 + light[0] * x + light[1] * y)[..., None], alpha


def draw(
    kind: Species, seed: int, index: int, side: int = SIDE
) -> tuple[UInt8[np.ndarray, "side side 3"], Mask]:
    """Draw an image of a species.

    Args:
      kind: the species, from `species`.
      seed: the seed of all images.
      index: the number of the image; each index gives another flower and background.
      side: the side of the image in pixels.

    Returns:
      (RGB image, mask of the visible pixels of the flower).
    """
    rng = np.random.default_rng((seed, *kind.key, index))
    size = side * rng.uniform(0.2, 0.42)  # radius of the flower
    center = side / 2 + (side / 2 - 0.75 * size) * rng.uniform(-1, 1, 2)

    # Background and stem have hard edges, so they are drawn at twice the size.
    image = _draw_background(rng, 2 * side)
    pen, stem = ImageDraw.Draw(image), _green(rng)
    top, foot = 2 * center, 2 * (center + side * np.array([rng.uniform(-0.3, 0.3), 1]))
    pen.line([*top, *foot], fill=_fill(stem), width=max(3, round(0.14 * size)))
    for sign in (-1, 1):
        start = top + (foot - top) * rng.uniform(0.2, 0.5)
        angle = -np.pi / 2 + sign * rng.uniform(0.5, 1.3)
        _draw_leaf(pen, start, angle, 2 * size * rng.uniform(0.8, 1.3), kind.leaf, stem)
    canvas = np.asarray(image.reduce(2), np.float32) / 255

    low = np.maximum((center - 1.2 * size).astype(int), 0)
    high = np.minimum((center + 1.2 * size).astype(int) + 1, side)
    around = slice(low[1], high[1]), slice(low[0], high[0])
    y, x = np.mgrid[around].astype(np.float32) + 0.5
    x, y = (x - center[0]) / size, (y - center[1]) / size
    flower, alpha = _draw_flower(kind, rng, x, y, size)
    shadow = 1 - 0.35 * (1.3 - np.hypot(x - 0.1, y - 0.1)).clip(0, 1)
    behind = canvas[around] * shadow[..., None]
    canvas[around] = behind + alpha[..., None] * (flower - behind)
    mask = np.zeros((side, side), np.float32)
    mask[around] = alpha

    foreground = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(foreground)
    for _ in range(rng.integers(0, 4)):
        start, angle = 2 * side * np.array([rng.random(), 1.05]), rng.normal(-1.57, 0.4)
        _draw_leaf(
            pen, start, angle, 2 * side * rng.uniform(0.4, 0.9), 0.1, _green(rng)
        )
    front = np.asarray(foreground.reduce(2), np.float32) / 255
    canvas += front[..., 3:] * (front[..., :3] - canvas)
    mask *= 1 - front[..., 3]

    canvas *= (rng.uniform(0.7, 1.15) * (1 + rng.normal(0, 0.05, 3))).astype(np.float32)
    canvas += 0.02 * rng.standard_normal(canvas.shape, np.float32)
    return (255 * canvas).clip(0, 255).astype(np.uint8), mask > 0.5
