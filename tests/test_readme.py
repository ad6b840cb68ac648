"""The README's own code: every command and every example in it is run."""

import configparser
import dataclasses
import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import scripts
from seeflower_jax import models
from seeflower_jax.attribution import registry
from seeflower_jax.data import oxford_flowers
from seeflower_jax.pretrained import converted, writers
from tests import fixtures, harness, test_layout

ROOT = harness.ROOT
README = (ROOT / "README.md").read_text()
TRAINING = "(training arguments)"  # stands for the fixture `small_arguments`


@dataclasses.dataclass(frozen=True)
class Run:
    """How a command is run on small files.

    Attributes:
      words: {what the README has: what is there instead}, see `place`.
      more: arguments added at the end.
      makes: files that are there afterwards, and were not before.
      before: script and arguments of what has to be run first.
      slow: why it is not run by default.
    """

    words: dict[str, str] = dataclasses.field(default_factory=dict)
    more: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    slow: str = ""


IMAGES = {"IMAGE...": "photos/0.jpg photos/1.jpg"}
CLASSES = ("--classes=0,2",)  # the small set has four
TRAIN = "python -m scripts.train --config=configs/inception.py"
RUN = "--workdir=runs/inception_seed0"
RUNS = {
    TRAIN: Run(more=("--workdir=runs/new", TRAINING), makes=("runs/new/report.html",)),
    f"{TRAIN} --config.data.dir=DIR --config.init.weights=FILE": Run(
        {"DIR": "flowers", "FILE": "weights"},
        ("--workdir=runs/new", TRAINING, "--config.init.weights=weights"),
        ("runs/new/result.json",),
    ),
    f"{TRAIN}:linear --config.data.source=folder --config.data.dir=DIR": Run(
        {},
        (
            *("--workdir=runs/new", "--config.data.dir=own"),
            *("--config.data.cache_dir=cache", "--config.data.shortest_side=64"),
            *("--config.model.name=small", "--config.init.weights="),
            *("--config.model.pooled=('block[45]',)", "--config.eval.size=64"),
            "--config.test_time.views=((64,1.0),(64,0.75))",
        ),
        ("runs/new/result.json",),
    ),
    f"{TRAIN} --config.seed=1 --config.stages.finetune.epochs=40": Run(
        {}, (TRAINING,), ("runs/inception_seed1/result.json",)
    ),
    f"python -m scripts.evaluate {RUN} --split=test": Run(
        makes=("runs/inception_seed0/evaluation_test/metrics.json",)
    ),
    "python -m scripts.directions --workdir=runs/inception_linear": Run(
        {"inception_linear": "narrow_linear"}, ("--only=whole image",)
    ),
    "python -m scripts.ensemble --joint_head "
    "--workdirs=runs/inception_seed0,runs/vgg16_seed0": Run(
        {"vgg16_seed0": "inception_seed0"}
    ),
    "python -m scripts.ensemble --workdirs=runs/inception_seed0,runs/vgg16_seed0": Run(
        {"vgg16_seed0": "inception_seed0"}
    ),
    f"python -m scripts.report {RUN}": Run(
        makes=("runs/inception_seed0/report.html",),
    ),
    f"python -m scripts.predict {RUN} IMAGE...": Run(IMAGES),
    "python -m scripts.predict --model=vgg16 --weights=FILE IMAGE...": Run(
        IMAGES | {"FILE": "vgg16.h5"}
    ),
    f"python -m scripts.attribute {RUN} --split=test "
    "--methods=saliency,grad_cam,finer_cam --out=maps": Run(
        makes=("maps/index.jsonl", "maps/finer_cam.png")
    ),
    f"python -m scripts.attribute --plugins=my_module {RUN} --split=test "
    "--methods=xgrad_cam --out=maps": Run(makes=("maps/xgrad_cam.png",)),
    f"python -m scripts.activation_max {RUN} --classes=5,7,33,100,73 "
    "--out=activation_max": Run(
        more=("--steps=2",), makes=("activation_max/sheet.png",)
    ),
    f"python -m scripts.attribute_eval {RUN} --methods=saliency,grad_cam,finer_cam "
    "--limit=200 --out=attribution_eval": Run(
        more=("--limit=20",), makes=("attribution_eval/table.png",)
    ),
    f"python -m scripts.paper_figures {RUN} --out=figures": Run(
        more=("--steps=2", *CLASSES),
        makes=("figures/figure_4_5.png", "figures/figure_4_6.png"),
    ),
    f"python -m scripts.export {RUN} --out=flowers": Run(
        {"--out=flowers": "--out=export"}, makes=("export/model.stablehlo",)
    ),
    "python -m scripts.predict --export=flowers IMAGE...": Run(
        IMAGES | {"--export=flowers": "--export=export"}
    ),
    "python -m scripts.convert_weights --model=vgg16 --source=FILE --out=DIR": Run(
        {"FILE": "vgg16.h5", "DIR": "converted"}, makes=("converted/model.json",)
    ),
    f"python -m scripts.convert_weights {RUN} --to=keras_h5 --out=flowers.h5": Run(
        {"inception_seed0": "narrow_inception"}, makes=("flowers.h5",)
    ),
    "python -m scripts.parity --weights=DIR --out=parity.json IMAGE IMAGE IMAGE": Run(
        {"DIR": "weights", "IMAGE": "photos/0.jpg"},
        ("--models=inception_v3", "--size=75"),
        ("parity.json",),
        slow="builds Inception-v3 in Keras and PyTorch and compiles it four times",
    ),
    "python -m scripts.prepare_data --source=DIR --data_dir=OUT": Run(
        {"DIR": "flowers", "OUT": "tfds"},
        ("--noverify",),
        ("tfds/oxford_flowers102/2.1.1",),
    ),
    "python -m scripts.benchmark attribution "
    "--networks=vgg16,runs/inception_seed0": Run(
        {"vgg16,runs/inception_seed0": "runs/vgg16"},
        ("--batch_size=1", "--steps=1", "--rounds=1"),
        before=(
            "train",
            "--config=configs/vgg16.py",
            "--workdir=runs/vgg16",
            TRAINING,
            "--config.model.name=vgg16",
        ),
        slow="starts a process for each method and framework",
    ),
    "python -m scripts.stress --out=results/reliability.json": Run(
        {"results/reliability.json": "reliability.json"},
        ("--short",),
        ("reliability.json",),
        slow="tests/stress runs it already",
    ),
    "python -m scripts.ablation --out=runs --dry_run": Run(),
    "python -m scripts.reproduce --out=runs --dry_run": Run(),
    "python -m scripts.reproduce --out=runs --seeds=0,1,2": Run(
        {},
        (
            "--seeds=0",
            "--budget=smoke",
            "--only=baseline_official_paper_a",
            "--data_dir=flowers",
            "--cache_dir=cache",
        ),
        ("runs/REPORT.md", "runs/baseline_official_paper_a_seed0/result.json"),
    ),
    "python -m scripts.reproduce --record='runs/*'": Run(
        makes=("results/small_official_seed0.json", "RESULTS.md")
    ),
}
# Commands that are run elsewhere: by a test, or for every change.
COVERED = {
    "pip install -e .": ".ci/run",
    "pip install -e .[dev]": ".ci/run",
    "python -m pytest -n 2 --dist loadfile": ".ci/run",
    "python -m scripts.train --config=configs/quickstart.py": (
        "tests/studies/test_quickstart.py::test_small_quickstart"
    ),
    "python -m scripts.merge_maps --out=maps": (
        "tests/explain/test_pipeline.py::test_parts_are_merged_to_the_whole"
    ),
    "python -m scripts.benchmark train --out=benchmark.json": (
        "tests/test_benchmark.py::test_both_passes_are_timed_in_each_framework"
    ),
    "python -m scripts.ablation --out=runs --only=vgg16_without_the_mean_of_weights": (
        "tests/studies/test_ablation.py::test_script_records_what_is_missing"
    ),
}
SECTIONS = (
    *("Quick start", "The main job", "Results", "Scripts", "From Python", "Code"),
    *("Extending", "Limits", "Licence"),
)


