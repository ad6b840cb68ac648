"""Augmentation and cropping on the device, as pure functions of keys and pixels.

    images = augment(keys, canvas, sizes, 299, rotation=30.0, hflip=True)
    images = center_crop(canvas, sizes, 299)

A batch of pictures of different sizes is a `canvas`, uint8 [N, H, W, 3], each picture
in the upper left corner, and `sizes`, int32 [N, 2], their (height, width). Each output
is one affine resampling of its picture with bilinear interpolation, however many
transformations are composed; beyond the picture its border pixels are repeated.
"""

import jax
import jax.numpy as jnp


def resample(image, size, matrix, out_size: int):
    """Resamples one picture by an affine map, bilinearly.

    Args:
      image: [H, W, 3], of which the upper left `size` is the picture.
      size: (height, width) of the picture.
      matrix: [2, 3]; takes (y, x, 1) of the output, in [-1, 1] from border to border,
        to pixels of the picture, where (0, 0) is its upper left corner.
      out_size: side of the output in pixels.

    Returns:
      float32 [out_size, out_size, 3].
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
    upper = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    lower = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return upper * (1 - fy) + lower * fy


def center_crop(canvas, sizes, out_size: int, crop: float = 1.0, hflip: bool = False):
    """Central square of `crop` times the shortest side, resampled to `out_size`.

    Returns:
      float32 [N, out_size, out_size, 3] in [0, 255].
    """

    def one(image, size):
        half = jnp.min(size) * crop / 2
        x_half = -half if hflip else half
        matrix = jnp.array([[half, 0, size[0] / 2], [0, x_half, size[1] / 2]])
        return resample(image, size, matrix, out_size)

    return jax.vmap(one)(canvas, sizes)


def _crop_box(key, size, area, ratio):
    """Centre and half size (y, x), in pixels, of a random part of a picture.

    `area` is the range of the part's share of the picture, `ratio` that of its width
    over height (log-uniform); a side that would not fit is cut to the picture's.
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


def _random_affine(key, rotation, shear, shift, zoom, hflip, vflip):
    """A random [2, 3] map of output to input coordinates, both in [-1, 1]."""
    keys = jax.random.split(key, 6)

    def uniform(key, limit, shape=()):
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

    theta = jnp.deg2rad(uniform(keys[0], rotation))
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    rotate = jnp.array([[cos, -sin], [sin, cos]])
    phi = uniform(keys[1], shear)
    lean = jnp.array([[jnp.cos(phi), 0.0], [-jnp.sin(phi), 1.0]])
    scale = 1 + uniform(keys[2], zoom, (2,))
    flips = jnp.array([vflip, hflip]) & jax.random.bernoulli(keys[3], shape=(2,))
    scale = jnp.where(flips, -scale, scale)
    # A shift of the fraction f of the side is 2 f in coordinates from -1 to 1.
    return jnp.c_[rotate @ lean @ jnp.diag(scale), 2 * uniform(keys[4], shift, (2,))]


def augment(
    keys,
    canvas,
    sizes,
    out_size: int,
    *,
    rotation: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
    zoom: float = 0.0,
    hflip: bool = False,
    vflip: bool = False,
    crop_area: tuple[float, ...] = (),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
):
    """Random square views of pictures, each drawn from a key of its own.

    The paper's set is rotation=30, shear=0.2, shift=0.2, zoom=0.2 and both flips.

    Args:
      keys: [N] random keys.
      canvas: uint8 [N, H, W, 3].
      sizes: int32 [N, 2].
      out_size: side of the output.
      rotation: largest angle in degrees, either way.
      shear: largest shear angle in radians, either way.
      shift: largest shift in each direction, as a fraction of the side.
      zoom: each side is scaled by a factor in [1 - zoom, 1 + zoom].
      hflip, vflip: mirror half of the pictures left-right, top-bottom.
      crop_area: range of the share of the picture in a random-resized crop; empty takes
        the central square.
      crop_ratio: range of the crop's width over height.

    Returns:
      float32 [N, out_size, out_size, 3] in [0, 255].
    """

    def one(key, image, size):
        key_crop, key_affine = jax.random.split(key)
        if not crop_area:
            center = size / 2
            half = jnp.full(2, jnp.min(size) / 2)
        else:
            center, half = _crop_box(key_crop, size, crop_area, crop_ratio)
        inner = _random_affine(key_affine, rotation, shear, shift, zoom, hflip, vflip)
        matrix = half[:, None] * inner
        return resample(image, size, matrix.at[:, 2].add(center), out_size)

    return jax.vmap(one)(keys, canvas, sizes)
