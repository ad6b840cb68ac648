"""Test specs and the registry of networks."""

import dataclasses
import json
import subprocess
import sys

import pytest

from seeflower_jax import models
from seeflower_jax.models import classifier, registry


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({"input_size": 0}, "input_size of model 'vgg16' is 0; expected at least 1"),
        ({"num_classes": 0}, "num_classes .* is 0; expected at least 1"),
        ({"hidden": [20, 0]}, r"hidden .* is \(20, 0\); expected widths of at least 1"),
        ({"dropout": 1.0}, "dropout .* is 1.0; expected at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout .* is -0.1"),
        ({"dropout": float("nan")}, "dropout .* is nan"),
        ({"width": 0}, "width .* is 0; expected positive and finite"),
        ({"width": float("inf")}, "width .* is inf"),
        ({"width": float("nan")}, "width .* is nan"),
        ({"epsilon": 0.0}, "epsilon .* is 0.0; expected positive and finite"),
        ({"dtype": "float16"}, "dtype .* 'float16'; expected 'float32' or 'bfloat16'"),
        ({"pooling": "averge"}, "unknown pooling 'averge'.* did you mean 'average'?"),
        ({"preprocess": "cafe"}, "unknown preprocess 'cafe'.* did you mean 'caffe'?"),
    ],
)
def test_value_that_is_not_valid(changes, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        models.get_spec("vgg16", **changes)
    assert "\n" not in str(caught.value)


def test_names_in_a_stored_spec_are_checked_when_it_is_used():
    spec = models.get_spec("small", input_size=8, width=0.05)
    for changes, expected in (
        ({"pooling": "averge"}, "unknown pooling"),
        ({"preprocess": "tff"}, "unknown preprocess"),
        ({"name": "smal"}, "unknown model 'smal'"),
        ({"pooled": ["block9"]}, "unknown endpoint 'block9' in pooled.* 'block"),
    ):
        stored = models.ModelSpec(**{**spec.to_dict(), **changes})
        with pytest.raises(ValueError, match=expected):
            models.shapes(stored)


def test_what_identifies_a_network_has_no_default():
    without_default = {
        field.name
        for field in dataclasses.fields(models.ModelSpec)
        if field.default is dataclasses.MISSING
    }
    assert without_default == {"name", "input_size", "preprocess", "cam_layer"}


def test_spec_survives_json():
    spec = models.get_spec("vgg16", hidden=[20, 10], pooled=["block5_pool"])
    assert models.ModelSpec(**json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.hidden == (20, 10)


def test_registered_network(monkeypatch):
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    small = registry.MODELS["small"]
    spec = dataclasses.replace(small.spec, name="other", width=0.1)
    models.register(spec, small.backbone)
    assert models.get_spec("other", num_classes=3).width == 0.1
    assert models.MODELS["other"] == models.Model(spec, small.backbone)
    shapes = models.shapes(models.get_spec("other", num_classes=3))
    assert shapes["params"]["head"]["logits"]["kernel"].shape == (13, 3)
    with pytest.raises(ValueError, match="'other' is registered already"):
        models.register(spec, small.backbone)


def test_spec_is_imported_without_jax():
    code = (
        "import sys; from seeflower_jax.models.spec import ModelSpec; "
        "assert not {'jax', 'flax', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_names_of_the_package():
    for name in models.__all__:
        assert getattr(models, name) is not None
    assert set(models.__all__) <= set(dir(models))
    with pytest.raises(AttributeError, match="no attribute 'aply'"):
        models.aply  # noqa: B018


def test_endpoints_that_a_head_reads():
    names = ["conv1", "conv2_a", "conv2_b", "conv3"]
    assert classifier.pooled_endpoints((), names) == ["conv3"]
    found = classifier.pooled_endpoints(("conv2_.", "conv[12].*"), names)
    assert found == ["conv2_a", "conv2_b", "conv1"]
    with pytest.raises(ValueError, match=r"unknown endpoint 'conv' in pooled: .*conv1"):
        classifier.pooled_endpoints(("conv",), names)
