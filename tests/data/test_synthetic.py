"""Drawn flowers."""

import dataclasses

import numpy as np
import pytest

from seeflower_jax.data import decode, drawing, synthetic


def test_an_image_is_a_function_of_species_seed_and_index():
    kind = drawing.species("target", 3)
    image, mask = drawing.draw(kind, seed=1, index=2)
    assert image.shape == (drawing.SIDE, drawing.SIDE, 3)
    assert image.dtype == np.uint8 and mask.dtype == bool
    again, mask_again = drawing.draw(kind, seed=1, index=2)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    for other in (
        drawing.draw(kind, seed=1, index=3),
        drawing.draw(kind, seed=2, index=2),
        drawing.draw(drawing.species("source", 3), seed=1, index=2),
    ):
        assert np.abs(image.astype(int) - other[0]).mean() > 5
        assert (mask != other[1]).any()


def test_species_differ():
    kinds = [
        drawing.species(split, number)
        for split in drawing.SPLITS
        for number in range(drawing.MAX_SPECIES)
    ]
    assert len({kind.name for kind in kinds}) == len(kinds)
    looks = {
        repr(dataclasses.replace(kind, key=(), name="", leaf=0.0)) for kind in kinds
    }
    assert len(looks) == len(kinds)
    assert {kind.petals for kind in kinds[:40]} >= {4, 5, 6, 8, 13}


def test_mask_is_where_the_flower_is():
    for number in range(6):
        kind = drawing.species("source", number)
        # The same flower in other colours changes exactly the pixels of its mask.
        other = dataclasses.replace(
            kind, colours=kind.colours[:, ::-1] * 0.2, disc_colour=kind.disc_colour / 4
        )
        for index in range(3):
            image, mask = drawing.draw(kind, 0, index)
            repainted, same = drawing.draw(other, 0, index)
            np.testing.assert_array_equal(mask, same)
            assert 0.01 < mask.mean() < 0.5
            change = np.abs(image.astype(int) - repainted).max(-1) > 12
            assert change[mask].mean() > 0.9
            # Edges are smooth: pixels that are covered by less than half also change.
            assert (change & ~mask).sum() < 0.5 * mask.sum()
            assert not change[0].any() or mask[:2].any()


def test_source_has_what_was_drawn(tmp_path):
    source = synthetic.load("target", 3, (2, 0, 1), seed=5)
    assert source.splits.keys() == {"train", "test"}
    assert source.splits["train"].tolist() == [0, 1, 3, 4, 6, 7]
    assert source.splits["test"].tolist() == [2, 5, 8]
    assert source.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    kinds = [drawing.species("target", number) for number in range(3)]
    assert source.class_names == tuple(kind.name for kind in kinds)
    image, mask = drawing.draw(kinds[1], 5, 2)
    np.testing.assert_array_equal(np.asarray(decode.decode(source.read(5))), image)
    np.testing.assert_array_equal(source.mask(5), mask)
    others = [
        synthetic.load("source", 3, (2, 0, 1), seed=5),
        synthetic.load("target", 3, (2, 1, 1), seed=5),
        synthetic.load("target", 3, (2, 0, 1), seed=6),
    ]
    fingerprints = {s.fingerprint for s in (source, *others)}
    assert len(fingerprints) == 4
    assert synthetic.load("target", 3, (2, 0, 1), 5).fingerprint == source.fingerprint


def test_unknown_splits_and_too_many_species():
    with pytest.raises(ValueError, match="cannot draw 16 species of split 'goal'"):
        synthetic.load("goal", 16, (1, 1, 1))
    with pytest.raises(
        ValueError, match="cannot draw 101 species of split 'source'; .* 1 to 100"
    ):
        synthetic.load("source", 101, (1, 1, 1))
