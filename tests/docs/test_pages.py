"""Test the shape, the links and the Python examples of README.md and docs/."""

import re

import numpy as np
import pytest
import yaml
from PIL import Image

from scripts import docs
from tests import harness, test_layout
from tests.docs import pages

README = pages.PAGES["README.md"]
SECTIONS = (
    *("Install", "Quick start", "Oxford 102 Flowers", "Your own images", "Results"),
    *("Explain a prediction", "Explain another network"),
    *("Evaluate, predict, attribute, export", "Code", "Tests", "Licence"),
)
FOLDERS = "results|tests|configs|docs|scripts|seeflower_jax|third_party"


def _prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_sections_of_the_readme_are_in_order():
    titles = re.findall(r"^## (.*)$", _prose(README), re.MULTILINE)
    assert tuple(titles) == SECTIONS


@pytest.mark.parametrize("name", pages.PAGES)
def test_page_is_short_and_starts_with_what_works(name):
    lines = pages.PAGES[name].splitlines()
    assert len(lines) <= (180 if name == "README.md" else 200)
    assert lines[0].startswith("# ") and not lines[1]
    assert name == "README.md" or lines[2].startswith(("    python -m", "```python"))


@pytest.mark.parametrize("name", [*pages.PAGES, "docs/scripts.md", "CONTRIBUTING.md"])
def test_files_and_links_are_there(name):
    path = harness.ROOT / name
    text = _prose(path.read_text())
    for file in re.findall(rf"`((?:{FOLDERS})/[\w./]+)`", text):
        assert (harness.ROOT / file).exists(), file
    for link in re.findall(r"(?<!\\)\]\(([^)]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_file(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", t.lower()) for t in titles}
            assert anchor in {title.replace(" ", "-") for title in anchors}, link


def test_every_page_is_linked():
    linked = {
        link.partition("#")[0].removeprefix("docs/")
        for text in pages.PAGES.values()
        for link in re.findall(r"\]\(([^)]+)\)", text)
    }
    assert {name.removeprefix("docs/") for name in pages.PAGES} - linked == {
        "README.md"
    }


def test_every_page_is_on_the_site():
    """`.ci/run` builds the site and checks all its links."""
    nav = yaml.safe_load((harness.ROOT / "mkdocs.yml").read_text())["nav"]
    listed = {uri for entry in nav[1:] for uri in sum(entry.values(), [])}
    names = {path.name for path in (harness.ROOT / "docs").glob("*.md")}
    assert listed == names | {"RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md"}


def test_page_of_the_scripts_is_current():
    path = harness.ROOT / "docs/scripts.md"
    assert path.read_text() == docs.page(), "run `python -m scripts.docs`"


def test_the_map_of_the_code_has_all_rooms():
    code = README.split("\n```text\n")[1].split("\n```")[0]
    rooms = re.findall(r"^seeflower_jax/(\w+)/ ", code, re.MULTILINE)
    assert len(set(rooms)) == len(rooms)
    modules = [name.removesuffix(".py") for name in re.findall(r"\w+\.py\b", code)]
    assert {*rooms, *modules} == test_layout.FLOOR_BY_ROOM.keys()


@pytest.mark.long
def test_python_examples_of_the_readme_run(narrow_inception):
    face, function, other = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    names = {}
    exec(face, names)
    explanation = names["explanation"]
    assert Image.open("cam.png").size == explanation.map.shape == (64, 64)
    assert explanation.map.dtype == np.float32 and explanation.target == "rose"
    names = {"images": np.zeros((1, 80, 80, 3), np.uint8)}
    exec(function.replace("inception_seed0", "narrow_inception"), names)
    assert names["logits"].shape == (1, 102) and names["maps"].shape == (1, 80, 80)
    names = _network_of_flax()
    exec(other, names)
    assert names["maps"].shape == (2, 32, 32)


def _network_of_flax():
    """Return the names that the example of another network does not define."""
    import flax.linen as nn
    import jax

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(nn.Conv(4, (3, 3), name="conv")(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(5)(Block(name="block3")(x).mean((1, 2)))

    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3), maxval=255)
    variables = Net().init(jax.random.key(1), images)
    return {"module": Net(), "variables": variables, "images": images}
