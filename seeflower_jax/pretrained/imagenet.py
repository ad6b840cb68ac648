"""List the names of ImageNet's 1,000 classes, in the order of the logits.

class_names()[0]    # 'tench'
"""

import functools
import importlib.resources


@functools.cache
def class_names() -> tuple[str, ...]:
    """Return the 1,000 class names of ILSVRC 2012."""
    package = importlib.resources.files("seeflower_jax.pretrained")
    text = (package / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
