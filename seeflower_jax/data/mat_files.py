"""Read MATLAB files of integers in a separate process.

arrays = read(pathlib.Path("setid.mat"), ("trnid", "valid", "tstid"))

SciPy's reader crashes for some damaged files: 7 of 400 files with flipped bits gave a
segmentation fault. It therefore runs in another process, with limits on time and
memory, unless the hash of the file is known.
"""

import functools
import io
import pathlib
import signal
import subprocess
import sys
import tempfile

import numpy as np
import scipy.io
from jaxtyping import Int64

_SECONDS, _BYTES = 60, 4 << 30
# Reads a file from stdin and writes the arrays to stdout.
_PROGRAM = f"""
import io, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({_BYTES}, {_BYTES}))
import numpy as np, scipy.io
try:
    content = scipy.io.loadmat(sys.stdin.buffer)
    arrays = {{key: np.asarray(content[key]) for key in sys.argv[1:]}}
    file = io.BytesIO()
    np.savez(file, **arrays)
    sys.stdout.buffer.write(file.getvalue())
except Exception as error:
    sys.exit(repr(error))
"""


def read(
    path: pathlib.Path, keys: tuple[str, ...], trusted: bool = False
) -> dict[str, Int64[np.ndarray, " n"]]:
    """Return variables of a MATLAB file as flat arrays of integers.

    Args:
      path: the file.
      keys: names of the variables.
      trusted: whether the content is known, so that it can be read in this process.

    Raises:
      ValueError: if the file is damaged, or lacks a variable of integers.
    """
    content = path.read_bytes()
    try:
        if trusted:
            variables = scipy.io.loadmat(io.BytesIO(content))
            arrays = {key: np.asarray(variables[key]) for key in keys}
        else:
            arrays = _read_apart(content, keys)
        return {key: _integers(array) for key, array in arrays.items()}
    except Exception as error:  # SciPy raises many types for a damaged file.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is not a MATLAB file with the variables {', '.join(keys)}: "
            f"{reason}"
        ) from error


@functools.lru_cache(maxsize=8)
def _read_apart(content: bytes, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read variables in a separate process.

    Raises:
      ValueError: if the process fails; the message has the reason.
    """
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        try:
            # -P: modules of the current folder are not imported.
            done = subprocess.run(
                [sys.executable, "-P", "-c", _PROGRAM, *keys],
                stdin=file,
                capture_output=True,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"reading takes more than {_SECONDS} seconds") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ValueError(f"it is damaged, and its reader ended with {name}")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        raise ValueError(lines[-1])
    with np.load(io.BytesIO(done.stdout)) as arrays:
        return {key: arrays[key] for key in keys}


def _integers(array: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Return a flat array of integers.

    Raises:
      ValueError: if values are not whole numbers, or if there are none.
    """
    if array.dtype.kind not in "iuf" or not array.size:
        raise ValueError(f"a variable has values of type {array.dtype}, not integers")
    flat = array.ravel()
    whole = np.isfinite(flat) & (flat == np.floor(flat))
    if not (whole & (np.abs(flat) < 2**31)).all():
        raise ValueError("a variable has values that are not whole numbers below 2**31")
    return flat.astype(np.int64)
