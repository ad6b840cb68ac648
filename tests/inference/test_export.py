"""An exported network gives what its checkpoint gives, without the training code."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import exported, models, network
from seeflower_jax.attribution import grad_cam
from seeflower_jax.report import attribution
from tests import fixtures

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 75, 75, 3), dtype=np.uint8)
# Loads an export, with pictures on stdin, and lists what else it took.
_ALONE = """
import sys
import numpy as np
from seeflower_jax import exported
logits, _ = exported.load(sys.argv[1])
np.save(sys.argv[3], np.asarray(logits(np.load(sys.argv[2]))))
ours = [n for n in sys.modules if n.startswith(("seeflower_jax.", "flax", "orbax"))]
assert ours == ["seeflower_jax.exported"], ours
"""


def _export(name, folder):
    """Exports a network of random variables: (folder, spec, variables, pictures)."""
    size = {"inception_v3": 75}.get(name, 32)
    width = 1.0 if name == "baseline" else fixtures.NARROW_WIDTH
    spec = models.get_spec(
        name, num_classes=4, width=width, input_size=size, pooling="flatten"
    )
    variables = fixtures.random_variables(spec, 0)
    folder = folder / name
    metrics = {"test": {"top1": 0.5}}
    saved = network.Network(
        class_names=tuple("abcd"),
        size=size,
        crop=1.0,
        shortest_side=size,
        temperature=0.5,
        origin="here",
        spec=spec,
        variables=variables,
    )
    exported.save(folder, saved, metrics)
    return folder, spec, variables, IMAGES[:, :size, :size]


@pytest.fixture(scope="module", params=["inception_v3", "vgg16", "baseline"])
def export(request, tmp_path_factory):
    return _export(request.param, tmp_path_factory.mktemp("export"))


@pytest.fixture
def baseline(tmp_path):
    return _export("baseline", tmp_path)


def test_same_logits_for_any_batch_size(export):
    folder, spec, variables, images = export
    logits, description = exported.load(folder)
    expected = jax.jit(lambda x: models.apply(spec, variables, x)[0])(images)
    for count in (1, 3):
        found = logits(images[:count])
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-5)
    assert models.ModelSpec(**description["spec"]) == spec
    assert description["class_names"] == list("abcd")
    assert description["metrics"]["test"]["top1"] == 0.5
    assert description["temperature"] == 0.5
    assert description["platforms"] == ["cpu", "cuda"]


def test_loaded_alone(baseline, tmp_path):
    folder, spec, variables, images = baseline
    np.save(tmp_path / "in.npy", images)
    command = [sys.executable, "-c", _ALONE, folder, *map(tmp_path.joinpath, IN_OUT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = models.apply(spec, variables, images)[0]
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


IN_OUT = ("in.npy", "out.npy")


def test_command_line(baseline, tmp_path):
    folder, spec, variables, images = baseline
    paths = [tmp_path / "a.png", tmp_path / "b" / "a.png"]
    paths[1].parent.mkdir()
    for path in paths:
        Image.fromarray(images[0]).save(path)
    command = [sys.executable, "-m", "scripts.predict", f"--export={folder}", "--json"]
    command += ["--explain", f"--out={tmp_path / 'out'}", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    classes = lines[0]["classes"]
    assert sorted(c["name"] for c in classes) == list("abcd")
    logits = models.apply(spec, variables, images[:1])[0]
    expected = np.sort(jax.nn.softmax(logits[0] / 0.5))[::-1]
    np.testing.assert_allclose([c["probability"] for c in classes], expected, rtol=1e-4)

    shown = [tmp_path / "out" / name for name in ("a_grad_cam.png", "a_1_grad_cam.png")]
    assert [line["grad_cam"] for line in lines] == list(map(str, shown))
    pair = np.asarray(Image.open(shown[0]))
    np.testing.assert_array_equal(pair[:, :32], images[0])
    target = np.asarray(logits).argmax(-1)
    bound = models.bind(spec, variables)
    (values,) = grad_cam.grad_cam(bound, images[:1], target, layer="conv2")
    expected = attribution.overlay(images[0], values, False)
    assert np.abs(pair[:, 32:] - expected.astype(int)).max() <= 2


def test_folder_that_is_none(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    message = "no exported model: model.stablehlo, parameters.safetensors is missing"
    with pytest.raises(ValueError, match=message):
        exported.load(tmp_path)
