"""The places of a layer's cells in the image, from the geometry of the network.

    rows, columns = cell_centres(network, images)["mixed10"]    # (37.0, 69.0, ...), ...

A cell of a layer reads a window of pixels, its receptive field. Along each axis, the
window of cell i is the window of cell 0, moved by i steps. Convolution, pooling,
slicing and padding change the window of cell 0 and the step in a known way. Both
therefore follow from the network's jaxpr.

Source: Araujo, Norris and Sim 2019, "Computing receptive fields of convolutional neural
networks", Distill, section 2.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
from jax.extend import core
from jaxtyping import Array, Float

from seeflower_jax.attribution import dataflow, layers
from seeflower_jax.attribution.options import check_ranges
from seeflower_jax.attribution.types import NetworkFunction, endpoint_shapes

RECEPTIVE_FIELD = "receptive_field"

# The centres of a layer's cells along one axis of the image, in pixels.
Centres = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """The pixels that the cells along one axis of an array read.

    Attributes:
      axis: the axis of the images, 1 for rows and 2 for columns.
      low, high: the first and the last pixel that cell 0 reads. The pixels may lie in
        the padding, beyond the border.
      step: pixels from a cell to the next. It is negative in a flipped image.
    """

    axis: int
    low: float
    high: float
    step: float

    def slide(self, size: int, stride: int, before: int) -> "Window":
        """Return the window of cells that each read several of these cells.

        Args:
          size: number of cells that each new cell reads.
          stride: cells between neighbouring new cells.
          before: cells of padding before cell 0.
        """
        first, last = sorted(self.step * cell for cell in (-before, size - 1 - before))
        low, high = self.low + first, self.high + last
        return Window(self.axis, low, high, self.step * stride)

    def dilate(self, factor: int) -> "Window":
        """Return the window with `factor` - 1 cells inserted between neighbours."""
        return dataclasses.replace(self, step=self.step / factor)

    def centres(self, count: int) -> Centres:
        """Return the centres of the windows of the first `count` cells, in pixels."""
        middle = (self.low + self.high) / 2
        return tuple(middle + self.step * cell for cell in range(count))


# For each axis of an array, the window of its cells, or None if it is not known.
Place = tuple[Window | None, ...]

# The place of images. The "cells" along axis 0 are the images of a batch.
PIXELS: Place = (*(Window(axis, 0, 0, 1) for axis in range(3)), None)


def cell_centres(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    align: str = RECEPTIVE_FIELD,
) -> dict[str, tuple[Centres, Centres]]:
    """Return where the cells of each layer with a spatial extent lie in the images.

    A pixel's coordinate is its index, so the centre of the first pixel is 0.

    Args:
      network, images: see `seeflower_jax.attribution`. Only the shape of the images
        counts.
      align: "receptive_field" returns the centres of the cells' receptive fields.
        "stretch" returns the centres of equal tiles that fill the image, as other
        libraries place maps. Cells after an operation that does not keep their places,
        such as a resize or a reshape to tokens, are always placed as equal tiles.

    Returns:
      {layer: (centres of the rows, centres of the columns)}. Centres may lie beyond the
      border. They descend in a layer of a flipped image.

    Raises:
      ValueError: `align` is unknown.

    Example:
      >>> cell_centres(network, images)["block5_conv3"][0]   # images of 64 x 64 pixels
      (7.5, 23.5, 39.5, 55.5)
    """
    check_ranges(align=align)
    endpoints = endpoint_shapes(network, images)
    places = _places(network, images) if align == RECEPTIVE_FIELD else {}
    centres = {}
    for name in layers.spatial_layers(endpoints):
        place = places.get(name) or (None,) * 4
        shape = endpoints[name].shape
        rows, columns = (
            axis_centres(_along(place, axis), shape[axis], images.shape[axis])
            for axis in (1, 2)
        )
        centres[name] = rows, columns
    return centres


def layer_centres(
    network: NetworkFunction,
    images: Float[Array, "n h w 3"],
    names: Collection[str],
    align: str = RECEPTIVE_FIELD,
) -> dict[str, tuple[Centres, Centres]]:
    """Return the centres of the cells of layers whose maps are placed on the images.

    Args:
      network, images, align: see `cell_centres`.
      names: names of layers with a spatial extent.

    Raises:
      ValueError: the axes of a layer are not the rows and columns of the images, but
        may be tokens and heads. That is so if the places of its cells are not known,
        and equal tiles would be at least three times as long as wide, or as wide as
        long.
    """
    centres = cell_centres(network, images, align)
    for name in names:
        sizes = zip(images.shape[1:3], map(len, centres[name]), strict=True)
        height, width = (size / cells for size, cells in sizes)
        if 1 / 3 < height / width < 3:
            continue
        place = _places(network, images).get(name)
        if place and _along(place, 1) and _along(place, 2):
            continue
        cells = [len(axis) for axis in centres[name]]
        raise ValueError(
            f"the axes of layer {name!r}, {cells[0]} by {cells[1]}, are not the rows "
            "and columns of the image; name another layer, or use tokens_to_grid for a "
            "transformer"
        )
    return {name: centres[name] for name in names}


def _along(place: Place, axis: int) -> Window | None:
    """Return the window of an axis if it is the same axis in the images."""
    window = place[axis]
    return window if window and window.axis == axis else None


def axis_centres(window: Window | None, count: int, size: int) -> Centres:
    """Return the centres of cells along an axis of the image, see `cell_centres`.

    Args:
      window: window of cell 0, or None if it is not known.
      count: number of cells.
      size: number of pixels.

    Example:
      >>> axis_centres(Window(1, 0, 3, 4), 2, 8), axis_centres(None, 2, 8)
      ((1.5, 5.5), (1.5, 5.5))
    """
    return window.centres(count) if window else tile_centres(count, size)


def tile_centres(count: int, size: int) -> Centres:
    """Return the centres of equal tiles that fill an axis of the image."""
    return tuple((cell + 0.5) * size / count - 0.5 for cell in range(count))


def _places(network: NetworkFunction, images: Array) -> dict[str, Place | None]:
    """Return the place of each endpoint."""
    closed, (_, endpoints) = jax.make_jaxpr(network, return_shape=True)(images)
    facts = dataflow.propagate(closed.jaxpr, [PIXELS], place_outputs)
    # The outputs are the logits and the endpoints, in the order of the pytree.
    numbers = jax.tree.unflatten(jax.tree.structure(endpoints), range(1, len(facts)))
    return {name: facts[number] for name, number in numbers.items()}


def _shape(atom: Any) -> tuple[int, ...]:
    """Return the shape of a variable or a literal."""
    return atom.aval.shape


def place_outputs(
    equation: core.JaxprEqn, places: Sequence[Place | None]
) -> list[Place | None]:
    """Return the places of the outputs of a primitive.

    Args:
      equation: the primitive.
      places: places of its inputs, None for a constant.

    Example:
      >>> (equation,) = jax.make_jaxpr(lambda x: x[:, ::2])(images).eqns
      >>> place_outputs(equation, [PIXELS])[0][1].step
      2
    """
    rule: Callable[..., Place | None] | None = _RULES.get(equation.primitive.name)
    if rule is None and "windows" in equation.params:
        rule = _slide_windows  # the primitives of `seeflower_jax.models`
    if rule is None and equation.primitive.name.startswith("reduce_window"):
        rule = _reduce_window
    if rule is None and "axes" in equation.params:
        rule = _reduce
    if rule:
        knows = places[0] or rule is _multiply_matrices
        place = rule(equation, *places) if knows else None
        return [place] * len(equation.outvars)
    return [_keep(equation, places, _shape(out)) for out in equation.outvars]


def _keep(
    equation: core.JaxprEqn, places: Sequence[Place | None], shape: tuple[int, ...]
) -> Place:
    """Return the place of an output if each cell reads the same cell of all inputs.

    If the size of an axis differs from the output's, its window is not known. So this
    is correct for elementwise primitives, concatenation and loops over layers.
    """
    inputs = [
        (place, _shape(atom))
        for place, atom in zip(places, equation.invars, strict=True)
        if place and len(place) == len(shape)
    ]
    return tuple(
        _merge(place[axis] for place, sizes in inputs if sizes[axis] == shape[axis])
        for axis in range(len(shape))
    )


def _merge(windows: Iterable[Window | None]) -> Window | None:
    """Return the window that holds all windows, None if their steps differ."""
    known = [window for window in windows if window]
    if len({(window.axis, window.step) for window in known}) != 1:
        return None
    low, high = min(w.low for w in known), max(w.high for w in known)
    return dataclasses.replace(known[0], low=low, high=high)


def _map(place: Place, change: Callable[[int, Window], Window | None]) -> Place:
    """Return a place with each known window changed by `change(axis, window)`."""
    return tuple(
        change(axis, window) if window else None for axis, window in enumerate(place)
    )


def _convolve(equation: core.JaxprEqn, place: Place, *_) -> Place:
    params, kernel = equation.params, _shape(equation.invars[1])
    source, kernel_axes, target = params["dimension_numbers"]
    output: list[Window | None] = [None] * len(place)
    output[target[0]] = place[source[0]]
    for number, (axis, kernel_axis, output_axis) in enumerate(
        zip(source[2:], kernel_axes[2:], target[2:], strict=True)
    ):
        if window := place[axis]:
            size = (kernel[kernel_axis] - 1) * params["rhs_dilation"][number] + 1
            stride, (before, _) = (
                params["window_strides"][number],
                params["padding"][number],
            )
            window = window.dilate(params["lhs_dilation"][number])
            output[output_axis] = window.slide(size, stride, before)
    return tuple(output)


def _reduce_window(equation: core.JaxprEqn, place: Place, *_) -> Place:
    params = equation.params

    def slide(axis, window):
        size = (params["window_dimensions"][axis] - 1) * params["window_dilation"][axis]
        before = params["padding"][axis][0]
        window = window.dilate(params["base_dilation"][axis])
        return window.slide(size + 1, params["window_strides"][axis], before)

    return _map(place, slide)


def _slide_windows(equation: core.JaxprEqn, place: Place, *_) -> Place:
    windows = equation.params["windows"]

    def slide(axis, window):
        if axis == 0:  # the images of the batch
            return window
        size, stride = windows.size[axis - 1], windows.strides[axis - 1]
        return window.slide(size, stride, windows.padding[axis - 1][0])

    return _map(place, slide)


def _reduce(equation: core.JaxprEqn, place: Place, *_) -> Place:
    params = equation.params
    removed = params["axes"] if "axes" in params else params["dimensions"]
    return tuple(w for axis, w in enumerate(place) if axis not in removed)


def _transpose(equation: core.JaxprEqn, place: Place, *_) -> Place:
    return tuple(place[axis] for axis in equation.params["permutation"])


def _reverse(equation: core.JaxprEqn, place: Place, *_) -> Place:
    shape = _shape(equation.invars[0])

    def turn(axis, window):
        if axis not in equation.params["dimensions"]:
            return window
        shift = (shape[axis] - 1) * window.step
        low, high = window.low + shift, window.high + shift
        return Window(window.axis, low, high, -window.step)

    return _map(place, turn)


def _slice(equation: core.JaxprEqn, place: Place, *_) -> Place:
    starts = equation.params["start_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    return _map(place, lambda axis, w: w.slide(1, strides[axis], -starts[axis]))


def _pad(equation: core.JaxprEqn, place: Place, *_) -> Place:
    padding = equation.params["padding_config"]

    def shift(axis, window):
        before, _, interior = padding[axis]
        return window.dilate(interior + 1).slide(1, 1, before)

    return _map(place, shift)


def _broadcast(equation: core.JaxprEqn, place: Place, *_) -> Place:
    shape = equation.params["shape"]
    output: list[Window | None] = [None] * len(shape)
    sizes = _shape(equation.invars[0])
    for axis, target in enumerate(equation.params["broadcast_dimensions"]):
        output[target] = place[axis] if sizes[axis] == shape[target] else None
    return tuple(output)


def _reshape(equation: core.JaxprEqn, place: Place, *_) -> Place:
    """Keep an axis that has the same size and the same number of cells before it."""
    sizes, shape = _shape(equation.invars[0]), equation.params["new_sizes"]
    windows = {
        (math.prod(sizes[:axis]), sizes[axis]): window
        for axis, window in enumerate(place)
        if window
    }
    return tuple(
        windows.get((math.prod(shape[:axis]), size)) for axis, size in enumerate(shape)
    )


def _multiply_matrices(
    equation: core.JaxprEqn, left: Place | None, right: Place | None
) -> Place:
    contracted, batched = equation.params["dimension_numbers"]
    batch: list[Window | None] = [None] * len(batched[0])
    free: list[Window | None] = []
    for side, place in enumerate((left, right)):
        ndim = len(_shape(equation.invars[side]))
        place = place or (None,) * ndim
        for number, axis in enumerate(batched[side]):
            batch[number] = batch[number] or place[axis]
        taken = (*contracted[side], *batched[side])
        free += [place[axis] for axis in range(ndim) if axis not in taken]
    return (*batch, *free)


def _forget(equation: core.JaxprEqn, place: Place, *_) -> None:
    return None


_RULES: dict[str, Callable[..., Place | None]] = {
    "conv_general_dilated": _convolve,
    "transpose": _transpose,
    "rev": _reverse,
    "slice": _slice,
    "pad": _pad,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reduce,
    "dot_general": _multiply_matrices,
    "gather": _forget,
    "dynamic_slice": _forget,
}
