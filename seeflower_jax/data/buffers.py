"""Reuse the memory of batches.

    buffers = Buffers()
    rows = buffers.take((32, 136_640, 3))       # uint8, with any content
    rows[0, : len(pixels)] = pixels

New memory costs more than copying the pixels into it, because the system clears it page
by page. A buffer is free again when nothing refers to the last array that was taken
from it. JAX refers to an array while it copies the array to a device. On a CPU, JAX
refers to the array while it computes with it. A batch therefore never changes while in
use.
"""

import math
import mmap
import threading
import weakref

import numpy as np
from jaxtyping import UInt8


class Buffers:
    """Buffers of bytes, shared by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Memory, and the last array that was taken from it.
        self._taken: list[tuple[mmap.mmap, weakref.ref[np.ndarray]]] = []

    def __len__(self) -> int:
        """Return the number of buffers."""
        return len(self._taken)

    def take(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
        """Return an array in memory that is not in use, with any content."""
        size = math.prod(shape)
        with self._lock:
            memory = self._free(size) or mmap.mmap(-1, size)
            # Slices of an array of foreign memory refer to the array, not to the
            # memory.
            array = np.frombuffer(memory, np.uint8, size)
            self._taken.append((memory, weakref.ref(array)))
        return array.reshape(shape)

    def _free(self, size: int) -> mmap.mmap | None:
        """Take a free buffer of at least `size` bytes off the list."""
        for number, (memory, array) in enumerate(self._taken):
            if array() is None and len(memory) >= size:
                del self._taken[number]
                return memory
        return None
