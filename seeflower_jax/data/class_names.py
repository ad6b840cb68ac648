"""Read the names of classes from a file, for folders with numbers or codes as names.

names = names_by_folder(["photos/", "."], ["1", "2"])     # {'1': 'rose', '2': 'tulip'}

`class_names.json` or `cat_to_name.json` has {folder: name}. The file is next to the
folders of the classes or above them.
"""

import collections
import contextlib
import json
import logging
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence

FILE_NAMES = ("class_names.json", "cat_to_name.json")
_MAX_LISTED = 5


def composed(name: str) -> str:
    """Return a name in Unicode's normal form C.

    Letters with accents have several encodings, which all become the same text.
    """
    return unicodedata.normalize("NFC", name)


def names_by_folder(
    places: Iterable[str | os.PathLike], folders: Sequence[str]
) -> dict[str, str]:
    """Return the name of each class from the first file that lists the folders.

    Args:
      places: folders that may have the file, in order of priority. The last one is
        above the tree of images. A file of another format is not used there, because
        it may belong to something else.
      folders: names of the folders of the classes. A number may have leading zeros.

    Returns:
      {folder: name of the class}; {} if no file lists a folder. If several folders have
      the same name, the folder is added to it, as in 'crane (12)'.

    Raises:
      ValueError: if a file has another format, or lists only some of the folders.
    """
    places = list(places)
    for place in places:
        for path in (pathlib.Path(place, name) for name in FILE_NAMES):
            if not path.is_file():
                continue
            try:
                entries = _read(path)
            except ValueError as error:
                if place is not places[-1]:
                    raise
                logging.warning("%s; the file is not used", error)
                continue
            names = {f: name for f in folders if (name := _name(entries, f))}
            if not names:
                logging.warning("%s names none of the classes and is not used", path)
                continue
            if missing := [folder for folder in folders if folder not in names]:
                more = ", ..." if len(missing) > _MAX_LISTED else ""
                raise ValueError(
                    f"{path} has no name for {len(missing)} of {len(folders)} folders: "
                    f"{', '.join(missing[:_MAX_LISTED])}{more}; add their names, or "
                    "remove the file to use the names of the folders"
                )
            counts = collections.Counter(names.values())
            return {f: n if counts[n] == 1 else f"{n} ({f})" for f, n in names.items()}
    return {}


def name_of_folder(places: Iterable[str | os.PathLike], folder: str) -> str | None:
    """Return the name of a class by its folder, or None if no readable file has it."""
    for path in (pathlib.Path(place, name) for place in places for name in FILE_NAMES):
        with contextlib.suppress(OSError, ValueError):
            if path.is_file() and (name := _name(_read(path), folder)):
                return name
    return None


def _read(path: pathlib.Path) -> dict[str, str]:
    """Return {folder: name} of a file, with folders as `image_folder.class_name`."""
    try:
        entries = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, dict) or not all(
        isinstance(name, str) and name.strip() for name in entries.values()
    ):
        raise ValueError(
            f"{path} does not have the name of each folder; expected a JSON object "
            'such as {"1": "rose", "2": "tulip"}'
        )
    names = {composed(folder): name.strip() for folder, name in entries.items()}
    # '01' also stands for '1', unless the file has both.
    return {f.lstrip("0") or "0": n for f, n in names.items() if f.isdecimal()} | names


def _name(entries: dict[str, str], folder: str) -> str | None:
    number = (folder.lstrip("0") or "0") if folder.isdecimal() else folder
    return entries.get(folder, entries.get(number))
