"""Show on stderr how far a long computation is.

with progress_bar("decoding", 8189, "image") as bar:
    for image in images:
        ...
        bar.update()

A terminal gets a progress bar. A file or a pipe gets one line at the end:

    decoding: 8189 images in 41 s, 199.7 images/s
"""

import contextlib
import io
import sys
from collections.abc import Iterator

import tqdm


class _Nowhere(io.TextIOBase):
    """A stream that forgets what is written to it."""

    def write(self, text: str, /) -> int:
        return len(text)


@contextlib.contextmanager
def progress_bar(
    description: str,
    total: int | None,
    unit: str,
    initial: int = 0,
    hidden: bool = False,
    **options,
) -> Iterator[tqdm.tqdm]:
    """Yield a bar to call `update` on; see `tqdm.tqdm`.

    If stderr is no terminal, the bar counts and measures as usual, and the end of the
    context writes a line. An interruption is an end, too.

    Args:
      description: name of the computation.
      total: number of units; None if unknown.
      unit: what is counted, in the singular, or "B" for bytes.
      initial: number of units that an earlier run has finished.
      hidden: whether nothing is shown, as in all processes but the first.
      **options: further arguments of `tqdm.tqdm`.
    """
    terminal = sys.stderr.isatty()
    with tqdm.tqdm(
        desc=description,
        total=total,
        unit=unit,
        initial=initial,
        disable=hidden,
        file=sys.stderr if terminal else _Nowhere(),
        unit_scale=unit == "B",
        **options,
    ) as bar:
        try:
            yield bar
        finally:
            if not terminal and not hidden:
                print(_summary(bar), file=sys.stderr, flush=True)


def _summary(bar: tqdm.tqdm) -> str:
    """Return the line of a bar at its end, with what was set as its postfix."""

    def amount(value: float) -> str:
        if bar.unit == "B":
            return bar.format_sizeof(value, "B")
        return f"{round(value, 1)} {bar.unit}s"

    seconds = max(bar.format_dict["elapsed"], 1e-6)
    count = bar.n - bar.initial
    if bar.unit != "B" and 0 < count < seconds:
        rate = f"{round(seconds / count, 1)} s/{bar.unit}"
    else:
        rate = f"{amount(count / seconds)}/s"
    parts = [f"{amount(bar.n)} in {seconds:.0f} s", rate]
    parts += [bar.postfix] if bar.postfix else []
    parts += [f"{amount(left)} left"] if (left := (bar.total or bar.n) - bar.n) else []
    return f"{bar.desc}: {', '.join(parts)}"
