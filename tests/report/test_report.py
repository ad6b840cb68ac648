"""The page of a run, parsed and opened in a browser."""

import dataclasses
import html.parser
import json
import pathlib
import re
import shutil
import threading
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest
from PIL import Image

from seeflower_jax import records
from seeflower_jax.evaluation import calibration, metrics
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment.evaluate import Evaluation, evaluate
from seeflower_jax.figures import text as drawn
from seeflower_jax.inference.run import NoCheckpointError, load_run
from seeflower_jax.records import files
from seeflower_jax.report import charts, collect
from seeflower_jax.report import html as page_html
from tests import harness, tiny_config
from tests.browser import Browser

pytestmark = pytest.mark.long

# A tag, characters that XML forbids, and a mark that reverses the rest.
HOSTILE = '"><script>alert(1)</script>\x07\x00\x1b[31m\udce9\u202e\n'


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """Return a copy of the tiny run with a maximised image."""
    workdir = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    (workdir / "activation_max").mkdir()
    stale = ("001_hard-leaved_pocket_orchid.png", "999_of_another_network.png")
    for name in ("007_bird_of_paradise.png", "sheet.png", *stale):
        Image.new("RGB", (40, 40), "red").save(workdir / "activation_max" / name)
    result = {
        "variables": records.variables_hash(tiny_run.network.variables),
        "scores": {"bird of paradise": 1.0},
    }
    records.write_json(workdir / "activation_max" / "result.json", result)
    return load_run(workdir)


@pytest.fixture(scope="module")
def page(run):
    """Return the path of the page that the script wrote."""
    completed = harness.run_apart("report", f"--workdir={run.workdir}")
    assert completed.returncode == 0, completed.stderr
    path = run.workdir / "report.html"
    assert completed.stdout == f"{path}\n"
    assert not list(run.workdir.glob("partial_*"))
    return path


def _text(element) -> str:
    return " ".join("".join(element.itertext()).split())


def _section(tree, name):
    return tree.find(f".//section[@id='{name}']")


def test_numbers_and_images_of_a_run(run, page):
    tree = ElementTree.fromstring(page.read_text())
    result = records.read_result(run.workdir)
    rows = [_text(row) for row in _section(tree, "result").iter("tr")][1:]
    for row, split in zip(rows, ("test", "validation"), strict=True):
        top1, count = result[split]["top1"], result[split]["count"]
        error = 100 * np.sqrt(top1 * (1 - top1) / count)
        assert row.startswith(f"{split} {100 * top1:.2f} % ± {error:.2f} ")
        assert row.endswith(f"{round(top1 * count)} of {count}")
    assert result["config_hash"] in _text(_section(tree, "provenance"))
    assert (
        f"{result['calibration']['temperature']:.2f} was fitted on the validation"
        in (_text(_section(tree, "calibration")))
    )
    assert "single view that a prediction uses" in _text(_section(tree, "calibration"))
    wrong = result["test"]["count"] - round(
        result["test"]["top1"] * result["test"]["count"]
    )
    assert len(_section(tree, "mistakes").findall(".//figure")) == min(wrong, 12)
    assert len(_section(tree, "gallery").findall(".//figure")) == min(20 - wrong, 12)
    assert _text(_section(tree, "maximised").find(".//li")) == "bird of paradise"
    assert len(_section(tree, "maximised").findall(".//li")) == 1
    assert all(image.get("alt") is not None for image in tree.iter("img"))
    assert str(pathlib.Path.home()) not in page.read_text()


def test_maximised_images_of_other_variables_are_left_out(run, caplog):
    params = jax.tree.map(lambda x: x + 1, run.network.variables["params"])
    variables = run.network.variables | {"params": params}
    network = dataclasses.replace(run.network, variables=variables)
    assert [name for name, _ in collect._maximised(run)] == ["bird of paradise"]
    assert not caplog.messages
    assert not collect._maximised(dataclasses.replace(run, network=network))
    (message,) = caplog.messages
    assert "leaves out" in message and "scripts.activation_max again" in message


def test_mistakes_are_the_most_confident_ones(run):
    mistakes, gallery = collect._examples(run, evaluate(run, "test"))
    confidence = [example.probability for example in mistakes]
    assert confidence == sorted(confidence, reverse=True)
    for example in mistakes:
        assert example.label != example.predicted
        assert example.image.shape == (80, 80, 3)
        assert example.maps["grad_cam"].shape == (80, 80)
        # The fixture's training images are of the first four classes.
        assert (example.training_image is None) == (example.predicted >= 4)
    assert all(example.label == example.predicted for example in gallery)


