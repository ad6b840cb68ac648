"""Test a network, a weight source and an attribution method that plugins add."""

import importlib
import json
import pathlib

import jax
import numpy as np
import pytest

from configs import inception
from seeflower_jax import models
from seeflower_jax.attribution import registry as methods
from seeflower_jax.experiment.train import train
from seeflower_jax.explain.store import MapStore
from seeflower_jax.inference.run import load_run
from seeflower_jax.models import registry as networks
from seeflower_jax.pretrained import loading, readers
from seeflower_jax.pretrained.errors import WeightFileError
from seeflower_jax.pretrained.merge import MergeError
from tests import fixtures, harness

pytestmark = pytest.mark.long

FOLDER = pathlib.Path(__file__).parent
EXAMPLES = ("network", "weight_source", "attribution_method")
TABLES = (
    (networks, "MODELS"),
    (readers, "READERS"),
    (methods, "METHODS"),
)


@pytest.fixture
def example(monkeypatch):
    """Return a function that imports an example; restore the registries afterwards."""
    for module, table in TABLES:
        monkeypatch.setattr(module, table, dict(getattr(module, table)))

    def load(name):
        module = f"{__package__}.{name}"
        monkeypatch.delitem(importlib.sys.modules, module, raising=False)
        return importlib.import_module(module)

    return load


@pytest.fixture
def config(flowers, tmp_path):
    """Return a config on images of 64 pixels; a test sets its network and weights."""
    config = inception.three_stages()
    config.data.update(dir=str(flowers), cache_dir=str(tmp_path), verify=False)
    config.data.shortest_side = 64
    config.init.weights = ""
    config.eval.update(size=64, batch_size=8)
    config.test_time.update(views=((64, 1.0),), hflip=False)
    config.stage_order = ("head", "finetune")
    config.stages.head.update(epochs=1, batch_size=8, validate_every=1)
    config.stages.finetune.update(epochs=1, batch_size=8, validate_every=1)
    config.stages.finetune.partition = (("head/.*", 3.0), ("backbone/.*", 1.0))
    config.stages.finetune.augment.size = 64
    return config


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 50


def test_there_are_no_other_examples():
    stems = {path.stem for path in FOLDER.glob("[a-z]*.py")}
    assert stems == {*EXAMPLES, "test_extending"}


def test_network_is_trained(example, config, tmp_path):
    example("network")
    config.model.name = "residual"
    result = train(config, tmp_path / "run")
    assert result["model"] == "residual" and result["best"]["stage"] == "finetune"
    assert result["seconds"].keys() == {"head", "finetune", "evaluation"}
    network = load_run(tmp_path / "run").network
    images = np.zeros((1, 64, 64, 3), np.uint8)
    logits, endpoints = models.apply(network.spec, network.variables, images)
    assert logits.shape == (1, 102) and endpoints["block3"].shape == (1, 8, 8, 64)
    started = models.init(network.spec, jax.random.key(config.seed))
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        network.variables["params"],
        started["params"],
    )
    assert all(jax.tree.leaves(moved))


def _write_npz(path, source):
    """Write a file in the example's layout; return (its arrays, the variables)."""
    variables = fixtures.random_variables(models.get_spec("small"), 3)
    arrays = {}
    for theirs, ours in source.NAMES.items():
        array = variables
        for key in ours.split("/"):
            array = array[key]
        arrays[theirs] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    np.savez(path, **arrays)
    return arrays, variables


def test_weight_source_is_what_a_run_starts_from(example, config, tmp_path):
    source, path = example("weight_source"), tmp_path / "small.npz"
    arrays, variables = _write_npz(path, source)
    config.model.name, config.init.weights = "small", str(path)
    config.stage_order = ("head",)
    result = train(config, tmp_path / "run")
    assert result["weights"]["name"] == "small.npz" and not result["weights"]["exact"]
    network = load_run(tmp_path / "run").network
    assert (network.spec.preprocess, network.spec.epsilon) == ("torch", 1e-5)
    harness.assert_trees_equal(
        [network.variables["params"]["backbone"], network.variables["batch_stats"]],
        [variables["params"]["backbone"], variables["batch_stats"]],
    )
    with pytest.raises(WeightFileError, match="small without a classifier"):
        loading.load_classifier("small", str(path))
    spec = models.get_spec("small", num_classes=4)
    del arrays["layer4.norm.bias"]
    np.savez(path, **arrays)
    with pytest.raises(MergeError, match="small.npz.*\n.*block4/bn/bias .* is missing"):
        loading.load_pretrained(spec, str(path))
    np.savez(path, **arrays, fc=np.zeros(3))
    with pytest.raises(WeightFileError, match="fc is not expected"):
        loading.load_pretrained(spec, str(path))


@pytest.fixture
def short_arguments(small_arguments):
    """Make scripts.train train the head of the network `small` for one epoch."""
    config = f"--config={harness.ROOT / 'configs/inception.py'}:three_stages"
    return [config, *small_arguments, "--config.stages.head.epochs=1"]


def test_scripts_use_a_network_plugin(short_arguments, tmp_path):
    plugin, workdir = f"--plugins={__package__}.network", f"--workdir={tmp_path}/run"
    model = "--config.model.name=residual"
    done = harness.run_apart("train", *short_arguments, model, workdir, plugin)
    assert done.returncode == 0, done.stderr
    done = harness.run_apart("evaluate", workdir, plugin, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == fixtures.CLASSES * fixtures.TEST
    done = harness.run_apart("evaluate", workdir)
    assert done.returncode == 1
    assert "unknown model 'residual'" in done.stderr and "--plugins" in done.stderr


def test_scripts_use_a_weight_source_plugin(example, short_arguments, tmp_path):
    path, workdir = tmp_path / "small.npz", tmp_path / "run"
    _, variables = _write_npz(path, example("weight_source"))
    arguments = [*short_arguments, f"--config.init.weights={path}"]
    arguments += [f"--workdir={workdir}", f"--plugins={__package__}.weight_source"]
    done = harness.run_apart("train", *arguments)
    assert done.returncode == 0, done.stderr
    trained = load_run(workdir).network.variables["params"]["backbone"]
    harness.assert_trees_equal(trained, variables["params"]["backbone"])


def test_scripts_use_an_attribution_method_plugin(small_run, tmp_path):
    out = tmp_path / "maps"
    arguments = ["--split=test", "--methods=layer_cam,grad_cam_plus", "--dtype=float32"]
    arguments += [f"--workdir={small_run}", f"--out={out}"]
    plugin = f"--plugins={__package__}.attribution_method"
    done = harness.run_apart("attribute", *arguments, plugin)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(x) for x in (out / "index.jsonl").read_text().splitlines()]
    maps = {name: [] for name in ("layer_cam", "grad_cam_plus")}
    for line in lines:
        maps[line["method"]].append(MapStore.open(out).read(line))
    assert len(maps["grad_cam_plus"]) == fixtures.CLASSES * fixtures.TEST
    # Below an average, a channel's gradient is the same at all positions.
    expected = np.array(maps["layer_cam"])
    np.testing.assert_allclose(maps["grad_cam_plus"], expected, rtol=1e-4, atol=1e-5)
    assert expected.any() and (out / "grad_cam_plus.png").exists()
