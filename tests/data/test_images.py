"""Lists of images: files of a folder, a pattern or a list, and parts of them."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.data import files
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.data.images import Images, find_files


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three images of different widths and one broken file."""
    for number, name in enumerate(("a.jpg", "b.png", "c.jpg")):
        Image.new("RGB", (40 + number, 20)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def test_files_are_found(folder):
    assert [path.name for path in find_files(folder / "*.jpg")] == [
        *("a.jpg", "broken.jpg", "c.jpg")
    ]
    listed = folder / "list.txt"
    listed.write_text("c.jpg\n\na.jpg\n")
    assert find_files(listed) == [folder / "c.jpg", folder / "a.jpg"]
    assert find_files(folder / "b.png") == [folder / "b.png"]
    empty = folder / "empty"
    empty.mkdir()
    for nothing in (empty, folder / "*.xyz", folder / "absent" / "*"):
        with pytest.raises(FileNotFoundError, match="no image in"):
            find_files(nothing)


def test_paths_that_do_not_exist(folder, monkeypatch):
    for absent, near in {"a.jpeg": "a.jpg", "empy/a.jpg": "empty", "zz": ""}.items():
        (folder / "empty").mkdir(exist_ok=True)
        hint = re.escape(f"; did you mean {folder / near}?") if near else ""
        message = f"^{re.escape(str(folder / absent))} does not exist{hint}$"
        with pytest.raises(FileNotFoundError, match=message):
            find_files(folder / absent)
    monkeypatch.chdir(folder)
    for images in ("", ["a.jpg", ""]):
        with pytest.raises(ValueError, match="expected a path, got ''"):
            Images.of_files(images, shortest_side=10)
    assert len(find_files(".")) == 4


def test_folders_that_cannot_be_opened(folder, monkeypatch, caplog):
    for name in ("x/closed", "lost+found"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "x" / "d.jpg")
    closed, scan = [folder / "x" / "closed", folder / "lost+found"], os.scandir

    def scandir(path):
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    names = ["a.jpg", "b.png", "broken.jpg", "c.jpg", "x/d.jpg"]
    assert find_files(folder) == [folder / name for name in names]
    assert "1 folders that cannot be opened" in caplog.text
    assert "1 hidden" in caplog.text
    assert find_files(folder / "x" / "**" / "*") == [folder / "x" / "d.jpg"]
    with pytest.raises(PermissionError):
        find_files(closed[0])


def test_rule_for_folders_patterns_and_named_files(folder, caplog):
    (folder / "._a.jpg").write_bytes(b"what a file system leaves behind")
    (folder / "folder.jpg").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "folder.jpg" / "d.jfif")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "a-checkpoint.jpg").write_bytes(b"")
    names = ["a.jpg", "b.png", "broken.jpg", "c.jpg"]
    found = [str(path.relative_to(folder)) for path in find_files(folder)]
    assert found == [*names, "folder.jpg/d.jfif"]
    assert f"{folder}: left out 3 files: 2 hidden, 1 .md" in caplog.text
    assert [path.name for path in find_files(folder / "*")] == names
    assert "*: left out 2 files: " in caplog.text and "1 folders" in caplog.text
    # A single file is read, whatever its name.
    assert find_files(folder / "notes.md") == [folder / "notes.md"]
    only = folder / "only"
    only.mkdir()
    (only / "scan.pdf").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no image in .*only, only 1 .pdf; exp"):
        find_files(only)