def test_gallery_is_of_many_classes():
    labels = np.repeat(np.arange(30), 3)
    chosen = collect._spread(np.arange(90), labels)
    assert len(set(labels[chosen])) == 12
    assert labels[chosen][[0, -1]].tolist() == [0, 29]
    labels = np.array([0, 0, 0, 1])
    assert sorted(collect._spread(np.arange(4), labels)) == [0, 1, 2, 3]
    assert len(collect._spread(np.array([], int), labels)) == 0


def test_temperature_is_of_the_evaluated_logits(run, tmp_path):
    """Averaged views have another temperature, and the page states it."""
    shutil.copytree(run.workdir, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["test_time"]["hflip"] = True
    records.write_json(tmp_path / "run/config.json", config)
    result = records.read_result(run.workdir)
    result["calibration"]["temperature"] = 1.25
    result["test_time_calibration"] = {**result["calibration"], "temperature": 1.75}
    records.write_json(tmp_path / "run/result.json", result)
    tree = ElementTree.fromstring(collect.write(tmp_path / "run").read_text())
    text = _text(_section(tree, "calibration"))
    assert (
        "1.75 was fitted on the validation split, to the logits that are averag" in text
    )
    assert "A prediction uses a single view. Its temperature is 1.25." in text
    assert "fewer than 200 images, which are too few to measure the calibration" in text
    assert "calibration error" not in text
    assert "are averaged over the test-time views" in _text(_section(tree, "result"))


def test_calibration_error_is_shown_of_enough_images():
    page = _page(102)
    tree = ElementTree.fromstring(page_html.render(page))
    text = _text(_section(tree, "calibration"))
    (evaluation, _) = page.evaluations
    for words, temperature in (("Without temperature", 1.0), ("Temperature 0.50", 0.5)):
        reliability = calibration.reliability(
            evaluation.logits, evaluation.labels, temperature
        )
        assert f"{words}: calibration error {100 * reliability.error:.1f}" in text
    assert "too few" not in text and "The diagrams show the test split" in text


def test_learning_rate_and_gradient_norm_are_drawn(run, page):
    learning = _section(ElementTree.fromstring(page.read_text()), "learning")
    captions = [_text(caption) for caption in learning.iter("figcaption")]
    assert captions == [
        *("head: accuracy", "head: loss", "head: learning rate", "head: gradient norm")
    ]
    last = records.read_log(run.workdir)[-1]
    row = _text(list(learning.iter("tr"))[-1])
    assert row.endswith(
        f"{last['learning_rate']:.3g} {last['train']['gradient_norm']:.3g} "
        f"{last['images_per_second']:.3g}"
    )


def test_pretraining_is_shown_too(run, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(run.workdir, workdir)
    shutil.copytree(run.workdir, workdir / "pretraining")
    result = records.read_result(run.workdir)
    weights = {"name": "file.h5", "sha256": "0123", "exact": True}
    before = {**result, "weights": weights}
    records.write_json(workdir / "result.json", result | {"pretraining": before})
    init = {**run.config["init"], "pretraining": {"seed": 1}}
    records.write_json(workdir / "config.json", {**run.config, "init": init})
    monkeypatch.setattr(collect, "load_run", _no_checkpoint)
    tree = ElementTree.fromstring(collect.write(workdir).read_text())
    captions = [
        _text(caption) for caption in _section(tree, "learning").iter("figcaption")
    ]
    assert captions[:2] == ["pretraining: head: accuracy", "head: accuracy"]
    origin = _text(_section(tree, "provenance"))
    started = "the pretraining run, which started from file.h5 SHA-256 0123"
    assert f"weights {started} config" in origin
    assert re.search(
        r"pretraining: head [^;]* images/s\); head [^;]*; evaluation", origin
    )


def test_half_written_and_outdated_pages_are_not_current(run, page, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run.workdir, workdir)
    path = workdir / "report.html"
    whole = path.read_bytes()
    assert collect.is_current(workdir)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not collect.is_current(workdir), length
    path.write_bytes(whole)
    for name in ("result.json", "metrics.jsonl", "config.json"):
        before = (workdir / name).read_text()
        (workdir / name).write_text(before + "\n")
        assert not collect.is_current(workdir), name
        (workdir / name).write_text(before)
    assert collect.is_current(workdir)
    path.unlink()
    assert not collect.is_current(workdir)


def test_second_writer_of_a_page_waits_for_the_first(tmp_path):
    path = tmp_path / "report.html"
    second = threading.Thread(target=page_html.write, args=(path, _page(2), "a"))
    with files.exclusive(tmp_path), records.replacing(path) as partial:
        partial.write_text("the page of the first")
        second.start()
        second.join(2)
        assert partial.read_text() == "the page of the first"
    second.join()
    assert page_html.is_made_from(path, "a")


def test_page_that_cannot_be_made_leaves_the_page_before_it(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    page_html.write(path, _page(2), "a")
    before = path.read_text()
    monkeypatch.setattr(records.os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page_html.write(path, _page(3), "b")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == before and page_html.is_made_from(path, "a")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("result.json", '{"half', "result.json is damaged: Unterminated string"),
        ("result.json", "[]", "result.json is damaged: it has a list"),
        ("result.json", '{"test": 1}', "result.json is damaged: test is"),
        ("metrics.jsonl", '{"run_step": 1}\n', "metrics.jsonl is damaged"),
    ],
)
def test_damaged_files_are_named(run, tmp_path, monkeypatch, name, content, message):
    shutil.copytree(run.workdir, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    monkeypatch.setattr(collect, "load_run", _no_checkpoint)
    with pytest.raises(records.DamagedFileError, match=message):
        collect.write(tmp_path / "run")


def _no_checkpoint(*_):
    raise NoCheckpointError


def _page(count: int, splits=("validation", "test"), **changes) -> page_html.Page:
    """Return a page of random logits of `count` classes, two with hostile names."""
    rng = np.random.default_rng(0)
    class_names = [HOSTILE, "Möhre & Ähre", *(f"class {i}" for i in range(2, count))]
    labels = np.arange(3 * count) % count
    logits = rng.normal(0, 1, (len(labels), count)) + 2 * np.eye(count)[labels]
    temperature = 0.5 if "validation" in splits else 1.0
    values = metrics.compute(logits, labels)
    image, attribution_map = np.full((8, 8, 3), 100), np.eye(8)
    maps = {"grad_cam": attribution_map, "saliency": attribution_map}
    example = page_html.Example(image, maps, 0, 1, 0.9, image)
    epoch = {"run_step": 1, "stage": "head", "epoch": 1, "step": 1}
    epoch["train"] = {"loss": 2.0, "top1": 0.5}
    page = page_html.Page(
        title=f"A network on {HOSTILE}",
        config=json.loads(tiny_config.get_config().to_json()),
        result={},
        log=[epoch],
        class_names=class_names,
        evaluations=[
            Evaluation(split, values, logits, labels, temperature) for split in splits
        ],
        mistakes=[example],
        gallery=[dataclasses.replace(example, predicted=0)],
        maximised=[(HOSTILE, image)],
    )
    return dataclasses.replace(page, **changes)


@pytest.mark.parametrize(
    "page",
    [
        _page(2),
        _page(102),
        _page(3, averages_views=True),
        _page(3, splits=("test",)),
        _page(3, splits=("validation",)),
        _page(3, splits=(), mistakes=[], gallery=[], maximised=[]),
        _page(3, splits=(), log=[], mistakes=[], gallery=[], maximised=[]),
    ],
    ids=[
        *("two", "many", "averaged", "no validation", "no test", "no checkpoint"),
        "nothing",
    ],
)
def test_text_of_all_kinds_stays_text(page):
    text = page_html.render(page)
    tree = ElementTree.fromstring(text)  # well-formed
    assert tree.find(".//script") is None and "<script" not in text
    assert _text(tree.find(".//h1")) == drawn.printable(page.title)
    assert "This run is not finished" in _text(tree.find(".//header"))
    assert (_section(tree, "classes") is None) == (not page.evaluations)
    assert (_section(tree, "learning") is None) == (not page.log)
    if page.evaluations:
        assert drawn.printable(HOSTILE) in _text(_section(tree, "classes"))
        splits = [evaluation.split for evaluation in page.evaluations]
        calibration = _text(_section(tree, "calibration"))
        assert ("No temperature was fitted" in calibration) == (
            "validation" not in splits
        )
    for element in tree.iter():  # nothing is loaded
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert value.startswith(("data:", "#")), (element.tag, name)
    style = _text(tree.find(".//style"))
    assert "url(" not in style and "@import" not in style


def test_html_has_no_unknown_closing_tags():
    """An HTML parser and an XML parser read the same tree."""

    class Tags(html.parser.HTMLParser):
        names = ()

        def handle_starttag(self, tag, attributes):
            self.names += (tag,)

    text = page_html.render(_page(2))
    parser = Tags()
    parser.feed(text)
    expected = [e.tag.lower() for e in ElementTree.fromstring(text).iter()]
    assert list(parser.names) == expected


def test_run_without_a_checkpoint_and_no_run(run, tmp_path):
    shutil.copy(run.workdir / "config.json", tmp_path)
    tree = ElementTree.fromstring(collect.write(tmp_path).read_text())
    assert "No split has been evaluated yet" in _text(tree.find(".//header"))
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        collect.write(tmp_path / "absent")


@pytest.mark.parametrize("finished", [False, True])
def test_split_that_was_not_evaluated(run, tmp_path, monkeypatch, finished):
    shutil.copytree(run.workdir, tmp_path / "run")
    result = records.read_result(run.workdir)
    (tmp_path / "run/result.json").unlink()
    if finished:  # by scripts.train --notest
        del result["test"]
        records.write_json(tmp_path / "run/result.json", result)
    (tmp_path / "run/logits_test.npz").unlink()
    monkeypatch.setattr(Evaluator, "stream", None)  # would compute missing logits
    tree = ElementTree.fromstring(collect.write(tmp_path / "run").read_text())
    assert [row.find("th").text for row in _section(tree, "result").iter("tr")][1:] == [
        "validation"
    ]


def _problems(events) -> list[str]:
    """Return the network requests of a page, and the errors of its console."""
    problems = []
    for event in events:
        method, params = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("data:", "file:")) or url.endswith(".ico"):
                problems.append(url)
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            problems.append(json.dumps(params))
        elif method == "Log.entryAdded":
            problems.append(params["entry"]["text"])
    return problems


def test_page_in_a_browser(page, tmp_path):
    with Browser() as browser:
        # The test would notice problems:
        (tmp_path / "bad.html").write_text(
            "<script>console.error('x')</script><img src='http://127.0.0.1:9/a.png'>"
        )
        assert len(_problems(browser.open(tmp_path / "bad.html"))) >= 2

        backgrounds = set()
        for width, dark in ((1280, False), (390, True)):
            assert _problems(browser.open(page, width, dark=dark)) == []
            wide = browser.evaluate("document.documentElement.scrollWidth")
            assert wide == width  # tables scroll in their own containers
            loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
            assert browser.evaluate(loaded)
            backgrounds.add(
                browser.evaluate("getComputedStyle(document.body).backgroundColor")
            )
        assert len(backgrounds) == 2

        browser.press("Tab", 9)
        assert browser.evaluate("document.activeElement.className") == "skip"
        browser.press("Enter", 13)
        assert browser.evaluate("location.hash") == "#main"
        browser.press("Tab", 9)
        focused = "document.activeElement.getAttribute('href')"
        assert browser.evaluate(focused) == "#result"
        assert browser.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle"
        ) == ("solid")


def test_ticks_of_small_numbers_are_short():
    numbers = (0, 0.5, 0.001, 0.00025, 3e-5, 2.5e-06, 40, 12000)
    assert [charts._short_number(number) for number in numbers] == [
        *("0", "0.5", "0.001", "2.5e-4", "3e-5", "2.5e-6", "40", "12000")
    ]


@pytest.mark.parametrize("power", range(-9, 10))
def test_ticks_of_every_axis_are_exact(power):
    for high in np.arange(1, 10, 0.25) * 10.0**power:
        ticks = charts._ticks(high, 5)
        texts = [charts._short_number(tick) for tick in ticks]
        np.testing.assert_allclose([float(text) for text in texts], ticks, rtol=1e-9)
        assert max(map(len, texts)) <= 7
    assert charts._short_number(0.0125) == "0.0125"


def test_config_is_shown_without_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jürgen")
    config = {"data": {"dir": "/home/jürgen/photos"}, "views": [[224, 1.0]]}
    assert collect._without_home(config) == {**config, "data": {"dir": "~/photos"}}
