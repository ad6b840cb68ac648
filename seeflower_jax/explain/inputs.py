"""Choose the class to explain for each image, and the classes to maximise.

    labels = target_labels("true", images, network.class_names)
    labels = class_indices(["7", "sunflower"], network.class_names)

The first argument is what a user types.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from seeflower_jax.data.images import Images
from seeflower_jax.inference.network import class_index


def target_labels(
    target: str, images: Images, class_names: Sequence[str]
) -> Int32[np.ndarray, " n"]:
    """Return the class to explain for each image; -1 stands for the predicted class.

    Args:
      target: 'predicted', 'true', a class name or a class index.
      images: the images to explain.
      class_names: class names of the network.

    Raises:
      ValueError: if a name is unknown, an index is out of range, or `target` is 'true'
        and the class of an image is not known.
    """
    if target != "true":
        label = class_index(target, class_names, other_words=("predicted", "true"))
        return np.full(len(images), label, np.int32)
    if None in images.labels:
        name = images.names[list(images.labels).index(None)]
        raise ValueError(
            f"the true class of {name} is not known: its folder is not named "
            "after a class; use another target"
        )
    return np.array(images.labels, np.int32)


def class_indices(
    classes: Sequence[str] | None, class_names: Sequence[str]
) -> Int32[np.ndarray, " k"]:
    """Return the indices of classes that are given by name or index.

    Args:
      classes: names or indices; None stands for all classes.
      class_names: class names of the network.

    Raises:
      ValueError: if no class is given, or a class is unknown or given twice.
    """
    if classes is None:
        return np.arange(len(class_names), dtype=np.int32)
    labels = [class_index(name, class_names, other_words=()) for name in classes]
    if not labels:
        raise ValueError("no class is given; expected names or indices of classes")
    for position, label in enumerate(labels):
        if label in labels[:position]:
            raise ValueError(
                f"class {class_names[label]!r} is given more than once; give it once"
            )
    return np.array(labels, np.int32)
