"""Class activation maximisation: a picture that a class's score is largest for.

    plain = maximise(network, jnp.array([5, 7]), jax.random.key(0), PLAIN, size=224)
    robust = maximise(network, jnp.array([5, 7]), jax.random.key(0), ROBUST, size=224)
    robust.images     # float32 [2, 224, 224, 3] in [0, 255]

    natural = statistics(moments(network(photos)[1]))
    robust = maximise(..., ROBUST, size=224, natural=natural)

All classes are optimised in one loop; no picture influences another.

Sources: the objective, Simonyan et al. 2014, arXiv 1312.6034, section 2 (the paper's
section 3.2), argmax over I of S_c(I) - lambda |I|^2; the robust form, Olah et al. 2017,
Feature Visualization, Distill, doi 10.23915/distill.00007: Fourier coefficients of
decorrelated colours, with random transformations of the picture inside the
differentiated function; and, so that other networks see the class too, the statistics
of features, Yin et al. 2020, arXiv 1912.08795, equation 4, here of each picture and by
how much photographs differ in them.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seeflower_jax.attribution import cam
from seeflower_jax.attribution.targets import score
from seeflower_jax.data import augment

# Columns: how brightness, blue-yellow and green-purple vary in natural pictures, as
# square root of the covariance of ImageNet's colours (Olah et al. 2017).
_COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])


@dataclasses.dataclass(frozen=True)
class Form:
    """How a picture is written and held together.

    Attributes:
      fourier: whether the variables are Fourier coefficients of decorrelated colours,
        bounded by a sigmoid, instead of pixels.
      learning_rate: of Adam, in units of the variables.
      final_rate: share of the learning rate that is left at the end, along a cosine.
      spectrum: exponent p of the amplitudes 1 / frequency^p that equal coefficients
        have; natural pictures have 1, more is smoother.
      odds: whether the objective is the logarithm of the class's odds, its logit less
        the others' together, and not the logit, which similar classes share.
      naturalness: weight of `unnaturalness`, where natural statistics are given.
      feature_noise: of random noise that is added to the maps of layers, as a share of
        how much photographs' maps vary, where natural statistics are given; what a
        network then still sees, others see too. Only to maps with at most an eighth of
        the picture's side: in larger ones it drowns the edges.
      l2: lambda, on the mean square of the pixels' difference from grey, in [-1, 1].
      total_variation: weight of the mean absolute difference of neighbouring pixels.
      rotation: largest random rotation in degrees.
      zoom: largest random change of size, as a share.
      shift: largest random shift, as a share of the side.
    """

    fourier: bool
    learning_rate: float
    final_rate: float = 1.0
    spectrum: float = 1.0
    odds: bool = False
    naturalness: float = 0.0
    feature_noise: float = 0.0
    l2: float = 0.0
    total_variation: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0


PLAIN = Form(fourier=False, learning_rate=0.05, l2=1.0)
ROBUST = Form(
    fourier=True,
    learning_rate=0.15,
    final_rate=0.1,
    spectrum=2.0,
    odds=True,
    naturalness=3.0,
    feature_noise=0.3,
    rotation=20.0,
    zoom=0.4,
    shift=0.06,
)
FORMS = {"plain": PLAIN, "robust": ROBUST}


@dataclasses.dataclass(frozen=True)
class Maximised:
    """What `maximise` gives.

    Attributes:
      images: float32 [K, size, size, 3] in [0, 255].
      curves: float32 [steps, K], the score at each step, of the transformed picture.
      scores: float32 [K], of the picture as it is.
    """

    images: jax.Array
    curves: jax.Array
    scores: jax.Array


def _frequencies(size: int) -> np.ndarray:
    """Cycles per pixel of a real transform's coefficients, [size, size // 2 + 1]."""
    return np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])


