"""Measure how well a stage uses its devices, for the metrics log.

speed = Speed(step)
steps_per_second = speed.of_epoch(number)
line |= speed.metrics(steps_per_second, (state, batch, key))
speed.start_epoch(number)
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from seeflower_jax import records
from seeflower_jax.training import flops
from seeflower_jax.training.progress import Stopwatch

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
        peak for name, peak in _PEAK_FLOPS.items() if re.search(rf"\b{name}\b", kind)
    )
    return next(matching, None)


class Speed:
    """The speed of a stage.

    Args:
      step: the step of the stage. If it is not jitted, such as the closed-form solution
        of the head, its FLOPs are not known.
      done: number of steps of the stage that were done before.
    """

    def __init__(self, step: Callable, done: int = 0):
        self._step = step
        self._flops: int | None = None
        self._has_compiled = False
        self.start_epoch(done)

    def start_epoch(self, done: int) -> None:
        """Measure from now on, after a number of steps."""
        self._since, self._clock = done, Stopwatch()

    def leave_out_first(self, done: int) -> None:
        """Measure from now on, if this is the first call: the first step may compile.

        Args:
          done: number of steps whose results have arrived.
        """
        if not self._has_compiled:
            self._has_compiled = True
            self.start_epoch(done)

    def of_epoch(self, done: int) -> float:
        """Return the steps per second since the start of the epoch.

        Args:
          done: number of steps of the stage that are done.
        """
        return (done - self._since) / self._clock.seconds

    def metrics(self, steps_per_second: float, arguments: Sequence[Any]) -> dict:
        """Return the device, its peak memory, and the share of its largest FLOP/s.

        Values that JAX does not report are left out. The share is the FLOPs of the
        step, see `flops`, divided by its time and by the largest FLOP/s in bfloat16.

        Args:
          steps_per_second: the measured rate.
          arguments: arguments of the step, or arrays like them.
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
        if limit and (count := self._count_flops(arguments)):
            share = count * steps_per_second / (limit * jax.device_count())
            metrics["model_flop_utilisation"] = round(share, 4)
        return metrics

    def _count_flops(self, arguments: Sequence[Any]) -> int:
        """Return the FLOPs of a step over all devices; 0 if they are not known."""
        if self._flops is None:
            trace = getattr(self._step, "trace", None)
            self._flops = flops.count(trace(*arguments).jaxpr) if trace else 0
        return self._flops
