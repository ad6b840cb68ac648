"""Test the metrics of a whole split."""

import numpy as np
import pytest

from seeflower_jax.evaluation import metrics


def test_by_hand_on_an_imbalanced_split():
    # Class 0 has three examples, all correct; class 1 has one, a mistake.
    logits = np.log(
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.6, 0.3, 0.1]]
    )
    values = metrics.compute(logits, np.array([0, 0, 0, 1]))
    assert values["top1"] == 0.75 and values["mean_class_top1"] == 0.5
    assert values["top5"] == 1.0 and values["count"] == 4
    assert values["loss"] == pytest.approx(-np.log([0.7, 0.6, 0.5, 0.3]).mean())


def test_standard_errors_of_an_imbalanced_split():
    logits = np.eye(2)[[0, 0, 0, 1, 1, 0]]
    labels = np.array([0, 0, 0, 0, 1, 1])  # 3 of 4 and 1 of 2 are correct
    errors = metrics.standard_errors(logits, labels)
    assert errors["top1"] == pytest.approx(np.sqrt(2 / 3 * 1 / 3 / 6))
    # The variances of the shares are unbiased: divided by 3 and by 1.
    per_class = np.sqrt((3 / 4 * 1 / 4 / 3 + 1 / 2 * 1 / 2 / 1) / 4)
    assert errors["mean_class_top1"] == pytest.approx(per_class)
    assert errors["top5"] == 0
    single = metrics.standard_errors(np.eye(2), np.array([0, 1]))
    assert single["mean_class_top1"] == 0


def test_top5_and_large_logits():
    logits = np.zeros((2, 10)) + 1000.0 * np.arange(10)
    values = metrics.compute(logits, np.array([5, 4]))
    assert values["top5"] == 0.5 and values["loss"] == pytest.approx(4500)


def test_label_is_not_among_the_top_5_of_logits_that_are_nan():
    labels = np.arange(4)
    assert metrics.compute(np.full((4, 7), np.nan), labels)["top5"] == 0
    logits = np.zeros((4, 7))
    logits[:, 2:] = np.nan
    assert metrics.compute(logits, labels)["top5"] == 0
    # Equal logits are not larger.
    assert metrics.compute(np.zeros((4, 7)), labels)["top5"] == 1


def test_example_with_logits_that_are_not_finite_is_wrong():
    labels = np.array([0, 0, 1, 1])
    nothing = np.full((4, 7), np.nan)
    values = metrics.compute(nothing, labels)
    assert values["top1"] == values["mean_class_top1"] == values["top5"] == 0
    assert metrics.standard_errors(nothing, labels)["mean_class_top1"] == 0
    logits = 1000.0 * np.eye(7)[labels]
    logits[0, 5], logits[3] = np.nan, np.nan
    values = metrics.compute(logits, labels)
    assert values["top1"] == values["mean_class_top1"] == values["top5"] == 0.5
    assert np.isnan(values["loss"])
    assert metrics.confusion_of_logits(logits, labels, 7).tolist() == [
        *([1, *[0] * 6], [0, 1, *[0] * 5]),
        *[[0] * 7] * 5,
    ]
    errors = metrics.standard_errors(logits, labels)
    assert errors["mean_class_top1"] == pytest.approx(np.sqrt(2 * 0.25) / 2)


def test_confusion_and_per_class():
    confusion = metrics.confusion_matrix([0, 1, 1, 2], np.array([0, 0, 0, 1]), 4)
    assert confusion.tolist()[0] == [1, 2, 0, 0] and confusion.sum() == 4
    rows = metrics.per_class(confusion, ["a", "b", "c", "d"])
    assert rows[0]["recall"] == pytest.approx(1 / 3) and rows[0]["mistaken_for"] == "b"
    assert rows[1]["precision"] == 0 and rows[1]["mistaken_for"] == "c"
    assert rows[3]["recall"] is None and rows[3]["precision"] is None
    assert rows[2]["mistaken_for"] is None


def test_table_for_a_terminal():
    values = {"top1": 0.9037, "mean_class_top1": 1.0, "top5": 0.0, "loss": 0.25}
    table = metrics.format_table({"test": {**values, "count": 20}, "seed": 0})
    header, row = table.splitlines()
    assert header.split() == ["top-1", "mean", "class", "top-5", "loss", "images"]
    assert row.split() == ["test", ".9037", "1.0000", ".0000", "0.2500", "20"]
    assert len(header) == len(row)


def test_loss_of_certain_predictions_is_printed_without_a_sign():
    loss = metrics.compute(np.array([[800.0, 0.0]]), np.array([0]))["loss"]
    assert f"{loss:.3f}" == "0.000"
