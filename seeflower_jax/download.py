"""Download files: resume, check the hash, and leave a complete file or none.

path = fetch(url, "~/.cache/seeflower_jax/file.bin", sha256="2d01ecc8...")

Several processes can ask for the same file. One process downloads it, the others wait.
"""

import hashlib
import http.client
import logging
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from typing import BinaryIO

from seeflower_jax.records import files
from seeflower_jax.records.progress_bar import progress_bar

_CHUNK = 1 << 20
_ATTEMPTS = 4  # attempts in a row that download nothing new
_TEMPORARY = (408, 425, 429)  # statuses below 500 that ask for another attempt


class DownloadError(RuntimeError):
    """A download failed; the message says how to download the file by hand."""


class _NotWritableError(Exception):
    """The downloaded content cannot be written; the cause is an OSError."""


def file_hash(path: str | os.PathLike, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def fetch(
    url: str,
    path: str | os.PathLike,
    *,
    sha256: str | None = None,
    md5: str | None = None,
) -> pathlib.Path:
    """Download a file unless it exists, and return its path.

    The content goes to `path` + '.partial' first. An interrupted download resumes from
    this file. The file gets its final name after the hash is checked. If another
    process downloads the same file, `fetch` waits. On network disks without locks,
    `fetch` cannot notice the other process.

    Args:
      url: the address of the file.
      path: the file to write; `~` is expanded and missing folders are created.
      sha256, md5: the expected hexadecimal digests, or the published first digits.

    Raises:
      DownloadError: if the server cannot be reached or sends other content.
      OSError: if the file cannot be written; the message names it.
    """
    path = pathlib.Path(path).expanduser()
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    advice = f"You can also download {url} by hand and save it as {path}"
    expected = {"sha256": sha256, "md5": md5}
    with _locked(partial) as file:
        if path.exists():  # another process has downloaded it
            partial.unlink()
            return path
        resumed = os.path.getsize(partial) > 0
        _transfer_with_retries(url, file, advice)
        defect = _hash_defect(partial, expected)
        if defect and resumed:
            # The first part may come from an older file at the same address.
            logging.warning("%s has %s; downloading it again", partial, defect)
            file.truncate(0)
            _transfer_with_retries(url, file, advice)
            defect = _hash_defect(partial, expected)
        if defect:
            partial.unlink()
            raise DownloadError(
                f"{url} has {defect}; the downloaded content is deleted. {advice}"
            )
        os.replace(partial, path)
    return path


def _locked(partial: pathlib.Path) -> BinaryIO:
    """Open a partial file for appending; wait while another process has it open."""
    try:
        return files.open_locked(partial, wait=False)
    except BlockingIOError:
        logging.info("another process downloads %s; waiting", partial)
        return files.open_locked(partial)


def _hash_defect(path: pathlib.Path, expected: dict[str, str | None]) -> str:
    """Return which hash of a file is wrong, and its value; '' if none is wrong."""
    for algorithm, digits in expected.items():
        if digits and not (digest := file_hash(path, algorithm)).startswith(digits):
            return f"{algorithm} {digest}, expected {digits}"
    return ""


def _transfer(url: str, file: BinaryIO) -> None:
    """Append the missing end of the content of `url` to a file."""
    offset = _size(file)
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not offset:
            raise
        # No content is left: the file is complete, or longer than the content.
        total = re.search(r"/(\d+)$", error.headers.get("Content-Range", ""))
        if total and int(total[1]) != offset:
            file.truncate(0)
            _transfer(url, file)
        return
    with response:
        if response.status != 206:  # the server sends the whole file
            file.truncate(0)
            offset = 0
        length = response.headers.get("Content-Length")
        expected = offset + int(length) if length else None
        name = pathlib.Path(file.name).stem
        with progress_bar(name, expected, "B", offset) as bar:
            while chunk := response.read(_CHUNK):
                _append(file, chunk)
                bar.update(len(chunk))
        size = _size(file)
        if expected is not None and size < expected:
            raise http.client.IncompleteRead(b"", expected - size)


def _append(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise _NotWritableError from error


def _transfer_with_retries(url: str, file: BinaryIO, advice: str) -> None:
    furthest, failures = _size(file), 0
    while True:
        try:
            _transfer(url, file)
            return
        except _NotWritableError as error:
            reason = error.__cause__
            raise OSError(
                f"{file.name} cannot be written: {reason}. Repeat the command when "
                "there is enough space: it resumes the download"
            ) from reason
        except (OSError, http.client.HTTPException) as error:
            failures = 0 if _size(file) > furthest else failures + 1
            furthest = max(furthest, _size(file))
            refused = _is_refusal(error)
            if refused or failures == _ATTEMPTS:
                resume = ""
                if furthest and not refused:
                    resume = f"Repeat the command to resume from {file.name}. "
                raise DownloadError(
                    f"{url} cannot be downloaded: {error}. {resume}{advice}"
                ) from error
            logging.warning("%s: %s; retrying", url, error)
            time.sleep(2 ** (failures - 1))


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _is_refusal(error: Exception) -> bool:
    """Return whether an error is the final answer of a server."""
    if not isinstance(error, urllib.error.HTTPError):
        return False
    return error.code < 500 and error.code not in _TEMPORARY
