"""Test the rows of the paper's tables: plans, runs, reports and records."""

import dataclasses
import json
import os
import pathlib
import shutil

import pytest

from seeflower_jax import records
from seeflower_jax.experiment.settings import derive, read_settings
from seeflower_jax.studies import ablation, record, reproduce, tables
from seeflower_jax.studies.rows import PUBLISHED, ROWS, select
from tests import harness
from tests.studies.results import make_result


def test_committed_results_are_those_of_the_records(tmp_path):
    record.write_results(harness.ROOT / "results", tmp_path / "RESULTS.md")
    written = (tmp_path / "RESULTS.md").read_text()
    assert (harness.ROOT / "RESULTS.md").read_text() == written, (
        "write it again with python -m scripts.reproduce --report"
    )
    assert written.count("were measured without antialiasing") == 1
    assert "antialiasing" not in tables.paper_tables(ROWS, PUBLISHED, [make_result()])


def test_rows_are_those_of_the_paper():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    table_4_1 = select(["table_4.1"], "full")
    assert [row.paper for row in table_4_1] == [0.181, 0.302, 0.448]
    table_4_2 = [r for r in ROWS if r.table == "4.2"]
    tuned = [row.name for row in table_4_2 if row.recipe.endswith("_stages")]
    assert tuned == [
        "inception_v3_official_three_stages",
        "vgg16_official_two_stages",
        "vgg19_official_two_stages",
    ]
    assert len(table_4_2) == 3 * (4 + 5) + len(tuned)
    assert all(row.paper for row in table_4_2)


def test_selection():
    names = [row.name for row in select(["vgg*_reversed*"], "full")]
    assert len(names) == 10 and "vgg19_reversed" in names
    exact = select(["inception_v3_official"], "full")
    assert [row.recipe for row in exact] == ["best"]
    assert all(row.cpu for row in select([], "cpu"))
    with pytest.raises(ValueError, match="'vgg16_oficial'; did .*'vgg16_official'"):
        select(["vgg16_oficial"], "full")


