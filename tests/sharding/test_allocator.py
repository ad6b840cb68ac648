"""Tests of the memory that a process keeps for the next computation."""

import functools
import os
import subprocess
import sys
from concurrent import futures

import jax
import numpy as np
import pytest

from seeflower_jax.sharding import allocator

# A computation may start before the memory of the last one is free: the first ones may
# each request their own. In the end the process has enough for all.
_PAGE_FAULTS = """
import resource, statistics
from seeflower_jax import records
from seeflower_jax.sharding import allocator
print(allocator.keep_memory(), records.provenance("")["memory_kept"])
import jax, jax.numpy as jnp
numbers = jnp.ones((32, 1024, 1024))
faults = []
for _ in range(24):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(jnp.flip(numbers, 1))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(statistics.median(faults)))
"""

# Free blocks of different sizes between others that stay in use.
_FRAGMENTS = """
import ctypes
from seeflower_jax.sharding import allocator, fragments
assert allocator.keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def print_state():
    memory = int(open("/proc/self/statm").read().split()[1])  # pages
    print(sum(n for size, n in fragments.free_blocks() if size > 10 << 10), memory)

def fragment():
    blocks = []
    for size in range(1 << 14, 1 << 17, 1 << 5):
        blocks.append(ctypes.c_void_p(library.malloc(ctypes.c_size_t(size))))
        ctypes.memset(blocks[-1], 1, size)
    for block in blocks[::2]:
        library.free(block)
    library.malloc(ctypes.c_size_t(1 << 20))  # sorts the free blocks
    print_state()

fragment()
fragments.set_aside()
print_state()

fragment()
import jax
allocator._LONG_LOWERING = float("inf")
allocator._LONG = float("inf")
jax.jit(lambda x: x + 1).lower(1.0).compile()
print_state()
allocator._LONG = 0.0
jax.jit(lambda x: x + 2).lower(1.0).compile()
print_state()
allocator._LONG_LOWERING, allocator._LONG = 0.0, float("inf")
lowered = jax.jit(lambda x: x + 3).lower(1.0)
print_state()
lowered.compile()
print_state()
"""


def _environment(**variables):
    own = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return inherited | variables


@pytest.mark.parametrize(
    "variables,kept",
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, False),
    ],
)
def test_a_computation_reuses_the_memory_of_the_last(variables, kept):
    done = subprocess.run(
        [sys.executable, "-c", _PAGE_FAULTS],
        env=_environment(JAX_PLATFORMS="cpu", **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    returned, recorded, faults = done.stdout.split()
    assert returned == recorded == str(kept)
    pages = 32 * 2**22 // os.sysconf("SC_PAGE_SIZE")
    assert (int(faults) < pages / 100) == kept


def test_a_long_compilation_leaves_few_free_blocks_but_can_use_them():
    done = subprocess.run(
        [sys.executable, "-c", _FRAGMENTS],
        env=_environment(JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        check=True,
    )
    blocks, pages = np.array(done.stdout.split(), int).reshape(-1, 2).T
    assert (blocks[[0, 2, 3, 5]] > 1500).all() and (blocks[[1, 4, 6]] < 100).all()
    assert pages[1] < pages[0] - 20_000


def test_a_process_with_an_accelerator_changes_nothing(monkeypatch):
    for name in os.environ.keys() - _environment().keys():
        monkeypatch.delenv(name)
    plugins = {"jax_plugins": ["of CUDA"]}
    monkeypatch.setattr(
        allocator.importlib.metadata, "entry_points", lambda group: plugins[group]
    )
    before = jax.config.values["jax_platforms"]
    try:
        jax.config.update("jax_platforms", None)
        assert not allocator.keep_memory()
        jax.config.update("jax_platforms", "cpu")
        assert not allocator._has_accelerator()
    finally:
        jax.config.update("jax_platforms", before)


def test_compilations_of_several_threads_are_told_apart(monkeypatch):
    calls = []
    for name in ("release", "set_aside"):
        monkeypatch.setattr(
            allocator.fragments, name, functools.partial(calls.append, name)
        )
    listener = allocator._Listener()
    listener(allocator._LOWERED, allocator._LONG_LOWERING + 1)
    with futures.ThreadPoolExecutor(1) as other:
        for event in (allocator._LOWERED, allocator._COMPILED):
            other.submit(listener, event, 0.0).result()
    assert calls == ["release"]
    listener(allocator._COMPILED, 0.0)  # from the cache
    assert calls == ["release", "set_aside"]
    listener(allocator._COMPILED, 0.0)
    assert calls == ["release", "set_aside"]
