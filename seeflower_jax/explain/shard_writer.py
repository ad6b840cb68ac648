"""Write the maps of batches as shards, while the device computes.

    with ShardWriter(store, network, images.names, overlays=True, boxes=True) as writer:
        for batch, explained in explainer.stream(batches, labels):
            writer.add(batch, explained)
        writer.write(shard)

A pool of threads draws overlays, and another thread writes shards. Their queues are
bounded, so memory does not grow if a disk is slow.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from seeflower_jax import records
from seeflower_jax.data.loader import ImageBatch
from seeflower_jax.explain.background import Background
from seeflower_jax.explain.overlays import Overlays
from seeflower_jax.explain.store import MapStore, ShardContent
from seeflower_jax.inference.explainer import Explained
from seeflower_jax.inference.network import Network

# Each of them keeps the images of its batch in memory.
_PENDING_OVERLAYS = 32


class ShardWriter:
    """Collect the maps of a shard's batches, and write them on other threads.

    A `with` block that ends without an error waits until all files are written. `add`
    and `write` raise the error of an earlier call, with the name of the file.

    Args:
      store: the store to write to.
      network: the explained network.
      names: names of the images, by position.
      overlays: whether to write overlays.
      boxes: whether the index has the boxes of class activation maps.
    """

    def __init__(
        self,
        store: MapStore,
        network: Network,
        names: Sequence[str],
        overlays: bool,
        boxes: bool,
    ):
        self._store, self._network, self._names = store, network, names
        self._boxes = boxes
        self._overlays = (
            Overlays(store.folder / "overlays", names) if overlays else None
        )
        self._drawing = Background(records.cores(), _PENDING_OVERLAYS)
        self._writing = Background(1, limit=1)
        self._content = ShardContent()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._writing)
            stack.enter_context(self._drawing)
            self._threads = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._threads.__exit__(*error)

    def add(self, batch: ImageBatch, explained: Explained | None) -> None:
        """Add a batch; `explained` has its readable images, or is None without any."""
        content = self._content
        content.skipped += [
            {"image": self._names[position], "error": str(error)}
            for position, error in batch.errors.items()
        ]
        if explained is None:
            return
        rows = self._finite_rows(batch.positions, explained)
        positions = [batch.positions[row] for row in rows]
        if len(rows) < len(batch.positions):
            explained = explained[rows]
        content.lines += self._describe(positions, explained)
        for method, values in explained.maps.items():
            content.maps.setdefault(method, []).append(values)
        if self._boxes:
            sizes = [batch.sizes[row] for row in rows]
            for method, boxes in explained.boxes.items():
                lines = self._in_originals(boxes, sizes)
                content.extras.setdefault(method, []).extend(lines)
        if self._overlays is not None:
            self._draw(self._overlays, positions, explained)

    def write(self, shard: int) -> None:
        """Write the added batches as a shard, and start the next shard."""
        self._drawing.wait()  # A shard counts only if all its overlays are on disk.
        self._writing.submit(self._store.write, shard, self._content)
        self._content = ShardContent()

    def _finite_rows(self, positions: Sequence[int], explained: Explained) -> list[int]:
        """Return the rows of finite logits and maps; the other images are skipped."""
        arrays = {"logits": explained.logits, **explained.maps}
        rows = []
        for row, position in enumerate(positions):
            wrong = [
                k for k, array in arrays.items() if not np.isfinite(array[row]).all()
            ]
            if not wrong:
                rows.append(row)
                continue
            name = self._names[position]
            error = f"{name} has values that are not finite in {', '.join(wrong)}"
            self._content.skipped.append({"image": name, "error": error})
        return rows

    def _describe(self, positions: Sequence[int], explained: Explained) -> list[dict]:
        """Return a dict for each image, with its values in the index."""
        names = self._network.class_names
        probabilities = self._network.probabilities(explained.logits)
        return [
            {
                "image": self._names[position],
                "position": position,
                "prediction": names[row.argmax()],
                "probability": round(float(row.max()), 6),
                "target": names[label],
            }
            for position, row, label in zip(
                positions, probabilities, explained.targets, strict=True
            )
        ]

    def _in_originals(
        self, boxes: Int[np.ndarray, "n 4"], sizes: Sequence[tuple[int, int]]
    ) -> list[dict]:
        """Return boxes in pixels of the original images, in the order of the index."""
        view = self._network.view
        return [
            {"box": view.box_in_original(box / view.size, size)}
            for box, size in zip(_left_first(boxes), sizes, strict=True)
        ]

    def _draw(
        self, overlays: Overlays, positions: Sequence[int], explained: Explained
    ) -> None:
        """Start drawing the overlays of a batch."""
        for method, values in explained.maps.items():
            boxes: Sequence = [None] * len(positions)
            if self._boxes and method in explained.boxes:
                boxes = _left_first(explained.boxes[method]).tolist()
            for position, image, row, box in zip(
                positions, explained.images, values, boxes, strict=True
            ):
                self._drawing.submit(overlays.write, position, method, image, row, box)


def _left_first(boxes: Int[np.ndarray, "n 4"]) -> Int[np.ndarray, "n 4"]:
    """Turn (top, left, bottom, right) into (left, top, right, bottom)."""
    return boxes[:, [1, 0, 3, 2]]
