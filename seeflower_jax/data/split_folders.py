"""Find the folders of the splits in a tree of images.

split_folders(pathlib.Path("photos"), LeftOut())     # {'train': 'train', 'val': ...}
"""

import logging
import pathlib
import re

from seeflower_jax.data.files import LeftOut, image_files, is_folder, visible_entries

_MAX_LISTED = 10
_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_NAME = re.compile(rf"({'|'.join(_WORDS)})[ _-]?(?:set|data|images|split)?")
_EXPECTED = (
    "expected train, and optionally val and test, each with a folder for each class; "
    "or only folders of classes"
)


def split_of(name: str) -> str | None:
    """Return the split that the name of a folder stands for, such as 'Training_set'."""
    match = _NAME.fullmatch(name.lower())
    return _WORDS[match[1]] if match else None


def split_folders(root: pathlib.Path, left_out: LeftOut) -> dict[str, str]:
    """Return {folder: split} of a tree with a folder for each split; if not, {}.

    `train` may also be the name of a class. The folder of a split contains folders of
    classes. Images of `val` or `test` without class folders have no label. They are
    left out, with a line in the log.

    Raises:
      ValueError: if the tree has folders of splits in another layout.
    """
    folders = [e for e in visible_entries(root, LeftOut()) if is_folder(e)]
    split_by_name = {f.name: split for f in folders if (split := split_of(f.name))}
    splits = {
        folder.name: split_by_name[folder.name]
        for folder in folders
        if folder.name in split_by_name
        and any(map(is_folder, visible_entries(folder, LeftOut())))
    }
    if not splits:
        if len(split_by_name) == len(folders) and len(set(split_by_name.values())) > 1:
            raise ValueError(
                f"{root} has the folders {', '.join(split_by_name)} without folders of "
                f"classes in them, so the images have no labels; {_EXPECTED}"
            )
        return {}
    names, others = list(splits.values()), []
    for folder in folders:
        if folder.name in splits:
            continue
        inside = LeftOut()
        count = sum(1 for _ in image_files(folder.path, inside))
        split = split_by_name.get(folder.name)
        if count and split == "train":
            raise ValueError(
                f"{folder.path} has images, but no folders of classes; {_EXPECTED}"
            )
        if count and split is None:
            others.append(folder.name)
        elif count:
            logging.warning(
                "%s has no folders of classes, so its %d images have no labels; they "
                "are left out, and there is no %s split",
                *(folder.path, count, split),
            )
        else:
            left_out.update(inside)
            logging.warning("%s has no images and is left out", folder.path)
    if "train" not in names or len(set(names)) < len(names) or others:
        listed = f" and also {', '.join(others[:_MAX_LISTED])}" if others else ""
        raise ValueError(
            f"{root} has the folders of splits {', '.join(splits)}{listed}; {_EXPECTED}"
        )
    return splits