def blocks(text: str) -> list[list[str]]:
    """The commands of each indented block, as they are typed, without line breaks."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?:^ {4}.*\n?)+", text, re.MULTILINE)
    return [
        [
            " ".join(command.split())
            for line in re.sub(r"\\\n", " ", block).strip().splitlines()
            for command in line.split(" && ")
        ]
        for block in found
    ]


BLOCKS = blocks(README)
COMMANDS = [command for block in BLOCKS for command in block]


@pytest.fixture
def place(
    tmp_path, flowers, small_run, small_arguments, tiny_run, linear_run, monkeypatch
):
    """A folder with what the README's commands name, as small files, to be run in."""
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "flowers").symlink_to(flowers)
    shutil.copytree(small_run, tmp_path / "runs/inception_seed0")
    (tmp_path / "runs/inception_seed0/report.html").unlink()
    (tmp_path / "runs/narrow_inception").symlink_to(tiny_run.workdir)
    (tmp_path / "runs/narrow_linear").symlink_to(linear_run.workdir)
    for folder, count in {"photos": 2, "own/aster": 6, "own/rose": 6}.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (90, 99, 3), "u1")
            Image.fromarray(pixels).save(tmp_path / f"{folder}/{number}.jpg")
    shutil.copy(tmp_path / "photos/0.jpg", tmp_path / "rose.jpg")
    shutil.copy(
        ROOT / "tests/extending/attribution_method.py", tmp_path / "my_module.py"
    )
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` has the current folder
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    monkeypatch.setitem(sys.modules, "my_module", None)  # what is imported is restored
    del sys.modules["my_module"]
    spec = models.get_spec("small")
    variables = fixtures.random_variables(spec, 0)
    source = {"name": "random", "sha256": None, "exact": None}
    converted.save(tmp_path / "weights", spec, variables, source)
    spec = models.get_spec(
        "vgg16", num_classes=9, width=0.05, pooling="flatten", hidden=(12, 10)
    )
    variables = fixtures.random_variables(spec, 0)
    writers.write(tmp_path / "vgg16.h5", "keras_h5", spec, variables, {})
    load = oxford_flowers.load

    def unchecked(folder, split="official", *_, **__):
        return load(folder, split, verify=False)

    # scripts.reproduce refuses other images than the official ones.
    monkeypatch.setattr(oxford_flowers, "load", unchecked)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _cases():
    for block in BLOCKS:
        if any(command in RUNS for command in block):
            reasons = [RUNS[c].slow for c in block if c in RUNS and RUNS[c].slow]
            marks = [pytest.mark.slow] if reasons else []
            name = block[0].removeprefix("python -m scripts.")
            yield pytest.param(block, id=name, marks=marks)


@pytest.mark.parametrize("block", list(_cases()))
def test_commands_run(block, place, small_arguments):
    def run(script, *arguments):
        filled = []
        for argument in arguments:
            filled += small_arguments if argument == TRAINING else [argument]
        completed = harness.run_here(script, *filled, root=place)
        assert completed.returncode == 0, f"{command}: {completed.stderr}"
        return completed.stdout

    for command in block:
        if command not in RUNS:
            continue
        how, typed = RUNS[command], command
        for word, instead in how.words.items():
            assert word in typed
            typed = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", instead, typed)
        python, m, script, *arguments = shlex.split(typed)
        assert (python, m) == ("python", "-m") and script.startswith("scripts.")
        if how.before:
            run(*how.before)
        assert not any((place / name).exists() for name in how.makes)
        stdout = run(script.removeprefix("scripts."), *arguments, *how.more)
        assert all((place / name).exists() for name in how.makes)
        assert "failed" not in stdout  # which benchmarks go on after


def test_every_command_is_run():
    unknown = [c for c in COMMANDS if c not in RUNS and c not in COVERED]
    assert not unknown, "add them to RUNS, or to COVERED if another test runs them"
    gone = [c for c in (*RUNS, *COVERED) if c not in COMMANDS]
    assert not gone, "the README has them no longer"
    assert not set(RUNS) & set(COVERED)


def test_a_new_command_would_be_noticed():
    text = "a\n\n    pip install x && python -m y \\\n        --z=1\n    rm q\n\nb\n"
    assert blocks(text) == [["pip install x", "python -m y --z=1", "rm q"]]
    assert blocks("```text\n    a b\n```\n") == []


@pytest.mark.parametrize("command,where", COVERED.items(), ids=list(COVERED))
def test_commands_that_are_run_elsewhere(command, where):
    path, _, function = where.partition("::")
    text = (ROOT / path).read_text()
    if function:
        assert f"def {function}(" in text
        words = [word.split("=")[-1] for word in command.split()[2:]]
        assert all(word.removeprefix("scripts.") in text for word in words)
    else:
        assert command in text.replace(" -q ", " ")


def test_extras_are_there():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(re.findall(r"pip install -e \.\[(\w+)\]", README))
    assert extras and extras <= set(config["options.extras_require"])


def test_every_script_has_its_example():
    part = README.split("\n## Scripts\n")[1].split("\n## ")[0]
    examples = dict(re.findall(r"^### (\w+)\n\n((?: {4}.*\n)+)", part, re.MULTILINE))
    assert set(examples) == set(scripts.names())
    for name, example in examples.items():
        assert f"python -m scripts.{name} " in example


def test_sections_are_in_order():
    text = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == SECTIONS


def test_files_and_links_are_there():
    folders = "results|tests|configs|docs|scripts|seeflower_jax|third_party"
    for name in re.findall(rf"`((?:{folders})/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {title.lower().replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\(([^)]+)\)", README):
        path, _, anchor = link.partition("#")
        if path:
            assert (ROOT / path).is_file(), link
        else:
            assert anchor in anchors, link
    assert (ROOT / "docs/figure_4_5.jpg").stat().st_size < 400_000


def test_the_map_of_the_code_has_all_rooms():
    code = README.split("\n```text\n")[1].split("\n```")[0]
    rooms = re.findall(r"^seeflower_jax/(\w+)/ ", code, re.MULTILINE)
    assert len(set(rooms)) == len(rooms)
    modules = [name.removesuffix(".py") for name in re.findall(r"\w+\.py\b", code)]
    assert {*rooms, *modules} == test_layout.FLOOR_BY_ROOM.keys()


def _tables():
    """Yield (header, rows) of each table: lists of cells."""
    for table in re.findall(r"(?:^\|.*\|\n)+", README, re.MULTILINE):
        header, _, *rows = (
            [cell.strip(" `") for cell in line.strip("|\n").split("|")]
            for line in table.splitlines()
        )
        yield header, rows


def _short(value, digits):
    return f"{value:.{digits}f}".removeprefix("0")


def test_recorded_accuracies():
    paths = []
    for header, rows in _tables():
        if header[-1] != "record":
            continue
        for _, validation, test, third, *_, path in rows:
            paths.append(path)
            record = json.loads((ROOT / path).read_text())
            assert validation == _short(record["validation"]["top1"], 4)
            assert test == _short(record["test"]["top1"], 4)
            if header[3] == "test, mean class":
                assert third == _short(record["test"]["mean_class_top1"], 4)
    assert len(paths) == 7
    ensemble = json.loads((ROOT / "results/ensemble_official_seed0.json").read_text())
    for split, key in (
        ("test", "top1"),
        ("test", "mean_class_top1"),
        ("validation", "top1"),
    ):
        assert f"{ensemble[split][key]:.4f}" in README


def test_recorded_quick_starts():
    record = json.loads((ROOT / "results/quickstart.json").read_text())
    (rows,) = (rows for header, rows in _tables() if header[-1] == "time")
    for seed, (_, *cells, time) in enumerate(rows):
        entry = record[f"data_seed_{seed}"]
        summary = entry["quickstart"]
        values = summary["transfer"]["top1"], summary["from_scratch"]["top1"]
        # 0.8375 is 0.838 and 0.7875 is 0.788: half is rounded up.
        expected = [int(value * 1000 + 0.5) / 1000 for value in values]
        expected.append(summary["pointing_game"]["grad_cam"])
        assert cells == [_short(value, 3) for value in expected]
        assert time == f"{entry['wall_seconds']} s"


def test_recorded_pointing_games():
    record = json.loads((ROOT / "results/pointing_game.json").read_text())
    (rows,) = (rows for h, rows in _tables() if h == ["", "VGG16", "Inception-v3"])
    assert {name for name, *_ in rows} == record["vgg16"].keys()
    for name, *cells in rows:
        scores = [record[model][name]["score"] for model in ("vgg16", "inception_v3")]
        assert [float(cell) for cell in cells] == pytest.approx(scores, abs=6e-4)


def test_python_examples_run(place):
    face, function = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    names = {}
    exec(face, names)
    explanation = names["explanation"]
    assert Image.open("cam.png").size == explanation.map.shape == (64, 64)
    assert explanation.map.dtype == np.float32 and explanation.target == "rose"
    names = {"images": np.zeros((1, 80, 80, 3), np.uint8)}
    exec(function.replace("inception_seed0", "narrow_inception"), names)
    assert names["logits"].shape == (1, 102) and names["maps"].shape == (1, 80, 80)
