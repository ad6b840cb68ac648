"""Temperature and calibration error."""

import numpy as np
import pytest

from seeflower_jax.evaluation import calibration, metrics


def test_fit_recovers_the_temperature_of_scaled_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 5))
    probabilities = np.exp(metrics.log_softmax(logits))
    labels = (rng.random((20000, 1)) > probabilities.cumsum(1)).sum(1)
    for factor in (0.25, 1.0, 4.0):
        temperature = calibration.fit_temperature(factor * logits, labels)
        assert temperature == pytest.approx(factor, rel=0.03)
        summary = calibration.summary(factor * logits, labels, temperature)
        assert summary["temperature"] == temperature
        assert summary["ece_after"] < 0.015
    assert calibration.reliability(0.25 * logits, labels).error > 0.2


def test_temperature_of_a_split_without_mistakes_stays_within_the_limits():
    temperature = calibration.fit_temperature(np.eye(3), np.arange(3))
    assert temperature == pytest.approx(0.1, rel=1e-4)


def test_reliability_by_hand():
    # Confidences 0.9, 0.9, 0.6, 0.5 of two classes; the first and the last are wrong.
    first = np.array([0.9, 0.9, 0.6, 0.5])
    logits = np.log(np.stack([first, 1 - first], 1))
    reliability = calibration.reliability(logits, np.array([1, 0, 0, 1]), bins=10)
    # A confidence on a boundary belongs to the bin below it.
    assert reliability.counts.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 2, 0]
    np.testing.assert_allclose(reliability.accuracy[[4, 5, 8]], [0, 1, 0.5])
    np.testing.assert_allclose(reliability.confidence[[4, 5, 8]], [0.5, 0.6, 0.9])
    assert np.isnan(reliability.accuracy[0])
    assert reliability.error == pytest.approx((0.5 + 0.4 + 2 * 0.4) / 4)
