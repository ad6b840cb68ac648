"""Fixtures shared by all tests."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def assets() -> pathlib.Path:
    """The folder with the real images and weights."""
    default = "~/.cache/seeflower-assets"
    path = pathlib.Path(os.environ.get("SEEFLOWER_ASSETS", default)).expanduser()
    if not (path / "oxford_flowers102" / "jpg").is_dir():
        message = (
            f"real images and weights are not in {path}; "
            "set SEEFLOWER_ASSETS to the folder that holds them"
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
