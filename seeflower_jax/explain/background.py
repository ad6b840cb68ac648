"""Do work on threads, with a bounded queue, and report its errors to the caller.

with Background(threads=2, limit=32) as background:
    for image in images:
        background.submit(write, image)     # waits while 32 images are unfinished
    background.wait()                       # until all are written
"""

import collections
import concurrent.futures
from collections.abc import Callable
from typing import Any, Self


class Background:
    """Threads that call functions in the order of their submission.

    A `with` block that ends without an error waits for all calls. After an error, the
    calls that have not started are dropped.

    Args:
      threads: number of threads.
      limit: largest number of unfinished calls. It bounds the memory of their
        arguments.
    """

    def __init__(self, threads: int, limit: int):
        self._executor = concurrent.futures.ThreadPoolExecutor(threads)
        self._calls: collections.deque[concurrent.futures.Future] = collections.deque()
        self._limit = limit

    def submit(self, function: Callable, *arguments: Any) -> None:
        """Call a function on a thread; wait first if `limit` calls are unfinished.

        Raises:
          Exception: the error that an earlier call raised.
        """
        while len(self._calls) >= self._limit or (
            self._calls and self._calls[0].done()
        ):
            self._calls.popleft().result()
        self._calls.append(self._executor.submit(function, *arguments))

    def wait(self) -> None:
        """Wait until all calls have ended.

        Raises:
          Exception: the error of the first call that failed.
        """
        while self._calls:
            self._calls.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._executor.shutdown(cancel_futures=True)
