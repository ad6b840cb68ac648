"""The runs that reproduce the paper's tables, as data, and how they are made.

    rows = select(["table_4.1", "inception_v3_*"], "full")
    runs = plan(rows, seeds=[0], out="runs")
    print([(run.name, run.state, run.command) for run in runs])
    failed = run_all(runs)
    write_report("runs", runs)
    record("runs/inception_v3_official_seed0", "results")

A run is named <model>_<split>_<recipe>_seed<n>, the recipe `best` left out, in a folder
of runs and in results/ alike. Figures in [0, 1] are test top-1.
"""

import dataclasses
import importlib
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import jax
import ml_collections

from seeflower_jax import ablation, data, experiment, hints, paper_figures, records
from seeflower_jax.pretrained import published
from seeflower_jax.report import curves, dataset, results

SEEDS = (0, 1, 2)
BUDGETS = ("smoke", "cpu", "full")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: one network, one split, one recipe, any number of seeds.

    Attributes:
      table: of the paper that it is in, or 'trainval'.
      model, split, recipe: as a result has them.
      config: module of configs/ and its argument, 'inception:paper'.
      paper: the paper's figure, or None.
      code: the figure in its code's repository, another run of the author's, or None.
      cpu: whether two CPU cores train it in hours.
    """

    table: str
    model: str
    split: str
    recipe: str
    config: str
    paper: float | None = None
    code: float | None = None
    cpu: bool = False

    @property
    def name(self) -> str:
        """Of its runs, less the seed."""
        parts = [self.model, self.split]
        return "_".join(parts + [self.recipe] * (self.recipe != "best"))


def _baseline(setting, split, paper, code=None):
    recipe = f"paper_{setting}"
    config = f"baseline:{setting}"
    return Row("4.1", "baseline", split, recipe, config, paper, code, cpu=True)


def _transfer(split, figures):
    return tuple(
        Row(
            "4.2" if split != "trainval" else "trainval",
            model,
            split,
            recipe,
            f"{config}:{recipe}",
            *figures.get(model, ()),
            cpu=(model, split, recipe) == ("inception_v3", "official", "best"),
        )
        for model, config in ablation.CONFIGS.items()
        for recipe in ("paper", "corrected", "best")
        if split != "trainval" or recipe == "best"
    )


# The paper's tables 4.1, settings a to c, and 4.2, a and b.
ROWS = (
    _baseline("a", "official", 0.181),
    _baseline("b", "official", 0.302, 0.3126),
    _baseline("c", "reversed", 0.448, 0.425),
    *_transfer(
        "official",
        {
            "vgg16": (0.757, 0.757),
            "vgg19": (0.781, 0.734),
            "inception_v3": (0.904, 0.880),
        },
    ),
    *_transfer(
        "reversed",
        {"vgg16": (0.889, 0.861), "vgg19": (0.925,), "inception_v3": (0.962,)},
    ),
    Row("4.2", "vgg16", "reversed", "short", "vgg16:short", 0.889, 0.861, cpu=True),
    Row("4.2", "vgg19", "reversed", "short", "vgg19:short", 0.925, cpu=True),
    Row("4.2", "inception_v3", "reversed", "short", "inception:short", 0.962, cpu=True),
    *_transfer("trainval", {}),
)

# Table 4.3, other methods on the official test split: who, how, figure, where from.
PUBLISHED = (
    ("Razavian et al. 2014", "OverFeat features, SVM", 0.868, "table 4.3"),
    ("Qu 2018", "Inception-v3, fine-tuned", 0.904, "table 4.3"),
    ("Kim et al. 2016", "features of three networks", 0.945, "added"),
    ("Ge and Yu 2017", "ResNet-152, joint fine-tuning", 0.947, "added"),
    ("Simon and Rodner 2015", "VGG19, part constellations", 0.953, "added"),
)


def select(only: Sequence[str], budget: str) -> list[Row]:
    """The rows of a budget whose names or tables match.

    Args:
      only: names, tables (`table_4.1`) or patterns of them with `*`; empty is all.
      budget: of `BUDGETS`; 'cpu' leaves out what needs a GPU.

    Raises:
      ValueError: for something that matches nothing; names what is near.
    """
    labels = {row: (row.name, f"table_{row.table}") for row in ROWS}
    known = list(dict.fromkeys(label for pair in labels.values() for label in pair))
    chosen = hints.matching(only, known, "row or table")
    return [
        row
        for row, pair in labels.items()
        if chosen.intersection(pair) and (budget != "cpu" or row.cpu)
    ]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of a row that is to be, or has been, made.

    Attributes:
      row: what it is a run of.
      name: of the run.
      workdir: the run directory.
      config: of the run.
      command: that makes it.
    """

    row: Row
    name: str
    workdir: pathlib.Path
    config: ml_collections.ConfigDict
    command: str

    @property
    def result(self) -> dict | None:
        """What `run` gave, if it is finished and of this config."""
        result = records.read_result(self.workdir)
        same = result.get("config_hash") == records.config_hash(self.config)
        return result if same else None

    @property
    def state(self) -> str:
        """'finished', 'missing', or what is in between."""
        if self.result:
            return "finished"
        if (self.workdir / "result.json").exists():
            return "of another config"
        return "interrupted" if (self.workdir / "config.json").exists() else "missing"

    def run(self) -> dict:
        """Makes the run, or goes on with it, or reads it.

        Raises:
          As `experiment.train`.
        """
        return experiment.train(self.config, self.workdir, self.command)


