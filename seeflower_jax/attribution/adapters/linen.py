"""Flax Linen: the outputs of submodules, named by their paths.

Example:
    network = from_linen(module, variables, train=False)
    network.layers      # {"block1/conv": (32, 32, 16), ...}
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Array, Float

from seeflower_jax.attribution.adapters.kinds import check_kind
from seeflower_jax.attribution.adapters.names import interceptor
from seeflower_jax.attribution.adapters.network import AdaptedNetwork
from seeflower_jax.attribution.types import Preprocess, Variables

_lock = threading.RLock()


def from_linen(
    module: Any,
    variables: Variables,
    *,
    preprocess: Preprocess | None = None,
    output: Callable[[Any], Float[Array, "n c"]] | None = None,
    channels_first: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    **arguments: Any,
) -> AdaptedNetwork:
    """Return a Flax Linen module as a network function.

    A layer is the output of `__call__` of a submodule. Its name is the path of the
    submodule in `variables`, such as `block1/conv`.

    Args:
      module: a `flax.linen.Module` that is not bound.
      variables: {"params": ..., "batch_stats": ...}.
      preprocess, output, channels_first, input_shape: see `AdaptedNetwork`.
      **arguments: more arguments of `module.apply`. Select inference with the module's
        own argument, such as `train=False`.

    Raises:
      TypeError: the module is no object of `flax.linen.Module`.
      ValueError: when the network is called, if a submodule updates its variables.

    Example:
      >>> import flax.linen as nn
      >>> module = nn.Sequential([nn.Conv(4, (3, 3)), lambda x: x.mean((1, 2))])
      >>> variables = module.init(jax.random.key(0), images)
      >>> from_linen(module, variables, input_shape=(64, 64, 3)).layers
      {'layers_0': (64, 64, 4)}
    """
    import flax.errors
    import flax.linen as nn

    check_kind("from_linen", module, nn.Module)

    def forward(variables, inputs):
        name_layers = interceptor(lambda module: "/".join(module.path))
        try:
            with _traces_by_path(), nn.intercept_methods(name_layers):
                # `nn.jit` caches traces, which may have no names. It traces again for a
                # new mutable collection, here one that no module has.
                options = {**arguments, "mutable": ["layer_names"]}
                return module.apply(variables, inputs, **options)[0]
        except (
            flax.errors.ModifyScopeVariableError,  # batch normalisation
            flax.errors.InvalidRngError,  # dropout
        ) as error:
            problem = str(error).split(" (http")[0].rstrip(".")
            raise ValueError(
                f"the network is not in inference mode: {problem}; pass the "
                "argument that selects inference to from_linen, such as train=False"
            ) from error

    return AdaptedNetwork(
        forward, variables, preprocess, output, channels_first, input_shape=input_shape
    )


@contextlib.contextmanager
def _traces_by_path() -> Iterator[None]:
    """Let `nn.jit` trace modules of different paths apart, because names are paths.

    Flax caches a trace by a fingerprint of the module, in which the path is missing.
    Another thread that uses `nn.jit` at the same time traces more often than it needs.
    """
    from flax.linen import transforms

    def with_path(module, *rest):
        return fingerprint(module, *rest), module.path

    name = "_module_fingerprint"
    with _lock, contextlib.ExitStack() as restore:
        fingerprint = getattr(transforms, name, None)
        # A private function. Without it, equal modules have the names of the first.
        if fingerprint is not None:
            setattr(transforms, name, with_path)
            restore.callback(setattr, transforms, name, fingerprint)
        yield
