"""Test the tables of RESULTS.md."""

import pytest

from seeflower_jax import records
from seeflower_jax.studies import directions_tables, outside_data, record, tables
from seeflower_jax.studies.rows import PUBLISHED, ROWS
from tests.studies.results import make_result


def test_tables_of_several_seeds():
    results = [make_result(seed=1, top1=0.78), make_result(seed=0, top1=0.8)]
    results.append(make_result("vgg19", recipe="ablation"))
    text = tables.paper_tables(ROWS, PUBLISHED, results)
    assert (
        "| VGG16 | paper | .757 | .757 | .7900 [.7800, .8000] | .8000 [.7900, .8100] | "
        ".0052 | .7900 [.7800, .8000] | 0, 1 | approximate | 1 x gpu | 11 min |"
    ) in text
    assert "this project" not in text and "missing" not in text
    assert "| VGG19 | official | ablation |  | .8000 |" in text.split("## Other")[1]
    text = tables.paper_tables(ROWS, PUBLISHED, [make_result(recipe="a|b\n")])
    assert r"| VGG16 | official | a\|b\n |  | .8000 |" in text
    text = tables.paper_tables(ROWS, PUBLISHED, [make_result(recipe="top_only")])
    assert "| VGG16 | official | top_only | .606 | .8000 |" in text.split("## Other")[1]
    before = {"seconds": {"head": 60.0, "evaluation": 9.0}}
    text = tables.paper_tables(ROWS, PUBLISHED, [make_result(pretraining=before)])
    assert "| 12 min |" in text  # 60, 600 and 60 seconds
    linear = make_result(recipe="linear")
    text = tables.paper_tables(ROWS, PUBLISHED, [linear])
    assert "| this project | VGG16, linear, approximate weights | .8000 |" in text


def test_results_in_different_types_are_not_averaged():
    results = [make_result(recipe="best", top1=0.8)]
    for seed, top1 in ((1, 0.6), (2, 0.7)):
        half = {"dtype": "bfloat16", "config_hash": "another"}
        results.append(make_result(recipe="best", seed=seed, top1=top1, **half))
    text = tables.paper_tables(ROWS, PUBLISHED, results[::-1])
    rows = [line.split(" | ") for line in text.splitlines() if "| VGG16 | best" in line]
    assert [(row[1], row[4], row[8]) for row in rows] == [
        ("best", ".8000", "0"),
        ("best, bfloat16", ".6500 [.6000, .7000]", "1, 2"),
    ]
    assert "VGG16, best, approximate weights | .8000 |" in text
    assert "VGG16, best, bfloat16, approximate weights | .6500 [" in text
    assert record.result_name(results[0]) == "vgg16_official_seed0"
    assert record.result_name(results[1]) == "vgg16_official_bfloat16_seed1"
    mean = make_result("ensemble", recipe="best", dtype="bfloat16")
    text = tables.paper_tables(ROWS, PUBLISHED, [mean]).split("## Other")[1]
    assert "| ensemble | official | best, bfloat16 |  | .8000 |" in text


def test_changes_are_compared_with_the_recipe_in_float32():
    half = make_result(recipe="best", top1=0.5, dtype="bfloat16")
    row = {"top1": 0.75, "count": 1020, "config_hash": "abc"}
    change = {"vgg16": {"one size": row}}
    assert "unchanged" not in tables.ablation_table(change, [half])
    text = tables.ablation_table(change, [make_result(recipe="best"), half])
    assert "| VGG16 | best | one size | .7500 | -.0500 | abc |" in text


def test_ensembles_and_outside_data_are_listed_with_the_papers_directions():
    joint = make_result("ensemble", recipe="linear_joint_head")
    outside = {
        "outside_species": {"0": {"top1": [0.7]}, "48": {"top1": [0.8, 0.9]}},
        "seeds": [3, 4],
    }
    text = directions_tables.directions_section({}, [make_result(), joint], outside)
    assert text.startswith("## The paper's directions\n\n### Ensembles\n\n")
    assert "| official | linear_joint_head | .8000 | .8000 | .8100 |" in text
    assert "paper |" not in text  # of a single network
    assert "| 0 | .7000 | 3, 4 |" in text
    assert "| 48 | .8500 [.8000, .9000] | 3, 4 |" in text
    assert directions_tables.directions_section({}, [make_result()], {}) == ""


def test_ensemble_without_a_validation_split():
    result = make_result("ensemble", split="trainval", recipe="best")
    del result["validation"]
    text = directions_tables.directions_section({}, [result], {})
    assert "| trainval | best | none | .8000 | .8100 |" in text


@pytest.mark.parametrize(
    "content, missing",
    [
        ({"seeds": [0]}, "outside_species"),
        ({"outside_species": {"0": {}}, "seeds": 3}, "seeds"),
    ],
)
def test_damaged_measurement_of_outside_data_is_named(tmp_path, content, missing):
    assert outside_data.load(tmp_path) == {}
    path = tmp_path / "outside_data.json"
    records.write_json(path, content)
    message = f"{path} is damaged: it has no {missing}; restore it, or write it again"
    with pytest.raises(records.DamagedFileError, match=message):
        outside_data.load(tmp_path)
