"""Compute logits and features of many images, in batches on all devices.

evaluator = Evaluator(spec, (view,), batch_size=32, mesh=make_mesh())
logits = evaluator.logits(variables, reader, indices)       # [n, num_classes]
features = evaluator.features(variables, reader, indices)   # batches [b, k, c]
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from seeflower_jax import models, sharding
from seeflower_jax.data import loader
from seeflower_jax.data.loader import Batch, Reader
from seeflower_jax.data.view import View
from seeflower_jax.records.progress_bar import progress_bar
from seeflower_jax.sharding import processes

# (variables, batch) -> rows, one for each example, or a dict of such rows.
Compute = Callable[[dict, Batch], Any]
Look = tuple[View, bool]  # what the network sees, and whether it is mirrored


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """A network that runs over many examples in batches.

    Attributes:
      spec: spec of the network.
      views: what the network sees of an image. The logits of several views are
        averaged.
      batch_size: number of examples in a batch, over all devices, rounded up to a
        multiple of the devices.
      mesh: the devices, from `sharding.make_mesh`.
      mirror: whether the mirror image of each view is averaged too.
      preprocess: function applied to views before the network (whitening), or None.
    """

    spec: models.ModelSpec
    views: tuple[View, ...]
    batch_size: int
    mesh: Mesh
    mirror: bool = False
    preprocess: Callable | None = None

    @property
    def looks(self) -> list[Look]:
        """Return (view, whether it is mirrored) for each view and mirror image."""
        mirrors = (False, True) if self.mirror else (False,)
        return list(itertools.product(self.views, mirrors))

    def logits(
        self,
        variables: dict,
        reader: Reader,
        indices: Int[np.ndarray, " n"],
        name: str = "",
    ) -> Float[np.ndarray, "n num_classes"]:
        """Compute the logits of all examples of `indices`.

        Args:
          variables: variables of the network.
          reader: reader of images, or of features that `features` computed.
          indices: indices of the examples.
          name: name of a progress bar; '' shows no bar.
        """
        rows = self.stream(self.compute_logits, variables, reader, indices, name)
        return np.concatenate(list(rows))

    def features(
        self,
        variables: dict,
        reader: Reader,
        indices: Int[np.ndarray, " n"],
        name: str = "",
        first: int = 0,
    ) -> Iterator[Float[np.ndarray, "b k c"]]:
        """Yield the features of all examples, the inputs of the head, in batches.

        An example has features for each of its k `looks`. `stream` explains the
        arguments.
        """
        compute = self.compute_features
        return self.stream(compute, variables, reader, indices, name, first)

    def stream(
        self,
        compute: Compute,
        variables: dict,
        reader: Reader,
        indices: Int[np.ndarray, " n"],
        name: str = "",
        first: int = 0,
    ) -> Iterator[Any]:
        """Yield the outputs of a jitted function for all examples, a batch at a time.

        Args:
          compute: function of (variables, batch) that returns rows, or a dict of rows.
          variables, reader, indices, name: the arguments of `logits`.
          first: number of examples that are left out, because an interrupted
            computation has had them.

        Yields:
          The rows of a batch, on the host. The last batch may have fewer rows.
        """
        variables = sharding.replicate(variables, self.mesh)
        left = len(indices) - first
        # A batch is not larger than necessary for all examples. Its size does not
        # depend on `first`, because a network rounds otherwise in other batches.
        batch_size = min(self.batch_size, len(indices))
        batch_size = sharding.whole_size(batch_size, self.mesh)
        hidden = not (name and processes.is_main())
        with progress_bar(name, left, "image", hidden=hidden) as bar:
            rest = indices[first:]
            batches = loader.eval_batches(reader, rest, batch_size, self.mesh)
            outputs = (compute(variables, batch) for batch in batches)
            for output in loader.ahead(outputs, 1):
                rows = sharding.fetch(output, self.mesh)
                count = min(left, batch_size)
                yield jax.tree.map(lambda x, n=count: x[:n], rows)
                left -= count
                bar.update(count)

    @property
    def compute_logits(self) -> Compute:
        """Return the jitted function (variables, batch) -> logits.

        Evaluators of the same network and looks share it, so it is compiled once.
        """
        return _logits(self.spec, tuple(self.looks), self.preprocess)

    @functools.cached_property
    def compute_features(self) -> Compute:
        """Return the jitted function (variables, batch) -> features."""

        @jax.jit
        def compute(variables: dict, batch: Batch) -> Float[Array, "b k c"]:
            def network(images):
                if self.preprocess:
                    images = self.preprocess(images)
                return models.features(self.spec, variables, images)

            return jnp.moveaxis(_of_looks(network, self.looks, batch), 0, 1)

        return compute


@functools.lru_cache(maxsize=4)
def _logits(
    spec: models.ModelSpec,
    looks: tuple[Look, ...],
    preprocess: Callable | None,
) -> Compute:
    """Return the jitted function (variables, batch) -> logits, the mean over looks."""

    @jax.jit
    def compute(variables: dict, batch: Batch) -> Float[Array, "b num_classes"]:
        if "features" in batch:
            return models.apply_head(spec, variables, batch["features"])
        network = models.bind(spec, variables, preprocess)
        return _of_looks(lambda images: network(images)[0], looks, batch).mean(0)

    return compute


def _of_looks(
    network: Callable[[Float[Array, "b size size 3"]], Float[Array, "b n"]],
    looks: Sequence[Look],
    batch: Batch,
) -> Float[Array, "k b n"]:
    """Return the outputs of a network for each of k looks, one look after another.

    Looks of the same size are a loop, which is compiled once. Without the loop, XLA
    would keep the layers of all looks in memory at once.
    """
    images = [view(batch["canvas"], batch["sizes"], mirror) for view, mirror in looks]
    groups = [
        jnp.stack(list(group)) for _, group in itertools.groupby(images, jnp.shape)
    ]
    return jnp.concatenate([lax.map(network, group) for group in groups])
