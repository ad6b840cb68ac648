"""Probabilities that mean what they say: temperature scaling and its judgement.

    temperature = fit_temperature(validation_logits, validation_labels)
    softmax(logits / temperature)                   # calibrated probabilities
    found = reliability(logits, labels, temperature)
    found.error                                     # expected calibration error

Source: Guo et al. 2017, arXiv 1706.04599, sections 2 and 4.2.
"""

import dataclasses

import numpy as np
import scipy.optimize

from seeflower_jax.evaluation import metrics

BINS = 15
# Where a small split is all right, the best T is 0: nothing is then to be believed.
_LIMITS = np.log(0.1), np.log(10.0)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of predictions by their confidence, each [bins].

    Attributes:
      counts: how many predictions have a confidence in ((i - 1) / bins, i / bins].
      confidence: mean probability of the predicted class, NaN in an empty bin.
      accuracy: share of right predictions, NaN in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error in [0, 1], equation 3 of the paper."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(np.average(gaps, weights=self.counts))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in [0.1, 10] by which logits / T have the least cross entropy.

    Args:
      logits: [N, C], not of training pictures.
      labels: int [N].
    """

    def loss(log_temperature):
        scaled = logits / np.exp(log_temperature)
        return metrics.evaluate(scaled, labels)["loss"]

    # The loss is convex in 1 / T, so it has one minimum in log T.
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=_LIMITS).x))


def reliability(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, bins: int = BINS
) -> Reliability:
    """Sorts predictions into `bins` of equal width by their confidence.

    Args:
      logits: [N, C].
      labels: int [N].
      temperature: that logits are divided by.
      bins: their number.
    """
    confidence = np.exp(metrics.log_softmax(logits / temperature).max(-1))
    place = np.ceil(confidence * bins).astype(int).clip(1, bins) - 1
    counts = np.bincount(place, minlength=bins)

    def mean(values):
        sums = np.bincount(place, weights=values, minlength=bins)
        return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)

    return Reliability(counts, mean(confidence), mean(logits.argmax(-1) == labels))


def summary(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict:
    """The temperature, and the expected calibration error without and with it."""
    return {
        "temperature": temperature,
        "ece_before": reliability(logits, labels).error,
        "ece_after": reliability(logits, labels, temperature).error,
    }
