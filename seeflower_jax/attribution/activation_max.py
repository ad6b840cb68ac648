"""Class activation maximisation: images that maximise the score of a class.

    plain = maximise(network, jnp.array([5, 7]), jax.random.key(0), PLAIN, size=224)
    robust = maximise(network, jnp.array([5, 7]), jax.random.key(0), ROBUST, size=224)
    robust.images     # float32 [2, 224, 224, 3] in [0, 255]

    natural = statistics(moments(network(photos)[1]))
    robust = maximise(..., ROBUST, size=224, natural=natural)

One loop optimises all classes. No image influences another.

Sources:
- The objective is argmax over I of S_c(I) - lambda |I|^2: Simonyan et al. 2014, arXiv
  1312.6034, section 2. The See-Flower paper describes it in section 3.2.
- The robust form follows Olah et al. 2017, Feature Visualization, Distill, doi
  10.23915/distill.00007. It optimises Fourier coefficients of decorrelated colours, and
  transforms the image randomly inside the differentiated function.
- The statistics of features follow Yin et al. 2020, arXiv 1912.08795, equation 4. This
  module computes them for each image, in units of their standard deviation over
  photographs. With these statistics, other networks recognise the class too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from seeflower_jax.attribution import layers
from seeflower_jax.attribution.noise import as_threefry
from seeflower_jax.attribution.targets import score
from seeflower_jax.attribution.types import (
    Endpoints,
    EndpointShapes,
    NetworkFunction,
    Taps,
)
from seeflower_jax.data.augmentation import Augmentation, augment
from seeflower_jax.models.dtypes import as_float

# Square root of the covariance of ImageNet's colours (Olah et al. 2017). The columns
# are brightness, blue-yellow and green-purple.
_COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])

# Means and standard deviations of the c channels of each layer: {layer: [N, 2 c]}.
Moments = Mapping[str, Float[Array, "n 2*c"]]

# Mean and standard deviation of photographs' moments: {layer: (mean, deviation)}.
NaturalStatistics = Mapping[str, tuple[Float[Array, "2*c"], Float[Array, "2*c"]]]

# Pixels [size, size, 3], or real and imaginary parts of Fourier coefficients.
ImageVariables = Float[Array, "size size 3"] | Float[Array, "2 size f 3"]


@dataclasses.dataclass(frozen=True)
class Form:
    """How an image is parametrised and regularised.

    Attributes:
      fourier: whether the variables are Fourier coefficients of decorrelated colours,
        bounded by a sigmoid. If not, they are pixels, which each step projects to the
        range of the image.
      learning_rate: learning rate of Adam, in units of the variables.
      final_rate: learning rate at the end of the cosine schedule, as a share of
        `learning_rate`.
      spectrum: exponent p. Each coefficient is scaled by 1 / frequency^p. Natural
        images have p = 1; a larger p gives smoother images.
      objective: "logit" maximises the class logit; "log_odds" maximises the logit minus
        the log-sum-exp of all other logits, which suppresses features shared with
        similar classes.
      naturalness: weight of `unnaturalness`; needs natural statistics.
      feature_noise: standard deviation of random noise that is added to feature maps,
        as a share of the standard deviation within photographs' feature maps; needs
        natural statistics. Features that survive the noise are also visible to other
        networks. Only feature maps with at most an eighth of the image's side get
        noise. In larger ones, the noise would hide the edges.
      l2: lambda, the weight of the mean square of the pixels, scaled to [-1, 1] with
        grey at 0.
      total_variation: weight of the mean absolute difference of neighbouring pixels.
      rotation: largest random rotation in degrees.
      zoom: largest random change of size, as a share.
      shift: largest random shift, as a share of the side.
    """

    fourier: bool
    learning_rate: float
    final_rate: float = 1.0
    spectrum: float = 1.0
    objective: Literal["logit", "log_odds"] = "logit"
    naturalness: float = 0.0
    feature_noise: float = 0.0
    l2: float = 0.0
    total_variation: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0

    def __post_init__(self):
        if self.objective not in ("logit", "log_odds"):
            raise ValueError(
                f"objective is {self.objective!r}; expected 'logit' or 'log_odds'"
            )


PLAIN = Form(fourier=False, learning_rate=0.05, l2=1.0)
ROBUST = Form(
    fourier=True,
    learning_rate=0.15,
    final_rate=0.1,
    spectrum=2.0,
    objective="log_odds",
    naturalness=3.0,
    feature_noise=0.3,
    rotation=20.0,
    zoom=0.4,
    shift=0.06,
)
FORMS = {"plain": PLAIN, "robust": ROBUST}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Maximised:
    """The result of `maximise` for K classes.

    Attributes:
      images: the optimised images, in [0, 255].
      curves: the score of the transformed image at each step.
      scores: the score of the final image.
    """

    images: Float[Array, "k size size 3"]
    curves: Float[Array, "steps k"]
    scores: Float[Array, "k"]


def _frequencies(size: int) -> Float[np.ndarray, "size size//2+1"]:
    """Return the frequencies of a real Fourier transform, in cycles per pixel."""
    return np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])


def _initial_variables(key: PRNGKeyArray, size: int, form: Form) -> ImageVariables:
    """Return variables of one nearly grey image."""
    if not form.fourier:
        return jnp.zeros((size, size, 3))
    return 0.01 * jax.random.normal(key, (2, size, size // 2 + 1, 3))


def to_image(
    variables: ImageVariables, size: int, form: Form
) -> Float[Array, "size size 3"]:
    """Return the image, in [0, 255], that the variables of a form describe.

    Variables that are pixels must lie in [-1, 1], as `maximise` keeps them.
    """
    if not form.fourier:
        return 127.5 * (1 + variables)
    cycles = np.maximum(_frequencies(size) * size, 1)  # per image
    scale = size**1.5 / cycles**form.spectrum
    spectrum = (variables[0] + 1j * variables[1]) * scale[..., None]
    decorrelated = jnp.fft.irfft2(spectrum, (size, size), axes=(0, 1))
    colours = _COLOURS / np.linalg.norm(_COLOURS, axis=0).max()
    return 255 * jax.nn.sigmoid(4 * decorrelated @ colours.T.astype(np.float32))


def moments(endpoints: Endpoints) -> dict[str, Float[Array, "n 2*c"]]:
    """Compute the mean and standard deviation of each channel of each spatial layer.

    Args:
      endpoints: endpoints of images. Endpoints without a spatial extent are ignored.

    Example:
      >>> moments({"layer": jnp.ones((2, 4, 4, 8)), "pooled": jnp.ones((2, 8))}).keys()
      dict_keys(['layer'])
    """
    moments_by_layer = {}
    for name in layers.spatial_layers(endpoints):
        values = as_float(endpoints[name])
        deviation = jnp.sqrt(values.var((1, 2)) + 1e-4)
        moments_by_layer[name] = jnp.concatenate([values.mean((1, 2)), deviation], -1)
    return moments_by_layer


def statistics(
    photo_moments: Moments,
) -> dict[str, tuple[Float[Array, "2*c"], Float[Array, "2*c"]]]:
    """Compute the mean and standard deviation of photographs' moments.

    Args:
      photo_moments: `moments` of photographs.

    Returns:
      {layer: (mean, standard deviation)} over the photographs.
    """
    statistics_by_layer = {}
    for name, values in photo_moments.items():
        deviation = values.std(0).reshape(2, -1)  # of means, of deviations
        # Without this limit, channels that hardly vary would outweigh all others.
        least = 0.1 * deviation.mean(-1, keepdims=True) + 1e-6
        limited = jnp.maximum(deviation, least).reshape(-1)
        statistics_by_layer[name] = values.mean(0), limited
    return statistics_by_layer


def unnaturalness(
    endpoints: Endpoints, natural: NaturalStatistics
) -> Float[Array, "n"]:
    """Compute the mean square distance of images' moments from photographs' moments.

    The unit is the photographs' variance. Photographs therefore have a value of 1 on
    average.

    Source: Yin et al. 2020, arXiv 1912.08795, equation 4, computed for each image.

    Args:
      endpoints: endpoints of the images.
      natural: `statistics` of photographs.
    """
    moments_by_layer = moments(endpoints)
    total: Array | float = 0.0
    for name, (mean, deviation) in natural.items():
        total += (((moments_by_layer[name] - mean) / deviation) ** 2).mean(-1)
    return jnp.asarray(total / len(natural))


def _feature_noise(
    keys: Key[Array, "k"],
    size: int,
    shapes: EndpointShapes,
    natural: NaturalStatistics,
    share: float,
) -> Taps:
    """Return taps with independent noise for each image.

    Args:
      keys: one random key per image.
      size: side of the images.
      shapes: shapes of the endpoints.
      natural: `statistics` of photographs.
      share: `Form.feature_noise`.
    """
    taps = {}
    for index, (name, (mean, _)) in enumerate(natural.items()):
        shape = shapes[name].shape[1:]
        if shape[0] > size / 8:
            continue
        draw = jax.vmap(lambda k, s=shape: jax.random.normal(k, s))
        noise = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, index))
        # The second half of the moments holds the standard deviations.
        taps[name] = share * mean[shape[-1] :] * noise
    return taps


def _transform(
    keys: Key[Array, "k"], images: Float[Array, "k size size 3"], form: Form
) -> Float[Array, "k size size 3"]:
    """Return images after the random rotation, zoom and shift of a form."""
    if not (form.rotation or form.zoom or form.shift):
        return images
    size = images.shape[1]
    sizes = jnp.full((len(images), 2), size)
    augmentation = Augmentation(
        size=size, rotation=form.rotation, zoom=form.zoom, shift=form.shift
    )
    return augment(keys, images, sizes, augmentation)


def _penalty(images: Float[Array, "k size size 3"], form: Form) -> Float[Array, "k"]:
    """Return the weighted penalties of the pixels, which the loss adds."""
    unit = images / 127.5 - 1
    total = form.l2 * (unit**2).mean((1, 2, 3))
    if form.total_variation:
        down, right = jnp.diff(unit, axis=1), jnp.diff(unit, axis=2)
        variation = jnp.abs(down).mean((1, 2, 3)) + jnp.abs(right).mean((1, 2, 3))
        total += form.total_variation * variation
    return total


def _losses(
    network: NetworkFunction,
    images: Float[Array, "k size size 3"],
    classes: Int[Array, "k"],
    keys: Key[Array, "k"],
    form: Form,
    natural: NaturalStatistics | None,
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Return the loss and the score of each image under random transformations."""
    transformed = _transform(keys, images, form)
    taps = None
    if form.feature_noise and natural is not None:
        shapes = jax.eval_shape(network, transformed)[1]
        size = images.shape[1]
        taps = _feature_noise(keys, size, shapes, natural, form.feature_noise)
    logits, endpoints = network(transformed, taps)
    logits = as_float(logits)
    scores = score(logits, classes)
    penalty = _penalty(images, form)
    if form.naturalness and natural is not None:
        penalty += form.naturalness * unnaturalness(endpoints, natural)
    if form.objective == "log_odds":
        if logits.shape[-1] == 1:
            raise ValueError(
                "the network has one logit, so a class has no odds against others; use "
                "a form whose objective is 'logit', such as PLAIN"
            )
        is_target = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
        penalty += jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, logits), -1)
    return penalty - scores, scores


