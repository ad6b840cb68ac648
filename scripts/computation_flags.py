"""Define how a process computes, by flags that all scripts share.

computation_flags.apply()    # before JAX compiles a function
"""

import jax
from absl import flags

from seeflower_jax.sharding import allocator, compilation

_CACHE = flags.DEFINE_bool(
    "compilation_cache",
    True,
    "Keep compiled functions in ~/.cache/seeflower_jax/compiled, for the next start.",
)
_MEMORY = flags.DEFINE_bool(
    "keep_memory",
    True,
    "On CPUs under Linux, keep freed memory for the next computation.",
)
FLAGS = (_CACHE, _MEMORY)


def apply() -> None:
    """Set JAX's compilation cache and the allocator by the command line."""
    if _MEMORY.value:
        allocator.keep_memory()
    if _CACHE.value:
        compilation.keep()
    else:
        jax.config.update("jax_enable_compilation_cache", False)
