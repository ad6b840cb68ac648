"""Find where a network sees the objects of images, from the masks of the images.

masks = seen_masks([source.mask(index) for index in indices], network.view)
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from seeflower_jax.data.drawing import Mask
from seeflower_jax.data.view import View


def seen_masks(masks: Sequence[Mask], view: View) -> Bool[np.ndarray, "n s s"]:
    """Return where the object covers more than half of a pixel of each view.

    Args:
      masks: where the objects are in the images, all of one size.
      view: what the network sees of an image.
    """
    canvas = jnp.repeat(jnp.asarray(masks, jnp.float32)[..., None], 3, -1)
    sizes = jnp.tile(jnp.array(canvas.shape[1:3]), (len(canvas), 1))
    return np.asarray(view(canvas, sizes))[..., 0] > 0.5
