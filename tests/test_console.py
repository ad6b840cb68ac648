"""What scripts say: how they are used, what they found and why they failed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import scripts
from scripts import usage
from tests import forked

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    """Runs a script: (name, *arguments) -> returncode, stdout, stderr."""
    process = forked.Scripts()
    yield process.run
    process.close()


@pytest.fixture
def refused(script):
    """Runs a script that refuses its command line, and returns the line it says so."""

    def run(name, *arguments):
        done = script(name, *arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"scripts.{name}: ")
        return done.stderr

    return run


def _python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", scripts.names())
def test_help_shows_examples(script, name):
    done = script(name, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"\n    python -m scripts.{name} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 88
    assert {"--[no]json:", "--[no]debug:"} <= set(done.stdout.split())


@pytest.mark.parametrize("name", scripts.names())
def test_examples_have_flags_that_are_there(script, name):
    text = script(name, "--help").stdout
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
def test_mistyped_flag(refused, name):
    assert "Unknown command line flag 'jsno'. Did you mean: json ?" in refused(
        name, "--jsno"
    )


@pytest.mark.parametrize("name", ["trian", "train.py"])
def test_mistyped_script(name):
    done = _python("-m", f"scripts.{name}", "--help")
    assert done.returncode == 2 and done.stdout == ""
    expected = f"scripts.{name} is no script; did you mean scripts.train?\n"
    assert done.stderr == expected


def test_scripts_are_listed():
    for module in ("scripts", "scripts.xyz"):
        done = _python("-m", module)
        assert done.returncode == 2
        assert f"{module} is no script; there are scripts.{{ablation,act" in done.stderr
    assert _python("-c", "import scripts").returncode == 0


INCEPTION = "--config=configs/inception.py"


@pytest.mark.parametrize(
    "name,arguments,said",
    [
        ("train", [], "--config must be given"),
        ("prepare_data", [], "--source and --data_dir must be given"),
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
            "unknown config key 'haed'; did you mean 'head'?",
        ),
        ("train", [INCEPTION, "--config.sead=1"], "'sead'; did you mean 'seed'?"),
        ("train", [INCEPTION, "--config.xyz=1"], "unknown config key: 'xyz'"),
        ("train", [INCEPTION, "--config.seed=x"], "--config.seed=x: .* 'x'"),
        (
            "evaluate",
            ["--workdir=runs", "--split=tset"],
            "--split: expected 'train', 'validation' or 'test', got 'tset'; "
            "did you mean 'test'?",
        ),
        ("evaluate", ["--workdir=runs", "tset"], "unexpected arguments: tset"),
        ("evaluate", ["--workdir=runs", "--ablation=a"], "--split=validation"),
        (
            "train",
            ["--config=configs/quickstart.py", "--notest"],
            "the quick start compares on test",
        ),
        ("benchmark", ["tarin"], "got 'tarin'; did you mean 'train'?"),
        ("benchmark", [], "expected 'train' or 'attribution', got ''"),
        ("predict", ["--workdir=runs"], "expected the paths of pictures"),
        ("predict", ["rose.jpg"], "expected one of --workdir, --weights and --export"),
        ("reproduce", ["--seeds=a"], "--seeds=.*'a'.*: expected numbers"),
    ],
)
def test_command_line_that_cannot_be_followed(refused, name, arguments, said):
    assert re.search(said.replace("?", r"\?"), refused(name, *arguments))


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
def test_config_that_does_not_load(refused, script, tmp_path, text, said):
    path = tmp_path / "config.py"
    path.write_text(text)
    assert re.search(f"--config={path}: .*{said}", refused("train", f"--config={path}"))
    done = script("train", f"--config={path}", "--debug")
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_error_is_its_message(tmp_path):
    (tmp_path / "rosa_seed0").mkdir()
    mistyped = tmp_path / "rosa_sed0"
    done = _python("-m", "scripts.report", f"--workdir={mistyped}")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"scripts.report: {mistyped} is no run directory")
    assert f"did you mean {tmp_path / 'rosa_seed0'}?" in done.stderr
    done = _python("-m", "scripts.report", f"--workdir={mistyped}", "--debug")
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" in done.stderr and "is no run directory" in done.stderr


def test_value_of_a_choice_is_no_path(script, tiny_run):
    said = script("evaluate", f"--workdir={tiny_run.workdir}/absent", "--split=test")
    assert said.returncode == 1 and "tests" not in said.stderr


def test_interruption_is_no_traceback(tmp_path):
    code = (
        "import sys; from scripts import console; sys.argv[1:] = []\n"
        "def main(_): raise KeyboardInterrupt\n"
        "console.run(main)"
    )
    done = _python("-c", code)
    assert done.returncode == 130
    assert done.stderr.endswith(": interrupted\n") and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_results_as_text_and_as_json(script, tiny_run, flowers, photo, tmp_path):
    """Every line of stdout is the result; nothing else is there."""
    workdir = f"--workdir={tiny_run.workdir}"

    def run(name, *arguments):
        done = script(name, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_json(name, *arguments):
        return json.loads(run(name, *arguments, "--json"))

    maps = [f"--images={photo}", "--methods=eigen_cam", "--layer=mixed2"]
    maps += [workdir, f"--out={tmp_path / 'maps'}", "--batch_size=1"]
    assert run("attribute", *maps) == f"{tmp_path / 'maps'}\n"
    assert run_json("attribute", *maps) == {
        "out": str(tmp_path / "maps"),
        "skipped": [],
    }

    evaluated = run_json("evaluate", workdir, f"--out={tmp_path}")
    assert evaluated == json.loads((tmp_path / "metrics.json").read_text())
    lines = run("evaluate", workdir, f"--out={tmp_path}").splitlines()
    assert lines[0].split("  ")[-1] == "pictures" and lines[-1] == str(tmp_path)
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
    command = [sys.executable, "-c", code, *arguments]
    # Written as it is printed, as if it were longer than what a pipe holds.
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_nearest_path(tmp_path):
    (tmp_path / "photos").mkdir()
    near = str(tmp_path / "photos")
    assert usage.nearest_path(tmp_path / "photso") == near
    assert usage.nearest_path(tmp_path / "photso" / "deeper") == near
    assert usage.nearest_path(near) is None
    assert usage.nearest_path(tmp_path / "unlike") is None
