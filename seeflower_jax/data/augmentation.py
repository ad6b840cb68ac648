"""Augment images on the device, as pure functions of keys and pixels.

    augmentation = Augmentation(size=224, rotation=30.0, hflip=True, cutmix=1.0)
    images = augment(keys, canvas, sizes, augmentation)
    images, targets = mix(keys, images, targets, augmentation)

`augment` is the random counterpart of `View`. It takes a batch in the same form, as
canvas and sizes, or in the packed forms of the training loaders. It composes all
transformations into one affine map and resamples each image once, with bilinear
interpolation. Beyond the border of an image, the border pixels are repeated. If the
output is much smaller than the image, `oversampling` averages several samples for each
pixel to avoid aliasing.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from seeflower_jax.data.view import Canvas

Keys = PRNGKeyArray
Pixels = UInt8[Array, "p 3"] | Float[Array, "p 3"]

# The ranges of an erased rectangle's share of the area, and of its width divided by its
# height, as in torchvision.
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
# The number of shares that mixing chooses from.
_SHARES = 4096


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Settings of random square crops and of mixing.

    The paper uses rotation=30, shear=0.2, shift=0.2, zoom=0.2 and both flips. The
    defaults take the central square and do not transform it.

    Attributes:
      size: side of the output in pixels.
      rotation: largest angle in degrees, in both directions.
      shear: largest shear angle in radians, in both directions.
      shift: largest shift in each direction, as a share of the side.
      zoom: largest change of the scale; each side has a factor in [1 - zoom, 1 + zoom].
      hflip, vflip: whether half of the images are flipped horizontally, vertically.
      crop_area: range of the area of a random-resized crop, as a share of the image
        area; () takes the central square.
      crop_ratio: range of the crop's width divided by its height.
      brightness: largest change of the brightness; pixels are multiplied by a factor in
        [1 - brightness, 1 + brightness].
      contrast: largest change of the contrast; differences from the image's mean colour
        are multiplied by a factor in [1 - contrast, 1 + contrast].
      erasing: probability that a random rectangle is erased.
      mixup: alpha of mixup, the weighted mean of two images; 0 is off.
      cutmix: alpha of CutMix, which takes a rectangle from another image; 0 is off.
      keep_aspect: how an image becomes square if `crop_area` is empty. True takes the
        central square, False squashes the whole image.
      oversampling: number of samples along each axis of a pixel, which are averaged.
    """

    size: int
    rotation: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    hflip: bool = False
    vflip: bool = False
    crop_area: tuple[float, ...] = ()
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    brightness: float = 0.0
    contrast: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    keep_aspect: bool = True
    oversampling: int = 1


def resample(
    pixels: Pixels,
    place: tuple[Int[Array, ""], Int[Array, ""] | int],
    size: Int[Array, "2"],
    matrix: Float[Array, "2 3"],
    out_size: int,
) -> Float[Array, "s s 3"]:
    """Resample an image by an affine map, with bilinear interpolation.

    Args:
      pixels: contains the pixels of the image, row after row.
      place: start of the first row of the image in `pixels`, and the distance between
        the starts of two rows, in pixels.
      size: (height, width) of the image.
      matrix: map from (y, x, 1) in the output to (y, x) in the image. The output
        extends from -1 to 1. The unit of the image is a pixel, with (0, 0) at the upper
        left.
      out_size: side of the output in pixels.
    """
    grid = (jnp.arange(out_size) + 0.5) * (2 / out_size) - 1
    y, x = grid[:, None], grid[None, :]
    limit = size.astype(jnp.float32) - 1
    # Pixel centres are at half-integers.
    y, x = (
        jnp.clip(row[0] * y + row[1] * x + row[2] - 0.5, 0, end)
        for row, end in zip(matrix, limit, strict=True)
    )
    y0, x0 = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    y1, x1 = jnp.minimum(y0 + 1, size[0] - 1), jnp.minimum(x0 + 1, size[1] - 1)
    fy, fx = (y - y0)[..., None], (x - x0)[..., None]
    start, stride = place
    row0, row1 = start + y0 * stride, start + y1 * stride
    upper = pixels[row0 + x0] * (1 - fx) + pixels[row0 + x1] * fx
    lower = pixels[row1 + x0] * (1 - fx) + pixels[row1 + x1] * fx
    return upper * (1 - fy) + lower * fy


