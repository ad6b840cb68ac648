"""Trees of a user's own images, and lists of images.

A tree is accepted if every image of it is in the data set, or if stderr says how many
are left out.
"""

import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

from tests.stress import damage
from tests.stress.cases import Case, Check
from tests.stress.kinds.images import encode
from tests.stress.world import CONFIG, World, photo

OWNER = "data"
# One epoch of the first stage.
FAST = f"{CONFIG}:{{'stage_order': ('head',), 'stages.head.epochs': 1, 'stages.head.batch_size': 2}}"
FORMATS = ("jpg", "png", "gif", "bmp", "tif", "webp")


def put(
    folder: pathlib.Path, count: int = 6, label: int = 0, kind: str = "png"
) -> None:
    """Write images of a class."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.{kind}").write_bytes(encode(photo(label, number), kind))


def two(root: pathlib.Path, names: tuple[str, ...] = ("ant", "bee")) -> None:
    """Write two classes of six images."""
    for label, name in enumerate(names):
        put(root / name, label=label)


def holds(classes: int, images: int, said: str = "") -> Check:
    """Check the numbers of classes and images, and what stderr says."""

    def check(completed, folder: pathlib.Path, world: World) -> None:
        data = json.loads((folder / "run" / "data.json").read_text())
        actual = data["classes"], sum(data["images"].values())
        assert actual == (classes, images), f"{actual} for {(classes, images)}"
        assert re.search(said, completed.stderr), f"stderr does not say {said!r}"

    return check


def case(
    name: str,
    write: Callable[[pathlib.Path], object],
    expect: str = "either",
    check: Check | None = None,
    names: str = "tree",
    *flags: str,
) -> Case:
    """Return the case of a run on `tree/`, which `write` fills."""

    def prepare(folder: pathlib.Path, world: World) -> None:
        (folder / "tree").mkdir()
        write(folder / "tree")

    arguments = [
        FAST,
        "--config.data.dir={folder}/tree",
        "--config.data.cache_dir={folder}",
    ]
    arguments += ["--workdir={folder}/run", *flags]
    return Case(name, "train", arguments, expect, names, prepare, check or holds(2, 12))


def cases() -> Iterator[Case]:
    """Yield all cases of folders and lists."""
    yield from _classes()
    yield from _left_out()
    yield from _splits()
    yield from _damaged()
    yield from _flags()
    yield from _listed()


def _classes() -> Iterator[Case]:
    yield case("two", two, "accepted")
    yield case("nothing", lambda t: None, "refused")
    yield case("absent", shutil.rmtree, "refused")
    yield case("file", lambda t: (t.rmdir(), t.write_text("x")), "refused")
    yield case("only_images", put, "refused")
    yield case("one_class", lambda t: put(t / "ant"), "refused")
    yield case("empty_class", lambda t: (two(t), (t / "cat").mkdir()), "either", None, "cat")  # fmt: skip
    yield case("one_image_each", lambda t: [put(t / n, 1) for n in "ab"], "either", holds(2, 2))  # fmt: skip
    yield case("uneven", lambda t: (put(t / "a", 30), put(t / "b", 1)), "accepted", holds(2, 31))  # fmt: skip
    yield case("only_text", lambda t: [(t / n).mkdir() or (t / n / "x.txt").touch() for n in "ab"], "refused")  # fmt: skip
    names = [
        ("unicode", ("δάφνη", "薔薇")),
        ("composed", ("Gänse", "Ga\u0308nsefuß")),
        ("numbers", ("1", "10")),
        ("spaces", (" a", "b ")),
        ("dollar", ("$a$", "$b_{")),
        ("control", ("a\nb", "a\tc")),
        ("markup", ("<b>a", "&amp;")),
        ("quotes", ("'a'", '"b"')),
        ("percent", ("100%", "{0}")),
        ("long", ("a" * 200, "b" * 200)),
        ("dots", ("a.b", "c..d")),
        ("train_as_class", ("train", "bus")),
        ("image_endings", ("a.jpg", "b.png")),
        ("upper", ("Ant", "ant")),
        ("dash", ("-a", "--b")),
    ]
    for name, pair in names:
        yield case(f"names_{name}", lambda t, p=pair: two(t, p), "accepted")
    same = ("caf\u00e9", "cafe\u0301")
    yield case("names_equal_letters", lambda t: (two(t, same), put(t / "x")), "either", holds(2, 18))  # fmt: skip
    yield case("names_not_utf8", lambda t: two(t, ("a", "b\udcff")), "either", None, "udcff")  # fmt: skip


def _left_out() -> Iterator[Case]:
    """Yield files that a data set could miss without a word."""

    def more(*paths: str, content: bytes | None = None) -> Callable:
        def write(tree: pathlib.Path) -> None:
            two(tree)
            for path in paths:
                target = tree / path
                target.parent.mkdir(parents=True, exist_ok=True)
                kind = target.suffix[1:].lower()
                kind = kind if kind in (*FORMATS, "avif") else "jpg"
                intact = encode(photo(0, 9), kind)
                target.write_bytes(intact if content is None else content)

        return write

    for ending in ("jfif", "jpe", "JPG", "Jpeg", "avif", "TIF", "jp2", "ppm", "tga"):
        files = [f"ant/{n}x.{ending}" for n in range(3)]
        yield case(f"ending_{ending}", more(*files), "either", holds(2, 15), ending)
    # `holds` counts the files that are left out where a line says so.
    for name, path in (
        ("raw", "ant/x.cr2"),
        ("no_ending", "ant/x"),
    ):
        yield case(f"said_{name}", more(path), "either", holds(2, 12, r"\b1 "), path)
    yield case("sub_folder", more("ant/deep/x.jpg"), "either", holds(2, 13), "deep")
    yield case("sub_sub", more("ant/a/b/c/x.jpg"), "either", holds(2, 13), "ant/a")
    yield case("beside", more("x.jpg"), "either", holds(2, 12, r"\b1 "), r"x\.jpg")
    for name, path in (
        ("hidden", "ant/.x.jpg"),
        ("apple", "ant/._0.jpg"),
        ("checkpoints", "ant/.ipynb_checkpoints/x.jpg"),
        ("hidden_class", ".cache/x.jpg"),
        ("thumbs", "ant/Thumbs.db"),
        ("ds_store", "ant/.DS_Store"),
        ("macosx", "__MACOSX/._x.jpg"),
        ("text", "ant/notes.txt"),
        ("csv", "labels.csv"),
    ):
        expect = "either" if name == "macosx" else "accepted"
        yield case(f"system_{name}", more(path, content=b"nothing"), expect)
    yield case("folder_named_jpg", lambda t: (two(t), (t / "ant" / "x.jpg").mkdir()), "either", None, r"x\.jpg")  # fmt: skip
    yield case("dangling", lambda t: (two(t), (t / "ant" / "x.jpg").symlink_to("nowhere")), "either", holds(2, 12, "1 |x.jpg"), r"x\.jpg")  # fmt: skip
    yield case("linked_image", lambda t: (two(t), (t / "ant" / "x.png").symlink_to(t / "bee" / "0.png")), "accepted", holds(2, 13))  # fmt: skip
    yield case("linked_class", lambda t: (two(t), (t / "cat").symlink_to(t / "bee")), "accepted", holds(3, 18))  # fmt: skip
    yield case("loop", lambda t: (two(t), (t / "ant" / "loop").symlink_to(t)), "either", None, "loop|ant")  # fmt: skip
    yield case("pipe", lambda t: (two(t), os.mkfifo(t / "ant" / "x.jpg")), "either", None, r"x\.jpg")  # fmt: skip
    yield case("duplicates", lambda t: (two(t), shutil.copy(t / "ant" / "0.png", t / "bee" / "copy.png")), "accepted", holds(2, 13))  # fmt: skip


def _splits() -> Iterator[Case]:
    """Yield folders of splits, under the names that data sets have."""

    def split(*folders: str, flat: str = "", empty: str = "") -> Callable:
        def write(tree: pathlib.Path) -> None:
            for folder in folders:
                two(tree / folder)
            if flat:
                put(tree / flat)
            if empty:
                (tree / empty).mkdir(parents=True)

        return write

    full = ("train", "val", "test")
    yield case("split_usual", split(*full), "accepted", holds(2, 36))
    for name, folders in (
        ("upper", ("Train", "Val", "Test")),
        ("training", ("Training", "Test")),
        ("training_set", ("training_set", "test_set")),
        ("validation", ("train", "validation", "test")),
        ("valid", ("train", "valid")),
        ("testing", ("training", "validation", "testing")),
        ("dev", ("train", "dev", "test")),
        ("eval", ("train", "eval")),
        ("data_train", ("data/train", "data/test")),
        ("seg", ("seg_train/seg_train", "seg_test/seg_test")),
    ):
        count = 12 * len(folders)
        yield case(f"split_{name}", split(*folders), "either", holds(2, count))
    yield case("split_flat_test", split("train", flat="test"), "either", holds(2, 12, "test"))  # fmt: skip
    yield case("split_empty_val", split("train", "test", empty="val"), "either", holds(2, 24))  # fmt: skip
    yield case("split_empty_test", split("train", empty="test/ant"), "either", holds(2, 12, "test"), "test")  # fmt: skip
    yield case("split_twice", split("train", "val", "validation"), "refused")
    yield case("split_only_test", split("test"), "refused")
    yield case("split_and_class", split("train", "test", flat="rose"), "refused")
    yield case("split_more_classes", lambda t: (split("train", "test")(t), put(t / "test" / "cat")), "refused")  # fmt: skip
    yield case("split_fewer_classes", lambda t: (split("train", "test")(t), shutil.rmtree(t / "test" / "ant")), "accepted", holds(2, 18))  # fmt: skip


def _damaged() -> Iterator[Case]:
    """Yield trees with one image that training cannot read."""
    ways = {name: damage.GONE[name] for name in ("empty", "cut_half", "zeros", "html", "lfs_pointer")}  # fmt: skip
    for kind in FORMATS:
        for way, change in ways.items():

            def write(tree: pathlib.Path, kind: str = kind, change=change) -> None:
                two(tree)
                path = tree / "bee" / f"bad.{kind}"
                path.write_bytes(encode(photo(1, 8), kind))
                change(path)

            yield case(f"bad_{kind}_{way}", write, "refused", None, rf"bad\.{kind}")

    def all_bad(tree: pathlib.Path) -> None:
        two(tree)
        for path in tree.glob("*/*"):
            path.write_bytes(damage.HTML)

    yield case("all_bad", all_bad, "refused", None, r"\.png")


def _flags() -> Iterator[Case]:
    """Yield splits that make no sense for a folder."""
    for number, text in enumerate(("80/10/11", "0/50/50", "80/20", "80/10/10:x", "80/10/10:-1", "-80/90/90", "80.0/10/10", "trainval", "a/b/c", " ", "99999999999999999999/0/0", "80/10/10:99999999999999999999999")):  # fmt: skip
        expect = "either" if number == 11 else "refused"
        yield case(f"percent_{number}", two, expect, None, "split", f"--config.data.split={text}")  # fmt: skip
    for number, text in enumerate(("100/0/0", "50/50/0", "50/0/50", "34/33/33:7")):
        yield case(f"share_{number}", two, "accepted", None, "", f"--config.data.split={text}")  # fmt: skip


def _listed() -> Iterator[Case]:
    """Yield what `predict` takes: lists, folders and patterns."""

    def predicted(count: int) -> Check:
        def check(completed, folder: pathlib.Path, world: World) -> None:
            actual = len(completed.stdout.splitlines())
            assert actual == count, f"{actual} predictions for {count}"

        return check

    def listed(name: str, content: bytes, expect: str, count: int = 2, names: str = r"list\.txt"):  # fmt: skip
        def prepare(folder: pathlib.Path, world: World) -> None:
            put(folder, 2)
            (folder / "list.txt").write_bytes(content)

        arguments = ["--export={world}/export", "--json", "{folder}/list.txt"]
        return Case(f"list_{name}", "predict", arguments, expect, names, prepare, predicted(count))  # fmt: skip

    text = "0.png\n1.png\n"
    yield listed("plain", text.encode(), "accepted")
    for coding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        yield listed(coding, text.encode(coding), "either")
    yield listed("windows", text.replace("\n", "\r\n").encode(), "accepted")
    yield listed("mac", text.replace("\n", "\r").encode(), "accepted")
    yield listed("no_end", b"0.png\n1.png", "accepted")
    yield listed("blank_lines", b"\n0.png\n\n \n1.png\n", "accepted")
    yield listed("comment", b"# images\n0.png\n", "either", 1, "# images")
    yield listed("quoted", b'"0.png"\n', "either", 1, r"0\.png")
    yield listed("empty", b"", "refused")
    yield listed("only_blank", b"\n \n", "refused")
    yield listed("latin", "ü.png\n".encode("latin-1"), "refused", 0, r"\.png|\.txt")
    yield listed("zeros", bytes(99), "refused")
    yield listed("image", encode(photo(0), "png"), "refused")
    yield listed("itself", b"list.txt\n", "refused")
    yield listed("absent", b"absent.png\n", "refused", 0, r"absent\.png")
    yield listed("some_absent", b"0.png\nabsent.png\n1.png\n", "accepted")
    yield listed("folder", b".\n", "either", 2, "list|stress")
    yield listed("long_line", b"x" * 100_000 + b"\n", "refused", 0, "xxx")
    for name, where, expect, count in (
        ("absent", "{folder}/absent", "refused", 0),
        ("pattern_none", "{folder}/*.jpg", "refused", 0),
        ("pattern", "{folder}/*.png", "accepted", 2),
        ("folder", "{folder}", "accepted", 2),
        ("nothing", "", "refused", 0),
        ("null", "/dev/null", "refused", 0),
        ("text", "{folder}/x.md", "refused", 0),
    ):

        def prepare(folder: pathlib.Path, world: World) -> None:
            put(folder, 2)
            (folder / "x.md").write_text("text")
            (folder / ".hidden.png").write_bytes(b"")
            (folder / "._0.png").write_bytes(b"")
            (folder / "folder.jpg").mkdir()
            (folder / ".ipynb_checkpoints").mkdir()
            shutil.copy(folder / "0.png", folder / ".ipynb_checkpoints")

        arguments = ["--export={world}/export", "--json", where]
        pattern = re.escape(where.rpartition("/")[2]) if "/" in where else ""
        pattern = pattern.replace(r"\{folder\}", "stress")
        yield Case(f"where_{name}", "predict", arguments, expect, pattern, prepare, predicted(count))  # fmt: skip
