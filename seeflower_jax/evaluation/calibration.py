"""Calibrate probabilities by temperature scaling, and measure calibration.

    temperature = fit_temperature(validation_logits, validation_labels)
    softmax(logits / temperature)                   # calibrated probabilities
    reliability(logits, labels, temperature).error  # expected calibration error

Source: Guo et al. 2017, arXiv 1706.04599, sections 2 and 4.2.
"""

import dataclasses

import numpy as np
import scipy.optimize
from jaxtyping import Float, Int

from seeflower_jax.evaluation import metrics

BINS = 15
# On a small split without mistakes, the best temperature is 0, which makes the
# probability of every predicted class 1.
_LOG_LIMITS = np.log(0.1), np.log(10.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence and accuracy of predictions, binned by confidence.

    Attributes:
      counts: number of predictions in bin i, with a confidence in ((i - 1) / bins,
        i / bins].
      confidence: mean probability of the predicted class; NaN in an empty bin.
      accuracy: share of correct predictions; NaN in an empty bin.
    """

    counts: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """Return the expected calibration error in [0, 1], equation 3 of the paper."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(np.average(gaps, weights=self.counts))


def fit_temperature(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> float:
    """Return the T in [0.1, 10] that minimises the cross entropy of logits / T.

    Args:
      logits: logits of images that the network was not trained on.
      labels: class index of each image.
    """

    def loss(log_temperature: float) -> float:
        scaled_logits = logits / np.exp(log_temperature)
        return metrics.compute(scaled_logits, labels)["loss"]

    # The loss is convex in 1 / T, so it has one minimum in log T.
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=_LOG_LIMITS).x))


def reliability(
    logits: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    temperature: float = 1.0,
    bins: int = BINS,
) -> Reliability:
    """Compute the accuracy of predictions by confidence, in bins of equal width.

    Args:
      logits: logits of each image.
      labels: class index of each image.
      temperature: number that divides the logits.
      bins: number of bins.
    """
    confidence = np.exp(metrics.log_softmax(logits / temperature).max(-1))
    # A confidence on a boundary belongs to the bin below.
    bin_indices = np.ceil(confidence * bins).astype(int).clip(1, bins) - 1
    counts = np.bincount(bin_indices, minlength=bins)

    def mean(values: np.ndarray) -> Float[np.ndarray, " bins"]:
        sums = np.bincount(bin_indices, weights=values, minlength=bins)
        return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)

    return Reliability(counts, mean(confidence), mean(logits.argmax(-1) == labels))


def summary(
    logits: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    temperature: float,
) -> dict[str, float]:
    """Return a temperature, and the expected calibration errors before and after it."""
    return {
        "temperature": temperature,
        "ece_before": reliability(logits, labels).error,
        "ece_after": reliability(logits, labels, temperature).error,
    }
