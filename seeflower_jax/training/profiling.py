"""Write a trace of some steps, to see where their time goes.

    with Trace(folder, steps=10) as trace:
        for batch in batches:
            trace.before_step(metrics)
            state, metrics = step(state, batch, key)

XProf (`xprof --logdir FOLDER`, or TensorBoard) opens the folder, and
https://ui.perfetto.dev opens its `perfetto_trace.json.gz`.
"""

import logging
import pathlib
import types
from typing import Any

import jax

_SKIPPED = 2  # the first steps of a stage, which compile and wait for the first batch


class Trace:
    """A trace of consecutive steps of a stage, after its first two.

    Args:
      folder: the folder that gets the trace.
      steps: number of steps in the trace; 0 is none.
    """

    def __init__(self, folder: pathlib.Path, steps: int):
        self._folder, self._steps = folder, steps
        self._started, self._running = 0, False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """End the trace, even if the stage has fewer steps."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            logging.info("%s has a trace of the training steps", self._folder)

    def before_step(self, metrics: Any) -> None:
        """Start or end the trace, if it is time.

        Args:
          metrics: arrays of the step before. The trace ends when they are computed.
        """
        if self._steps and self._started == _SKIPPED:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        elif self._started == _SKIPPED + self._steps:
            jax.block_until_ready(metrics)
            self.__exit__(None, None, None)
        self._started += 1
