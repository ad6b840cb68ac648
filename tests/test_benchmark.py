"""Test the speed benchmarks on small images."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
import torch

from seeflower_jax import models, records, sharding
from seeflower_jax.comparison import (
    attribution_speed,
    timing,
    torch_networks,
    training_speed,
)
from tests import fixtures, harness

FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


@pytest.mark.slow
def test_both_passes_are_timed_in_each_framework(tmp_path):
    out = tmp_path / "benchmark.json"
    small = ["--batch_size=1", "--size=75", "--steps=1", "--rounds=1"]
    done = harness.run_apart("benchmark", "train", *small, f"--out={out}")
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    default = ["seeflower_jax", "keras", "torch"]
    default += ["seeflower_jax_bfloat16", "torch_bfloat16"]
    assert record["images_per_second"].keys() == set(default)
    for framework, rates in record["images_per_second"].items():
        assert rates["forward"] > rates["finetune"] > 0
        assert framework in done.stdout
        # Only this package has a step with input and augmentation.
        for name in ("augmented", "train"):
            assert (rates.get(name, 0) > 0) == framework.startswith("seeflower_jax")
    assert record["command"].startswith("python -m scripts.benchmark train")


@pytest.mark.slow
def test_all_devices_are_measured(tmp_path):
    out = tmp_path / "benchmark.json"
    arguments = ["--framework=seeflower_jax", "--size=75", "--batch_size=8"]
    arguments += ["--steps=1", "--rounds=1", f"--out={out}"]
    done = harness.run_apart("benchmark", "train", *arguments, **FOUR_DEVICES)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    (rates,) = record["images_per_second"].values()
    assert rates.keys() == training_speed.PASSES.keys() and min(rates.values()) > 0
    assert record["device"].startswith("4 x cpu")


_ROWS = """
import json
from seeflower_jax import sharding
from seeflower_jax.comparison import training_speed

