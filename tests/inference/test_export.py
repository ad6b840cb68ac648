"""An exported network predicts like its checkpoint, without the training code."""

import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import models
from seeflower_jax.attribution import grad_cam
from seeflower_jax.data import whitening
from seeflower_jax.data.view import View
from seeflower_jax.download import file_hash
from seeflower_jax.figures import maps as figures
from seeflower_jax.inference import export
from seeflower_jax.inference.load import load
from seeflower_jax.inference.network import Network
from tests import fixtures, harness

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 75, 75, 3), dtype=np.uint8)
# Load an export, predict, and list what was imported.
_ALONE = """
import json, sys
import seeflower_jax as sf
prediction, = sf.load(sys.argv[1]).predict(sys.argv[2], top=4)
names = {name.partition(".")[0] for name in sys.modules}
assert not names & {"flax", "optax", "orbax", "matplotlib", "ml_collections"}, names
print(json.dumps(dict(zip(prediction.classes, prediction.probabilities))))
"""


def _network(name: str, preprocess: whitening.Whitening | None = None) -> Network:
    """Return a network of random variables."""
    size = {"inception_v3": 75}.get(name, 32)
    width = 1.0 if name == "baseline" else fixtures.NARROW_WIDTH
    spec = models.get_spec(
        name, num_classes=4, width=width, input_size=size, pooling="flatten"
    )
    return Network(
        spec=spec,
        variables=fixtures.random_variables(spec, 0),
        view=View(size, size),
        class_names=tuple("abcd"),
        temperature=0.5,
        preprocess=preprocess,
        origin="here",
    )


@pytest.fixture
def baseline(tmp_path):
    """Return (folder, network, images) of an exported baseline."""
    network = _network("baseline")
    export.save(tmp_path / "baseline", network, {})
    return tmp_path / "baseline", network, IMAGES[:, :32, :32]


@pytest.mark.long
@pytest.mark.parametrize("name", ["inception_v3", "vgg16", "baseline"])
def test_same_logits_for_any_batch_size(name, tmp_path):
    network = _network(name)
    size = network.view.size
    export.save(tmp_path / name, network, {"test": {"top1": 0.5}})
    exported, description = (
        export.load(tmp_path / name),
        export.describe(tmp_path / name),
    )
    images = IMAGES[:, :size, :size]
    sizes = np.full((3, 2), size, np.int32)
    expected = jax.jit(network.bind())(images.astype(np.float32))[0]
    for count in (1, 3):
        logits = exported.compute_logits(
            exported.variables, images[:count], sizes[:count]
        )
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-5, atol=1e-5)
    harness.assert_trees_equal(exported.variables, network.variables)
    assert exported.spec == network.spec and exported.view == network.view
    assert exported.class_names == tuple("abcd") and exported.temperature == 0.5
    assert exported.origin == str(tmp_path / name)
    assert description["metrics"]["test"]["top1"] == 0.5
    assert description["platforms"] == ["cpu", "cuda"]
    assert exported.preprocess is None


def test_loaded_alone(baseline, tmp_path):
    folder, network, images = baseline
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    completed = harness.run_python("-c", _ALONE, folder, tmp_path / "image.png")
    assert completed.returncode == 0, completed.stderr
    probabilities = json.loads(completed.stdout)
    (prediction,) = network.predict(tmp_path / "image.png", top=4)
    assert probabilities.keys() == set(prediction.classes)
    for name, value in zip(prediction.classes, prediction.probabilities, strict=True):
        assert probabilities[name] == pytest.approx(value, abs=1e-5)


def test_whitening_is_part_of_the_export(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), np.uint8)
    images = np.cumsum(images, 1, np.float32)  # rows that resemble each other
    images = (images * 255 / images.max((1, 2, 3), keepdims=True)).astype(np.uint8)
    network = _network("baseline", whitening.fit(images, seed=0, patch_size=3))
    export.save(tmp_path / "out", network, {})
    path = tmp_path / "image.png"
    Image.fromarray(images[0]).save(path)
    exported = load(tmp_path / "out")
    (expected,), (prediction,) = network.predict(path), exported.predict(path)
    assert prediction.classes == expected.classes
    np.testing.assert_allclose(
        prediction.probabilities, expected.probabilities, atol=1e-6
    )
    plain = _network("baseline").predict(path)[0]
    assert np.abs(np.subtract(plain.probabilities, expected.probabilities)).max() > 1e-3

    maps = [n.explain(path, "grad_cam").map for n in (network, exported)]
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-5, atol=1e-6)
    other_map = _network("baseline").explain(path, "grad_cam").map
    assert np.abs(other_map - maps[0]).max() > 1e-3 * np.abs(maps[0]).max() > 0

    export.save(tmp_path / "again", exported, {})  # an export of an export
    (again,) = export.load(tmp_path / "again").predict(path)
    np.testing.assert_allclose(again.probabilities, expected.probabilities, atol=1e-6)


