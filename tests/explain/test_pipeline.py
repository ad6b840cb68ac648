"""Attribution on several threads and machines writes the same files as one thread."""

import dataclasses
import errno
import json
import pathlib
import random
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import records
from seeflower_jax.data import decode
from seeflower_jax.data.view import View
from seeflower_jax.data.whitening import Whitening
from seeflower_jax.explain import attribute, merge, parts, shard_writer, store
from seeflower_jax.explain.background import Background
from seeflower_jax.figures import maps as figures
from seeflower_jax.inference.explainer import Explainer
from tests import harness
from tests.explain import small

METHODS = ("grad_cam", "saliency")  # in the order of the index
COUNT, BATCH = 22, 3


@pytest.fixture(scope="module")
def network():
    return small.baseline()


def _shrink(patch):
    """Make shards that batches do not divide, and sheets that are drawn fast."""
    patch.setattr(store, "SHARD_SIZE", 8)
    patch.setattr(attribute, "_SHEET_IMAGES", 2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    _shrink(monkeypatch)


def _attribute(network, images, out, **options):
    options = {"batch_size": BATCH, "overlays": True, **options}
    return attribute.attribute(network, images, METHODS, out, **options)


def _content(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the content of all files, by their path in the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """Return the content of a folder that was written without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        _shrink(patch)
        out = tmp_path_factory.mktemp("whole")
        _attribute(network, small.images(COUNT, (4, 8)), out)
        return _content(out)


def test_files_are_those_of_one_thread(network, whole, tmp_path):
    images = small.images(COUNT, (4, 8))
    explainer = Explainer(network, METHODS, batch_size=BATCH)
    folder = tmp_path / "maps"
    folder.mkdir()
    for name, content in whole.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    expected_lines = []
    for shard in (range(8), range(8, 16), range(16, COUNT)):
        by_method = {name: [] for name in METHODS}
        for first in range(0, len(shard), BATCH):
            batch = [i for i in shard[first : first + BATCH] if i not in (4, 8)]
            pixels = [images.read(position) for position in batch]
            explained = explainer(batch, pixels, [-1] * len(batch))
            for name in METHODS:
                for row, position in enumerate(batch):
                    values, image = explained.maps[name][row], explained.images[row]
                    by_method[name].append(position)
                    _check_overlay(folder, position, name, image, values)
        for name, positions in by_method.items():
            expected_lines += [(name, position) for position in positions]
    lines = [json.loads(line) for line in whole["index.jsonl"].splitlines()]
    assert [(line["method"], line["position"]) for line in lines] == expected_lines
    skipped = [json.loads(line) for line in whole["skipped.jsonl"].splitlines()]
    assert [line["image"] for line in skipped] == ["4.png", "8.png"]


def _check_overlay(folder, position, name, image, values):
    """Check the overlay and the stored map of an image against its computed map."""
    expected = figures.overlay(image, values, signed=False)
    actual = np.asarray(
        Image.open(folder / "overlays" / name / f"{position:06d}_{position}.png")
    )
    is_box = (actual == (0, 255, 255)).all(-1)
    assert is_box.any() == (name == "grad_cam")
    np.testing.assert_array_equal(actual[~is_box], expected[~is_box])
    maps = store.MapStore.open(folder)
    (line,) = (
        line
        for line in maps.lines()
        if (line["method"], line["position"]) == (name, position)
    )
    scale = np.abs(values).max() or 1
    stored = (values / scale).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(maps.read(line), stored * np.float32(scale))


def test_the_next_batch_is_computed_while_overlays_are_written(
    network, tmp_path, monkeypatch
):
    added, is_second = [], threading.Event()
    write_png, add = figures.write_png, shard_writer.ShardWriter.add

    def late(*args):
        assert is_second.wait(20)
        write_png(*args)

    def count(writer, batch, explained):
        added.append(batch.positions)
        if len(added) == 2:
            is_second.set()
        add(writer, batch, explained)

    monkeypatch.setattr(figures, "write_png", late)
    monkeypatch.setattr(shard_writer.ShardWriter, "add", count)
    _attribute(network, small.images(8), tmp_path)
    assert added == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert len(list(tmp_path.rglob("overlays/*/*.png"))) == 8 * len(METHODS)


def test_slow_disks_change_nothing(network, whole, tmp_path, monkeypatch):
    rng = random.Random(0)

    def delay(*_):
        time.sleep(rng.uniform(0, 0.004))

    write_png = figures.write_png
    monkeypatch.setattr(figures, "write_png", lambda *args: (delay(), write_png(*args)))
    _attribute(network, small.images(COUNT, (4, 8), delay), tmp_path)
    assert _content(tmp_path) == whole


@pytest.mark.parametrize(
    "code, error, message",
    [
        (errno.ENOSPC, records.FullDiskError, "000012_12.png: the disk is full"),
        (errno.EIO, OSError, "cannot write .*000012_12.png: Input/output error"),
    ],
)
def test_an_overlay_that_cannot_be_written_loses_nothing(
    network, whole, tmp_path, monkeypatch, code, error, message
):
    images, write = small.images(COUNT, (4, 8)), pathlib.Path.write_bytes

    def broken(path, content):
        if "000012" in str(path):
            raise OSError(code, "Input/output error")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", broken)
        with pytest.raises(error, match=message):
            _attribute(network, images, tmp_path)
    assert json.loads((tmp_path / "state.json").read_text())["shards"] == 1
    assert not list(tmp_path.rglob(f"{records.PARTIAL}*"))
    _attribute(network, images, tmp_path)
    assert _content(tmp_path) == whole


def test_interruption_loses_nothing(network, whole, tmp_path):
    def interrupt(position):
        if position == 19:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _attribute(network, small.images(COUNT, (4, 8), interrupt), tmp_path)
    _attribute(network, small.images(COUNT, (4, 8)), tmp_path)
    assert _content(tmp_path) == whole
    assert not [t for t in threading.enumerate() if t.name.startswith("reader")]


def test_parts_are_merged_to_the_whole(network, whole, tmp_path):
    images = small.images(COUNT, (4, 8))
    for number in (3, 1, 4, 2):  # one of them is empty
        _attribute(network, images, tmp_path / "maps", part=parts.Part(number, 4))
    folders = sorted((tmp_path / "maps").iterdir())
    assert [f.name for f in folders] == [f"part_{n}_of_4" for n in (1, 2, 3, 4)]
    shards = [len(list(folder.glob("saliency/*.npy"))) for folder in folders]
    assert shards == [0, 1, 1, 1]
    merged = tmp_path / "merged"
    merge.merge(folders[::-1], merged)
    assert _content(merged) == whole
    merge.merge(folders, merged)  # changes nothing
    assert _content(merged) == whole

    done = harness.run_here("merge_maps", f"--out={tmp_path / 'maps'}")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'maps'}\n"
    lines = list(store.MapStore.open(tmp_path / "maps").lines())
    assert len(lines) == 2 * (COUNT - 2)


def test_parts_that_were_computed_again_are_not_merged_again(tmp_path):
    """The index and the skipped images of `out` would be those of the first call."""
    count, options = 2 * store.SHARD_SIZE, {"dtype": "float16"}

    def compute(number, damaged=()):
        part = parts.Part(number, 2)
        folder = tmp_path / part.folder_name
        shutil.rmtree(folder, ignore_errors=True)
        maps = store.MapStore(folder, options, count, part)
        for shard, positions in maps.remaining():
            readable = [p for p in positions if p not in damaged]
            maps.write(
                shard,
                store.ShardContent(
                    {"saliency": [np.stack([np.full((2, 2), p) for p in readable])]},
                    [{"image": f"{p}.jpg"} for p in readable],
                    skipped=[{"image": f"{p}.jpg"} for p in damaged],
                ),
            )
        (folder / "saliency.png").touch()
        return folder

    out = tmp_path / "out"
    folders = [compute(1, damaged=(3,)), compute(2)]
    merge.merge(folders, out)
    before = _content(out)
    compute(1)  # after 3.jpg was repaired
    with pytest.raises(ValueError, match=r"out/index.jsonl differs .* line 4,.* --out"):
        merge.merge(folders, out)
    assert _content(out) == before
    merge.merge(folders, tmp_path / "new")
    assert len(list(store.MapStore.open(tmp_path / "new").lines())) == count


def test_parts_that_do_not_fit_are_refused(network, tmp_path):
    images, options = small.images(COUNT), {"overlays": False}
    first, second = (tmp_path / f"part_{n}_of_2" for n in (1, 2))
    _attribute(network, images, tmp_path, part=parts.Part(1, 2), **options)
    _attribute(network, images, tmp_path, part=parts.Part(2, 2), dtype="float32")
    third = tmp_path / "other"
    _attribute(network, images, third, part=parts.Part(2, 2), **options)
    third /= "part_2_of_2"
    _attribute(network, images, tmp_path / "all", **options)

    def refused(*folders):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            merge.merge(folders, tmp_path / "out")
        assert not (tmp_path / "out").exists() and "\n" not in str(caught.value)
        return str(caught.value)

    different = refused(first, second)
    assert "dtype: float16 in the first, float32 in the second" in different
    assert str(first) in different and str(second) in different
    assert "are the parts 1/2; 2/2 is missing" in refused(first)
    assert "both are part 2/2" in refused(first, second, third)
    assert "has all maps, not a part" in refused(first, tmp_path / "all")
    assert "no part was given" in refused()
    assert "has no maps" in refused(first, tmp_path)
    sheet = first / "grad_cam.png"  # written after the last shard
    sheet.rename(first / "away")
    incomplete = refused(first, third)
    assert f"{first} is not complete: grad_cam.png is missing; run" in incomplete
    (first / "away").rename(sheet)
    (third / "saliency/00002.npy").rename(third / "away")
    assert "saliency/00002.npy is missing" in refused(first, third)
    state = json.loads((third / "state.json").read_text())
    records.write_json(third / "state.json", state | {"shards": 1})
    assert "other/part_2_of_2 is not complete: 1 of its" in refused(first, third)
    with pytest.raises(ValueError, match="part: 1/2 there, 1/1 now"):
        _attribute(network, images, first, **options)


def test_parts_that_an_interrupted_call_does_not_end_at(network, whole, tmp_path):
    """Parts 1/2 and 2/2 have the shards 0 and 1 to 2."""
    images, out, parts_out = small.images(COUNT, (4, 8)), tmp_path / "maps", tmp_path

    def interrupt(after):
        def prepare(position):
            if position >= after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _attribute(network, small.images(COUNT, (4, 8), prepare), out)

    interrupt(19)
    before = _content(out)
    assert json.loads(before["state.json"])["shards"] == 2
    folders = [parts_out / f"part_{number}_of_2" for number in (1, 2)]
    for number in (1, 2):
        _attribute(network, images, parts_out, part=parts.Part(number, 2))
    message = "maps has 2 shards .* inside part 2/2; .*merge_maps --parts=.* --out=NEW"
    with pytest.raises(ValueError, match=message):
        merge.merge(folders, out)
    assert _content(out) == before

    def unread(position):
        raise AssertionError(f"{position} was read before the check")

    unread_images = small.images(COUNT, (4, 8), unread)
    with pytest.raises(ValueError, match=message):
        _attribute(network, unread_images, out, part=parts.Part(2, 2))
    with pytest.raises(ValueError, match="dtype: float16 there, float32 now"):
        options = {"part": parts.Part(1, 2), "dtype": "float32"}
        _attribute(network, unread_images, out, **options)
    shutil.rmtree(out)
    interrupt(11)
    merge.merge(folders, out)
    assert _content(out) == whole


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b"])
def test_text_that_is_no_part(text):
    with pytest.raises(ValueError, match=f"{text!r} is not a part.*such as 2/4"):
        parts.parse(text)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_parts_share_all_items(count):
    shared = [parts.Part(n, count).of(20) for n in range(1, count + 1)]
    assert [item for part in shared for item in part] == list(range(20))
    assert max(map(len, shared)) - min(map(len, shared)) <= 1
    assert parts.parse(f"{count}/{count}") == parts.Part(count, count)


def test_defaults_of_options_are_settings(network, tmp_path):
    _attribute(network, small.images(3), tmp_path, overlays=False)
    settings = json.loads((tmp_path / "state.json").read_text())["settings"]
    assert settings["options"]["grad_cam"] == {"align": "receptive_field"}
    options = {"grad_cam": {"align": "stretch"}}
    message = "options.grad_cam.align: receptive_field there, stretch now"
    with pytest.raises(ValueError, match=message):
        _attribute(network, small.images(3), tmp_path, options=options)


def test_files_are_opened_once(network, tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    images, opened = network.images(tmp_path), []
    assert images.read_with_size(0)[1] == images.original_size(0) == (40, 60)
    read_bytes = pathlib.Path.read_bytes
    monkeypatch.setattr(decode, "upright_size", None)
    monkeypatch.setattr(attribute, "_write_sheets", lambda *_: None)
    monkeypatch.setattr(
        pathlib.Path, "read_bytes", lambda p: (opened.append(p), read_bytes(p))[1]
    )
    _attribute(network, images, tmp_path / "out")
    assert [path.name for path in opened] == ["turned.jpg"]


def test_the_queue_is_bounded():
    gate, begun = threading.Event(), []

    def call(number):
        begun.append(number)
        assert gate.wait(10)

    with Background(threads=1, limit=2) as background:
        background.submit(call, 0)
        background.submit(call, 1)
        third = threading.Thread(target=background.submit, args=(call, 2))
        third.start()
        third.join(0.05)
        assert third.is_alive() and begun == [0]
        gate.set()
        third.join()
    assert begun == [0, 1, 2]


def test_errors_of_threads_reach_the_caller():
    def fail():
        raise OSError("rose.png")

    with (
        pytest.raises(OSError, match="rose.png"),
        Background(threads=1, limit=4) as background,
    ):
        background.submit(fail)
    with Background(threads=1, limit=1) as background:
        background.submit(fail)
        with pytest.raises(OSError, match="rose.png"):
            background.submit(fail)


def test_networks_with_the_same_variables_are_told_apart(network, tmp_path):
    changes = {
        "spec.preprocess": {"spec": small.spec(preprocess="caffe")},
        "view.crop": {"view": View(32, 32, 0.5)},
        "class_names": {"class_names": tuple("abce")},
        "whitening": {"preprocess": Whitening(np.zeros(3), np.ones((1, 1, 3, 3)))},
        "temperature": {"temperature": 1.0},
    }
    images, options = small.images(9), {"overlays": False}
    _attribute(network, images, tmp_path, part=parts.Part(1, 2), **options)
    for key, change in changes.items():
        other = dataclasses.replace(network, **change)
        with pytest.raises(ValueError, match=f"settings .{key}: .* there, .* now.;"):
            _attribute(other, images, tmp_path, part=parts.Part(1, 2), **options)
    _attribute(other, images, tmp_path, part=parts.Part(2, 2), **options)
    folders = [tmp_path / f"part_{number}_of_2" for number in (1, 2)]
    with pytest.raises(ValueError, match="temperature: 0.5 in the first, 1.0 in the s"):
        merge.merge(folders, tmp_path)


@pytest.mark.parametrize("out", ["maps", "."])
def test_maps_among_the_images_are_not_explained(network, tmp_path, monkeypatch, out):
    for number in range(3):
        pixels = np.full((32, 40, 3), 80 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photo{number}.png")
    monkeypatch.chdir(tmp_path)
    _attribute(network, network.images("."), out, limit=2)
    written = _content(pathlib.Path(out))
    assert any(name.endswith("overlays/saliency/000001_photo1.png") for name in written)
    for part in (parts.WHOLE, parts.Part(2, 2), parts.WHOLE):
        _attribute(network, network.images("."), out, limit=2, part=part)
    content = _content(pathlib.Path(out))
    assert {name: content[name] for name in content if "part_" not in name} == written
    lines = store.MapStore.open(out).lines()
    assert {line["image"] for line in lines} == {"photo0.png", "photo1.png"}


def test_disk_of_images_that_fails_skips_none(network, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(20):
        Image.new("RGB", (40, 32), (number, 0, 0)).save(photos / f"{number:02d}.png")
    images, read_bytes = network.images(photos), pathlib.Path.read_bytes

    def lost(path):
        if path.name == "19.png":
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", lost)
        with pytest.raises(OSError, match="19.png cannot be read now: Transport end"):
            _attribute(network, images, tmp_path / "maps", overlays=False)
    state = json.loads((tmp_path / "maps/state.json").read_text())
    assert 1 <= state["shards"] < 3
    assert _attribute(network, images, tmp_path / "maps", overlays=False) == []
    assert sum(1 for _ in store.MapStore.open(tmp_path / "maps").lines()) == 40
