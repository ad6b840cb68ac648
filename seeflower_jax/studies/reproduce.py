"""Train the runs of the paper's tables, and write a report about them.

    runs = plan(rows.select(["table_4.1"], "full"), seeds=[0], out="runs")
    print([(run.name, run.state, run.command) for run in runs])
    failed = run_all(runs)
    write_report("runs", runs)

A run directory has the name <name of the row>_seed<n>.
"""

import dataclasses
import importlib
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from seeflower_jax import records
from seeflower_jax.data import sources
from seeflower_jax.experiment import train
from seeflower_jax.experiment.settings import read_settings
from seeflower_jax.figures import class_counts, curves
from seeflower_jax.inference.run import load_run
from seeflower_jax.pretrained import published
from seeflower_jax.studies import paper_figures, tables
from seeflower_jax.studies.rows import FLAGS, PUBLISHED, ROWS, Row


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of a row, trained or not.

    Attributes:
      row: the row of the run.
      name: name of the run.
      workdir: the run directory.
      config: config of the run.
      command: command line that trains the run.
    """

    row: Row
    name: str
    workdir: pathlib.Path
    config: ConfigDict
    command: str

    @property
    def is_smoke(self) -> bool:
        """Whether this is a tiny run, which only tests that everything works."""
        return self.config.recipe.endswith("_smoke")

    @property
    def result(self) -> dict | None:
        """The content of `result.json`, if the run is finished."""
        return records.read_result(self.workdir) if self.state == "finished" else None

    @property
    def state(self) -> str:
        """What is left of the run.

        It is 'finished', 'not tested', 'damaged', 'of another config', 'interrupted' or
        'missing'. `run` finishes runs that are not tested, damaged or interrupted.
        """
        try:
            result = records.read_result(self.workdir)
        except records.DamagedFileError:
            return "damaged"
        if not result:
            begun = (self.workdir / "config.json").exists()
            return "interrupted" if begun else "missing"
        if result.get("config_hash") != records.config_hash(self.config):
            return "of another config"
        return "finished" if "test" in result else "not tested"

    def run(self) -> dict:
        """Train the run, continue it, or read it if it is finished.

        Returns:
          The content of `result.json`.

        Raises:
          ValueError: as for `experiment.train.train`.
        """
        return train.train(self.config, self.workdir, self.command)


def plan(
    rows: Iterable[Row],
    seeds: Sequence[int],
    out: str | os.PathLike,
    budget: str = "full",
    changes: Mapping[str, Any] | None = None,
    weights_dir: str = "",
) -> list[PlannedRun]:
    """Return the runs of some rows, ordered by seed.

    Args:
      rows: rows from `rows.select`.
      seeds: seeds of each row.
      out: the folder of the run directories.
      budget: one of `rows.BUDGETS`; 'smoke' shrinks networks, images and epochs.
      changes: values of every config by their flat keys, `{"data.dir": "flowers"}`.
      weights_dir: folder of the published weight files; '' downloads them.
    """
    out = pathlib.Path(out).expanduser()
    return [
        _plan_run(row, seed, out, budget, dict(changes or {}), weights_dir)
        for seed in seeds
        for row in rows
    ]


def _plan_run(
    row: Row,
    seed: int,
    out: pathlib.Path,
    budget: str,
    changes: dict[str, Any],
    weights_dir: str,
) -> PlannedRun:
    module, _, variant = row.config.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(variant)
    changes |= {"seed": seed, "data.split": row.split, **dict(row.changes)}
    if weights_dir and config.init.weights:
        name = published.CATALOG[row.model].name
        changes["init.weights"] = str(pathlib.Path(weights_dir) / name)
    defaults = dict(records.flat(config))
    config.update_from_flattened_dict(changes)
    name = f"{row.name}_seed{seed}"
    workdir = out / name
    if budget == "smoke":
        _shrink(config)
        arguments = [f"--out={out}", f"--only={row.name}", "--budget=smoke"]
        arguments.append(f"--seeds={seed}")
        arguments += [
            f"--{flag}={changes[key]}" for key, flag in FLAGS.items() if key in changes
        ]
        command = records.command_line("reproduce", arguments)
    else:
        arguments = [f"--config=configs/{module}.py:{variant}", f"--workdir={workdir}"]
        arguments += [
            f"--config.{key}={value}"
            for key, value in changes.items()
            if value != defaults[key]
        ]
        command = records.command_line("train", arguments)
    return PlannedRun(row, name, workdir, config, command)


def _shrink(config: ConfigDict) -> None:
    """Change a config so that it trains all its stages within minutes.

    The network is narrow, with random parameters, and its images are small.
    """
    config.recipe += "_smoke"
    config.init.weights = ""
    if config.model.name != "baseline":
        config.model.update(width=0.05, input_size=96)
        if config.model.hidden:
            config.model.hidden = (16,) * len(config.model.hidden)
        config.data.shortest_side = 96
        config.eval.update(size=0, crop=1.0)
        config.test_time.views = ((0, 1.0),)
    config.eval.batch_size = 64
    if before := config.init.pretraining:
        before.test_time.views = config.test_time.views
    for stage in config.stages.values():
        stage.update(epochs=1, batch_size=16, validate_every=1)
        stage.draws = min(stage.draws, 2)
        if config.model.name != "baseline":
            stage.augment.size = 0


def run_all(runs: Sequence[PlannedRun]) -> list[str]:
    """Train runs in their order; if one fails, continue with the next run.

    Returns:
      The names of the failed runs. The log has the reasons.
    """
    failed = []
    for number, run in enumerate(runs, start=1):
        logging.info("%d of %d: %s", number, len(runs), run.name)
        try:
            run.run()
            curves.write_learning_curves(
                run.workdir / "learning_curves.png", records.read_logs(run.workdir)
            )
        except Exception:
            logging.exception("%s failed", run.name)
            failed.append(run.name)
        jax.clear_caches()  # other runs compile other functions
    return failed


def write_report(out: str | os.PathLike, runs: Sequence[PlannedRun]) -> pathlib.Path:
    """Write REPORT.md and the figures of the finished runs.

    Figures 4.5 and 4.6 are written to `figures` in the run directory, and the other
    figures next to REPORT.md.

    Args:
      out: the folder.
      runs: runs of one budget; the report shows unfinished runs as missing.

    Returns:
      The path of REPORT.md.
    """
    out = pathlib.Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    finished = [run for run in runs if run.result]
    figures = _draw_figures(out, finished) if finished else {}
    text = "# Tables and figures of the paper\n\n"
    if any(run.is_smoke for run in runs):
        text += (
            "**From a smoke run**: narrow random networks, trained for one epoch. The "
            "values show only that everything runs.\n\n"
        )
    results = [
        # Smoke runs count for the recipe of their row, too.
        (run.result or {}) | {"recipe": run.row.recipe, "dtype": run.config.model.dtype}
        for run in finished
    ]
    text += tables.paper_tables(ROWS, PUBLISHED, results) + "\n"
    for title, name in figures.items():
        text += f"## {title}\n\n![{title}]({name})\n\n"
    path = out / "REPORT.md"
    with records.replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _draw_figures(out: pathlib.Path, finished: Sequence[PlannedRun]) -> dict[str, str]:
    """Draw the figures that finished runs allow; return {title: relative path}."""
    first_by_row: dict[Row, PlannedRun] = {}  # with several seeds, the first run
    for run in finished:
        first_by_row.setdefault(run.row, run)
    figures = {"Figure 4.1: images of each class": _draw_distribution(out, finished[0])}
    figures |= _draw_curves(out, first_by_row)
    for row, run in first_by_row.items():
        if (row.table, row.split, row.recipe) == ("4.2", "official", "best"):
            figures |= _draw_paper_figures(out, row, run)
    return figures


def _draw_distribution(out: pathlib.Path, run: PlannedRun) -> str:
    settings = dataclasses.replace(read_settings(run.config).data, split="official")
    source = sources.load_source(settings)
    name = "figure_4_1.png"
    class_counts.write_class_counts(
        out / name, source.labels, source.splits, len(source.class_names)
    )
    return name


def _draw_curves(
    out: pathlib.Path, run_by_row: Mapping[Row, PlannedRun]
) -> dict[str, str]:
    """Draw the learning curves of the runs of each table and recipe."""
    plots = [("Figure 4.3: the baseline", "figure_4_3", "4.1", _recipes("4.1"))]
    plots += [
        (f"Figure 4.4: recipe {recipe}", f"figure_4_4_{recipe}", "4.2", [recipe])
        for recipe in _recipes("4.2")
    ]
    figures = {}
    for title, stem, table, recipes in plots:
        logs = {
            row.name: records.read_logs(run.workdir)
            for row, run in run_by_row.items()
            if row.table == table and row.recipe in recipes
        }
        if logs:
            figures[title] = f"{stem}.png"
            curves.write_comparison(out / f"{stem}.png", logs)
    return figures


def _draw_paper_figures(out: pathlib.Path, row: Row, run: PlannedRun) -> dict[str, str]:
    """Draw the paper's figures of a run, unless they are newer than its result."""
    folder = run.workdir / "figures"
    last, result = folder / "figure_4_6.png", run.workdir / "result.json"
    if not last.exists() or last.stat().st_mtime < result.stat().st_mtime:
        steps = 2 if run.is_smoke else paper_figures.STEPS
        paper_figures.draw(load_run(run.workdir), folder, steps=steps)
    place = os.path.relpath(folder, out)
    return {
        f"Figure 4.5: attribution, {row.model}": f"{place}/figure_4_5.png",
        f"Figure 4.6: maximisation, {row.model}": f"{place}/figure_4_6.png",
    }


def _recipes(table: str) -> list[str]:
    return list(dict.fromkeys(row.recipe for row in ROWS if row.table == table))
