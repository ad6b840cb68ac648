"""Activation maximisation, for a tiny run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import records
from seeflower_jax.attribution.activation_max import Maximised
from seeflower_jax.explain import maximise
from tests import harness

pytestmark = pytest.mark.long


def test_activation_maximisation(tiny_run, tmp_path):
    out = tmp_path / "out"
    result = maximise.maximise_classes(
        tiny_run,
        out,
        ["7", "sunflower", "2"],
        size=75,
        steps=3,
        seeds=2,
        observer=tiny_run,
        results=tmp_path / "results",
    )
    recorded = json.loads((tmp_path / "results" / "activation_max.json").read_text())
    entry = recorded["small"]["robust"]
    assert entry["recognised"] == result["recognised"]["small (observer)"]
    assert entry["recognised_by_itself"] == result["recognised"]["small"]
    assert (entry["classes"], entry["judge"]) == (3, "small")
    assert entry["judge_run"] == entry["run"]
    assert result == json.loads((out / "result.json").read_text())
    variables = records.variables_hash(tiny_run.network.variables)
    assert result["variables"] == variables
    assert result["classes"] == 3 and result["judge"] == "small"
    assert 0 <= result["recognised"]["small"] <= 3
    assert set(result["scores"]) == {
        *("bird of paradise", "sunflower", "canterbury bells")
    }
    assert Image.open(out / "007_bird_of_paradise.png").size == (75, 75)
    assert len(list(out.glob("0*.png"))) == 3
    assert (out / "sheet.png").exists() and (out / "curves.png").exists()
    images = list(maximise.read_images(out))
    assert [label for label, _ in images] == [2, 7, 53]
    assert {pixels.shape for _, pixels in images} == {(75, 75, 3)}
    assert not list(maximise.read_images(tmp_path / "absent"))


def test_observer_may_be_another_run_of_the_same_network(
    tiny_run, tmp_path, monkeypatch
):
    observer = dataclasses.replace(
        tiny_run, network=dataclasses.replace(tiny_run.network)
    )

    def count(network, *_):
        return 0 if network is observer.network else 1

    maximised = maximise._Maximised(np.zeros((1, 9, 9, 3)), np.ones((1, 2)), np.ones(1))
    monkeypatch.setattr(maximise, "_maximise_all", lambda *_: maximised)
    monkeypatch.setattr(maximise, "count_recognised", count)
    options = {"observer": observer, "results": tmp_path}
    result = maximise.maximise_classes(
        tiny_run, tmp_path / "out", ["2"], "plain", **options
    )
    assert result["recognised"] == {"small": 1, "small (observer)": 0}
    recorded = json.loads((tmp_path / "activation_max.json").read_text())
    entry = recorded["small"]["plain"]
    assert (entry["recognised"], entry["recognised_by_itself"]) == (0, 1)


def test_wrong_arguments(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="'102'.*index from 0 to 101"):
        maximise.maximise_classes(tiny_run, tmp_path, ["102"])
    with pytest.raises(ValueError, match="unknown class 'predicted': expected a class"):
        maximise.maximise_classes(tiny_run, tmp_path, ["predicted"])
    with pytest.raises(ValueError, match="unknown form 'robsut': known are plain"):
        maximise.maximise_classes(tiny_run, tmp_path, ["2"], "robsut")
    with pytest.raises(ValueError, match="results is given without an observer"):
        maximise.maximise_classes(tiny_run, tmp_path, ["2"], results=tmp_path)
    network = tiny_run.network
    other = dataclasses.replace(network, class_names=network.class_names[::-1])
    observer = dataclasses.replace(tiny_run, network=other)
    with pytest.raises(ValueError, match="observer .* has other classes than"):
        maximise.maximise_classes(tiny_run, tmp_path, ["2"], observer=observer)
    assert not list(tmp_path.iterdir())


def test_interrupted_call_leaves_no_result_of_earlier_images(tmp_path, monkeypatch):
    maximised = maximise._Maximised(np.zeros((2, 9, 9, 3)), np.ones((2, 2)), np.ones(2))
    (tmp_path / "result.json").write_text("{}")

    def interrupt(path, _):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(maximise.figures, "write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        maximise._write_images(tmp_path, maximised, ["rose", "tulip"], np.arange(2))
    assert [path.name for path in tmp_path.iterdir()] == ["000_rose.png"]


def test_maximisation_that_does_not_stay_finite_writes_no_image(tiny_run, tmp_path):
    network = tiny_run.network
    head = jax.tree.map(lambda x: x * np.nan, network.variables["params"]["head"])
    params = network.variables["params"] | {"head": head}
    variables = network.variables | {"params": params}
    broken = dataclasses.replace(
        tiny_run, network=dataclasses.replace(network, variables=variables)
    )
    with pytest.raises(FloatingPointError, match="'canterbury bells'.*--form=plain"):
        maximise.maximise_classes(broken, tmp_path, ["2"], "plain", size=75, steps=1)
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"classes": []}, "no class is given; expected names or indices"),
        ({"classes": ["7", "bird of paradise"]}, "'bird of paradise' is given more"),
        ({"classes": ["102"]}, "unknown class '102'"),
        ({"size": 0}, "size is 0; expected 1 or more"),
        ({"size": 4}, "size is 4; expected more pixels, because"),
        ({"steps": 0}, "steps is 0; expected 1 or more"),
        ({"seeds": -1}, "seeds is -1; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
    ],
)
def test_options_are_checked_before_the_folder_is_made(
    tiny_run, tmp_path, arguments, message
):
    with pytest.raises(ValueError, match=message):
        maximise.maximise_classes(tiny_run, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_script_refuses_what_is_empty(tiny_run, tmp_path):
    def error(*arguments):
        workdir = f"--workdir={tiny_run.workdir}"
        completed = harness.run_here("activation_max", workdir, *arguments)
        assert completed.stderr.count("\n") == 1
        return completed.stderr

    assert "no class is given" in error("--classes=", f"--out={tmp_path}")
    assert "--out=: expected a folder" in error("--out=")
    assert "--size=0" in error("--size=0", f"--out={tmp_path}")


def test_best_of_the_seeds_is_kept():
    first, second = (
        Maximised(
            np.full((3, 4, 4, 3), value, np.float32),
            np.full((2, 3), value, np.float32),
            scores,
        )
        for value, scores in ((1, np.array([5.0, 2, 3])), (2, np.array([4.0, 6, 3])))
    )
    better = maximise._better(first, second)
    np.testing.assert_array_equal(better.scores, [5, 6, 3])
    np.testing.assert_array_equal(better.images[:, 0, 0, 0], [1, 2, 1])
    np.testing.assert_array_equal(better.curves, [[1, 2, 1]] * 2)


def test_script(tiny_run, tmp_path):
    completed = harness.run_here(
        "activation_max",
        f"--workdir={tiny_run.workdir}",
        f"--observer={tiny_run.workdir}",
        "--form=plain",
        "--classes=7,2",
        *("--size=75", "--steps=2"),
        f"--out={tmp_path}",
    )
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert lines[0] == str(tmp_path)
    assert lines[1].startswith("recognised by small: ")
    assert lines[2].startswith("recognised by small (observer): ")
    assert all(line.endswith(" of 2") for line in lines[1:])
    assert (tmp_path / "sheet.png").exists()