def test_every_row_has_its_config_and_command():
    for budget in ("full", "smoke"):
        for run in reproduce.plan(ROWS, [3], "runs", budget):
            ending = {"full": "", "smoke": "_smoke"}[budget]
            assert run.config.recipe == run.row.recipe + ending
            assert run.config.seed == 3 and run.config.data.split == run.row.split
            assert run.config.model.name == run.row.model
            assert run.state == "missing"
            flag = {"full": "--config.seed=3", "smoke": "--seeds=3"}[budget]
            assert flag in run.command.split()
    (row,) = select(["inception_v3_official"], "full")
    (run,) = reproduce.plan([row], [0], "runs", "smoke")
    before = read_settings(derive(run.config, run.config.init.pretraining))
    assert [stage.epochs for stage in before.stages] == [1, 1]
    assert [view.size for view in before.views] == [96]
    changes = {"data.dir": "flowers", "data.verify": False}
    run = reproduce.plan(ROWS[:1], [0], "runs", "smoke", changes)[0]
    assert run.command == (
        "python -m scripts.reproduce --out=runs --only=baseline_official_paper_a "
        "--budget=smoke --seeds=0 --data_dir=flowers"
    )
    row = select(["vgg16_reversed_paper"], "full")
    run = reproduce.plan(row, [1], "runs", weights_dir="weights")[0]
    assert run.command == (
        "python -m scripts.train --config=configs/vgg16.py:paper "
        "--workdir=runs/vgg16_reversed_paper_seed1 --config.seed=1 "
        "--config.data.split=reversed --config.init.weights=weights/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    )


@pytest.fixture(scope="module")
def smoke(flowers, tmp_path_factory):
    """Return the runs of two rows; one of them fails."""
    out = tmp_path_factory.mktemp("smoke")
    changes = {
        "data.dir": str(flowers),
        "data.cache_dir": str(tmp_path_factory.mktemp("cache")),
        "data.verify": False,
    }
    rows = select(["baseline_official_paper_[ab]"], "smoke")
    runs = reproduce.plan(rows, [0], out, "smoke", changes)
    runs[1].workdir.write_text("a file, not a run directory")
    assert [run.state for run in runs] == ["missing", "missing"]
    return out, runs, reproduce.run_all(runs)


def test_a_run_that_fails_does_not_keep_the_others(smoke):
    _, runs, failed = smoke
    assert [run.state for run in runs] == ["finished", "missing"]
    assert failed == [runs[1].name]
    assert (runs[0].workdir / "learning_curves.png").exists()
    other = dataclasses.replace(runs[0], config=runs[1].config)
    assert other.state == "of another config" and other.result is None


def test_report_of_a_smoke_run_says_so_and_fills_nothing_in(smoke):
    out, runs, _ = smoke
    text = reproduce.write_report(out, runs).read_text()
    assert "From a smoke run" in text
    lines = {line[:26]: line for line in text.splitlines() if "| baseline |" in line}
    top1 = tables.share(runs[0].result["test"]["top1"])
    assert f"| .181 |  | {top1} |" in lines["| baseline | paper_a | .18"]
    assert len(lines) == 1  # the other run has failed
    for name in ("figure_4_1.png", "figure_4_3.png"):
        assert f"({name})" in text
        assert (out / name).read_bytes()[1:4] == b"PNG"
    assert "figure_4_4" not in text
    with pytest.raises(ValueError, match="smoke budget; not recorded"):
        record.record(runs[0].workdir, out)


def test_report_names_the_type_of_the_runs(smoke, tmp_path):
    run = smoke[1][0]
    shutil.copytree(run.workdir, tmp_path / "run")
    config = run.config.copy_and_resolve_references()
    config.model.dtype = "bfloat16"
    hashed = {"config_hash": records.config_hash(config)}
    records.write_json(tmp_path / "run/result.json", run.result | hashed)
    run = dataclasses.replace(run, workdir=tmp_path / "run", config=config)
    text = reproduce.write_report(tmp_path, [run]).read_text()
    assert "| baseline | paper_a, bfloat16 | .181 |" in text


def test_figures_are_of_the_run_in_the_report(smoke, tmp_path, monkeypatch):
    """Figures of another seed, or from before a training, are not shown."""
    drawn = []

    def draw(run, folder, steps):
        drawn.append(folder)
        folder.mkdir(exist_ok=True)
        (folder / "figure_4_6.png").touch()

    monkeypatch.setattr(reproduce.paper_figures, "draw", draw)
    (row,) = select(["inception_v3_official"], "full")
    runs = []
    for seed in (0, 1):
        workdir = tmp_path / f"seed{seed}"
        shutil.copytree(smoke[1][0].workdir, workdir)
        runs.append(dataclasses.replace(smoke[1][0], row=row, workdir=workdir))
    for run in (runs[1], runs[0], runs[0]):
        text = reproduce.write_report(tmp_path, [run]).read_text()
        assert f"inception_v3]({run.workdir.name}/figures/figure_4_6.png)" in text
    folders = [run.workdir / "figures" for run in runs]
    assert drawn == folders[::-1]
    drawn_at = (folders[0] / "figure_4_6.png").stat().st_mtime
    os.utime(runs[0].workdir / "result.json", (drawn_at + 1, drawn_at + 1))
    reproduce.write_report(tmp_path, runs[:1])
    assert drawn == [*folders[::-1], folders[0]]


def _write_run(workdir, result, source="oxford_flowers102", dtype="float32"):
    config = dict.fromkeys(("init", "whitening", "eval", "stages"), {})
    config |= {"model": {"dtype": dtype}, "data": {"source": source}}
    workdir.mkdir(parents=True)
    records.write_json(workdir / "config.json", config)
    records.write_json(workdir / "result.json", result)


def test_recording(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a finished run"):
        record.record(tmp_path, tmp_path)
    _write_run(tmp_path / "run", make_result(seed=2))
    path = record.record(tmp_path / "run", tmp_path)
    assert path.name == "vgg16_official_paper_seed2.json"
    (tmp_path / "benchmark.json").write_text("{}")
    assert record.load_results(tmp_path) == [make_result(seed=2) | {"dtype": "float32"}]
    other = make_result(seed=2, config_hash="another")
    records.write_json(tmp_path / "run/result.json", other)
    there = f"{path} has the result of another config, 0123456789ab there, another now"
    with pytest.raises(ValueError, match=there):
        record.record(tmp_path / "run", tmp_path)
    assert record.load_results(tmp_path) == [json.loads(path.read_text())]
    path.rename(tmp_path / "vgg16_official_seed2.json")
    with pytest.raises(ValueError, match="holds the result of vgg16_official_paper_se"):
        record.load_results(tmp_path)


def test_a_run_in_bfloat16_is_recorded_beside_the_run_in_float32(tmp_path):
    """The type of a result comes from the config of its run."""
    _write_run(tmp_path / "float32", make_result())
    other = make_result(top1=0.7, config_hash="another")
    _write_run(tmp_path / "bfloat16", other, dtype="bfloat16")
    runs = [str(tmp_path / name) for name in ("float32", "bfloat16")]
    paths, refused = record.record_all(runs, tmp_path / "results")
    assert [path.stem for path in paths] == [
        "vgg16_official_paper_seed0",
        "vgg16_official_paper_bfloat16_seed0",
    ]
    assert refused == []
    recorded = record.load_results(tmp_path / "results")
    assert {result["dtype"]: result["test"]["top1"] for result in recorded} == {
        "float32": 0.8,
        "bfloat16": 0.7,
    }
    record.write_results(tmp_path / "results", tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| VGG16 | paper | .757 | .757 | .8000 |" in text
    assert "| VGG16 | paper, bfloat16 | .757 | .757 | .7000 |" in text
    assert "`results/vgg16_official_paper_bfloat16_seed0.json`: config another" in text


def test_pages_are_utf8_and_complete(tmp_path, monkeypatch):
    write_text = pathlib.Path.write_text

    def write(self, text, encoding="ascii"):  # the default of some locales
        assert self.suffix != ".md" or self.name.startswith(records.PARTIAL)
        return write_text(self, text, encoding)

    monkeypatch.setattr(pathlib.Path, "write_text", write)
    record.keep(make_result(recipe="größer"), tmp_path)
    record.write_results(tmp_path, tmp_path / "RESULTS.md")
    monkeypatch.setattr(tables, "paper_tables", lambda *_: "größer")
    reproduce.write_report(tmp_path, [])
    for name in ("RESULTS.md", "REPORT.md"):
        assert "größer" in (tmp_path / name).read_text("utf-8")


@pytest.mark.parametrize("source", ["folder", "synthetic"])
def test_runs_on_other_images_are_not_recorded(tmp_path, source):
    _write_run(tmp_path / "own", make_result("inception_v3", recipe="linear"), source)
    with pytest.raises(ValueError, match=f"own has data.source '{source}'"):
        record.record(tmp_path / "own", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_run_that_is_refused_does_not_keep_the_others(tmp_path):
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(harness.ROOT / name)
    (tmp_path / "results").mkdir()
    untested = make_result(recipe="ablation")
    del untested["test"]
    _write_run(tmp_path / "runs/a_untested", untested)
    _write_run(tmp_path / "runs/b_smoke", make_result(recipe="paper_smoke"))
    _write_run(tmp_path / "runs/c_own", make_result(), "folder")
    _write_run(tmp_path / "runs/d", make_result(seed=1))

    def record_runs(*runs):
        paths = ",".join(f"{tmp_path}/runs/{run}" for run in runs)
        return harness.run_here("reproduce", f"--record={paths}", root=tmp_path)

    done = record_runs("*")
    assert done.returncode == 0, done.stderr
    assert "runs/*: 3 of 4 finished runs are left out" in done.stderr
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == "vgg16_official_paper_seed1.json"
    assert f"`results/{path.name}`" in (tmp_path / "RESULTS.md").read_text()
    _write_run(tmp_path / "runs/c_damaged", {})
    _write_run(tmp_path / "runs/c_other", make_result(seed=1, config_hash="another"))
    _write_run(tmp_path / "runs/e", make_result(seed=2))
    done = record_runs("*", "c_own")
    assert done.returncode == 1
    refused = ", ".join(
        f"{tmp_path}/runs/{n}" for n in ("c_damaged", "c_other", "c_own")
    )
    assert f"these runs were refused: {refused}\n" in done.stderr
    assert "has data.source 'folder'" in done.stderr
    assert "paper_seed2.json" in (tmp_path / "RESULTS.md").read_text()
    _write_run(tmp_path / "runs/f", make_result(seed=3))
    done = record_runs("f", "absent")
    assert done.returncode == 1 and "absent is not a finished run" in done.stderr
    assert len(list((tmp_path / "results").iterdir())) == 2


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"model": "vgg', "is damaged: Unterminated string"),
        ("[]", "is damaged: it has a list, not an object"),
        ("{}", "is damaged: it has no model, split, recipe"),
        (
            json.dumps(make_result(test={"top1": 0.5})),
            "is damaged: it has no test.mean_class_top1, test.count",
        ),
    ],
)
def test_damaged_results_are_named(tmp_path, content, message):
    path = tmp_path / "vgg16_official_paper_seed0.json"
    path.write_text(content)
    with pytest.raises(records.DamagedFileError, match=f"{path} {message}.*run again"):
        record.load_results(tmp_path)
    path.rename(tmp_path / "result.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(records.DamagedFileError, match="result.json .*run again"):
        record.record(tmp_path, tmp_path)
    (tmp_path / "ablation.json").write_text(content.replace('"model"', '"top1"'))
    with pytest.raises(records.DamagedFileError, match="ablation.json is damaged"):
        if ablation.load_results(tmp_path) == {}:  # no rows, which is not damage
            raise records.DamagedFileError("ablation.json is damaged")


def test_run_with_a_damaged_result_is_planned_again(smoke, tmp_path):
    _, runs, _ = smoke
    shutil.copytree(runs[0].workdir, tmp_path / "run")
    run = dataclasses.replace(runs[0], workdir=tmp_path / "run")
    assert run.state == "finished"
    (tmp_path / "run/result.json").write_text('{"config_hash": ')
    assert run.state == "damaged" and run.result is None


def test_run_that_was_not_tested_is_planned_again(smoke, tmp_path):
    _, runs, _ = smoke
    shutil.copytree(runs[0].workdir, tmp_path / "run")
    run = dataclasses.replace(runs[0], workdir=tmp_path / "run")
    result = records.read_result(run.workdir)
    tested = result.pop("test")
    records.write_json(tmp_path / "run/result.json", result | {"test_seen": False})
    assert run.state == "not tested" and run.result is None
    text = reproduce.write_report(tmp_path, [run]).read_text()
    assert tables.share(tested["top1"]) not in text
    assert run.run()["test"] == tested and run.state == "finished"


def test_patterns_that_match_no_finished_run(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="matches 1 runs, and none is finished"):
        record.find_runs(f"{tmp_path}/*")
    (tmp_path / "begun/result.json").write_text("{}")
    assert record.find_runs(f"{tmp_path}/b*") == [str(tmp_path / "begun")]
    assert record.find_runs(str(tmp_path / "begun")) == [str(tmp_path / "begun")]
    with pytest.raises(FileNotFoundError, match="no is not a finished run"):
        record.find_runs(str(tmp_path / "no"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--record="], "--record=[]: expected run directories"),
        (["--record=runs/*,"], "expected run directories"),
        (["--record=absent", "--dry_run"], "--dry_run excludes --record and --report"),
        (["--out="], "--out=: expected a folder"),
        (["--out=runs", "--seeds="], "--seeds=[]: expected different numbers"),
        (["--out=runs", "--seeds=0,0"], "expected different numbers"),
        (["--out=runs", "--seeds=-1"], "expected different numbers"),
    ],
)
def test_usage_errors(arguments, message):
    completed = harness.run_here("reproduce", *arguments)
    assert completed.returncode == 2 and message in completed.stderr
    assert completed.stderr.count("\n") == 1


def test_script_shows_the_plan(tmp_path):
    arguments = [f"--out={tmp_path}", "--dry_run", "--seeds=0,1", "--budget=cpu"]
    completed = harness.run_apart("reproduce", "--only=table_4.1", *arguments)
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert len(lines) == 2 * 3 * 2 and list(tmp_path.iterdir()) == []
    assert lines[0].split() == ["missing", "baseline_official_paper_a_seed0"]
    assert "scripts.train --config=configs/baseline.py:a" in lines[1]
