"""Check what a weight file is by its first bytes, and how much content it declares.

check_kind("vgg16.pth", [PYTORCH])      # raises for a web page or a safetensors file
check_size("vgg16.pth", declared_bytes)
"""

import os
import zipfile
from collections.abc import Collection
from typing import NoReturn

from seeflower_jax.pretrained.errors import WeightFileError

HDF5, KERAS, PYTORCH, SAFETENSORS, NUMPY = (
    "an HDF5 file",
    "a .keras archive",
    "a PyTorch file",
    "a safetensors file",
    "a NumPy archive",
)
SUFFIXES = {
    HDF5: ".h5",
    KERAS: ".keras",
    PYTORCH: ".pth",
    SAFETENSORS: ".safetensors",
}
_LFS = b"version https://git-lfs.github.com/"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Compression seldom shrinks weights to less than half. A file that declares far more
# content than it has is damaged, or was made to fill the memory.
_MAX_RATIO = 50
_SMALL = 64 << 20  # bytes that any file may declare


def check_kind(path: str | os.PathLike, expected: Collection[str] = ()) -> None:
    """Check that a file is a weight file of an expected kind.

    A file of unknown kind is accepted, because its reader reports what is wrong with
      it.

    Args:
      path: the file.
      expected: the kinds to accept, such as `[HDF5, KERAS]`; all kinds if empty.

    Raises:
      OSError: if the file cannot be read.
      WeightFileError: if the file is empty, a web page, a pointer of git-lfs or a
        weight file of another kind; the message says what to do.
    """
    if not os.path.isfile(path):  # Reading from a pipe could wait forever.
        raise WeightFileError(f"{path} is not a regular file; give a weight file")
    with open(path, "rb") as file:
        start = file.read(1024)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        raise WeightFileError(f"{path} is empty; download or save it again")
    if text.startswith(_LFS):
        raise WeightFileError(
            f"{path} is a pointer of git-lfs, not the weights; run `git lfs pull` in "
            "its repository, or download the file itself"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        raise WeightFileError(
            f"{path} is a web page, not a weight file; download it again from a direct "
            "link; a browser shows the message of the server"
        )
    kind = _kind(path, start)
    if expected and kind and kind not in expected:
        suffix = SUFFIXES.get(kind)
        advice = f"rename it to end in {suffix}" if suffix else "save the weights so"
        raise WeightFileError(
            f"{path} is {kind}, expected {' or '.join(expected)}; {advice}"
        )


def _kind(path: str | os.PathLike, start: bytes) -> str | None:
    """Return the kind of a file, or None if it is not known."""
    if is_hdf5(path):
        return HDF5
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return None
        if any(name.endswith("data.pkl") for name in names):
            return PYTORCH
        if "model.weights.h5" in names:
            return KERAS
        return NUMPY if names and all(n.endswith(".npy") for n in names) else None
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 0 < header <= 100_000_000:
        return SAFETENSORS
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PYTORCH
    return None


def is_hdf5(path: str | os.PathLike) -> bool:
    """Return whether a file has the signature of HDF5, perhaps after other bytes."""
    with open(path, "rb") as file:
        for offset in (0, 512, 1024, 2048):
            file.seek(offset)
            if file.read(len(_HDF5)) == _HDF5:
                return True
    return False


def check_size(path: str | os.PathLike, declared: int) -> None:
    """Check that a file does not declare far more bytes of content than it has.

    Raises:
      WeightFileError: if the file declares far more.
    """
    size = os.path.getsize(path)
    if declared > max(_SMALL, _MAX_RATIO * size):
        raise WeightFileError(
            f"{path} ({size:,} bytes) declares {declared:,} bytes of content and is "
            "refused before it is read, because it is damaged or made to fill the "
            "memory; download it again, or save the weights uncompressed"
        )


def check_zip_size(path: str | os.PathLike) -> None:
    """Check the size that a zip archive declares, as `check_size`; accept other files.

    Raises:
      WeightFileError: if the archive declares too much.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_size(path, sum(entry.file_size for entry in archive.infolist()))


def raise_unreadable(path: str | os.PathLike, kind: str, error: Exception) -> NoReturn:
    """Raise the error of a library about a damaged file, with the file's name.

    Raises:
      WeightFileError: always.
    """
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise WeightFileError(
        f"{path} ({os.path.getsize(path):,} bytes) cannot be read as a {kind} file: "
        f"{reason}. A downloaded file may be incomplete: download it again"
    ) from error
