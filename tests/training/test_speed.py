"""Test the speed of devices in the metrics log, and the trace of some steps."""

import gzip
import json
import types

import jax
import jax.numpy as jnp
import pytest

from seeflower_jax.models.ops import conv2d
from seeflower_jax.training import flops, speed
from seeflower_jax.training.profiling import Trace

GPU = "NVIDIA H100 80GB HBM3"


def _devices(monkeypatch, kind, *peaks):
    devices = [
        types.SimpleNamespace(
            device_kind=kind,
            memory_stats=lambda peak=peak: peak and {"peak_bytes_in_use": peak},
        )
        for peak in peaks
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: len(devices))


def test_share_of_the_largest_flops(monkeypatch):
    _devices(monkeypatch, GPU, 3 * 10**9, 5 * 10**9)
    arguments = jnp.zeros((800, 160)), jnp.zeros((160, 400))
    metrics = speed.Speed(jax.jit(lambda a, b: a @ b)).metrics(1e6, arguments)
    flops = 2 * 800 * 160 * 400  # a multiplication and an addition for each product
    # NVIDIA's data sheet: 989 TFLOP/s in bfloat16, without sparsity.
    assert metrics["model_flop_utilisation"] == pytest.approx(
        flops * 1e6 / (2 * 989e12), abs=1e-4
    )
    assert metrics["peak_memory_bytes"] == 5 * 10**9


def test_what_jax_does_not_tell_is_left_out(monkeypatch):
    step = speed.Speed(jax.jit(lambda x: x))
    _devices(monkeypatch, "cpu", None)
    assert step.metrics(1.0, ()).keys() == {"device"}
    _devices(monkeypatch, "NVIDIA GeForce GTX 480", None)
    assert step.metrics(1.0, ()).keys() == {"device"}
    _devices(monkeypatch, GPU, None)
    assert speed.Speed(lambda x: x).metrics(1.0, ()).keys() == {"device"}  # not jitted


def _convolve(x, kernel, strides=(1, 1), padding="VALID", groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _strided_and_grouped(x, kernel):
    return _convolve(x, kernel, (2, 2), groups=3)


def _padded(x, kernel):
    return _convolve(x, kernel, padding="SAME")


def _scan(a, rows):
    return jax.lax.scan(lambda total, row: (total + a @ row, None), a[:, 0], rows)


def _condition(a, b):
    return jax.lax.cond(a.sum() > 0, lambda: a @ b, lambda: a @ (b + b @ b))


def _gradients(x, kernel):
    def total(x, kernel):
        return conv2d(x, kernel, (2, 2), "SAME").sum()

    return jax.value_and_grad(total, (0, 1))(x, kernel)


@pytest.mark.parametrize(
    "function,shapes,products",
    [
        # 3 x 4 windows of 3 x 3 pixels with 2 channels, for 12 features of 2 images.
        (_strided_and_grouped, [(2, 7, 9, 6), (3, 3, 2, 12)], 2 * 12 * 12 * 3 * 3 * 2),
        # Windows of 2, 3, 3 and 2 pixels within the image.
        (_padded, [(1, 4, 1, 1), (3, 1, 1, 1)], 10),
        # Rows have 2, 3, 3 and 2 pixels, and columns 2, 3, 3, 3 and 2. There are 3
        # passes: forward, gradient of the images, and gradient of the kernel.
        (_gradients, [(2, 7, 9, 5), (3, 3, 5, 6)], 3 * 2 * 10 * 13 * 5 * 6),
        (jax.vmap(jnp.matmul), [(3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),
        (_scan, [(4, 5), (7, 5)], 7 * 4 * 5),
        (_condition, [(4, 5), (5, 5)], 5 * 5 * 5 + 4 * 5 * 5),
        (jax.jit(jax.jit(jnp.dot)), [(4, 5), (5, 6)], 4 * 5 * 6),
        (jax.checkpoint(jnp.dot), [(4, 5), (5, 6)], 4 * 5 * 6),
        (jnp.tanh, [(4, 5)], 0),
    ],
)
def test_counted_flops(function, shapes, products):
    arrays = map(jnp.zeros, shapes)
    counted = flops.count(jax.jit(function).trace(*arrays).jaxpr)
    assert counted == 2 * products


@pytest.mark.parametrize(
    "kind,expected",
    [
        (GPU, 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("cpu", None),
    ],
)
def test_largest_flops_of_a_device(kind, expected):
    assert speed.peak_flops(kind) == expected


@pytest.mark.parametrize("steps,traced", [(8, [2, 3, 4]), (4, [2, 3])])
def test_trace_has_the_steps_after_the_first_two(tmp_path, steps, traced):
    compute = jax.jit(lambda x: x + 1)
    value = jnp.zeros(3)
    with Trace(tmp_path, 3) as trace:
        for step in range(steps):
            trace.before_step(value)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                value = compute(value)
    (path,) = tmp_path.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    numbers = [e["args"]["step_num"] for e in events if e.get("name") == "train"]
    assert sorted(map(int, numbers)) == traced
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_trace_ends_after_its_last_step_is_computed(tmp_path, monkeypatch):
    events = []

    class Metric:
        def block_until_ready(self):
            events.append("computed")

    stop = jax.profiler.stop_trace

    def record_stop():
        events.append("stopped")
        stop()

    monkeypatch.setattr(jax.profiler, "stop_trace", record_stop)
    with Trace(tmp_path, 1) as trace:
        for _ in range(5):
            trace.before_step({"loss": Metric()})
    assert events == ["computed", "stopped"]
