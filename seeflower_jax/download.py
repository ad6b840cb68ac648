"""Downloads that resume, check the hash, and leave either a complete file or none.

path = fetch(url, "~/.cache/seeflower_jax/file.bin", sha256="2d01ecc8...")
"""

import hashlib
import http.client
import logging
import os
import pathlib
import time
import urllib.error
import urllib.request

import tqdm

_CHUNK = 1 << 20
_ATTEMPTS = 4


class DownloadError(RuntimeError):
    """A download failed; the message says how to download the file by hand."""


def file_hash(path: str | os.PathLike, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _transfer(url: str, partial: pathlib.Path) -> None:
    """Append the missing end of the content of `url` to `partial`."""
    offset = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # the partial file is complete
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file
            offset = 0
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else None
        with (
            open(partial, "ab" if offset else "wb") as file,
            tqdm.tqdm(
                total=total,
                initial=offset,
                desc=partial.stem,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and partial.stat().st_size < total:
            raise http.client.IncompleteRead(b"", total - partial.stat().st_size)


def fetch(
    url: str,
    path: str | os.PathLike,
    *,
    sha256: str | None = None,
    md5: str | None = None,
) -> pathlib.Path:
    """Download a file unless it exists, and return its path.

    The content goes to `path` + '.partial' first. An interrupted download resumes from
    this file. The file gets its final name after the hash is checked.

    Args:
      url: the address of the file.
      path: the file to write; `~` is expanded and missing folders are created.
      sha256, md5: the expected hexadecimal digests, or the published first digits.

    Raises:
      DownloadError: if the server cannot be reached or sends other content.
    """
    path = pathlib.Path(path).expanduser()
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    advice = f"You can also download {url} by hand and save it as {path}"
    _transfer_with_retries(url, partial, advice)
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if not expected:
            continue
        digest = file_hash(partial, algorithm)
        if not digest.startswith(expected):
            partial.unlink()
            raise DownloadError(
                f"{url} has {algorithm} {digest}, expected {expected}; the downloaded "
                f"content is deleted. {advice}"
            )
    os.replace(partial, path)
    return path


def _transfer_with_retries(url: str, partial: pathlib.Path, advice: str) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            _transfer(url, partial)
            return
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == _ATTEMPTS - 1:
                raise DownloadError(
                    f"{url} cannot be downloaded: {error}. {advice}"
                ) from error
            logging.warning("%s: %s; retrying", url, error)
            time.sleep(2**attempt)