def plan(
    rows: Iterable[Row],
    seeds: Sequence[int],
    out: str | os.PathLike,
    budget: str = "full",
    changes: Mapping | None = None,
    weights_dir: str = "",
) -> list[PlannedRun]:
    """The runs of some rows, those of the first seed first.

    Args:
      rows: of `select`.
      seeds: of each row.
      out: the folder of the run directories.
      budget: of `BUDGETS`; 'smoke' shrinks networks, pictures and epochs.
      changes: values of every config by their flat keys, `{"data.dir": "flowers"}`.
      weights_dir: where the published weight files are; '' downloads them.
    """
    out = pathlib.Path(out).expanduser()
    return [
        _plan_run(row, seed, out, budget, dict(changes or {}), weights_dir)
        for seed in seeds
        for row in rows
    ]


def _plan_run(row, seed, out, budget, changes, weights_dir) -> PlannedRun:
    module, _, variant = row.config.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(variant)
    changes |= {"seed": seed, "data.split": row.split}
    if weights_dir and config.init.weights:
        name = published.CATALOG[row.model].name
        changes["init.weights"] = str(pathlib.Path(weights_dir) / name)
    default = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    name = f"{row.name}_seed{seed}"
    workdir = out / name
    if budget == "smoke":
        _shrink(config)
        arguments = [f"--out={out}", f"--only={row.name}", "--budget=smoke"]
        command = records.command_line("reproduce", arguments)
    else:
        flat = dict(records.flat(default))
        arguments = [f"--config=configs/{module}.py:{variant}", f"--workdir={workdir}"]
        for key, value in changes.items():
            if flat[key] != value:
                arguments.append(f"--config.{key}={value}")
        command = records.command_line("train", arguments)
    return PlannedRun(row, name, workdir, config, command)


def _shrink(config) -> None:
    """Turns a config into one that goes through all its stages within minutes.

    The network is narrow, its parameters random and its pictures small.
    """
    config.recipe += "_smoke"
    config.init.weights = ""
    if config.model.name != "baseline":
        config.model.update(width=0.05, input_size=96)
        config.model.hidden = tuple(16 for _ in config.model.get("hidden", ()))
        config.data.shortest_side = 96
        config.eval.update(size=0, crop=1.0)
        config.test_time.views = ((0, 1.0),)
    config.eval.batch_size = 64
    for name in config.stage_order:
        stage = config.stages[name]
        stage.update(epochs=1, batch_size=16, validate_every=1)
        if config.model.name != "baseline":
            stage.augment.size = 0


def run_all(runs: Sequence[PlannedRun]) -> list[str]:
    """Makes runs in their order; one that fails does not keep the others.

    Returns:
      The names of those that failed; the log says why.
    """
    failed = []
    for number, run in enumerate(runs, start=1):
        logging.info("%d of %d: %s", number, len(runs), run.name)
        try:
            run.run()
            curves.learning_curves(run.workdir)
        except Exception:
            logging.exception("%s failed", run.name)
            failed.append(run.name)
        jax.clear_caches()  # no other run has the same programs
    return failed


def result_name(result: Mapping) -> str:
    """The name of the run of a result."""
    row = Row("", result["model"], result["split"], result["recipe"], "")
    return f"{row.name}_seed{result['seed']}"


def load_results(folder: str | os.PathLike) -> list[dict]:
    """The recorded results of runs, in the order of their files' names.

    Files that are not called ..._seed<n>.json record other things and are left out.

    Raises:
      ValueError: for a file whose content belongs under another name.
    """
    found = []
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        if not re.fullmatch(r".*_seed\d+", path.stem):
            continue
        result = json.loads(path.read_text())
        if path.stem != result_name(result):
            raise ValueError(
                f"{path} holds the result of {result_name(result)}; name it so, or "
                "record it again by scripts.reproduce --record"
            )
        found.append(result)
    return found