def test_command_line(baseline, tmp_path):
    folder, network, images = baseline
    paths = [tmp_path / "a.png", tmp_path / "b" / "a.png"]
    paths[1].parent.mkdir()
    for path in paths:
        Image.fromarray(images[0]).save(path)
    options = ["--json", "--explain", f"--out={tmp_path / 'out'}"]
    completed = harness.run_apart("predict", f"--export={folder}", *options, *paths)
    assert completed.returncode == 0, completed.stderr
    lines = [json.loads(line) for line in completed.stdout.splitlines()]
    assert [line["image"] for line in lines] == list(map(str, paths))
    classes = lines[0]["classes"]
    assert sorted(c["name"] for c in classes) == list("abcd")
    logits = models.apply(network.spec, network.variables, images[:1])[0]
    expected = np.sort(jax.nn.softmax(logits[0] / 0.5))[::-1]
    np.testing.assert_allclose([c["probability"] for c in classes], expected, rtol=1e-4)

    drawn = [tmp_path / "out" / name for name in ("a_grad_cam.png", "a_1_grad_cam.png")]
    assert [line["grad_cam"] for line in lines] == list(map(str, drawn))
    pair = np.asarray(Image.open(drawn[0]))
    np.testing.assert_array_equal(pair[:, :32], images[0])
    target = np.asarray(logits).argmax(-1)
    (values,) = grad_cam(network.bind(), images[:1], target, layer="conv2")
    overlay = figures.overlay(images[0], values, False)
    assert np.abs(pair[:, 32:] - overlay.astype(int)).max() <= 2


def test_script(tiny_run, tmp_path):
    out = tmp_path / "out"
    arguments = [f"--workdir={tiny_run.workdir}", f"--out={out}"]
    completed = harness.run_here("export", *arguments, "--json")
    assert completed.returncode == 0, completed.stderr
    result = json.loads((tiny_run.workdir / "result.json").read_text())
    printed = json.loads(completed.stdout)
    assert printed["out"] == str(out) and printed["test"] == result["test"]
    assert export.describe(out)["metrics"]["validation"] == result["validation"]
    assert load(out).temperature == tiny_run.network.temperature
    completed = harness.run_here("export", *arguments)
    assert completed.returncode == 1 and f"{out} exists" in completed.stderr


def test_interrupted_export_leaves_no_folder(tmp_path, monkeypatch):
    network = _network("baseline")
    monkeypatch.setattr(export, "_serialize", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.save(tmp_path / "out", network, {})
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    export.save(tmp_path / "out", network, {})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_that_are_not_exports(baseline, tmp_path):
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    message = "not an export: model.stablehlo, parameters.safetensors is missing"
    with pytest.raises(ValueError, match=message):
        export.load(folder)
    with pytest.raises(ValueError, match="it lacks model.stablehlo, parameters.safete"):
        load(folder)
    description = export.describe(baseline[0])
    del description["view"]
    (baseline[0] / "model.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="no 'view'.*export the run again"):
        export.load(baseline[0])


def _rewrite(folder, **changes):
    """Change values of model.json."""
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["model.stablehlo", "parameters.safetensors", "model.json"]
)
def test_damaged_file_is_named(baseline, name):
    path = baseline[0] / name
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    for content in (whole[:-9], b"", bytes(changed)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged: .*; copy the export"):
            load(baseline[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": {}},
        {"sha256": 3},
        {"temperature": "hot"},
        {"temperature": 0},
        {"class_names": ["a"]},
        {"view": {"size": 32}},
        {"spec": {"name": "vgg16"}},
    ],
    ids=str,
)
def test_values_that_make_no_sense(baseline, changes):
    _rewrite(baseline[0], **changes)
    with pytest.raises(ValueError, match="model.json is damaged: "):
        load(baseline[0])


@pytest.mark.parametrize("name", ["model.stablehlo", "parameters.safetensors"])
def test_damaged_file_without_its_hash(baseline, name):
    """Test also a file with the hash of its damaged content."""
    (baseline[0] / name).write_bytes(b"half")
    hashes = export.describe(baseline[0])["sha256"]
    _rewrite(baseline[0], sha256=hashes | {name: file_hash(baseline[0] / name)})
    with pytest.raises(ValueError, match=f"{name} is damaged: "):
        load(baseline[0])


def test_mode_of_the_files_follows_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        export.save(tmp_path / "out", _network("baseline"), {})
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {0o644}


def test_file_that_may_not_be_read_is_not_called_missing(baseline, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(export, "file_hash", refuse)
    with pytest.raises(PermissionError, match="Permission denied: .*baseline/"):
        load(baseline[0])