def maximise(
    network: NetworkFunction,
    classes: Int[Array, "k"],
    key: PRNGKeyArray,
    form: Form = ROBUST,
    *,
    size: int,
    steps: int = 256,
    natural: NaturalStatistics | None = None,
    on_step: Callable[[Int[Array, ""]], None] | None = None,
) -> Maximised:
    """Optimise one image for each class.

    The caller may jit the function. An image does not depend on the other classes.

    Args:
      network: see `seeflower_jax.attribution`.
      classes: class indices.
      key: random key of the initial images and of the transformations.
      form: `PLAIN`, `ROBUST` or another form.
      size: side of the images in pixels.
      steps: number of steps of Adam.
      natural: `statistics` of photographs of the same size. With None,
        `form.naturalness` and `form.feature_noise` have no effect.
      on_step: called with the index of each finished step, for a progress bar.

    Raises:
      ValueError: the network has one logit, and the objective of the form needs others.

    Example:
      >>> result = maximise(
      ...     network, jnp.array([2, 0]), jax.random.key(0), PLAIN, size=64, steps=2)
      >>> result.images.shape, result.curves.shape
      ((2, 64, 64, 3), (2, 2))
    """
    initial_key, steps_key = jax.random.split(as_threefry(key))

    def class_keys(key):
        return jax.vmap(jax.random.fold_in, (None, 0))(key, classes)

    def to_images(variables):
        return jax.vmap(lambda v: to_image(v, size, form))(variables)

    def total_loss(variables, step_key):
        images, keys = to_images(variables), class_keys(step_key)
        losses, scores = _losses(network, images, classes, keys, form, natural)
        return losses.sum(), scores

    schedule = optax.cosine_decay_schedule(form.learning_rate, steps, form.final_rate)
    optimizer = optax.adam(schedule)

    def update(state, step):
        variables, optimizer_state = state
        step_key = jax.random.fold_in(steps_key, step)
        gradients, scores = jax.grad(total_loss, has_aux=True)(variables, step_key)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state)
        if on_step:
            jax.debug.callback(on_step, step)
        variables = optax.apply_updates(variables, updates)
        if not form.fourier:  # projected: a pixel out of range would have no gradient
            variables = jnp.clip(variables, -1, 1)
        return (variables, optimizer_state), scores

    initialise = jax.vmap(lambda k: _initial_variables(k, size, form))
    variables = initialise(class_keys(initial_key))
    state = variables, optimizer.init(variables)
    (variables, _), curves = jax.lax.scan(update, state, jnp.arange(steps))
    images = to_images(variables)
    return Maximised(images, curves, score(network(images)[0], classes))