def record(workdir: str | os.PathLike, folder: str | os.PathLike) -> pathlib.Path:
    """Copies the result of a finished run into a folder of results, rightly named.

    Raises:
      FileNotFoundError: if the run is not finished.
      ValueError: for a run of the smoke budget, and for one without figures of a test
        split.
    """
    path = pathlib.Path(workdir).expanduser() / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} is no finished run: no {path.name}")
    result = json.loads(path.read_text())
    if result["recipe"].endswith("_smoke"):
        raise ValueError(f"{path.parent} is a run of the smoke budget; not recorded")
    if "test" not in result:
        raise ValueError(
            f"{path.parent} has no figures of a test split; if its data have one, "
            "train with the same command without --notest"
        )
    target = pathlib.Path(folder) / f"{result_name(result)}.json"
    records.write_json(target, result)
    return target


def write_results(folder: str | os.PathLike, path: str | os.PathLike) -> None:
    """Writes RESULTS.md from the recorded results alone."""
    found = load_results(folder)
    ablated = ablation.recorded(folder)
    intro = (
        "# Results\n\nWritten by `python -m scripts.reproduce --report` from the files "
        "in `results/`.\n"
    )
    parts = [
        intro,
        results.tables(ROWS, PUBLISHED, found),
        results.ablation(ablated, found, ablation.CHANGES),
        results.gaps(ROWS, SEEDS, found),
        results.ablation_gaps(ablated, ablation.CHANGES),
        results.records(found, result_name),
    ]
    pathlib.Path(path).write_text("\n".join(part for part in parts if part))


def write_report(out: str | os.PathLike, runs: Sequence[PlannedRun]) -> pathlib.Path:
    """Writes REPORT.md and the figures beside it, of the runs that are finished.

    Args:
      out: the folder.
      runs: of one budget; those that are not finished are shown as missing.

    Returns:
      The path of REPORT.md.
    """
    out = pathlib.Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    finished = [run for run in runs if run.result]
    figures = _draw_figures(out, finished)
    text = "# Tables and figures of the paper\n\n"
    if any(run.config.recipe.endswith("_smoke") for run in runs):
        text += (
            "**From a smoke run**: narrow random networks, trained for one epoch. The "
            "numbers say that everything runs, and nothing else.\n\n"
        )
    # The row's own recipe, also where the run is a smoke run of it.
    found = [run.result | {"recipe": run.row.recipe} for run in finished]
    text += results.tables(ROWS, PUBLISHED, found) + "\n"
    for title, name in figures.items():
        text += f"## {title}\n\n![{title}]({name})\n\n"
    path = out / "REPORT.md"
    path.write_text(text)
    return path


def _draw_figures(out: pathlib.Path, finished: Sequence[PlannedRun]) -> dict[str, str]:
    """The figures that finished runs allow, {title: file name}."""
    figures = {}
    if not finished:
        return figures
    config = finished[0].config.data.copy_and_resolve_references()
    config.split = "official"
    source = data.load(config)
    figures["Figure 4.1: pictures of each class"] = name = "figure_4_1.png"
    dataset.class_distribution(
        out / name, source.labels, source.splits, len(source.class_names)
    )
    first = {}  # of several seeds
    for run in finished:
        first.setdefault(run.row, run)
    for title, file, table, recipes in (
        ("Figure 4.3: the baseline", "figure_4_3", "4.1", _recipes("4.1")),
        *(
            (f"Figure 4.4: recipe {recipe}", f"figure_4_4_{recipe}", "4.2", (recipe,))
            for recipe in _recipes("4.2")
        ),
    ):
        columns = {
            row.name: run.workdir
            for row, run in first.items()
            if row.table == table and row.recipe in recipes
        }
        if columns:
            figures[title] = name = f"{file}.png"
            curves.compare(columns, out / name)
    for row, run in first.items():
        if row.table == "4.2" and row.split == "official" and row.recipe == "best":
            folder = out / f"figures_{row.name}"
            if not (folder / "figure_4_6.png").exists():
                steps = {"steps": 2} if run.config.recipe.endswith("_smoke") else {}
                paper_figures.draw(experiment.load_run(run.workdir), folder, **steps)
            for number, what in (("4.5", "attribution"), ("4.6", "maximisation")):
                file = f"figure_{number.replace('.', '_')}.png"
                figures[f"Figure {number}: {what}, {row.model}"] = (
                    f"{folder.name}/{file}"
                )
    return figures


def _recipes(table: str) -> list[str]:
    return list(dict.fromkeys(row.recipe for row in ROWS if row.table == table))
