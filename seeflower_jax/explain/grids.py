"""Draw the images of each grid for the grid pointing game.

grids = draw_grids(labels, count=100, seed=0)      # [100, 4], positions in `labels`
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_ATTEMPTS = 1000  # draws of a grid before its classes are drawn first


def draw_grids(
    labels: Sequence[int] | Int[np.ndarray, " n"], count: int, seed: int
) -> Int[np.ndarray, "count 4"]:
    """Draw four images of different classes for each grid, as positions in `labels`.

    Four images are drawn until their classes differ. If most images have the same
    class, this rarely succeeds. Four classes are then drawn, and an image of each.

    Raises:
      ValueError: if there are fewer than four classes.
    """
    labels = np.asarray(labels)
    classes = np.unique(labels)
    if len(classes) < 4:
        raise ValueError(
            f"the correctly classified images have {len(classes)} classes; expected "
            "four or more, because a grid has images of four classes"
        )
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        for _ in range(_ATTEMPTS):
            row = rng.choice(len(labels), 4, replace=False)
            if len(set(labels[row].tolist())) == 4:
                break
        else:
            chosen = rng.choice(classes, 4, replace=False)
            row = np.array([rng.choice(np.flatnonzero(labels == c)) for c in chosen])
        rows.append(row)
    return np.array(rows)
