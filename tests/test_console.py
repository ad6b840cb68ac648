"""What a script says when it fails."""

import pathlib
import subprocess
import sys

import pytest

from scripts import console

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _run(*arguments):
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr


def test_error_is_its_message(tmp_path):
    (tmp_path / "rosa_seed0").mkdir()
    mistyped = tmp_path / "rosa_sed0"
    said = _run("scripts.report", f"--workdir={mistyped}")
    assert said.startswith(f"scripts.report: {mistyped} is no run directory")
    assert f"did you mean {tmp_path / 'rosa_seed0'}?" in said
    assert "Traceback" not in said
    said = _run("scripts.report", f"--workdir={mistyped}", "--debug")
    assert "Traceback" in said and "is no run directory" in said


@pytest.mark.parametrize(
    "mistyped,meant",
    [
        ("--config=configs/inceptoin.py", "configs/inception.py"),
        ("--conifg=configs/inception.py", "config"),
    ],
)
def test_mistyped_config(mistyped, meant):
    said = _run("scripts.train", mistyped)
    assert f"did you mean {meant}" in said.lower().replace("mean: ", "mean ")
    assert "Traceback" not in said


def test_mistyped_key_of_a_config():
    said = _run("scripts.train", "--config=configs/vgg16.py", "--config.data.dr=here")
    assert 'Did you mean "dir"' in said and "Traceback" not in said


def test_nearest_path(tmp_path):
    (tmp_path / "photos").mkdir()
    near = str(tmp_path / "photos")
    assert console.nearest(tmp_path / "photso") == near
    assert console.nearest(tmp_path / "photso" / "deeper") == near
    assert console.nearest(near) is None
    assert console.nearest(tmp_path / "unlike") is None
