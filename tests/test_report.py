"""The report of a run, read as a browser reads it."""

import dataclasses
import html.parser
import json
import pathlib
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from seeflower_jax import experiment, records, reporting
from seeflower_jax.report import html as html_report
from tests import harness, tiny_config
from tests.browser import Browser

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A copy of the tiny run with a maximised picture."""
    workdir = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    (workdir / "activation_max").mkdir()
    for name in ("007_bird_of_paradise.png", "sheet.png"):
        Image.new("RGB", (40, 40), "red").save(workdir / "activation_max" / name)
    return experiment.load_run(workdir)


@pytest.fixture(scope="module")
def page(run):
    """The report as the script writes it."""
    done = harness.run_apart("report", f"--workdir={run.workdir}")
    assert done.returncode == 0, done.stderr
    path = run.workdir / "report.html"
    assert done.stdout == f"{path}\n"
    return path


def _text(element) -> str:
    return " ".join("".join(element.itertext()).split())


def _section(tree, name):
    return tree.find(f".//section[@id='{name}']")


def test_numbers_and_pictures_of_a_run(run, page):
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
    wrong = result["test"]["count"] - round(
        result["test"]["top1"] * result["test"]["count"]
    )
    assert len(_section(tree, "mistakes").findall(".//figure")) == min(wrong, 12)
    assert len(_section(tree, "gallery").findall(".//figure")) == min(20 - wrong, 12)
    assert _text(_section(tree, "maximised").find(".//li")) == "bird of paradise"
    assert len(_section(tree, "maximised").findall(".//li")) == 1
    assert all(image.get("alt") is not None for image in tree.iter("img"))
    assert str(pathlib.Path.home()) not in page.read_text()


def test_mistakes_are_the_most_confident_ones(run):
    _, logits, labels = experiment.evaluate(run, "test")
    split = html_report.Split("test", logits, labels)
    found = reporting._examples(run, split, run.temperature)
    shown = [example.probability for example in found["mistakes"]]
    assert shown == sorted(shown, reverse=True)
    for example in found["mistakes"]:
        assert example.label != example.predicted
        assert example.picture.shape == (80, 80, 3)
        assert example.maps["grad_cam"].shape == (80, 80)
        # The fixture's training pictures are of the first four classes.
        assert (example.other is None) == (example.predicted >= 4)
    assert all(example.label == example.predicted for example in found["gallery"])


def test_gallery_is_of_many_classes():
    labels = np.repeat(np.arange(30), 3)
    chosen = reporting._spread(np.arange(90), labels)
    assert len(set(labels[chosen])) == 12 and labels[chosen][[0, -1]].tolist() == [
        0,
        29,
    ]
    labels = np.array([0, 0, 0, 1])
    assert sorted(reporting._spread(np.arange(4), labels)) == [0, 1, 2, 3]
    assert len(reporting._spread(np.array([], int), labels)) == 0


def _report(count: int, splits=("validation", "test"), **changes):
    """A report of random logits of `count` classes, some of evil names."""
    rng = np.random.default_rng(0)
    names = [HOSTILE, "Möhre & Ähre", *(f"class {i}" for i in range(2, count))]
    labels = np.arange(3 * count) % count
    logits = rng.normal(0, 1, (len(labels), count)) + 2 * np.eye(count)[labels]
    picture, values = np.full((8, 8, 3), 100), np.eye(8)
    maps = {"grad_cam": values, "saliency": values}
    example = html_report.Example(picture, maps, 0, 1, 0.9, picture)
    record = {"run_step": 1, "stage": "head", "epoch": 1, "step": 1}
    record["train"] = {"loss": 2.0, "top1": 0.5}
    report = html_report.Report(
        title=f"A network on {HOSTILE}",
        config=json.loads(tiny_config.get_config().to_json()),
        result={},
        records=[record],
        class_names=names,
        splits=[html_report.Split(name, logits, labels) for name in splits],
        temperature=0.5 if "validation" in splits else 1.0,
        mistakes=[example],
        gallery=[dataclasses.replace(example, predicted=0)],
        maximised=[(HOSTILE, picture)],
    )
    return dataclasses.replace(report, **changes)


@pytest.mark.parametrize(
    "report",
    [
        _report(2),
        _report(102),
        _report(3, splits=("test",)),
        _report(3, splits=("validation",)),
        _report(3, splits=(), mistakes=[], gallery=[], maximised=[]),
        _report(3, splits=(), records=[], mistakes=[], gallery=[], maximised=[]),
    ],
    ids=["two", "many", "no validation", "no test", "no checkpoint", "nothing"],
)
def test_text_of_all_kinds_stays_text(report):
    page = html_report.render(report)
    tree = ElementTree.fromstring(page)  # well-formed
    assert tree.find(".//script") is None and "<script" not in page
    assert _text(tree.find(".//h1")) == report.title
    assert "This run is not finished" in _text(tree.find(".//header"))
    assert (_section(tree, "classes") is None) == (not report.splits)
    assert (_section(tree, "learning") is None) == (not report.records)
    if report.splits:
        assert HOSTILE in _text(_section(tree, "classes"))
        names = [split.name for split in report.splits]
        told = _text(_section(tree, "calibration"))
        assert ("No temperature was fitted" in told) == ("validation" not in names)
    for element in tree.iter():  # nothing is asked for
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert value.startswith(("data:", "#")), (element.tag, name)
    style = _text(tree.find(".//style"))
    assert "url(" not in style and "@import" not in style


def test_html_has_no_unknown_closing_tags():
    """What XML calls well-formed, an HTML parser has to read as the same tree."""

    class Tags(html.parser.HTMLParser):
        found = ()

        def handle_starttag(self, tag, attributes):
            self.found += (tag,)

    page = html_report.render(_report(2))
    parser = Tags()
    parser.feed(page)
    expected = [e.tag.lower() for e in ElementTree.fromstring(page).iter()]
    assert list(parser.found) == expected


def test_run_without_a_checkpoint_and_no_run(run, tmp_path):
    shutil.copy(run.workdir / "config.json", tmp_path)
    tree = ElementTree.fromstring(reporting.write(tmp_path).read_text())
    assert "Nothing was evaluated yet" in _text(tree.find(".//header"))
    with pytest.raises(FileNotFoundError, match="no run directory"):
        reporting.write(tmp_path / "absent")


@pytest.mark.parametrize("finished", [False, True])
def test_split_that_was_not_looked_at(run, tmp_path, monkeypatch, finished):
    shutil.copytree(run.workdir, tmp_path / "run")
    result = records.read_result(run.workdir)
    (tmp_path / "run/result.json").unlink()
    if finished:  # by scripts.train --notest
        del result["test"]
        records.write_json(tmp_path / "run/result.json", result)
    (tmp_path / "run/logits_test.npz").unlink()
    monkeypatch.setattr(experiment, "_rows", None)  # would be called to compute others
    tree = ElementTree.fromstring(reporting.write(tmp_path / "run").read_text())
    assert [row.find("th").text for row in _section(tree, "result").iter("tr")][1:] == [
        "validation"
    ]


def _problems(events) -> list[str]:
    """What a page asked of the network, and what it complained of."""
    found = []
    for event in events:
        method, params = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("data:", "file:")) or url.endswith(".ico"):
                found.append(url)
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            found.append(json.dumps(params))
        elif method == "Log.entryAdded":
            found.append(params["entry"]["text"])
    return found


def test_page_in_a_browser(page, tmp_path):
    with Browser() as browser:
        # That what is looked for would be seen:
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
