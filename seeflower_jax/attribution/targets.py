"""What a map explains: one number per picture, computed from its logits.

    score(logits, None)                  # of the predicted class
    score(logits, labels)                # of a given class, int [N]
    score(logits, probability(labels))   # any function: logits [N, C] -> [N]

A class's score is its logit (Simonyan et al. 2014, arXiv 1312.6034, section 3): the
softmax can also rise because the other classes' scores fall.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Targets = None | jax.Array | Callable


def score(logits: jax.Array, targets: Targets) -> jax.Array:
    """The number per picture, [N], that a map explains.

    Args:
      logits: [N, C].
      targets: None for the largest logit, class indices [N], or a function of logits.
    """
    if targets is None:
        return logits.max(-1)
    if callable(targets):
        return targets(logits)
    return jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]


def resolve(network: Callable, images: jax.Array, targets: Targets) -> Targets:
    """None -> the classes predicted for `images`, for methods that alter pictures."""
    return network(images)[0].argmax(-1) if targets is None else targets


def probability(targets: Targets = None) -> Callable:
    """The softmax probability of what `targets` names, as a function of logits."""
    return lambda logits: score(jax.nn.softmax(logits), targets)


def contrast(
    targets: Targets = None, references: int = 3, strength: float = 0.6
) -> Callable:
    """A class's logit less `strength` times the mean of its most similar classes'.

    The similar classes are the `references` others with the largest logits in that
    picture, or all others where there are fewer. Source: Finer-CAM, Zhang et al. 2025,
    arXiv 2501.11309, section 3.

    Args:
      targets: None for the predicted class, or class indices [N].
    """

    def difference(logits):
        classes = logits.argmax(-1) if targets is None else targets
        num_classes = logits.shape[-1]
        own = jax.nn.one_hot(classes, num_classes, dtype=bool)
        others, _ = jax.lax.top_k(
            jnp.where(own, -jnp.inf, logits), min(references, num_classes - 1)
        )
        return score(logits, classes) - strength * others.mean(-1)

    return difference
