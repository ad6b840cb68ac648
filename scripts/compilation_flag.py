"""Define the flag --compilation_cache, which all scripts share.

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
    """Set JAX's compilation cache by the command line."""
    if CACHE.value:
        compilation.keep()
    else:
        jax.config.update("jax_enable_compilation_cache", False)
