"""Find image files, by one rule for training folders and for lists of images.

left_out = LeftOut()
for key, entry in image_files("photos/", left_out):     # "rose/1.jpg", an os.DirEntry
    ...
left_out.log("photos/")     # photos/: left out 3 files: 2 .txt, 1 hidden

The images of a folder include the images of its sub-folders. A file is an image if
Pillow can read the format of its extension here. Other files are left out. Files and
folders are also left out if their name starts with a dot, and sub-folders if they
cannot be opened. `LeftOut` counts what is left out.
"""

import collections
import logging
import os
import pathlib
from collections.abc import Iterator

from seeflower_jax.data.decode import SUFFIXES

# For messages, because the list of all extensions is long.
COMMON_SUFFIXES = ".jpg, .png, .webp, .tif or another ending that Pillow can read"
# Folders of macOS and of Linux file systems, which hold nobody's images.
_SYSTEM_FOLDERS = ("__MACOSX", "lost+found")
_HEIF = (".heic", ".heif", ".hif")
_MAX_KINDS = 8


class LeftOut(collections.Counter):
    """The number of files that were left out, by reason."""

    def __str__(self) -> str:
        kinds = self.most_common(_MAX_KINDS)
        listed = [f"{count} {reason}" for reason, count in kinds]
        if rest := self.total() - sum(count for _, count in kinds):
            listed.append(f"{rest} others")
        return ", ".join(listed)

    def only(self) -> str:
        """Return the counts for the message that there is no image; '' if all are 0."""
        return f", only {self}" if self.total() else ""

    def log(self, where: str | os.PathLike) -> None:
        """Log one line with the counts, if a file was left out."""
        if total := self.total():
            files = "1 file" if total == 1 else f"{total} files"
            logging.warning("%s: left out %s: %s", where, files, self)


def is_hidden(name: str) -> bool:
    """Return whether the rule leaves out a file or folder because of its name."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def visible_entries(
    folder: str | os.PathLike, left_out: LeftOut
) -> list[os.DirEntry[str]]:
    """Return the files and folders in a folder by name, without hidden ones."""
    with os.scandir(os.fspath(folder)) as entries:
        everything = sorted(entries, key=lambda entry: entry.name)
    visible = [entry for entry in everything if not is_hidden(entry.name)]
    if len(visible) < len(everything):
        left_out["hidden"] += len(everything) - len(visible)
    return visible


def is_folder(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def why_not_an_image(name: str, is_file: bool) -> str:
    """Return why the rule leaves out a file; '' if it is an image."""
    ending = os.path.splitext(name)[1].lower()
    if ending in SUFFIXES:
        return "" if is_file else f"{ending} that cannot be opened"
    if ending in _HEIF:
        return f"{ending} (install pillow-heif to read them)"
    return ending or "without an ending"


def image_files(
    folder: str | os.PathLike, left_out: LeftOut
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the images in a folder and its sub-folders, in the order of their paths.

    Arguments and results are the same as in `walk`.
    """
    for key, entry in walk(folder, left_out):
        if is_folder(entry):
            continue
        if reason := why_not_an_image(entry.name, _is_file(entry)):
            left_out[reason] += 1
        else:
            yield key, entry


def walk(
    folder: str | os.PathLike, left_out: LeftOut
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the files and folders in a folder and its sub-folders, without hidden ones.

    Args:
      folder: the folder; links to folders are followed.
      left_out: counts of the other files, which the function updates. It also counts
        sub-folders that cannot be opened.

    Yields:
      The path relative to the folder, with '/', and the entry of the file or folder.

    Raises:
      PermissionError: if the folder itself cannot be opened.
    """
    above = tuple(map(_identity, pathlib.Path(folder).resolve().parents))
    entries = visible_entries(folder, left_out)
    yield from _walk(entries, left_out, (*above, _identity(folder)))


def _walk(
    entries: list[os.DirEntry[str]],
    left_out: LeftOut,
    above: tuple[tuple[int, int], ...],
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the entries of a folder and of its sub-folders, as `walk`.

    Args:
      entries: the entries of the folder.
      left_out: as in `walk`.
      above: identities of the folder and of all folders above it, to detect circular
        links.
    """
    for entry in entries:
        if not is_folder(entry):
            yield entry.name, entry
            continue
        try:
            identity = _identity(entry.path)
            if identity in above:
                left_out["links to a folder above"] += 1
                continue
            inside = visible_entries(entry.path, left_out)
        except PermissionError:
            left_out["folders that cannot be opened"] += 1
            continue
        yield entry.name, entry
        for key, inner in _walk(inside, left_out, (*above, identity)):
            yield f"{entry.name}/{key}", inner


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    """Return the identity of a folder, which does not depend on its path."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def read_list(path: pathlib.Path) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
      ValueError: if the file is not text in UTF-8, or in UTF-16 with a byte order mark.
    """
    content = path.read_bytes()
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = content.decode("utf-16")
        else:  # Names of files need not be UTF-8.
            text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    if "\0" in text:
        raise ValueError(
            f"{path} is not a list in UTF-8, or in UTF-16 with a byte order mark; save "
            "it as UTF-8, with one path a line"
        )
    return [line.strip() for line in text.splitlines() if line.strip()]
