"""Test the list of what was not measured."""

import dataclasses
import re
import shlex
import shutil

import pytest

from seeflower_jax.experiment import ensemble
from seeflower_jax.studies import ablation, gaps, record
from seeflower_jax.studies.rows import CONFIGS, ENSEMBLES, ROWS, SEEDS, Ensemble
from tests import harness
from tests.studies.results import make_result


def _commands(text):
    """Return the commands of each list, by its title."""
    lists = {}
    for line in text.splitlines():
        if line.startswith("    # "):
            lists[line.removeprefix("    # ")] = commands = []
        elif line.startswith("    "):
            commands.append(line.strip())
    return lists


def test_missing_seeds_are_named():
    results = [make_result(seed=seed) for seed in (0, 1)]
    results.append(make_result(recipe="linear"))
    # A result in another type is a measurement, too.
    results.append(make_result(recipe="corrected", seed=1, dtype="bfloat16"))
    text = gaps.missing(ROWS, SEEDS, results, {})
    assert "vgg16_official_linear " not in text  # all seeds give the same network
    reproduce = "    python -m scripts.reproduce --out=runs"
    for row, seeds in (
        ("vgg16_official_paper", "2"),
        ("vgg16_official_corrected", "0,2"),
        ("vgg16_official", "0,1,2"),
        ("vgg19_official_linear", "0"),
    ):
        assert f"{reproduce} --only={row} --seeds={seeds}\n" in text


@pytest.mark.parametrize("model", CONFIGS)
def test_further_seeds_of_the_defaults_are_named(model):
    results = record.load_results(harness.ROOT / "results")
    seeds = {
        r["seed"]
        for r in results
        if (r["model"], r["split"], r["recipe"]) == (model, "official", "best")
    }
    wanted = ",".join(str(seed) for seed in SEEDS if seed not in seeds)
    text = gaps.missing(ROWS, SEEDS, results, {})
    found = re.findall(rf"--only={model}_official --seeds=(\S+)\n", text)
    assert found == ([wanted] if wanted else [])


def test_missing_rows_of_the_ablation_are_named():
    changes = [
        ablation.Change("vgg16", "without decay", recipe="short"),
        ablation.Change("vgg16", "half the size", recipe="best"),
    ]
    measured = {"vgg16": {"half the size": {}}, "vgg19": {"without decay": {}}}
    lists = _commands(gaps.missing([], SEEDS, [], measured, changes, []))
    assert lists == {
        "The ablation, minutes to two hours a row on two CPU cores:": [
            "python -m scripts.ablation --out=runs --only=vgg16_short_without_decay"
        ]
    }
    assert gaps.missing([], SEEDS, [], {}, [], []) == ""


def test_missing_ensembles_are_named():
    recorded = make_result("ensemble", recipe="best")
    # An ensemble of another split is another ensemble.
    other = make_result("ensemble", split="reversed", recipe="linear")
    (commands,) = _commands(gaps.missing([], SEEDS, [recorded, other], {}, [])).values()
    assert len(commands) == len(ENSEMBLES) - 1
    linear = ",".join(
        f"runs/{model}_official_linear_seed0"
        for model in ("inception_v3", "vgg16", "vgg19")
    )
    assert commands[0] == (
        f"python -m scripts.ensemble --workdirs={linear} --results=results"
    )
    for runs in (
        linear.replace("_linear", ""),
        linear,
        "runs/inception_v3_official_linear_seed0,runs/inception_v3_official_seed0",
    ):
        assert (
            f"python -m scripts.ensemble --joint_head --workdirs={runs} "
            "--results=results"
        ) in commands


def test_distilled_network_comes_after_its_teacher():
    (change,) = ablation.select(["inception_v3_linear_distilled*"])
    lists = _commands(gaps.missing([], SEEDS, [], {}, [change], []))
    ((title, (teacher, distilled)),) = lists.items()
    assert title.startswith("A distilled network, from the teacher")
    path = change.values["distillation.logits"]
    flags = shlex.split(teacher)[3:]
    assert {"--joint_head", f"--teacher={path}", "--notest"} < set(flags)
    # A teacher needs networks that have not learned the labels.
    assert re.findall(r"official(\w*)_seed0", teacher) == ["_linear"] * 3
    assert distilled == f"python -m scripts.ablation --out=runs --only={change.key}"
    assert "distilled" not in gaps.missing(
        [], SEEDS, [], {change.model: {change.name: {}}}, [change], []
    )


@pytest.mark.parametrize("row", ENSEMBLES, ids=lambda row: row.recipe)
def test_ensembles_have_the_recipe_of_their_results(row, tiny_run):
    by_name = {r.name: r for r in ROWS}

    def run_of(name):
        spec = dataclasses.replace(tiny_run.network.spec, name=by_name[name].model)
        network = dataclasses.replace(tiny_run.network, spec=spec)
        config = tiny_run.config | {"recipe": by_name[name].recipe}
        return dataclasses.replace(tiny_run, network=network, config=config)

    method = ["joint_head"] if row.joint_head else []
    described = ensemble.describe([run_of(name) for name in row.members], "", *method)
    assert described["recipe"] == row.recipe
    assert {by_name[name].split for name in row.members} == {"official"}


@pytest.mark.parametrize("joint_head", [False, True])
def test_commands_of_ensembles_record_them(joint_head, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(tiny_run.workdir, tmp_path / f"runs/{name}_seed0")
    recipe = "small_tiny_joint_head" if joint_head else "small_tiny"
    row = Ensemble(recipe, ("a", "b"), joint_head)
    (commands,) = _commands(gaps.missing([], SEEDS, [], {}, [], [row])).values()
    script, *flags = shlex.split(commands[0])[2:]
    done = harness.run_here(script.removeprefix("scripts."), *flags)
    assert done.returncode == 0, done.stderr
    results = record.load_results(tmp_path / "results")
    assert [result["recipe"] for result in results] == [recipe]
    assert gaps.missing([], SEEDS, results, {}, [], [row]) == ""
