"""Test what scripts print: help, results and errors."""

import json
import os
import re
import signal

import numpy as np
import pytest
from PIL import Image

import scripts
from seeflower_jax import hints
from tests import harness


def _assert_refused(completed, script):
    """Assert that a script refused its command line with one line."""
    assert completed.returncode == 2 and completed.stdout == ""
    assert completed.stderr.count("\n") == 1
    assert completed.stderr.startswith(f"scripts.{script}: ")


@pytest.mark.parametrize("name", scripts.names())
def test_help_shows_examples(name):
    done = harness.run_here(name, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(rf"\n    python -m scripts\.{name}\b", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 88
    listed = set(done.stdout.split())
    assert {"--[no]json:", "--[no]debug:", "--plugins:"} <= listed


@pytest.mark.parametrize("name", scripts.names())
def test_examples_have_flags_that_are_there(name):
    text = harness.run_here(name, "--help").stdout
    docstring, listed = text.split("\nflags:\n")
    flags = re.findall(r"^ +(?:-\w,)?--(\[no\])?(\w+)", listed, re.MULTILINE)
    known = {flag for _, flag in flags} | {f"no{flag}" for no, flag in flags if no}
    command = rf"python -m scripts\.{name} (.*(?:\\\n.*)*)"
    used = {
        flag
        for example in re.findall(command, docstring)
        for flag in re.findall(r"--(\w+)", example)
    }
    assert used <= known


@pytest.mark.parametrize("name", scripts.names())
def test_mistyped_flag(name):
    done = harness.run_here(name, "--jsno")
    _assert_refused(done, name)
    assert "Unknown command line flag 'jsno'. Did you mean: json ?" in done.stderr


def test_every_other_module_is_shared_by_scripts():
    """Scripts differ from the modules that they share."""
    modules = {path.stem for path in (harness.ROOT / "scripts").glob("[a-z]*.py")}
    shared = modules - set(scripts.names())
    flags = {"computation_flags", "config_flag", "image_flags", "network_flags"}
    flags |= {"process_flags", "run_flags"}
    assert shared == {"console", "errors", "interruption"} | flags


INCEPTION = "--config=configs/inception.py"


@pytest.mark.parametrize(
    "name,arguments,said",
    [
        ("train", [], "--config must have a value"),
        ("prepare_data", [], "--source must have a value"),
        (
            "train",
            ["--config=configs/inceptoin.py:zca", "--config.seed=1"],
            "inceptoin.py:zca: no such file; did you mean configs/inception.py?",
        ),
        ("train", [f"{INCEPTION}:bst"], "unknown variant 'bst'; .*mean 'best'?"),
        ("train", ["--config=configs/vgg19.py:papre"], "did you mean 'paper'?"),
        ("train", ["--config=configs/quickstart.py:a"], "get_config.* takes 0"),
        (
            "train",
            [INCEPTION, "--config.stages.haed.epochs=1"],
            'unknown config key \'haed\'; Did you mean "head" instead of "haed"?',
        ),
        ("train", [INCEPTION, "--config.sead=1"], "key 'sead'; Did you mean \"seed\""),
        ("train", [INCEPTION, "--config.xyz=1"], "unknown config key 'xyz'"),
        ("train", [INCEPTION, "--config.seed=x"], "--config.seed=x: .* 'x'"),
        (
            "evaluate",
            ["--workdir=runs", "--split=tset"],
            "--split=tset: value should be one of <train.validation.test>",
        ),
        ("evaluate", ["--workdir=runs", "tset"], "expected flags only, got 'tset'"),
        ("evaluate", ["--workdir=runs", "--ablation=a"], "--split=validation"),
        (
            "train",
            ["--config=configs/quickstart.py", "--notest"],
            "the quick start compares accuracies",
        ),
        ("benchmark", ["tarin"], "got 'tarin'; did you mean 'train'?"),
        ("benchmark", [], "expected 'train' or 'attribution', got ''"),
        ("predict", ["--workdir=runs"], "expected the paths of images"),
        ("predict", ["rose.jpg"], "expected one of --workdir, --weights and --export"),
        ("reproduce", ["--seeds=a"], "--seeds=.*'a'.*: expected different numbers"),
        ("train", ["--flagfile=absent.txt"], "open flagfile: .*'absent.txt'"),
        ("report", ["--flagfile=absent.txt"], "open flagfile: .*'absent.txt'"),
        ("report", ["--workdir=x", "--plugins=a.b"], "import a.b: No module named 'a'"),
    ],
)
def test_command_line_that_cannot_be_followed(name, arguments, said):
    done = harness.run_here(name, *arguments)
    _assert_refused(done, name)
    assert re.search(said.replace("?", r"\?"), done.stderr)


@pytest.mark.parametrize(
    "text,said",
    [
        ("def get_config(:", "invalid syntax"),
        ("import absnet", "No module named 'absnet'"),
        ("def get_config():\n  return {}['seed']", "KeyError: 'seed'"),
        ("def get_config():\n  raise ValueError('no\\nway')", "no way"),
        ("", "AttributeError: .*no attribute 'get_config'"),
    ],
)
def test_config_that_does_not_load(tmp_path, text, said):
    path = tmp_path / "config.py"
    path.write_text(text)
    done = harness.run_here("train", f"--config={path}")
    _assert_refused(done, "train")
    assert re.search(f"--config={path}: .*{said}", done.stderr)
    done = harness.run_here("train", f"--config={path}", "--debug")
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_error_is_its_message(tmp_path):
    workdir = tmp_path / "absent"
    done = harness.run_apart("report", f"--workdir={workdir}")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"scripts.report: {workdir} is not a run directory")
    done = harness.run_apart("report", f"--workdir={workdir}", "--debug")
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" in done.stderr and "is not a run directory" in done.stderr


def test_interruption_is_no_traceback():
    code = (
        "import sys; from scripts import console; sys.argv[1:] = []\n"
        "def main(_): raise KeyboardInterrupt\n"
        "console.run(main)"
    )
    done = harness.run_python("-c", code)
    assert done.returncode == 130
    assert done.stderr.endswith(": interrupted\n") and "Traceback" not in done.stderr


def test_plugin_that_fails_is_named(tmp_path):
    (tmp_path / "broken_plugin.py").write_text("raise ValueError('no\\nway')")
    arguments = ["--workdir=x", "--plugins=json,broken_plugin"]
    done = harness.run_apart("report", *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert "--plugins: cannot import broken_plugin: no" in done.stderr


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.long
def test_results_as_text_and_as_json(tiny_run, flowers, photo, tmp_path):
    """stdout has only the result."""
    workdir = f"--workdir={tiny_run.workdir}"

    def run(name, *arguments):
        done = harness.run_apart(name, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_json(name, *arguments):
        return json.loads(run(name, *arguments, "--json"))

    maps = [f"--images={photo}", "--methods=eigen_cam", "--layer=block3"]
    maps += [workdir, f"--out={tmp_path / 'maps'}", "--batch_size=1"]
    assert run("attribute", *maps) == f"{tmp_path / 'maps'}\n"
    assert run_json("attribute", *maps) == {
        "out": str(tmp_path / "maps"),
        "skipped": [],
    }

    evaluated = run_json("evaluate", workdir, f"--out={tmp_path}")
    assert evaluated == json.loads((tmp_path / "metrics.json").read_text())
    lines = run("evaluate", workdir, f"--out={tmp_path}").splitlines()
    assert lines[0].split("  ")[-1] == "images" and lines[-1] == str(tmp_path)
    assert lines[1].split()[0] == "test" and lines[1].split()[-1] == "20"

    report = f"{tiny_run.workdir}/report.html"
    assert run_json("report", workdir) == {"report": report}

    out = [workdir, f"--out={tmp_path / 'network'}"]
    assert run_json("export", *out)["out"] == str(tmp_path / "network")
    found = run_json("predict", f"--export={tmp_path / 'network'}", photo)
    assert found["image"] == str(photo) and len(found["classes"]) == 5
    lines = run("predict", f"--export={tmp_path / 'network'}", photo).splitlines()
    assert lines[0] == str(photo) and len(lines) == 6
    assert lines[1].split("  ")[-1] == found["classes"][0]["name"]

    weights = [workdir, "--to=orbax", f"--out={tmp_path / 'orbax'}"]
    assert run("convert_weights", *weights) == f"{tmp_path / 'orbax'}\n"

    rows = ["--only=table_4.1", f"--out={tmp_path}", "--dry_run"]
    planned = run_json("reproduce", *rows)["runs"]
    assert len(planned) == 3 and planned[0]["state"] == "missing"

    data = [f"--source={flowers}", f"--data_dir={tmp_path}", "--noverify"]
    folder = str(tmp_path / "oxford_flowers102/2.1.1")
    assert run_json("prepare_data", *data) == {"folder": folder}


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_reader_that_has_enough_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    code = "from scripts import console; console.run(lambda _: console.show({}, 'a'))"
    # Unbuffered output is written at once, as if the buffer were full.
    environment = {"PYTHONUNBUFFERED": "1"}
    done = harness.run_python("-c", code, *arguments, stdout=writer, **environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_nearest_path(tmp_path):
    (tmp_path / "photos").mkdir()
    near = str(tmp_path / "photos")
    assert hints.nearest_path(tmp_path / "photso") == near
    assert hints.nearest_path(tmp_path / "photso" / "deeper") == near
    assert hints.nearest_path(near) is None
    assert hints.nearest_path(tmp_path / "unlike") is None
    assert hints.nearest_path("~no_such_user/photos") is None


def test_nearest_names_in_another_case():
    known = ["vgg16", "Vgg19", "small"]
    assert hints.did_you_mean("VGG16", known) == "; did you mean 'vgg16'?"
    assert hints.nearest("VGG19", known, count=2) == ["Vgg19", "vgg16"]
    assert hints.nearest("ROSE", ["Rose", "rose"], count=1) == ["Rose"]
    assert hints.nearest("daisy", known) == []