def _pool(image: Float[Array, "h w 3"], factor: int) -> Float[Array, "s s 3"]:
    """Average squares of `factor` x `factor` pixels."""
    if factor == 1:
        return image
    side = image.shape[0] // factor
    return image.reshape(side, factor, side, factor, 3).mean((1, 3))


def _crop_box(
    key: Keys,
    size: Int[Array, "2"],
    area: tuple[float, ...],
    ratio: tuple[float, float],
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """Draw a random crop; return its centre and half its size, (y, x) in pixels.

    `area` is the range of the crop's share of the image. `ratio` is the range of the
    crop's width divided by its height, drawn log-uniformly. A side that does not fit is
    cut to the side of the image.
    """
    key_area, key_ratio, key_place = jax.random.split(key, 3)
    size = size.astype(jnp.float32)
    share = jax.random.uniform(key_area, minval=area[0], maxval=area[1])
    log_ratio = jnp.log(jnp.array(ratio))
    r = jnp.exp(jax.random.uniform(key_ratio, minval=log_ratio[0], maxval=log_ratio[1]))
    side = jnp.sqrt(share * size[0] * size[1])
    half = jnp.minimum(jnp.array([side / jnp.sqrt(r), side * jnp.sqrt(r)]), size) / 2
    center = half + jax.random.uniform(key_place, (2,)) * (size - 2 * half)
    return center, half


def _random_affine(key: Keys, augmentation: Augmentation) -> Float[Array, "2 3"]:
    """Draw a random map from output to input coordinates, both in [-1, 1]."""
    keys = jax.random.split(key, 6)

    def uniform(key, limit, shape=()):
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

    theta = jnp.deg2rad(uniform(keys[0], augmentation.rotation))
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    rotate = jnp.array([[cos, -sin], [sin, cos]])
    phi = uniform(keys[1], augmentation.shear)
    lean = jnp.array([[jnp.cos(phi), 0.0], [-jnp.sin(phi), 1.0]])
    scale = 1 + uniform(keys[2], augmentation.zoom, (2,))
    flips = jnp.array([augmentation.vflip, augmentation.hflip])
    flips &= jax.random.bernoulli(keys[3], shape=(2,))
    scale = jnp.where(flips, -scale, scale)
    # Coordinates from -1 to 1 have a side of 2.
    shift = 2 * uniform(keys[4], augmentation.shift, (2,))
    return jnp.c_[rotate @ lean @ jnp.diag(scale), shift]


def _relight(
    key: Keys, image: Float[Array, "h w 3"], augmentation: Augmentation
) -> Float[Array, "h w 3"]:
    """Change brightness and contrast randomly, within [0, 255]."""
    if not augmentation.brightness and not augmentation.contrast:
        return image
    factors = jax.random.uniform(key, (2,), minval=-1, maxval=1)
    image = image * (1 + augmentation.brightness * factors[0])
    mean = image.mean((0, 1))
    contrast = 1 + augmentation.contrast * factors[1]
    return jnp.clip(mean + (image - mean) * contrast, 0, 255)


def _erase(
    key: Keys, image: Float[Array, "s s 3"], probability: float
) -> Float[Array, "s s 3"]:
    """Replace a random rectangle by the mean colour of the image.

    Source: random erasing, Zhong et al. 2017, arXiv 1708.04896, algorithm 1.
    """
    if not probability:
        return image
    key_erase, key_box = jax.random.split(key)
    side = image.shape[0]
    center, half = _crop_box(key_box, jnp.full(2, side), _ERASED_AREA, _ERASED_RATIO)
    inside = jnp.abs(jnp.arange(side)[:, None] + 0.5 - center) < half
    erased = (
        inside[:, :1]
        & inside[None, :, 1]
        & jax.random.bernoulli(key_erase, probability)
    )
    return jnp.where(erased[..., None], image.mean((0, 1)), image)


def augment(
    keys: Keys,
    pixels: Canvas | UInt8[Array, "n a 3"] | Pixels,
    sizes: Int[Array, "n 2"],
    augmentation: Augmentation,
    starts: Int[Array, " n"] | None = None,
) -> Float[Array, "n s s 3"]:
    """Return a random square crop of each image, with values in [0, 255].

    Args:
      keys: [n] random keys; each output depends only on the key of its image.
      pixels: the images in one of three forms, which give the same crops. [n, h, w, 3]
        is a canvas, as `View` takes it. [n, a, 3] has the pixels of each image, row
        after row, at the start of its a pixels. [p, 3] has the pixels of all images,
        row after row, and needs `starts`.
      sizes: (height, width) of each image.
      augmentation: settings of the crops; only `mix` uses `mixup` and `cutmix`.
      starts: the first pixel of each image in [p, 3].
    """
    samples = augmentation.size * augmentation.oversampling
    stride = pixels.shape[2] if pixels.ndim == 4 else None
    shared = starts is not None
    if not shared:
        pixels = pixels.reshape(len(pixels), -1, 3)
        starts = jnp.zeros(len(pixels), jnp.int32)

    def one(key, image, start, size):
        # Folding 1 into the key would give the second of these keys again.
        key_crop, key_affine, key_light, key_erase = jax.random.split(key, 4)
        if augmentation.crop_area:
            center, half = _crop_box(
                key_crop, size, augmentation.crop_area, augmentation.crop_ratio
            )
        else:
            sides = jnp.full(2, jnp.min(size)) if augmentation.keep_aspect else size
            center, half = size / 2, sides / 2
        matrix = half[:, None] * _random_affine(key_affine, augmentation)
        matrix = matrix.at[:, 2].add(center)
        view = resample(image, (start, stride or size[1]), size, matrix, samples)
        view = _pool(view, augmentation.oversampling)
        view = _relight(key_light, view, augmentation)
        return _erase(key_erase, view, augmentation.erasing)

    return jax.vmap(one, (0, None if shared else 0, 0, 0))(keys, pixels, starts, sizes)


@functools.cache
def _larger_shares(alpha: float) -> np.ndarray:
    """Return quantiles of max(a, 1 - a), with a drawn from Beta(alpha, alpha)."""
    chances = (np.arange(_SHARES) + 0.5) / _SHARES
    shares = scipy.special.betaincinv(alpha, alpha, (1 + chances) / 2)
    return shares.astype(np.float32)


def mix(
    keys: Keys,
    images: Float[Array, "n h w 3"],
    targets: Float[Array, "n c"],
    augmentation: Augmentation,
) -> tuple[Float[Array, "n h w 3"], Float[Array, "n c"]]:
    """Mix each image, and its target, with the previous image of the batch.

    Each image keeps the larger of the shares a and 1 - a, with a drawn from Beta(alpha,
    alpha), one of 4,096 equally likely quantiles. If mixup and CutMix are both on, each
    image gets one of them, with equal probability.

    Source: mixup, Zhang et al. 2018, arXiv 1710.09412, equation 1; CutMix, Yun et al.
    2019, arXiv 1905.04899, equations 1 and 2.

    Args:
      keys: [n] random keys.
      images: values in [0, 255].
      targets: distributions over the classes.
      augmentation: settings; only `mixup` and `cutmix` are used.
    """
    mixup, cutmix = augmentation.mixup, augmentation.cutmix
    if not mixup and not cutmix:
        return images, targets
    height, width = images.shape[1:3]

    def share(key, alpha):
        # `jax.random.beta` draws in a loop, in which several devices would wait for
        # each other.
        place = jax.random.randint(key, (), 0, _SHARES)
        return jnp.asarray(_larger_shares(alpha))[place]

    def blend_weights(key):
        return jnp.full((height, width), share(key, mixup))

    def cut_weights(key):
        key_share, key_y, key_x = jax.random.split(key, 3)
        half = jnp.sqrt(1 - share(key_share, cutmix)) / 2

        def outside(key: Keys, size: int) -> Bool[Array, " size"]:
            center = jax.random.uniform(key)
            return jnp.abs((jnp.arange(size) + 0.5) / size - center) > half

        rows, columns = outside(key_y, height), outside(key_x, width)
        return (rows[:, None] | columns[None, :]).astype(jnp.float32)

    def weights(key):
        key_kind, key = jax.random.split(key)
        if not cutmix:
            return blend_weights(key)
        if not mixup:
            return cut_weights(key)
        cut = jax.random.bernoulli(key_kind)
        return jnp.where(cut, cut_weights(key), blend_weights(key))

    weight_maps = jax.vmap(weights)(keys)[..., None]
    shares = weight_maps.mean((1, 2))

    def lerp(values, weight):
        return values * weight + jnp.roll(values, 1, axis=0) * (1 - weight)

    return lerp(images, weight_maps), lerp(targets, shares)
