"""Downloads that can be trusted: resumed, checked, and complete or absent.

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
    """A file could not be had; the message says what to do."""


def file_hash(path: str | os.PathLike, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _transfer(url: str, partial: pathlib.Path) -> None:
    """Appends to `partial` what it lacks of the content of `url`."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(partial, "ab" if have else "wb") as file,
            tqdm.tqdm(
                total=total,
                initial=have,
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
    """Downloads a file unless it is there.

    The content goes to `path` + '.partial' first, from where an interrupted download
    goes on, and gets its name only after its hash was checked.

    Args:
      url: where from.
      path: where to; `~` is expanded, missing folders are made.
      sha256, md5: expected digests, hexadecimal, or the published start of one.

    Returns:
      The path.

    Raises:
      DownloadError: if the server cannot be reached or sends something else.
    """
    path = pathlib.Path(path).expanduser()
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    by_hand = f"You can also download {url} by hand and save it as {path}"
    for attempt in range(_ATTEMPTS):
        try:
            _transfer(url, partial)
            break
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == _ATTEMPTS - 1:
                raise DownloadError(
                    f"{url} cannot be downloaded: {error}. {by_hand}"
                ) from error
            logging.warning("%s: %s; trying again", url, error)
            time.sleep(2**attempt)
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        found = file_hash(partial, algorithm) if expected else ""
        if not found.startswith(expected or ""):
            partial.unlink()
            raise DownloadError(
                f"{url} has {algorithm} {found}, expected {expected}; what was "
                f"downloaded is deleted. {by_hand}"
            )
    os.replace(partial, path)
    return path