def test_names_that_begin_with_a_tilde(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    Path("a.jpg").rename("~rose.jpg")
    Path("list.txt").write_text("~rose.jpg\n~/c.jpg\n")
    rose = Path("~rose.jpg")
    assert find_files("~rose.jpg") == find_files("~rose*") == [rose]
    assert find_files("list.txt") == [rose, folder / "c.jpg"]
    assert find_files("~/*.png") == [folder / "b.png"]
    assert len(Images.of_files(["~rose.jpg", "~/b.png"], shortest_side=10)) == 2
    with pytest.raises(FileNotFoundError, match="~tulip.jpg does not exist"):
        find_files("~tulip.jpg")


def test_patterns_follow_the_rule_for_folders(folder, caplog):
    (folder / "x" / "y").mkdir(parents=True)
    (folder / "__MACOSX").mkdir()
    for name in ("x/d.jpg", "x/y/e.jpg", "__MACOSX/f.jpg"):
        Image.new("RGB", (9, 9)).save(folder / name)
    # Each of them doubles the paths on every level.
    (folder / "x" / "up").symlink_to(folder)
    (folder / "x" / "y" / "up").symlink_to(folder)

    def find(pattern):
        return [str(path.relative_to(folder)) for path in find_files(folder / pattern)]

    top, deep = ["a.jpg", "broken.jpg", "c.jpg"], ["x/d.jpg", "x/y/e.jpg"]
    assert find("**/*.jpg") == find("**/**/*.jpg") == [*top, *deep]
    assert "left out 3 files: 2 links to a folder above, 1 hidden" in caplog.text
    assert find("x/**/*.jpg") == find("**/x/**") == deep
    assert find("**/y/*.jpg") == ["x/y/e.jpg"] and find("?/d.jpg") == ["x/d.jpg"]
    with pytest.raises(FileNotFoundError, match="only 1 hidden; expected"):
        find("_*/f.jpg")
    assert find("__MACOSX/*.jpg") == ["__MACOSX/f.jpg"]
    with pytest.raises(FileNotFoundError, match="no image in"):
        find("absent/**/*.jpg")


@pytest.mark.parametrize("pattern", ["*.jpg", "[ab].jpg", "**/*.jpg"])
def test_folders_with_names_that_are_patterns(folder, pattern):
    album = folder / "photos [2024]" / "day *"
    album.mkdir(parents=True)
    (folder / "a.jpg").rename(album / "a.jpg")
    assert find_files(album / pattern) == [album / "a.jpg"]
    assert find_files(folder / "photos [2024]" / "day ?" / "*.jpg") == [album / "a.jpg"]


def test_reason_for_heic_names_the_package(monkeypatch):
    monkeypatch.setattr(files, "SUFFIXES", (".jpg",))
    assert files.why_not_an_image("a.HEIC", True) == (
        ".heic (install pillow-heif to read them)"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_several_encodings(tmp_path, encoding):
    listed = tmp_path / "list.txt"
    listed.write_text("Gänseblümchen.jpg\r\n/tmp/b.png\r\n", encoding)
    assert find_files(listed) == [tmp_path / "Gänseblümchen.jpg", Path("/tmp/b.png")]


def test_lists_that_are_not_text(tmp_path):
    listed = tmp_path / "list.txt"
    for content in ("a.jpg\n".encode("utf-16-le"), b"\xff\xfea"):
        listed.write_bytes(content)
        with pytest.raises(ValueError, match="list.txt is not a"):
            find_files(listed)
    listed.write_bytes(b"\xe4.jpg\n")  # a name that is not UTF-8
    (path,) = find_files(listed)
    path.write_bytes(b"x")
    assert path.exists()


def test_parts_keep_names_labels_and_readers(folder):
    images = Images.of_files([folder / "*.png", folder / "*.jpg"], shortest_side=10)
    assert len(images) == 4 and images.labels == [None] * 4
    for part in (images[[3, 0]], images[:][::-1][[0, 3]], images[::-1][::3]):
        assert part.names == [str(folder / "c.jpg"), str(folder / "b.png")]
        assert part.original_size(0) == (42, 20)
        assert part.original_size(1) == (41, 20)
        assert part.read(0).shape == (10, 20, 3)  # Cut to 2:1.
        np.testing.assert_array_equal(part.read(1), images.read(0))
    with pytest.raises(UnreadableImage, match="broken.jpg cannot be read as an image"):
        images[2:].read(0)


def test_folder_of_a_class_is_the_label(folder):
    folder = folder.rename(folder.with_name("rose"))
    images = Images.of_files(folder, 10, class_names=("tulip", "rose"))
    assert set(images.labels) == {1}
    (folder / "wild").mkdir()
    (folder / "a.jpg").rename(folder / "wild" / "a.jpg")
    images = Images.of_files(folder, 10, class_names=("tulip", "rose"))
    assert set(images.labels) == {1}  # also in a sub-folder of the class


@pytest.mark.parametrize("where", [".", "*.jpg", "**/*.jpg", "../rose", "wild/.."])
def test_current_folder_of_a_class_is_the_label(folder, monkeypatch, where):
    (folder / "rose" / "wild").mkdir(parents=True)
    (folder / "a.jpg").rename(folder / "rose" / "a.jpg")
    (folder / "b.png").rename(folder / "rose" / "wild" / "b.png")
    monkeypatch.chdir(folder / "rose")
    images = Images.of_files(where, 10, class_names=("tulip", "rose"))
    assert set(images.labels) == {1}
