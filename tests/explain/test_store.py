"""Maps on disk: their precision, refused settings and damaged files."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import models, records
from seeflower_jax.attribution import registry
from seeflower_jax.data.view import View
from seeflower_jax.explain import attribute
from seeflower_jax.explain.store import MapStore, ShardContent
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.network import Network
from tests import fixtures, harness

SETTINGS = {"dtype": "float16"}
SIDE = 32


@pytest.fixture(scope="module")
def network() -> Network:
    """Return a very confident network, so that other classes have tiny gradients."""
    spec = models.get_spec("small", num_classes=4, width=0.25)
    variables = fixtures.random_variables(spec, 0)
    logits = variables["params"]["head"]["logits"]
    logits["bias"] = np.array([0, 20, 0, 0], np.float32)
    return Network(
        spec=spec,
        variables=variables,
        view=View(SIDE, SIDE),
        class_names=("$a$", "b\x07\n", "_c", "d\u202e"),
    )


@pytest.fixture
def images(network, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("0", "$1$\n\x07", "_2 \udce9"):
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        with open(tmp_path / f"{name}.png", "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
    return network.images(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    "dtype", ["float16", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_stored_maps_of_every_method_are_the_computed_maps(
    network, images, tmp_path, dtype
):
    methods, layer = list(registry.METHODS), "block3"
    options = {"target": "$a$", "layer": layer, "batch_size": 3, "dtype": dtype}
    out = tmp_path / "maps"
    options["overlays"] = True
    options["options"] = fixtures.FEW_PASSES
    assert attribute.attribute(network, images, methods, out, **options) == []
    for method in methods:
        assert (out / f"{method}.png").exists()
        assert len(list((out / "overlays" / method).iterdir())) == 3
    explainer = Explainer(
        network, methods, layer, batch_size=3, options=fixtures.FEW_PASSES
    )
    pixels = [images.read(position) for position in range(3)]
    maps = explainer(range(3), pixels, [0, 0, 0]).maps
    assert 0 < np.abs(maps["paper_saliency"]).max() < np.finfo(np.float16).tiny
    store = MapStore.open(out)
    lines = list(store.lines())
    assert {line["method"] for line in lines} == set(methods)
    for line in lines:
        computed = maps[line["method"]][line["position"]]
        error = np.abs(store.read(line) - computed).max()
        assert error <= 1e-3 * np.abs(computed).max(), line["method"]
        assert np.load(out / line["shard"]).dtype == dtype


def _write(folder, maps, **settings) -> MapStore:
    store = MapStore(folder, SETTINGS | settings, len(maps))
    lines = [{"image": f"{row}.png"} for row in range(len(maps))]
    store.write(0, ShardContent({"saliency": [maps]}, lines))
    return store


def test_every_range_of_values_is_kept(tmp_path):
    ramp = np.linspace(-1, 1, 12).reshape(3, 4)
    scales = np.array([1e-30, 1e-8, 1, 1e6, 1e30])
    maps = np.concatenate([scales[:, None, None] * ramp, np.zeros((1, 3, 4))])
    store = _write(tmp_path, maps.astype(np.float32))
    for line, expected in zip(store.lines(), maps, strict=True):
        error = np.abs(store.read(line) - expected).max()
        assert error <= 5e-4 * np.abs(expected).max()


def test_maps_of_earlier_versions_are_read_but_not_continued(tmp_path):
    store = _write(tmp_path, np.ones((2, 3, 4)))
    state = json.loads((tmp_path / "state.json").read_text())
    del state["settings"]["scaled"]
    lines = [{k: v for k, v in line.items() if k != "scale"} for line in store.lines()]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "index.jsonl").write_text(text)
    state["bytes"][0] = len(text)
    records.write_json(tmp_path / "state.json", state)
    before = MapStore.open(tmp_path)
    np.testing.assert_array_equal(before.read(next(before.lines())), np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"other settings \(scaled: absent there, Tr"):
        MapStore(tmp_path, SETTINGS, 2)


def test_settings_may_change_before_the_first_shard(tmp_path):
    maps = np.ones((2, 3, 4))
    MapStore(tmp_path / "maps", SETTINGS, 2)
    (tmp_path / "maps/index.jsonl").write_text("a line of an interrupted call\n")
    part = _write(tmp_path / "part", maps, target="rose")
    part.check_target(tmp_path / "maps")
    store = _write(tmp_path / "maps", maps, target="rose")
    assert [line["row"] for line in store.lines()] == [0, 1]
    with pytest.raises(ValueError, match="target: rose there, absent now"):
        MapStore(tmp_path / "maps", SETTINGS, 2)


@pytest.mark.parametrize("name", ["index.jsonl", "skipped.jsonl"])
def test_logs_of_another_program_are_kept(tmp_path, name):
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(ValueError, match=f"{name} may not be from .*; give another"):
        MapStore(tmp_path, SETTINGS, 2)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["{}\n"]


def test_logs_are_on_disk_before_the_state_counts_them(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(descriptor):
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    _write(tmp_path, np.ones((2, 3, 4)))
    index, skipped, state = (
        ((tmp_path / name).stat().st_ino, (tmp_path / name).stat().st_size)
        for name in ("index.jsonl", "skipped.jsonl", "state.json")
    )
    assert synced[-3:] == [index, skipped, state] and index[1] > 0


def test_reading_changes_nothing_that_another_process_writes(tmp_path):
    _write(tmp_path, np.ones((2, 3, 4)))
    with open(tmp_path / "index.jsonl", "a") as file:
        file.write('{"image": "half a li')
    before = (tmp_path / "index.jsonl").read_bytes()
    assert len(list(MapStore.open(tmp_path).lines())) == 2
    assert (tmp_path / "index.jsonl").read_bytes() == before
    assert len(list(MapStore(tmp_path, SETTINGS, 2).lines())) == 2


def _truncate(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    "damage, named, message",
    [
        (lambda f: _truncate(f / "state.json"), "state.json", "is damaged"),
        (lambda f: (f / "state.json").write_text("{}"), "state.json", "'settings'"),
        (lambda f: (f / "state.json").write_bytes(b"\xff"), "state.json", "damaged"),
        (lambda f: (f / "state.json").unlink(), "state.json", "has no maps"),
        (lambda f: (f / "index.jsonl").unlink(), "index.jsonl", "it has 0 bytes"),
        (lambda f: _truncate(f / "index.jsonl"), "index.jsonl", "it has 40 bytes"),
        (
            lambda f: (f / "index.jsonl").write_text("x" * 4000),
            "index.jsonl",
            "is not JSON",
        ),
        (
            lambda f: _truncate(f / "saliency/00000.npy"),
            "saliency/00000.npy",
            "is damaged",
        ),
        (
            lambda f: np.save(f / "saliency/00000.npy", np.ones((1, 3, 4))),
            "saliency/00000.npy",
            "is damaged",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, named, message):
    _write(tmp_path, np.ones((2, 3, 4)))
    damage(tmp_path)
    with pytest.raises((records.DamagedFileError, FileNotFoundError)) as caught:
        store = MapStore.open(tmp_path)
        for line in store.lines():
            store.read(line)
    text = str(caught.value)
    assert named in text and message in text and "scripts.attribute" in text
    assert str(tmp_path) in text and "\n" not in text


def test_maps_that_are_not_finite_are_left_out(network, images, tmp_path):
    head = network.variables["params"]["head"]
    head = jax.tree.map(lambda x: x * np.nan, head)
    params = network.variables["params"] | {"head": head}
    broken = dataclasses.replace(
        network, variables=network.variables | {"params": params}
    )
    out = tmp_path / "maps"
    skipped = attribute.attribute(broken, images, ["eigen_cam"], out, layer="block3")
    assert [line["image"] for line in skipped] == list(images.names)
    text = skipped[list(images.names).index(str(tmp_path / "0.png"))]["error"]
    assert "0.png has values that are not finite in logits" in text
    assert list(MapStore.open(out).lines()) == []


def test_second_process_is_told_who_writes(network, images, tmp_path):
    out = tmp_path / "maps"
    out.mkdir()
    code = (
        "import sys; from seeflower_jax import records\n"
        "with records.lock(sys.argv[1]): print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", code, out]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=harness.ROOT, **pipes) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(records.FolderInUseError, match=f"process {holder.pid} on"):
            attribute.attribute(network, images, ["saliency"], out)
        holder.communicate(b"\n")
    assert attribute.attribute(network, images, ["saliency"], out) == []
    assert len(list(MapStore.open(out).lines())) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"dtype": "float64"}, "dtype is 'float64'; expected 'float16' or"),
    ],
)
def test_options_are_checked_before_the_folder_is_made(
    network, images, tmp_path, options, message
):
    with pytest.raises(ValueError, match=message):
        attribute.attribute(network, images, ["saliency"], tmp_path / "maps", **options)
    assert not (tmp_path / "maps").exists()


def test_long_names_of_images_have_overlays(network, tmp_path):
    path = tmp_path / f"{'é' * 120}.png"
    Image.new("RGB", (SIDE, SIDE), "red").save(path)
    out, images = tmp_path / "maps", network.images(path)
    attribute.attribute(network, images, ["saliency"], out, overlays=True)
    assert len(list((out / "overlays/saliency").iterdir())) == 1
