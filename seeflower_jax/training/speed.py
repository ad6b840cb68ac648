"""Measure how well a stage uses its devices, for the metrics log.

speed = Speed(lambda: step.lower(state, batch, key))
line |= speed.metrics(steps_per_second)
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax

from seeflower_jax import records

# The largest FLOP/s of dense products in bfloat16 (V100: float16), by a part of JAX's
# name of the device; from the data sheets of NVIDIA and Google. JAX does not report
# them.
_PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops(kind: str) -> float | None:
    """Return the largest FLOP/s of a kind of device in bfloat16; None if unknown."""
    matching = (
        flops for name, flops in _PEAK_FLOPS.items() if re.search(rf"\b{name}\b", kind)
    )
    return next(matching, None)


class Speed:
    """The speed of a stage.

    Args:
      lower: function that returns the lowered step, a `jax.stages.Lowered`. It is
        called only for devices with known largest FLOP/s. None stands for a step that
        is not compiled, whose FLOPs are not known.
    """

    def __init__(self, lower: Callable[[], Any] | None):
        self._lower = lower

    def metrics(self, steps_per_second: float) -> dict:
        """Return the device, its peak memory, and the share of its largest FLOP/s.

        Values that JAX does not report are left out. The share is the FLOPs of the
        step, as XLA counts them, divided by its time and by the largest FLOP/s in
        bfloat16.
        """
        devices = jax.local_devices()
        peaks = [
            stats["peak_bytes_in_use"]
            for device in devices
            if "peak_bytes_in_use" in (stats := device.memory_stats() or {})
        ]
        metrics: dict = {"device": records.device()}
        if peaks:
            metrics["peak_memory_bytes"] = max(peaks)
        limit = peak_flops(devices[0].device_kind)
        if limit and self._flops:
            share = self._flops * steps_per_second / (limit * jax.device_count())
            metrics["model_flop_utilisation"] = round(share, 4)
        return metrics

    @functools.cached_property
    def _flops(self) -> float:
        """Return the FLOPs of a step over all devices; 0 if they are not known."""
        if self._lower is None:
            return 0.0
        analysis = self._lower().cost_analysis() or {}
        return analysis.get("flops", 0.0)
