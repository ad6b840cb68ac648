"""Test Figures 4.5 and 4.6 of the paper for a tiny run."""

import dataclasses

import pytest
from PIL import Image

from seeflower_jax.data.oxford_names import CLASS_NAMES
from seeflower_jax.studies import paper_figures


@pytest.mark.slow
def test_both_figures_are_drawn(tiny_run, tmp_path):
    paper_figures.draw(tiny_run, tmp_path, [2, 0], steps=2, size=75)
    assert Image.open(tmp_path / "figure_4_5.png").size[0] > 400
    assert Image.open(tmp_path / "figure_4_6.png").size[0] > 400
    with pytest.raises(ValueError, match="no image of class 7"):
        paper_figures.attribution_figure(tiny_run, tmp_path / "b.png", [2, 7])
    names = [path.name for path in (tmp_path / "activation_max_plain").glob("0*.png")]
    assert sorted(names) == ["000_pink_primrose.png", "002_canterbury_bells.png"]


@pytest.mark.slow
def test_columns_of_classes_that_are_named_by_numbers(tiny_run, tmp_path):
    count = len(tiny_run.network.class_names)
    names = tuple(str((index + 1) % count) for index in range(count))
    network = dataclasses.replace(tiny_run.network, class_names=names)
    run = dataclasses.replace(tiny_run, network=network)
    paper_figures.activation_figure(run, tmp_path, [2, 0], steps=1, size=75)
    files = [path.name for path in (tmp_path / "activation_max_plain").glob("0*.png")]
    assert sorted(files) == [f"000_{names[0]}.png", f"002_{names[2]}.png"]


def test_classes_of_the_paper_have_their_official_names():
    """The paper calls index 7 lotus, because it sorts folders as strings."""
    names = [CLASS_NAMES[index] for index in paper_figures.PAPER_CLASSES]
    assert names == [
        *("tiger lily", "bird of paradise", "mexican aster", "trumpet creeper"),
        "rose",
    ]
    assert CLASS_NAMES[77] == "lotus"
    assert paper_figures.first_of_classes([3, 1, 7, 1, 5], [1, 5, 7]) == [1, 4, 2]
