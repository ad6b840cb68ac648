"""Temperature and calibration error."""

import numpy as np
import pytest

from seeflower_jax.evaluation import calibration, metrics


def test_temperature_of_scaled_logits_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 5))
    probabilities = np.exp(metrics.log_softmax(logits))
    labels = (rng.random((20000, 1)) > probabilities.cumsum(1)).sum(1)
    for factor in (0.25, 1.0, 4.0):
        found = calibration.fit_temperature(factor * logits, labels)
        assert found == pytest.approx(factor, rel=0.03)
        summary = calibration.summary(factor * logits, labels, found)
        assert summary["temperature"] == found and summary["ece_after"] < 0.015
    assert calibration.reliability(0.25 * logits, labels).error > 0.2


def test_split_that_is_all_right_stays_within_the_limits():
    assert calibration.fit_temperature(np.eye(3), np.arange(3)) == pytest.approx(
        0.1, rel=1e-4
    )


def test_reliability_by_hand():
    # Confidences .9, .9, .6, .5 of two classes; the first of .9 and the .5 are wrong.
    first = np.array([0.9, 0.9, 0.6, 0.5])
    logits = np.log(np.stack([first, 1 - first], 1))
    found = calibration.reliability(logits, np.array([1, 0, 0, 1]), bins=10)
    # A confidence on a boundary belongs to the bin below it.
    assert found.counts.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 2, 0]
    np.testing.assert_allclose(found.accuracy[[4, 5, 8]], [0, 1, 0.5])
    np.testing.assert_allclose(found.confidence[[4, 5, 8]], [0.5, 0.6, 0.9])
    assert np.isnan(found.accuracy[0])
    assert found.error == pytest.approx((0.5 + 0.4 + 2 * 0.4) / 4)