def _start(key, size: int, form: Form):
    """Initial variables of one picture: nearly grey."""
    if not form.fourier:
        return jnp.zeros((size, size, 3))
    return 0.01 * jax.random.normal(key, (2, size, size // 2 + 1, 3))


def to_image(variables, size: int, form: Form):
    """The picture [size, size, 3] in [0, 255] of its variables."""
    if not form.fourier:
        return jnp.clip(127.5 * (1 + variables), 0, 255)
    cycles = np.maximum(_frequencies(size) * size, 1)  # of the picture
    scale = size**1.5 / cycles**form.spectrum
    spectrum = (variables[0] + 1j * variables[1]) * scale[..., None]
    decorrelated = jnp.fft.irfft2(spectrum, (size, size), axes=(0, 1))
    colours = _COLOURS / np.linalg.norm(_COLOURS, axis=0).max()
    return 255 * jax.nn.sigmoid(4 * decorrelated @ colours.T.astype(np.float32))


def moments(endpoints: dict) -> dict[str, jax.Array]:
    """Mean and standard deviation of each channel of each layer that has a map.

    Args:
      endpoints: {name: [N, h, w, C]}, and others.

    Returns:
      {name: float32 [N, 2 C]}.
    """
    found = {}
    for name in cam.spatial_layers(endpoints):
        values = endpoints[name].astype(jnp.float32)
        deviation = jnp.sqrt(values.var((1, 2)) + 1e-4)
        found[name] = jnp.concatenate([values.mean((1, 2)), deviation], -1)
    return found


def statistics(found: dict[str, jax.Array]) -> dict[str, tuple[jax.Array, jax.Array]]:
    """How `moments` of photographs spread, {name: (mean, deviation)}, [2 C] each."""
    spread = {}
    for name, values in found.items():
        deviation = values.std(0).reshape(2, -1)  # of means, of deviations
        # Channels that hardly vary would otherwise outweigh all others.
        least = 0.1 * deviation.mean(-1, keepdims=True) + 1e-6
        spread[name] = values.mean(0), np.maximum(deviation, least).reshape(-1)
    return spread


def unnaturalness(endpoints: dict, natural: dict) -> jax.Array:
    """Mean square of how far pictures' moments are from those of photographs, [N].

    It is in units of the photographs' deviation, and so 1 on average for themselves.

    Args:
      endpoints: of the pictures.
      natural: of `statistics`.
    """
    found = moments(endpoints)
    total = 0.0
    for name, (mean, deviation) in natural.items():
        total += (((found[name] - mean) / deviation) ** 2).mean(-1)
    return total / len(natural)


def _feature_noise(keys, size: int, shapes: dict, natural: dict, share: float) -> dict:
    """Taps with noise for each picture, {name: [N, h, w, C]}.

    Args:
      keys: one for each picture.
      size: side of the pictures.
      shapes: of the endpoints.
      natural: of `statistics`.
      share: `Form.feature_noise`.
    """
    taps = {}
    for place, (name, (mean, _)) in enumerate(natural.items()):
        shape = shapes[name].shape[1:]
        if shape[0] > size / 8:
            continue
        draw = jax.vmap(lambda k, s=shape: jax.random.normal(k, s))
        noise = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, place))
        taps[name] = share * mean[shape[-1] :] * noise
    return taps


def _penalty(images, form: Form):
    """What is subtracted from the scores, [K]."""
    unit = images / 127.5 - 1
    total = form.l2 * (unit**2).mean((1, 2, 3))
    if form.total_variation:
        down, right = jnp.diff(unit, axis=1), jnp.diff(unit, axis=2)
        variation = jnp.abs(down).mean((1, 2, 3)) + jnp.abs(right).mean((1, 2, 3))
        total += form.total_variation * variation
    return total


def maximise(
    network: Callable,
    classes: jax.Array,
    key: jax.Array,
    form: Form = ROBUST,
    *,
    size: int,
    steps: int = 256,
    natural: dict | None = None,
    on_step: Callable | None = None,
) -> Maximised:
    """Optimises a picture for each class; to be jitted by the caller.

    Args:
      network: (images) -> (logits, endpoints), variables bound.
      classes: class indices [K].
      key: of the start and of the transformations.
      form: `PLAIN`, `ROBUST` or another.
      size: side of the pictures.
      steps: of Adam.
      natural: of `statistics`, of photographs of the same size; None leaves
        `form.naturalness` and `form.feature_noise` aside.
      on_step: called with the index of each step that is done, for a progress bar.
    """
    count = len(classes)
    key_start, key_steps = jax.random.split(key)

    def keys(key):
        """One per class, so that a picture does not depend on the others."""
        return jax.vmap(jax.random.fold_in, (None, 0))(key, classes)

    def images_of(variables):
        return jax.vmap(lambda v: to_image(v, size, form))(variables)

    def objective(variables, key):
        images = images_of(variables)
        seen, taps = images, None
        drawn = keys(key)
        if form.rotation or form.zoom or form.shift:
            sizes = jnp.full((count, 2), size)
            seen = augment.augment(
                drawn,
                images,
                sizes,
                size,
                rotation=form.rotation,
                zoom=form.zoom,
                shift=form.shift,
            )
        if form.feature_noise and natural is not None:
            shapes = jax.eval_shape(network, seen)[1]
            taps = _feature_noise(drawn, size, shapes, natural, form.feature_noise)
        logits, endpoints = network(seen, taps)
        scores = score(logits, classes)
        penalty = _penalty(images, form)
        if form.naturalness and natural is not None:
            penalty += form.naturalness * unnaturalness(endpoints, natural)
        if form.odds:
            own = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
            penalty += jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), -1)
        return (penalty - scores).sum(), scores

    optimizer = optax.adam(
        optax.cosine_decay_schedule(form.learning_rate, steps, form.final_rate)
    )

    def update(state, step):
        variables, moments = state
        gradients, scores = jax.grad(objective, has_aux=True)(
            variables, jax.random.fold_in(key_steps, step)
        )
        updates, moments = optimizer.update(gradients, moments)
        if on_step:
            jax.debug.callback(on_step, step)
        return (optax.apply_updates(variables, updates), moments), scores

    variables = jax.vmap(lambda k: _start(k, size, form))(keys(key_start))
    (variables, _), curves = jax.lax.scan(
        update, (variables, optimizer.init(variables)), jnp.arange(steps)
    )
    images = images_of(variables)
    return Maximised(images, curves, score(network(images)[0], classes))


jax.tree_util.register_dataclass(Maximised)
