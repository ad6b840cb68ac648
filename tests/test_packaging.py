"""Test that a wheel holds the package, scripts and configs, and works anywhere."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests import harness

FOLDERS = ("seeflower_jax", "configs", "scripts")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build a wheel, and return the folder of its unpacked content."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "installed"))
    for name in FOLDERS:
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(harness.ROOT / name, source / name, ignore=no_caches)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(harness.ROOT / name, source)
    command = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
    run = [sys.executable, "-c", command, str(out)]
    built = subprocess.run(run, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out)
    return out


def test_wheel_has_all_files(installed):
    def files(root, folders):
        paths = (p for folder in folders for p in (root / folder).rglob("*.*"))
        return {str(p.relative_to(root)) for p in paths if "__pycache__" not in str(p)}

    expected = files(harness.ROOT, FOLDERS[:1])
    expected |= {f"seeflower_jax/{n}" for n in files(harness.ROOT, FOLDERS[1:])}
    assert files(installed, FOLDERS[:1]) == expected


def test_script_runs_from_a_wheel(installed, tmp_path):
    """The config and the modules of the scripts are found from another folder."""
    arguments = ["--config=configs/vgg16.py", "--config.data.dir=images"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-m", "seeflower_jax.scripts.train", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("scripts.train: images"), done.stderr
