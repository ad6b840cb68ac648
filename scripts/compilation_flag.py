"""Define the flag --compilation_cache of all scripts.

compilation_flag.apply()    # before JAX compiles a function
"""

import jax
from absl import flags

from seeflower_jax.sharding import compilation

CACHE = flags.DEFINE_bool(
    "compilation_cache",
    True,
    "Keep compiled functions in ~/.cache/seeflower_jax/compiled, for the next start.",
)


def apply() -> None:
    """Set JAX's compilation cache as the command line says."""
    if CACHE.value:
        compilation.keep()
    else:
        jax.config.update("jax_enable_compilation_cache", False)
