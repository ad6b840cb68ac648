"""Test that the files for maintainers agree with each other and with the repository."""

import configparser
import re

import pytest
import yaml

from tests import harness

SETUP = configparser.ConfigParser()
SETUP.read(harness.ROOT / "setup.cfg")


def test_version_is_the_same_everywhere():
    version = SETUP["metadata"]["version"]
    citation = yaml.safe_load((harness.ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["license"] == SETUP["metadata"]["license"]
    first, _ = re.findall(r"^## (\S+)", _read("CHANGELOG.md"), re.MULTILINE)[:2]
    assert first == "Unreleased" if "dev" in version else first == version


def test_citation_has_the_paper():
    citation = yaml.safe_load((harness.ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    assert paper["title"].startswith("See-Flower") and paper["year"] == 2018
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md"])
def test_paths_exist(name):
    folders = "seeflower_jax|scripts|tests|results|configs|third_party"
    for path in re.findall(rf"`((?:{folders})/[\w./]*)`", _read(name)):
        assert (harness.ROOT / path).exists(), path


def test_checks_run_before_a_commit_and_in_continuous_integration():
    config = yaml.safe_load(_read(".pre-commit-config.yaml"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"  # needs no network
    checks = _read(".ci/run")
    for hook in repository["hooks"][:3]:
        command = hook["entry"].removesuffix(" --force-exclude")
        assert f"\n{command}" in checks


def _read(name):
    return (harness.ROOT / name).read_text()
