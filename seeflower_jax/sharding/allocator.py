"""Keep the memory of a computation in the process, for the next computation.

allocator.keep_memory()    # before JAX starts

On CPUs, JAX requests the memory of a computation at its start and frees it at its end.
glibc returns it to the system, which clears each page of it for the next computation.
Kept memory has gaps after XLA has compiled a function, see `fragments`.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import threading
from collections.abc import Mapping

import jax
import jax.monitoring

from seeflower_jax.sharding import fragments

# Parameters of mallopt(3) in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# JAX reports both durations of each function that it compiles, in this order.
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"
_LONG_LOWERING, _LONG = 0.25, 1.0  # seconds for a function that leaves many blocks
_calls: list[bool] = []  # whether each call of `keep_memory` has succeeded


class _Listener:
    """Set blocks aside after a long compilation, and release them before the next."""

    def __init__(self):
        self._lock = threading.Lock()  # several threads may compile
        self._thread = threading.local()

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        with self._lock:
            if event == _LOWERED and duration_secs > _LONG_LOWERING:
                fragments.release()
                self._thread.has_released = True
            # A compiled function may also come from the cache, in a short time.
            has_released = getattr(self._thread, "has_released", False)
            if event == _COMPILED and (duration_secs > _LONG or has_released):
                fragments.set_aside()
                self._thread.has_released = False


def keep_memory() -> bool:
    """Let glibc keep freed memory, in one arena for all threads.

    Settings of the user take precedence: a preloaded library, GLIBC_TUNABLES or a
    variable whose name starts with MALLOC_. With an accelerator, nothing changes.

    Returns:
      Whether memory is kept. It is not on other systems than Linux with glibc.

    Source: mallopt(3) of the Linux man-pages.
    """
    if (
        platform.libc_ver()[0] != "glibc"
        or _is_set_by_user(os.environ)
        or _has_accelerator()
    ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # A second arena would request large blocks from the system one by one.
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    done = [mallopt(parameter, value) == 1 for parameter, value in settings]
    if all(done) and not is_kept():
        jax.monitoring.register_event_duration_secs_listener(_Listener())
    _calls.append(all(done))
    return all(done)


def is_kept() -> bool:
    """Return whether `keep_memory` has let this process keep memory."""
    return any(_calls)


def _is_set_by_user(environment: Mapping[str, str]) -> bool:
    return any(
        name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")
        for name, value in environment.items()
        if value
    )


def _has_accelerator() -> bool:
    """Return whether JAX may find an accelerator, without starting JAX."""
    if jax.config.values["jax_platforms"] == "cpu":
        return False
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
