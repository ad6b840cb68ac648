"""Test the temperature and the calibration error."""

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


@pytest.mark.parametrize("margin", [0.65, 1.6, 3.6])
def test_few_images_without_a_mistake_leave_probabilities_doubtful(margin):
    logits = np.array([[margin, 0.0, 0.0]])

    def doubt(temperature):
        return 1 - np.exp(metrics.log_softmax(logits / temperature))[0, 0]

    temperatures = [
        calibration.fit_temperature(logits.repeat(count, 0), np.zeros(count, int))
        for count in (1, 3, 10, 30, 100)
    ]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] > 0.85 and temperatures[1] > 0.7 and temperatures[-1] > 0.13
    for count, temperature in zip((1, 3, 10, 30, 100), temperatures, strict=True):
        assert doubt(1) > doubt(temperature) > doubt(1) / (count + 2)
    labels = np.zeros(0, int)
    assert calibration.fit_temperature(logits[:0], labels) == pytest.approx(1)


def test_prior_hardly_changes_the_temperature_of_a_thousand_images(monkeypatch):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 6, (1020, 102))
    probabilities = np.exp(metrics.log_softmax(logits))
    labels = (rng.random((1020, 1)) > probabilities.cumsum(1)).sum(1).clip(0, 101)
    factors = (0.43, 0.55, 2.0, 3.1)  # temperatures of the recorded runs
    fitted = [calibration.fit_temperature(f * logits, labels) for f in factors]
    monkeypatch.setattr(calibration, "_PRIOR_DEVIATION", 1e6)
    likeliest = [calibration.fit_temperature(f * logits, labels) for f in factors]
    np.testing.assert_allclose(fitted, likeliest, rtol=0.01)
    np.testing.assert_allclose(likeliest, factors, rtol=0.05)


def test_logits_that_are_not_finite_have_no_temperature():
    logits = np.zeros((3, 4))
    logits[1, 2], logits[2, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="logits of 2 of 3 images are not finite"):
        calibration.fit_temperature(logits, np.zeros(3, int))


def test_calibration_error_needs_images():
    logits, labels = np.eye(4).repeat(50, 0), np.arange(4).repeat(50)
    summary = calibration.summary(logits, labels, 2.0)
    assert summary["ece_before"] > 0.4 and summary["ece_after"] > 0.5
    text = calibration.describe(summary)
    assert text == "calibration error 0.5246; 0.6453 with the temperature 2.00"
    summary = calibration.summary(logits[1:], labels[1:], 2.0)
    assert summary == {"temperature": 2.0, "ece_before": None, "ece_after": None}
    text = calibration.describe(summary)
    assert text == "temperature 2.00; the calibration error needs 200 images or more"


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
