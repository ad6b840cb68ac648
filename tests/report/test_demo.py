"""The page that explains dropped images: its answers, and the page in Chromium."""

import json
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

from seeflower_jax.attribution import grad_cam, targets
from seeflower_jax.data.decode import UnreadableImage
from seeflower_jax.figures import maps
from seeflower_jax.inference.load import load
from seeflower_jax.report import demo
from tests import harness
from tests.browser import Browser

WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def network(small_run):
    return load(small_run)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    path = tmp_path_factory.mktemp("images") / "aster.png"
    Image.fromarray(pixels).save(path)
    return path


def test_answer_is_the_prediction_and_the_map(network, image):
    answer = demo.Demo(network).answer(image, "saliency")
    explanation = network.explain(image, "saliency")
    prediction = explanation.prediction
    assert list(answer.probabilities) == list(prediction.classes)
    assert list(answer.probabilities.values()) == list(prediction.probabilities)
    np.testing.assert_array_equal(answer.first[0], np.asarray(explanation.overlay()))
    assert answer.first[1] == f"saliency: {prediction.classes[0]}"
    assert answer.second is answer.contrast is None


def test_second_class_is_compared(network, image):
    """The third map is Grad-CAM of the difference of two logits."""
    first, second = network.class_names[2:4]
    answer = demo.Demo(network).answer(image, "grad_cam", "block4", first, second)
    assert answer.second[1] == f"grad_cam: {second}"
    assert answer.contrast[1] == f"{first}, and not {second}"
    score = targets.difference(np.array([2]), np.array([3]))
    seen = answer.image[0]
    expected = grad_cam(network.bind(), seen[None] * 1.0, score, layer="block4")
    drawn = maps.overlay(seen, np.asarray(expected)[0], signed=False)
    np.testing.assert_allclose(answer.contrast[0], drawn, atol=2)
    assert np.abs(answer.contrast[0] * 1.0 - answer.first[0]).max() > 20


def test_list_of_files_opens_no_other_file(network, image, tmp_path):
    """An uploaded list could otherwise show any image of this machine."""
    (tmp_path / "list.txt").write_text(f"{image}\n")
    with pytest.raises(UnreadableImage, match="list.txt cannot be read") as caught:
        demo.Demo(network).answer(tmp_path / "list.txt")
    assert image.name not in str(caught.value)


@pytest.fixture(scope="module")
def address(network):
    import gradio  # noqa: F401 - without Gradio, the tests of the page are skipped

    page = demo.page(network)
    _, url, _ = page.launch(**demo.PRIVATE, quiet=True, prevent_thread_lock=True)
    yield url
    page.close()


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


def _labels(browser):
    expression = "[...document.querySelectorAll('img')].map(i => i.alt).join('|')"
    return [label for label in browser.evaluate(expression).split("|") if label]


@pytest.mark.parametrize("width", WIDTHS)
def test_page(address, browser, network, image, tmp_path, width):
    browser.open(address, width=width)
    browser.wait_for("document.querySelector('input[type=file]')")
    browser.choose_file("input[type=file]", image)
    browser.wait_for("document.querySelectorAll('img').length == 2")
    predicted = network.predict(image)[0].classes[0]
    assert _labels(browser) == ["what the network sees", f"grad_cam: {predicted}"]
    assert predicted in browser.evaluate("document.querySelector('h2').textContent")

    _choose_by_keyboard(browser, "Compare with", network.class_names[1])
    browser.wait_for("document.querySelectorAll('img').length == 4")
    assert f"{predicted}, and not {network.class_names[1]}" in _labels(browser)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width

    requests = [
        event["params"]["request"]["url"]
        for event in browser.events()
        if event["method"] == "Network.requestWillBeSent"
    ]
    inside = (address, "data:", "blob:")
    assert requests and all(url.startswith(inside) for url in requests)
    assert not [e for e in browser.events() if e["method"] == "Runtime.exceptionThrown"]
    logged = [e for e in browser.events() if e["method"] == "Log.entryAdded"]
    assert not [e for e in logged if e["params"]["entry"]["level"] == "error"]

    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    browser.open(address, width=width)
    browser.wait_for("document.querySelector('input[type=file]')")
    browser.choose_file("input[type=file]", broken)
    browser.wait_for("document.body.textContent.includes('broken.jpg cannot be')")
    assert str(tmp_path) not in browser.evaluate("document.body.textContent")


def _choose_by_keyboard(browser, label, name):
    """Move to a list with the Tab key, type a name, and press Enter."""
    for _ in range(30):
        browser.press("Tab", 9)
        focused = "document.activeElement.getAttribute('aria-label')"
        if browser.evaluate(focused) == label:
            break
    else:
        raise AssertionError(f"{label} has no focus")
    browser.send("Input.insertText", text=name)
    browser.press("Enter", 13)


def test_page_is_private():
    assert demo.PRIVATE["server_name"] == "127.0.0.1" and not demo.PRIVATE["share"]


def test_script_serves_the_page_until_it_is_interrupted(small_run):
    import gradio  # noqa: F401

    command = ["-m", "scripts.demo", f"--workdir={small_run}", "--json"]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=harness.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [process.stdout.readline() for _ in range(3)]
    url = json.loads("".join(lines))["url"]
    with urllib.request.urlopen(url) as answer:
        assert b"seeflower_jax" in answer.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == ["scripts.demo: interrupted"], errors
