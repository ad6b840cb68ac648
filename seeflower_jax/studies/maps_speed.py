"""Speed and memory of the maps of many images, compared with the computation alone.

    measure("runs/inception_seed0:files", "photos/", 1000, batch_size=16, steps=20)

`files` runs what `scripts.attribute --overlays` runs: it reads files, computes
Grad-CAM, and writes maps, boxes and overlays. `before` and `after` compute the maps of
one batch again and again, before and after `files`, because the speed of a machine may
change within minutes.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np

from seeflower_jax.comparison import timing
from seeflower_jax.data.images import Images
from seeflower_jax.explain.attribute import attribute
from seeflower_jax.explain.store import SHARD_SIZE
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.network import Network
from seeflower_jax.inference.run import load_run

PARTS = ("before", "files", "after")
METHODS = ("grad_cam",)


def workers(runs: Sequence[str]) -> list[str]:
    """Return the names of the measurements of run directories."""
    return [f"{run}:{part}" for run in runs for part in PARTS]


def measure(
    worker: str, images: str, count: int, batch_size: int, steps: int
) -> dict[str, float]:
    """Measure one part in this process.

    Args:
      worker: a name from `workers`.
      images: a folder, a pattern or a .txt list, as `Network.images` takes them.
      count: number of images, three shards or more. Fewer images are repeated.
      batch_size: number of images at once.
      steps: number of timed batches in each part of the computation alone.

    Returns:
      `images_per_second`. `files` also has the peak memory in MiB after few images,
      `peak_mib_few`, and after all images, `peak_mib`.
    """
    run, part = worker.rsplit(":", 1)
    network = load_run(run).network
    files = network.images(images)
    if part != "files":
        return {"images_per_second": _computation(network, files, batch_size, steps)}
    files = files[[number % len(files) for number in range(count)]]
    with tempfile.TemporaryDirectory() as folder:
        few = files[: 2 * SHARD_SIZE]
        _write_maps(network, few, pathlib.Path(folder) / "few", batch_size)
        peak_mib_few = timing.peak_mib(None)
        rate = _write_maps(network, files, pathlib.Path(folder) / "all", batch_size)
    return {
        "images_per_second": rate,
        "peak_mib_few": peak_mib_few,
        "peak_mib": timing.peak_mib(None),
    }


def _computation(network: Network, files: Images, batch_size: int, steps: int) -> float:
    """Return the images/s of the maps of one batch, as a mean like that of files."""
    explainer = Explainer(network, METHODS, batch_size=batch_size)
    positions = range(explainer.batch_size)
    pixels = [files.read(position % len(files)) for position in positions]
    targets = np.full(len(pixels), -1)

    explainer(positions, pixels, targets)  # compiles
    started = time.perf_counter()
    for _ in range(steps):
        explainer(positions, pixels, targets)
    return steps * len(pixels) / (time.perf_counter() - started)


def _write_maps(
    network: Network, files: Images, out: pathlib.Path, batch_size: int
) -> float:
    """Write maps and overlays, and return the images/s after the first shard.

    The first shard includes the compilation.
    """
    attribute(network, files, METHODS, out, batch_size=batch_size, overlays=True)
    shards = (out / METHODS[0]).glob("*.npy")
    first, *_, last = sorted(path.stat().st_mtime for path in shards)
    return (len(files) - SHARD_SIZE) / (last - first)


def table(
    figures: Mapping[str, Mapping[str, float] | str], runs: Sequence[str]
) -> dict[str, dict]:
    """Return {run: its figures}, with the ratio of files to the computation alone.

    The rate of the computation alone is that of all its batches, before and after.
    """
    rows: dict[str, dict] = {}
    for run in runs:
        parts = [figures[f"{run}:{part}"] for part in PARTS]
        measured = [part for part in parts if not isinstance(part, str)]
        if len(measured) < len(parts):
            errors = (part for part in parts if isinstance(part, str))
            rows[run] = {"error": next(errors)}
            continue
        before, files, after = measured
        rates = [part["images_per_second"] for part in (before, after)]
        alone = statistics.harmonic_mean(rates)
        ratio = files["images_per_second"] / alone
        rows[run] = {"computation_images_per_second": alone, **files, "ratio": ratio}
    return rows


def text(rows: Mapping[str, Mapping]) -> str:
    """Format the figures of runs as a Markdown table."""
    lines = [
        "| run | computation, images/s | with files and overlays | ratio "
        "| peak MiB of few images | peak MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run, row in rows.items():
        if "error" in row:
            lines.append(f"| {run} | failed: {row['error']} | | | | |")
            continue
        lines.append(
            f"| {run} | {row['computation_images_per_second']:.1f} "
            f"| {row['images_per_second']:.1f} | {row['ratio']:.3f} "
            f"| {row['peak_mib_few']:.0f} | {row['peak_mib']:.0f} |"
        )
    return "\n".join(lines)