mesh = sharding.make_mesh()
batches = {
    "fixed": training_speed.fixed_batch(8, 32, mesh),
    "host": next(training_speed.loaded_batches(8, mesh)),
    "devices": next(training_speed.loaded_batches(8, mesh, "always")),
}
rows = {
    kind: {
        name: [len(shard.data) for shard in array.addressable_shards]
        for name, array in batch.items()
    }
    for kind, batch in batches.items()
}
print(json.dumps(rows))
"""


@pytest.mark.long
def test_batches_are_split_over_all_devices():
    done = harness.run_python("-c", _ROWS, **FOUR_DEVICES)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert rows["fixed"].keys() == {"canvas", "sizes", "labels", "indices"}
    assert rows["host"].keys() == {"pixels", "sizes", "labels", "indices"}
    # If the images live on the devices, each has all of their 32 x 320 x 400 pixels.
    assert rows["devices"].pop("pixels") == 4 * [32 * 320 * 400]
    assert rows["devices"].keys() == {"starts", "sizes", "labels", "indices"}
    for batch in rows.values():
        assert all(array == [2, 2, 2, 2] for array in batch.values())


def test_images_on_the_devices_are_those_of_the_loader():
    mesh = sharding.make_mesh()
    host, devices = (
        itertools.islice(training_speed.loaded_batches(2, mesh, choice), 5)
        for choice in ("never", "always")
    )
    for batch, resident in zip(host, devices, strict=True):
        for name in ("sizes", "labels", "indices"):
            np.testing.assert_array_equal(batch[name], resident[name])
        pixels = np.asarray(resident["pixels"])
        for row, start in zip(batch["pixels"], resident["starts"], strict=True):
            np.testing.assert_array_equal(row, pixels[start:][: len(row)])


def test_step_starts_before_the_last_step_is_waited_for():
    events = []

    class Metrics:
        """A value on a device, which notes when it is fetched."""

        def __init__(self, number):
            self.number = number
            events.append(f"start {number}")

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.number}")
            return np.float32(0)

    call = training_speed._one_step_late(Metrics, itertools.count())
    for _ in range(3):
        call()
    assert events == ["start 0", "start 1", "fetch 0", "start 2", "fetch 1"]


def test_frameworks_of_a_precision_are_selected():
    both = ["keras", "torch_compiled_bfloat16", "seeflower_jax_bfloat16"]
    assert training_speed.select(both, None) == both
    assert training_speed.select(both, "bfloat16") == both[1:]
    assert training_speed.select(both, "float32") == both[:1]


@pytest.mark.parametrize("driver,hidden", [(True, False), (True, True), (False, False)])
def test_compiled_pytorch_is_measured_on_gpus(driver, hidden, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name if driver else None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "" if hidden else "0")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    selected = training_speed.select(None, None)
    compiled = ["torch_compiled", "torch_compiled_bfloat16"]
    others = [name for name in training_speed.FRAMEWORKS if name not in compiled]
    assert selected == others + compiled * (driver and not hidden)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert training_speed.select(None, "bfloat16") == [
        name for name in others if name.endswith("bfloat16")
    ]


def test_framework_of_another_precision():
    arguments = ["train", "--framework=keras", "--dtype=bfloat16"]
    done = harness.run_here("benchmark", *arguments)
    assert done.returncode == 1
    assert "a framework that computes in bfloat16, got keras" in done.stderr


def test_table_of_convolutions(tmp_path):
    out = tmp_path / "convolutions.json"
    small = ["--model=small", "--batch_size=2", "--size=32", "--rounds=1"]
    done = harness.run_here("benchmark_convolutions", *small, f"--out={out}")
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    kernels = models.shapes(models.get_spec("small", num_classes=102))["params"]
    expected = [
        list(kernel.shape)
        for kernel in jax.tree.leaves(kernels["backbone"])
        if len(kernel.shape) == 4
    ]
    rows = record["convolutions"]
    found = [row["kernel"] for row in rows for _ in range(row["count"])]
    assert sorted(found) == sorted(expected)
    forms = {"xla_float32", "xla_bfloat16"}
    forms |= {"seeflower_jax_float32", "seeflower_jax_bfloat16"}
    for name in ("forward", "input_gradient", "kernel_gradient"):
        # Seconds and GFLOP/s are of the same calls.
        for form in forms:
            seconds = 0
            for row in rows:
                height, width, _ = row["image"]
                positions = 2 * height * width  # of 'SAME' windows in two images
                flops = 2 * positions * np.prod(row["kernel"]) / np.prod(row["strides"])
                seconds += row["count"] * flops / 1e9 / row[name][form]
            assert seconds == pytest.approx(record["seconds"][name][form])
    assert record["product_gflops"].keys() == {"float32", "bfloat16"}
    assert "kernel_gradient" in done.stdout


def test_platform_without_its_driver(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = harness.run_here("benchmark", "train", "--platform=gpu")
    assert done.returncode == 1 and "there is no nvidia-smi" in done.stderr
    assert "--platform=cpu" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("train", "forward"), ("tarin",)])
def test_unknown_command(arguments):
    done = harness.run_apart("benchmark", *arguments)
    assert done.returncode != 0 and "'train'" in done.stdout + done.stderr


def test_unknown_method():
    done = harness.run_here("benchmark", "attribution", "--methods=salincy")
    assert done.returncode == 1
    assert "unknown method 'salincy'; did you mean one of" in done.stderr
    assert done.stderr.count("\n") == 1


def test_network_that_torchvision_does_not_have():
    done = harness.run_here("benchmark", "attribution", "--networks=vgg16,small")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "torchvision does not have small; expected one of ['incep" in done.stderr


@pytest.mark.long
def test_run_that_pytorch_cannot_have(linear_run):
    message = (
        f"{linear_run.workdir} cannot be compared with PyTorch, because its head has "
        r"pooling 'root_moments', pooled .*block\[345\].*, standardize True; expected"
    )
    with pytest.raises(ValueError, match=message):
        attribution_speed.workers([str(linear_run.workdir)])
    with pytest.raises(ValueError, match="vgg16 cannot be compared with PyTorch"):
        torch_networks.torch_network(linear_run.network.spec, {})


def test_methods_that_captum_has():
    selected = attribution_speed.workers(["vgg16"], ["grad_cam", "lrp"])
    assert selected == [
        f"vgg16:{framework}:{method}"
        for method in ("forward", "grad_cam", "lrp")
        for framework in ("seeflower_jax", "captum")
    ]
    assert "lrp" not in attribution_speed.shared_methods("inception_v3")


@pytest.mark.parametrize(
    "argument", ["--networks=", "--networks=vgg16,vgg16", "--out=", "--steps=0"]
)
def test_values_out_of_range(argument):
    done = harness.run_here("benchmark", "attribution", argument)
    assert done.returncode == 2 and argument.split("=")[0] in done.stderr
    assert done.stderr.count("\n") == 1


def test_fast_calls_are_timed_more_often(monkeypatch):
    calls = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 0.25 * len(calls))
    assert timing.seconds(lambda: calls.append(1), steps=2, at_least=2.0) == 0.25
    assert len(calls) == 2 + 8
    calls.clear()
    timing.seconds(lambda: calls.append(1), steps=3, warm=1)
    assert len(calls) == 1 + 3


def test_rate_of_the_fastest_round(monkeypatch):
    rounds = iter([0.5, 0.25, 1.0])  # seconds a call
    monkeypatch.setattr(timing, "seconds", lambda *args, **options: next(rounds))
    worker = "small:seeflower_jax:saliency"
    measured = attribution_speed.measure(worker, batch_size=2, steps=1, rounds=3)
    assert measured["rate"] == 2 / 0.25


def test_workers_take_turns_and_errors_are_returned(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        f"log = {str(tmp_path / 'log')!r}\n"
        "name = sys.argv[-1].removeprefix('--worker=')\n"
        "open(log, 'a').write(name)\n"
        "if name == 'b': raise SystemExit('no worker b')\n"
        "print(json.dumps({'rate': len(open(log).read())}))\n"
    )
    command = [
        "-c",
        f"import os; os.chdir({str(tmp_path)!r}); exec(open('worker.py').read())",
    ]
    measurements = timing.in_processes(command, ["a", "b", "c"], rounds=3)
    assert (tmp_path / "log").read_text() == "abcacac"
    assert measurements == {"a": {"rate": 6}, "b": "no worker b", "c": {"rate": 7}}


def test_timed_calls_of_workers_alternate(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        "from seeflower_jax.comparison import timing\n"
        "name = sys.argv[-1].removeprefix('--worker=')\n"
        "def call():\n"
        f"    open({str(tmp_path / 'log')!r}, 'a').write(name)\n"
        "    if name == 'c': raise SystemExit('no worker c')\n"
        "timing.seconds(call, steps={'a': 2, 'b': 4}.get(name, 1), warm=1)\n"
        "print('a line of a library')\n"
        "print(json.dumps({'rate': 1}))\n"
    )
    command = ["-c", f"exec(open({str(script)!r}).read())"]
    workers = ["a", "b", "c", "d"]
    measurements = timing.in_processes(command, workers, rounds=1, together=2)
    assert (tmp_path / "log").read_text() == "ab" + "abab" + "bb" + "c" + "dd"
    rate = {"rate": 1}
    assert measurements == {"a": rate, "b": rate, "c": "no worker c", "d": rate}


@pytest.mark.parametrize(
    "pooling,pooled",
    [("average", ()), ("root_average", ("block4_pool", "block5_pool"))],
)
def test_torch_network_is_the_same(pooling, pooled):
    spec = models.get_spec(
        "vgg16", num_classes=5, input_size=64, pooling=pooling, pooled=pooled
    )
    variables = fixtures.random_variables(spec, 0)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("f")
    logits, _ = models.apply(spec, variables, images)
    network, _ = torch_networks.torch_network(spec, variables)
    with torch.no_grad():
        torch_logits = network(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(
        torch_logits, logits, atol=1e-4 * np.abs(torch_logits).max()
    )


def test_table_has_both_frameworks():
    measurements = {
        "vgg16:seeflower_jax:forward": {"rate": 4.0, "peak_mib": 900.0},
        "vgg16:captum:forward": {"rate": 5.0, "peak_mib": 800.0},
        "vgg16:seeflower_jax:saliency": {"rate": 2.0, "peak_mib": 950.4},
        "vgg16:captum:saliency": "ImportError: no captum",
    }
    table = attribution_speed.table(measurements)
    assert table == {
        "vgg16": {
            "forward_images_per_second": 4.0,
            "captum_forward_images_per_second": 5.0,
            "methods": {
                "saliency": {
                    "maps_per_second": 2.0,
                    "peak_memory_mib": 950,
                    "captum_error": "ImportError: no captum",
                }
            },
        }
    }
    assert [line.split() for line in attribution_speed.text(table).splitlines()] == [
        ["vgg16"],
        ["maps/s", "seeflower_jax", "captum"],
        ["forward", "4.00", "5.00"],
        ["saliency", "2.00", "failed"],
        ["captum", "failed:", "ImportError:", "no", "captum"],
    ]


def test_table_names_the_config_of_a_run(tiny_run):
    worker = f"{tiny_run.workdir}:seeflower_jax:forward"
    table = attribution_speed.table({worker: {"rate": 4.0, "peak_mib": 900.0}})
    (network,) = table.values()
    assert network["run"] == records.config_hash(tiny_run.config)


def test_text_names_what_is_missing():
    rates = {"seeflower_jax": {"forward": 3.0, "finetune": 1.0}, "keras": "no keras"}
    lines = [line.split() for line in training_speed.text(rates).splitlines()]
    assert lines[1:] == [["seeflower_jax", "3.00", "1.00"], ["keras", "no", "keras"]]
