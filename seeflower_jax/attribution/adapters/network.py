"""The network function that all adapters return.

Example:
    network = attr.from_linen(module, variables, preprocess=lambda x: x / 255)
    logits, endpoints = network(images)
    network.layers      # {"conv1": (32, 32, 16), ...}, in the order of the computation
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from seeflower_jax.attribution.adapters import named
from seeflower_jax.attribution.adapters.taps import run
from seeflower_jax.attribution.types import (
    Endpoints,
    NetworkFunction,
    Preprocess,
    Taps,
    endpoint_shapes,
)
from seeflower_jax.models.dtypes import as_float


def layer_shapes(
    network: NetworkFunction, images: Float[jax.ShapeDtypeStruct, "n h w 3"]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the endpoints of one image, without computing them.

    Example:
      >>> network = lambda images, taps=None: (images[:, 0, 0], {"input": images})
      >>> layer_shapes(network, images)
      {'input': (64, 64, 3)}
    """
    endpoints = endpoint_shapes(network, images)
    return {name: value.shape[1:] for name, value in endpoints.items()}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["variables"],
    meta_fields=["forward", "preprocess", "output", "channels_first", "single"],
    drop_fields=["input_shape"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class AdaptedNetwork:
    """A network of another framework as a network function.

    The variables are leaves of a pytree. If the network is an argument of a jitted
    function, XLA does not compile the variables into the program.

    Attributes:
      forward: maps the variables and preprocessed images to the network's outputs. Its
        named values become the endpoints, see `adapters.taps`.
      variables: a pytree of arrays.
      preprocess: maps float images [n, h, w, 3] in [0, 255] to the network's inputs.
        The default leaves images as they are.
      output: selects the logits [n, c] from the network's outputs, as in `lambda y:
        y["logits"]`.
      channels_first: whether the network takes images as [n, 3, h, w]. All endpoints
        with four axes are then moved from [n, c, h, w] to [n, h, w, c].
      single: whether `forward` takes one image and returns the logits of one image.
      input_shape: (height, width, channels) of an image. It is needed for `layers`
        only. The default is the shape of the first images that the network sees
        outside of `jit`.

    Example:
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> pool = lambda x: checkpoint_name(x.mean((1, 2)), "pool")
      >>> forward = lambda variables, x: {"logits": pool(x) @ variables}
      >>> network = AdaptedNetwork(forward, jnp.eye(3), output=lambda y: y["logits"])
      >>> logits, endpoints = network(images)
      >>> endpoints["pool"].shape == logits.shape == (len(images), 3)
      True
      >>> network.layers
      {'pool': (3,)}
    """

    forward: Callable[[Any, Array], Any]
    variables: Any = dataclasses.field(repr=False)
    preprocess: Preprocess | None = None
    output: Callable[[Any], Float[Array, "n c"]] | None = None
    channels_first: bool = False
    single: bool = False
    input_shape: tuple[int, int, int] | None = None

    def __call__(
        self, images: Float[Array, "n h w 3"], taps: Taps | None = None
    ) -> tuple[Float[Array, "n c"], Endpoints]:
        """Return the logits and the endpoints, see `types.NetworkFunction`.

        Raises:
          ValueError: images do not have four axes, the network does not return logits,
            or a tap has an unknown name or a wrong shape.
        """
        inputs = self._inputs(images)
        taps = self._move(taps or {}, -1, 1)

        def compute(inputs, taps):
            return run(self._logits, (self.variables, inputs), taps)

        compute = jax.vmap(compute) if self.single else compute
        logits, endpoints = compute(inputs, taps)
        return logits, self._move(endpoints, 1, -1)

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the endpoints of one image.

        Raises:
          ValueError: the shape of images is not known yet.
        """
        return layer_shapes(self, self.example())

    @property
    def hidden_layers(self) -> dict[str, str]:
        """Return {name: primitive} of the layers inside primitives, not endpoints.

        The primitive is a `cond`, a `while` loop, a long `scan` or a function with a
        custom derivative.

        Raises:
          ValueError: the shape of images is not known yet.
        """
        inputs = jax.eval_shape(self._inputs, self.example())
        if self.single:
            inputs = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
        closed = jax.make_jaxpr(self._logits)(self.variables, inputs)
        return named.hidden_names(closed.jaxpr)

    def example(self) -> Float[jax.ShapeDtypeStruct, "1 h w 3"]:
        """Return the shape of one image.

        Raises:
          ValueError: the shape of images is not known yet.
        """
        if self.input_shape is None:
            raise ValueError(
                "the layers depend on the size of images, which is not known yet; "
                "adapt the network with input_shape=(height, width, 3), or call it on "
                "images outside of jit"
            )
        return jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32)

    def _inputs(self, images: Shaped[Array, "n h w 3"]) -> Shaped[Array, "n ..."]:
        """Return the inputs of `forward` for images in [0, 255]."""
        # In-place operations of `preprocess` would change a NumPy array.
        images = jnp.asarray(images)
        if images.ndim != 4:
            raise ValueError(
                f"images have the shape {images.shape}; expected [n, h, w, 3]"
            )
        if self.input_shape is None:  # The network keeps a shape, and no values.
            object.__setattr__(self, "input_shape", images.shape[1:])
        if not jnp.issubdtype(images.dtype, jnp.floating):
            images = as_float(images)
        inputs = self.preprocess(images) if self.preprocess else images
        return jnp.moveaxis(inputs, -1, 1) if self.channels_first else inputs

    def _logits(self, variables: Any, inputs: Array) -> Float[Array, "n c"]:
        """Return the logits that `output` selects, after a check of their axes."""
        outputs = self.forward(variables, inputs)
        logits = self.output(outputs) if self.output else outputs
        if not (isinstance(logits, jax.Array) and logits.ndim == 2 - self.single):
            shapes = str(jax.tree.map(jnp.shape, logits))
            raise ValueError(
                f"the network returns {shapes if len(shapes) < 200 else type(logits)}; "
                "expected logits [n, c]; select them by the argument output, as in "
                "output=lambda y: y['logits']"
            )
        return logits

    def _move(
        self, values: Mapping[str, Array], source: int, destination: int
    ) -> Mapping[str, Array]:
        """Move the channel axis of all values that have four axes."""

        def move(value):
            return (
                jnp.moveaxis(value, source, destination) if value.ndim == 4 else value
            )

        return jax.tree.map(move, values) if self.channels_first else values
