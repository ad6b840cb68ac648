"""Augmentation and cropping on the device, as pure functions of keys and pixels.

    images = augment(keys, canvas, sizes, 299, rotation=30.0, hflip=True)
    images, targets = mix(keys, images, targets, mixup=0.2, cutmix=1.0)
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


def _half_sides(size, keep_aspect: bool):
    """Half of (height, width) of a picture's central square, or of all of it."""
    return jnp.full(2, jnp.min(size) / 2) if keep_aspect else size / 2


def center_crop(
    canvas,
    sizes,
    out_size: int,
    crop: float = 1.0,
    hflip: bool = False,
    keep_aspect: bool = True,
):
    """Central square of `crop` times the shortest side, resampled to `out_size`.

    Without `keep_aspect` it is `crop` times each side, squashed to a square.

    Returns:
      float32 [N, out_size, out_size, 3] in [0, 255].
    """

    def one(image, size):
        y_half, x_half = _half_sides(size, keep_aspect) * crop
        x_half = -x_half if hflip else x_half
        matrix = jnp.array([[y_half, 0, size[0] / 2], [0, x_half, size[1] / 2]])
        return resample(image, size, matrix, out_size)

    return jax.vmap(one)(canvas, sizes)


def crop_inside(
    canvas,
    sizes,
    centers,
    halves,
    out_size: int,
    crop: float = 1.0,
    keep_aspect: bool = True,
):
    """A square part of each picture's `center_crop`, resampled to `out_size`.

    Args:
      canvas, sizes: see the module.
      centers: float [N, 2], (y, x) in the central square, from -1 to 1.
      halves: float [N], half of the part's side; 1 is half of the whole square's.
      out_size, crop, keep_aspect: as of `center_crop`.

    Returns:
      float32 [N, out_size, out_size, 3] in [0, 255].
    """

    def one(image, size, center, half):
        whole = _half_sides(size, keep_aspect) * crop
        matrix = jnp.c_[jnp.diag(whole * half), size / 2 + whole * center]
        return resample(image, size, matrix, out_size)

    return jax.vmap(one)(canvas, sizes, centers, halves)


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


def _relight(key, image, brightness, contrast):
    """Random brightness and contrast; float32 [H, W, 3], kept in [0, 255]."""
    if not brightness and not contrast:
        return image
    factors = jax.random.uniform(key, (2,), minval=-1, maxval=1)
    image = image * (1 + brightness * factors[0])
    mean = image.mean((0, 1))
    return jnp.clip(mean + (image - mean) * (1 + contrast * factors[1]), 0, 255)


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
    brightness: float = 0.0,
    contrast: float = 0.0,
    keep_aspect: bool = True,
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
      brightness: all pixels are multiplied by a factor in [1 - brightness,
        1 + brightness].
      contrast: so are their differences from the picture's mean colour.
      keep_aspect: where `crop_area` is empty, whether the central square is taken
        rather than the whole picture, squashed to a square.

    Returns:
      float32 [N, out_size, out_size, 3] in [0, 255].
    """

    def one(key, image, size):
        key_crop, key_affine, key_light = jax.random.split(key, 3)
        if not crop_area:
            center = size / 2
            half = _half_sides(size, keep_aspect)
        else:
            center, half = _crop_box(key_crop, size, crop_area, crop_ratio)
        inner = _random_affine(key_affine, rotation, shear, shift, zoom, hflip, vflip)
        matrix = half[:, None] * inner
        view = resample(image, size, matrix.at[:, 2].add(center), out_size)
        return _relight(key_light, view, brightness, contrast)

    return jax.vmap(one)(keys, canvas, sizes)


def mix(keys, images, targets, mixup: float = 0.0, cutmix: float = 0.0):
    """Mixes each picture with the one before it in the batch, and their targets alike.

    The picture itself keeps the larger share, the larger of a and 1 - a for a drawn
    from Beta(alpha, alpha). Where both kinds are on, each picture gets one of them,
    with equal probability.

    Sources: mixup, Zhang et al. 2018, arXiv 1710.09412, equation 1; CutMix, Yun et al.
    2019, arXiv 1905.04899, equations 1 and 2.

    Args:
      keys: [N] random keys.
      images: float32 [N, H, W, 3].
      targets: float32 [N, C], distributions over the classes.
      mixup: alpha of the weighted mean of two pictures; 0 is off.
      cutmix: alpha of replacing a rectangle by the other picture's; 0 is off.

    Returns:
      images and targets of the same shapes.
    """
    if not mixup and not cutmix:
        return images, targets
    height, width = images.shape[1:3]

    def share(key, alpha):
        a = jax.random.beta(key, alpha, alpha)
        return jnp.maximum(a, 1 - a)

    def blend_weights(key):
        return jnp.full((height, width), share(key, mixup))

    def cut_weights(key):
        key_share, key_y, key_x = jax.random.split(key, 3)
        half = jnp.sqrt(1 - share(key_share, cutmix)) / 2

        def outside(key, size):
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

    own = jax.vmap(weights)(keys)[..., None]
    kept = own.mean((1, 2))

    def lerp(values, weight):
        return values * weight + jnp.roll(values, 1, axis=0) * (1 - weight)

    return lerp(images, own), lerp(targets, kept)
