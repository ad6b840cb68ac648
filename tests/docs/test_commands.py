"""Test every command of README.md and docs/ on small files."""

import configparser
import dataclasses
import fnmatch
import re
import shlex

import pytest

from seeflower_jax.studies import ablation, rows
from tests import harness
from tests.docs import pages

ROOT = harness.ROOT
TRAINING = "(training arguments)"  # stands for the fixture `small_arguments`


@dataclasses.dataclass(frozen=True)
class Run:
    """How a command is run on small files.

    Attributes:
      words: {word of the page: word of the test}, see `place`.
      more: arguments added at the end.
      makes: files that the command creates.
      before: script and arguments of a command that must run first.
      slow: why the command does not run by default.
    """

    words: dict[str, str] = dataclasses.field(default_factory=dict)
    more: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    slow: str = ""


IMAGES = {"IMAGE...": "photos/0.jpg photos/1.jpg"}
CLASSES = ("--classes=0,2",)  # the small data set has four
WORDS = {
    "inception_linear_seed0": "narrow_linear",
    "vgg16_linear_seed0": "second_linear",
}
TRAIN = "python -m scripts.train --config=configs/inception.py"
RUN = "--workdir=runs/inception_seed0"
# Make the recipe `linear` take seconds.
LINEAR = (
    *("--config.data.cache_dir=cache", "--config.data.shortest_side=64"),
    *("--config.model.name=small", "--config.init.weights="),
    *("--config.model.pooled=('block[45]',)", "--config.eval.size=64"),
    *("--config.test_time.views=((64,1.0),(64,0.75))", "--config.eval.batch_size=8"),
)
# Make the default recipe of Inception-v3 take seconds.
BEST = (
    *(*LINEAR, "--config.data.dir=flowers", "--config.data.verify=false"),
    "--config.init.pretraining.test_time.views=((64,1.0),)",
    *("--config.stages.head.epochs=1", "--config.stages.head.validate_every=1"),
    *("--config.stages.head.batch_size=8", "--config.stages.finetune.batch_size=8"),
    *("--config.stages.finetune.epochs=1", "--config.stages.finetune.augment.size=64"),
    "--config.stages.finetune.validate_every=1",
    "--config.stages.finetune.partition=(('.*',1.0),)",
)
RUNS = {
    TRAIN: Run(
        more=("--workdir=runs/new", *BEST),
        makes=("runs/new/report.html", "runs/new/pretraining/result.json"),
    ),
    f"{TRAIN} --config.data.dir=DIR --config.init.weights=FILE": Run(
        {"DIR": "flowers", "FILE": "weights"},
        ("--workdir=runs/local", *BEST, "--config.init.weights=weights"),
        ("runs/local/result.json",),
    ),
    f"{TRAIN}:linear": Run(
        more=(
            *("--config.data.dir=flowers", *LINEAR),
            "--config.data.verify=false",
        ),
        makes=("runs/inception_linear_seed0/report.html",),
    ),
    f"{TRAIN}:linear --workdir=runs/photos --config.data.source=folder "
    "--config.data.dir=DIR": Run({"DIR": "own"}, LINEAR, ("runs/photos/result.json",)),
    f"{TRAIN} --config.seed=1 --config.stages.finetune.epochs=12": Run(
        {}, BEST, ("runs/inception_seed1/result.json",)
    ),
    f"python -m scripts.evaluate {RUN} --split=test": Run(
        makes=("runs/inception_seed0/evaluation_test/metrics.json",)
    ),
    "python -m scripts.directions --workdir=runs/inception_linear_seed0": Run(
        {"inception_linear_seed0": "narrow_linear"}, ("--only=whole image",)
    ),
    "python -m scripts.ensemble --joint_head "
    "--workdirs=runs/inception_seed0,runs/vgg16_seed0": Run(
        {"vgg16_seed0": "second_small"}
    ),
    "python -m scripts.ensemble --workdirs=runs/inception_seed0,runs/vgg16_seed0": Run(
        {"vgg16_seed0": "second_small"}
    ),
    f"python -m scripts.report {RUN}": Run(
        makes=("runs/inception_seed0/report.html",),
    ),
    f"python -m scripts.predict {RUN} IMAGE...": Run(IMAGES),
    "python -m scripts.predict --model=vgg16 --weights=FILE IMAGE...": Run(
        IMAGES | {"FILE": "vgg16.h5"}
    ),
    f"python -m scripts.attribute {RUN} --images=photos/ --out=maps": Run(
        makes=("maps/index.jsonl", "maps/grad_cam.png")
    ),
    f"python -m scripts.attribute {RUN} --images=photos/ "
    "--methods=grad_cam --overlays --out=maps": Run(
        makes=("maps/index.jsonl", "maps/overlays"),
    ),
    f"python -m scripts.attribute {RUN} --split=test --out=maps": Run(
        makes=("maps/index.jsonl", "maps/grad_cam.png")
    ),
    f"python -m scripts.attribute {RUN} --split=test "
    "--methods=saliency,grad_cam,finer_cam --out=maps": Run(
        makes=("maps/index.jsonl", "maps/finer_cam.png")
    ),
    f"python -m scripts.attribute --plugins=my_module {RUN} --split=test "
    "--methods=grad_cam_plus --out=maps": Run(makes=("maps/grad_cam_plus.png",)),
    f"python -m scripts.activation_max {RUN} --classes=5,7,33,100,73 "
    "--out=activation_max": Run(
        more=("--steps=2",), makes=("activation_max/sheet.png",)
    ),
    f"python -m scripts.attribute_eval {RUN} --methods=saliency,grad_cam,finer_cam "
    "--limit=200 --out=attribution_eval": Run(
        more=("--limit=20",), makes=("attribution_eval/table.png",)
    ),
    "python -m scripts.layers_figure --workdir=runs/vgg16_seed0 --out=layers.png "
    "--layers=block3_conv3,block4_conv3,block5_conv3,head IMAGE...": Run(
        IMAGES
        | {
            "--workdir=runs/vgg16_seed0": RUN,
            "--layers=block3_conv3,block4_conv3,block5_conv3,head": "--layers=block4",
        },
        makes=("layers.png",),
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
    "python -m scripts.parity --attribution --weights=DIR --size=112 "
    "--out=attribution_parity.json IMAGE...": Run(
        {"DIR": "", "112": "32", **IMAGES},
        makes=("attribution_parity.json",),
        slow="compiles VGG16 for each method",
    ),
    "python -m scripts.prepare_data --source=DIR --data_dir=OUT": Run(
        {"DIR": "flowers", "OUT": "tfds"},
        ("--noverify",),
        ("tfds/oxford_flowers102/2.1.1",),
    ),
    "python -m scripts.benchmark attribution --networks=vgg16,inception_v3": Run(
        {"vgg16,inception_v3": "runs/vgg16"},
        ("--batch_size=1", "--steps=1", "--rounds=1"),
        before=(
            "train",
            "--config=configs/vgg16.py:two_stages",
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
        makes=("results/small_official_three_stages_seed0.json", "RESULTS.md")
    ),
}
# Commands of docs/training_options.md, on the small and on drawn images.
DRAWN = (
    *("--config.data.source=synthetic", "--config.data.split=target"),
    *("--config.data.species=2", "--config.data.images_per_class=(4,2,2)"),
)
RUNS |= {
    "python -m scripts.train --config=configs/outside_data.py "
    "--config.init.pretraining.data.dir=DIR --workdir=runs/outside_data": Run(
        {"DIR": "own"},
        (TRAINING, *DRAWN, "--config.init.pretraining.stage_order=('head',)"),
        ("runs/outside_data/pretraining/result.json", "runs/outside_data/result.json"),
    ),
    "python -m scripts.ensemble --joint_head --teacher=teacher.npz "
    "--workdirs=runs/inception_linear_seed0,runs/vgg16_linear_seed0": Run(
        WORDS, makes=("teacher.npz",)
    ),
    f"{TRAIN} --config.distillation.logits=teacher.npz "
    "--config.distillation.weight=0.5 --config.distillation.temperature=2.0 "
    "--workdir=runs/distilled": Run(more=BEST, makes=("runs/distilled/result.json",)),
    f"{TRAIN}:short --config.data.split=reversed "
    "--config.data.logit_adjustment=1.0": Run(
        more=(TRAINING, "--workdir=runs/adjusted"), makes=("runs/adjusted/result.json",)
    ),
    "python -m scripts.train --config=configs/vgg16.py:top_only "
    "--workdir=runs/vgg16_top_only": Run(
        more=(
            *("--config.data.dir=flowers", "--config.data.cache_dir=cache"),
            *("--config.data.verify=false", "--config.data.shortest_side=64"),
            *("--config.model.name=small", "--config.init.weights="),
            *("--config.model.hidden=(8,8)", "--config.eval.batch_size=8"),
            *("--config.stages.top.epochs=2", "--config.stages.top.batch_size=8"),
        ),
        makes=(
            "runs/vgg16_top_only/features_top_draw4.npy",
            "runs/vgg16_top_only/result.json",
        ),
    ),
}
# Commands that run elsewhere: in another test, or for every change.
COVERED = {
    f"python -m scripts.demo {RUN}": (
        "tests/report/test_demo.py::test_script_serves_the_page_until_it_is_interrupted"
    ),
    f"{TRAIN} --distributed --coordinator=HOST:PORT --num_processes=2 --process_id=0": (
        "tests/test_devices.py::test_two_processes_train_the_run_of_one"
    ),
    "python -m scripts.devices --out=runs/devices --results=results": (
        "tests/studies/test_devices.py::test_script_writes_the_record"
    ),
    "python -m scripts.benchmark_convolutions --out=convolutions.json": (
        "tests/comparison/test_convolution_speed.py"
        "::test_script_measures_all_convolutions_of_a_network"
    ),
    "python -m scripts.benchmark_maps --workdirs=runs/inception_seed0 "
    "--images=photos/": (
        "tests/studies/test_maps_speed.py::test_script_compares_files_and_computation"
    ),
    "python -m scripts.cache --clear --unused_days=30": (
        "tests/test_cache.py::test_list_and_clear"
    ),
    "python -m scripts.networks_figure --weights=DIR --data_dir=DATA "
    "--out=figure.jpg": "tests/comparison/test_five_networks.py::test_figure",
    "python -m scripts.cache --list": "tests/test_cache.py::test_list_and_clear",
    "pip install -e .": ".ci/run",
    "pip install -e .[dev]": ".ci/run",
    "python -m pytest -n 2 --dist loadfile": ".ci/run",
    "python -m scripts.train --config=configs/quickstart.py": (
        "tests/studies/test_quickstart.py::test_small_quickstart"
    ),
    "python -m scripts.outside_data --config=configs/quickstart.py "
    "--out=runs/outside": "tests/studies/test_outside_data.py::test_small_study",
    "python -m scripts.merge_maps --out=maps": (
        "tests/explain/test_pipeline.py::test_parts_are_merged_to_the_whole"
    ),
    "python -m scripts.benchmark train --out=benchmark.json": (
        "tests/test_benchmark.py::test_both_passes_are_timed_in_each_framework"
    ),
    "python -m scripts.ablation --out=runs "
    "--only=vgg16_two_stages_without_the_mean_of_weights": (
        "tests/studies/test_ablation.py::test_script_records_what_is_missing"
    ),
}


def _cases():
    for block in pages.blocks():
        if any(command in RUNS for command in block):
            reasons = [RUNS[c].slow for c in block if c in RUNS and RUNS[c].slow]
            marks = [pytest.mark.slow] if reasons else []
            name = block[0].removeprefix("python -m scripts.")
            yield pytest.param(block, id=name, marks=marks)


def test_rows_of_studies_exist():
    texts = [*pages.PAGES.values(), (ROOT / "docs/scripts.md").read_text()]
    given_rows = r"scripts\.(ablation|reproduce) .*--only='?([^'\s`]+)"
    known = {
        "ablation": [change.key for change in ablation.CHANGES],
        "reproduce": [name for row in rows.ROWS for name in (row.name, row.table)],
    }
    found = [
        (study, pattern.removeprefix("table_"))
        for text in texts
        for study, given in re.findall(given_rows, text)
        for pattern in given.split(",")
    ]
    assert {study for study, _ in found} == known.keys()
    for study, pattern in found:
        assert fnmatch.filter(known[study], pattern), f"{study}: {pattern}"


@pytest.mark.long
@pytest.mark.parametrize("block", list(_cases()))
def test_commands_run(block, place, small_arguments, request):
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
        if "narrow_inception" in how.words.values():
            request.getfixturevalue("narrow_inception")
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
        assert "failed" not in stdout  # benchmarks continue after a failure


def test_every_command_is_run():
    commands = {command for block in pages.blocks() for command in block}
    unknown = [c for c in commands if c not in RUNS and c not in COVERED]
    assert not unknown, "add them to RUNS, or to COVERED if another test runs them"
    gone = [c for c in (*RUNS, *COVERED) if c not in commands]
    assert not gone, "no page has them any longer"
    assert not set(RUNS) & set(COVERED)


def test_a_new_command_would_be_noticed():
    text = "a\n\n    pip install x && python -m y \\\n        --z=1\n    rm q\n\nb\n"
    assert pages.blocks_of(text) == [["pip install x", "python -m y --z=1", "rm q"]]
    assert pages.blocks_of("```text\n    a b\n```\n") == []


@pytest.mark.parametrize("command,where", COVERED.items(), ids=list(COVERED))
def test_commands_that_are_run_elsewhere(command, where):
    path, _, function = where.partition("::")
    text = (ROOT / path).read_text()
    if function:
        assert f"def {function}(" in text
        script = command.split()[2].removeprefix("scripts.")
        assert f'"{script}"' in text or f"scripts.{script}" in text
    else:
        assert command in text.replace(" -q ", " ")


def test_extras_are_there():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(
        re.findall(r"pip install -e \.\[(\w+)\]", "".join(pages.PAGES.values()))
    )
    assert extras and extras <= set(config["options.extras_require"])
